"""Random bases, random adapters in PEFT folders, random requests. The same seed gives the same world."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ramole.lab.bench.executor.options import BaseSize
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.lora.writer import save_adapter

PAD_TOKEN = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, the names of its adapters and their composition; no `preset`: one as it is, several routed."""

    id: str
    prompt: tuple[int, ...]
    adapters: tuple[str, ...]
    preset: str = ""


def make_base(
    size: BaseSize, *, max_len: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """A Llama with random weights: frozen, the same for the same size, device and dtype."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        max_position_embeddings=max_len,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD_TOKEN,
    )
    with device:
        model: torch.nn.Module = LlamaForCausalLM._from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def make_pairs(model: torch.nn.Module, targets: Sequence[str], *, rank: int, seed: int) -> dict[str, LoraPair]:
    """A random update of every Linear whose name ends in one of `targets`, strong enough to change the tokens."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: LoraPair(
            torch.randn(rank, module.in_features, generator=g) / module.in_features**0.5,
            0.5 * torch.randn(module.out_features, rank, generator=g) / rank**0.5,
        )
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in targets
    }


def concatenated(adapters: Sequence[AdapterWeights]) -> AdapterWeights:
    """The uniform mixture of k adapters that touch the same modules, as one adapter of rank k r."""
    k = len(adapters)
    pairs = {}
    for name in adapters[0].pairs:
        own = [adapter.pairs[name] for adapter in adapters]
        pairs[name] = LoraPair(torch.cat([pair.a for pair in own]), torch.cat([pair.b for pair in own], 1) / k)
    return AdapterWeights(pairs)


def make_router(model: torch.nn.Module, targets: Sequence[str], *, rank: int) -> AdapterWeights:
    """A random RouterLoRA over the adapted modules."""
    return AdapterWeights(make_pairs(model, targets, rank=rank, seed=1_000_003))


def save_adapters(
    folder: Path, model: torch.nn.Module, targets: Sequence[str], *, count: int, rank: int
) -> dict[str, Path]:
    """Writes `count` adapters as PEFT would and returns their folders by name."""
    folders = {f"adapter-{i}": folder / f"adapter-{i}" for i in range(count)}
    for i, path in enumerate(folders.values()):
        save_adapter(path, make_pairs(model, targets, rank=rank, seed=i + 1), base_id="random-llama")
    return folders


def round_robin(names: Sequence[str], k: int) -> Iterator[tuple[str, ...]]:
    """k different names at a time, so that all are used as early as possible."""
    at = 0
    while True:
        yield tuple(names[(at + j) % len(names)] for j in range(k))
        at = (at + k) % len(names)


def make_prompts(count: int, lengths: tuple[int, int], vocab_size: int) -> list[tuple[int, ...]]:
    """Random token ids, never the padding token."""
    rng = random.Random(0)
    return [tuple(rng.randrange(1, vocab_size) for _ in range(rng.randint(*lengths))) for _ in range(count)]
