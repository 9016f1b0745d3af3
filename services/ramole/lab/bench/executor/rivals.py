"""Other people's ways to serve the same requests, each as they document it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ramole.lab.bench.executor.rig import Tokens
from ramole.lab.bench.executor.world import PAD_TOKEN, Request


def _left_padded(requests: Sequence[Request], device: torch.device) -> dict[str, torch.Tensor]:
    longest = max(len(request.prompt) for request in requests)
    pads = [longest - len(request.prompt) for request in requests]
    ids = [[PAD_TOKEN] * pad + list(request.prompt) for pad, request in zip(pads, requests, strict=True)]
    mask = [[0] * pad + [1] * len(request.prompt) for pad, request in zip(pads, requests, strict=True)]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


class GenerateBatch:
    """`model.generate` over one left-padded batch; `named` sends one adapter name with each row, as PEFT wants it."""

    def __init__(self, model: Any, requests: Sequence[Request], new_tokens: int, *, named: bool) -> None:
        from transformers import GenerationConfig

        self._model = model
        self._ids = [request.id for request in requests]
        self._inputs = _left_padded(requests, model.device)
        # -1 is no token: requests run to their full length, as everywhere in this benchmark.
        self._generation = GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, eos_token_id=-1, pad_token_id=PAD_TOKEN
        )
        self._names = {"adapter_names": [request.adapters[0] for request in requests]} if named else {}

    def __call__(self) -> Tokens:
        """Greedy tokens of all requests."""
        with torch.inference_mode():
            out = self._model.generate(
                **self._inputs,
                **self._names,
                generation_config=self._generation,
            )
        start = self._inputs["input_ids"].shape[1]
        return dict(zip(self._ids, out[:, start:].tolist(), strict=True))


class OneByOne:
    """PEFT's `set_adapter` and `generate` for one request after the other."""

    def __init__(self, model: Any, requests: Sequence[Request], new_tokens: int) -> None:
        self._model = model
        self._runs = [(r.adapters[0], GenerateBatch(model, [r], new_tokens, named=False)) for r in requests]

    def __call__(self) -> Tokens:
        """Greedy tokens of all requests."""
        tokens: Tokens = {}
        for name, generate in self._runs:
            self._model.set_adapter(name)
            tokens |= generate()
        return tokens


class ContinuousBatching:
    """transformers' own continuous batching over the base model, without any adapter."""

    def __init__(self, model: Any, requests: Sequence[Request], new_tokens: int) -> None:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        self._model = model
        self._ids = [request.id for request in requests]
        self._prompts = [list(request.prompt) for request in requests]
        # -1 is no token: requests run to their full length, as everywhere in this benchmark.
        self._generation = GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, eos_token_id=-1, pad_token_id=PAD_TOKEN
        )
        # Releases of transformers call it one or the other.
        page = next(f.name for f in fields(ContinuousBatchingConfig) if f.name in ("page_size", "block_size"))
        self._batching = ContinuousBatchingConfig(
            **{page: 16},
            num_blocks=sum(len(prompt) + new_tokens + 16 for prompt in self._prompts) // 16 + 1,
            max_batch_tokens=512,
            max_requests_per_batch=len(requests),
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
        )

    def __call__(self) -> Tokens:
        """Greedy tokens of all requests."""
        out = self._model.generate_batch(
            self._prompts, generation_config=self._generation, continuous_batching_config=self._batching
        )
        return dict(zip(self._ids, (list(answer.generated_tokens) for answer in out.values()), strict=True))


def peft_model(model: torch.nn.Module, folders: Mapping[str, Path]) -> Any:
    """PEFT over `model` with all adapters loaded under their names."""
    from peft import PeftModel

    names = list(folders)
    wrapped = PeftModel.from_pretrained(model, folders[names[0]], adapter_name=names[0])
    for name in names[1:]:
        wrapped.load_adapter(folders[name], adapter_name=name)
    return wrapped.eval()


def arrow_model(model: torch.nn.Module, folders: Mapping[str, Path], k: int) -> Any:
    """PEFT's Arrow over `model`: per token and module, the k best of all loaded adapters."""
    from peft import ArrowConfig, create_arrow_model

    return create_arrow_model(model, [str(path) for path in folders.values()], ArrowConfig(top_k=k)).eval()
