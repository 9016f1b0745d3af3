"""Device: the base model with its mixture and KV cache. Runs what the scheduler decided; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from pathlib import Path

import torch

from ramole.core.errors import WrongState
from ramole.executor import attention
from ramole.executor.kv_rows import KvRows
from ramole.executor.sampler import Choice, choose_tokens
from ramole.executor.scheduler import Schedule
from ramole.lora.weights import AdapterWeights
from ramole.mixture.layer import SlotShape
from ramole.mixture.mixture import Mixture
from ramole.mixture.native import load_kernel
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan


class ModelRunner:
    """Owns every tensor of the engine: base weights, slots, router, KV rows."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        num_slots: int,
        slot_rank: int,
        max_rows: int,
        max_len: int,
        router: AdapterWeights | None = None,
    ) -> None:
        """
        Args:
            model: a causal LM of transformers, frozen; its attention and its adapted modules are replaced in place.
            num_slots: adapter slots, the empty slot 0 included.
            router: the RouterLoRA, or None: routed compositions are then refused.

        Raises:
            WrongState: the engine cannot run this architecture; the message says why.
        """
        config = model.config.get_text_config()  # type: ignore[union-attr, operator]
        _check_architecture(model, config, max_len)
        weight = next(model.parameters())
        self.device = weight.device
        self.model = model.eval().requires_grad_(False)
        self.model.set_attn_implementation(attention.install())  # type: ignore[operator]
        router_rank = router.rank if router else 1
        # Compiled here, so that no request ever waits for it.
        kernel = load_kernel() if self.device.type == "cpu" and weight.dtype is torch.float32 else None
        self.mixture = Mixture(model, SlotShape(num_slots, slot_rank, router_rank), router, kernel)
        self.kv = KvRows(
            num_layers=config.num_hidden_layers,
            num_rows=max_rows,
            num_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            max_len=max_len,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=weight.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def place(self, slot: int, weights: AdapterWeights) -> None:
        """Writes an adapter into a slot. Call between steps only."""
        self.mixture.write(slot, weights)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Zeroes a slot. Call between steps only."""
        self.mixture.clear(slot)

    @torch.inference_mode()
    def run(self, schedule: Schedule) -> tuple[list[Choice | None], StepPlan]:
        """One forward for every sequence of the schedule; records the experts' weights on the sequences.

        Returns:
            The next token of each sequence (None while its prompt is not complete), and the plan.
        """
        sequences, chunks = schedule.sequences, schedule.chunks
        plan = build_step_plan([s.mixture or RequestMixture() for s in sequences], chunks)
        ids: list[int] = []
        positions: list[int] = []
        for sequence, chunk in zip(sequences, chunks, strict=True):
            past = sequence.num_cached
            ids += sequence.next_tokens(chunk)
            positions += range(past, past + chunk)
        n = plan.num_decode
        segments = tuple(
            (start, stop, _row(sequence.row), sequence.num_cached)
            for (start, stop), sequence in list(zip(plan.segments, sequences, strict=True))[n:]
        )
        tokens = attention.PackedTokens(
            kv=self.kv,
            rows=self._tensor([_row(s.row) for s in sequences[:n]]),
            positions=self._tensor(positions[:n]),
            segments=segments,
        )
        last = self._tensor([stop - 1 for _, stop in plan.segments])
        with attention.packed(tokens), self.mixture.running(plan) as step:
            logits = self.model(
                input_ids=self._tensor(ids)[None],
                position_ids=self._tensor(positions)[None],
                use_cache=False,
                logits_to_keep=last,
            ).logits[0]
        if step is not None:
            weights, counts = self.mixture.usage(step)
            for i, sequence in enumerate(sequences):
                if sequence.experts:
                    sequence.add_usage(weights[:, i], counts[:, i])
        # A prompt that is not complete has no next token; choosing one would advance its random state.
        complete = [i for i, s in enumerate(sequences) if s.num_cached + chunks[i] >= len(s.prompt)]
        choices: list[Choice | None] = [None] * len(sequences)
        for i, choice in zip(complete, choose_tokens(logits[complete], [sequences[i] for i in complete]), strict=True):
            choices[i] = choice
        return choices, plan

    def _tensor(self, values: Ordered[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def load_model(path: str, *, dtype: str, device: str) -> torch.nn.Module:
    """Loads a causal LM from a folder or hub id."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a server's log is no terminal
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), local_files_only=Path(path).is_dir()
    )
    return model.to(device)


def _row(row: int | None) -> int:
    if row is None:
        raise RuntimeError("a scheduled sequence has no KV row")
    return row


def _check_architecture(model: torch.nn.Module, config: object, max_len: int) -> None:
    name = type(model).__name__
    why = None
    if not getattr(model, "_supports_attention_backend", False) or not hasattr(model, "set_attn_implementation"):
        why = "its attention cannot be replaced (no attention interface)"
    elif getattr(config, "is_encoder_decoder", False):
        why = "it is an encoder-decoder"
    elif (limit := getattr(config, "max_position_embeddings", None)) is not None and limit < max_len:
        raise WrongState(
            f"{name} knows {limit} positions, executor.max_len is {max_len}",
            field="executor.max_len",
            remedy=f"set it to at most {limit}",
        )
    if why:
        raise WrongState(f"{name} cannot be served: {why}", field="base_model", remedy="choose another causal LM")
