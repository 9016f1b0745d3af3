"""Device: the base model with its mixture and KV cache. Runs what the scheduler decided; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import TYPE_CHECKING

import torch

from ramole.core.errors import RamoleError, WrongState
from ramole.executor import attention
from ramole.executor.batch import Batch
from ramole.executor.block_pool import blocks_for
from ramole.executor.block_tables import BlockTables, places_of
from ramole.executor.kv_blocks import KvBlocks
from ramole.executor.native_attention import native_decode
from ramole.executor.positions import has_moving_rope, max_positions
from ramole.executor.sampler import SampledToken, choose_tokens
from ramole.executor.scheduler import Schedule
from ramole.executor.sequence import Sequence, States
from ramole.lora.weights import AdapterWeights
from ramole.mixture.dispatch import layout_for
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import IntArray, StepPlan
from ramole.mixture.slots import SlotShape
from ramole.mixture.step import Layout

if TYPE_CHECKING:
    from ramole.executor.graphs import DecodeGraphs


class ModelRunner:
    """Owns every tensor of the engine: base weights, slots, router, KV blocks."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        num_slots: int,
        slot_rank: int,
        max_rows: int,
        max_len: int,
        num_blocks: int | None = None,
        router: AdapterWeights | None = None,
        uses_graphs: bool = True,
        layout: Layout | None = None,
    ) -> None:
        """
        Args:
            model: a causal LM of transformers, frozen; its attention and its adapted modules are replaced in place.
            num_slots: adapter slots, the empty slot 0 included.
            max_rows: sequences that run at once.
            num_blocks: of KV memory; None = none of them ever has to give its blocks to another.
            router: the RouterLoRA, or None: routed compositions are then refused.
            uses_graphs: capture decode steps as CUDA graphs where the device knows them; may change between steps.
            layout: the compute form; None = the fastest for the device.

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
        shape = SlotShape(num_slots, slot_rank, router_rank)
        self.mixture = Mixture(model, shape, router, layout or layout_for(self.device, weight.dtype, shape))
        self.kv = KvBlocks(
            num_layers=config.num_hidden_layers,
            num_blocks=num_blocks or max_rows * blocks_for(max_len),
            num_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            max_len=max_len,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=weight.dtype,
            device=self.device,
        )
        self.uses_graphs = uses_graphs
        self._decode_form = native_decode(self.kv, torch.get_num_threads()) or self._gathered
        self.depth = int(config.num_hidden_layers)
        self._batch: Batch | None = None
        self._unbooked: list[tuple[Sequence, Exception]] = []
        self._graphs: DecodeGraphs | None = None
        if self.device.type == "cuda" and not has_moving_rope(config):  # it asks the device, which a graph cannot
            from ramole.executor.graphs import DecodeGraphs

            self._graphs = DecodeGraphs(self.model, self.mixture, self.kv, max_rows=max_rows)

    @torch.inference_mode()
    def place(self, slot: int, weights: AdapterWeights) -> None:
        """Writes an adapter into a slot. Call between steps only."""
        self.settle()
        self.mixture.write(slot, weights)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Zeroes a slot. Call between steps only."""
        self.settle()
        self.mixture.clear(slot)

    @torch.inference_mode()
    def run(self, schedule: Schedule) -> tuple[list[SampledToken | RamoleError | None], StepPlan]:
        """One forward for every sequence of the schedule. After an exception the same may run again, or a part of it.

        Returns:
            The next token of each sequence (None while its prompt is not complete) or why it has none, and the plan.
        """
        sequences, chunks = schedule.sequences, schedule.chunks
        if self._batch is None or not self._batch.fits(schedule):
            self.settle()
            self._batch = Batch.of(schedule)
        batch = self._batch
        if self.uses_graphs and self._graphs is not None and batch.is_decode and not batch.is_read:
            logits, batch.step = self._graphs.run(batch)
        else:
            if batch.step is None and batch.plan.num_adapters:
                batch.step = self.mixture.step(batch.plan)
            logits = self._forward(batch)
        batch.num_steps += 1
        # A prompt that is not complete has no next token; choosing one would advance its random state.
        complete = [i for i, sequence in enumerate(sequences) if chunks[i] == sequence.num_missing]
        choices: list[SampledToken | RamoleError | None] = [None] * len(sequences)
        for i, choice in zip(complete, self.choose(logits[complete], [sequences[i] for i in complete]), strict=True):
            choices[i] = choice
        return choices, batch.plan

    def choose(self, logits: torch.Tensor, sequences: Ordered[Sequence]) -> list[SampledToken | RamoleError]:
        """The next token of each sequence from logits [b, V], or why it alone has none."""
        return choose_tokens(logits, sequences)

    def settle(self) -> None:
        """Records the experts' weights of the steps since the batch last changed on its sequences.

        Call it before these are read; slots that change do so themselves.
        """
        batch, self._batch = self._batch, None
        if batch is not None:
            self._unbooked += batch.book(self.mixture)

    def take_unbooked(self) -> list[tuple[Sequence, Exception]]:
        """Sequences whose weights could not be recorded since the last call, and why."""
        unbooked, self._unbooked = self._unbooked, []
        return unbooked

    def forget(self) -> None:
        """Drops the batch after a step that broke off: what its modules have summed up is of a part of the step."""
        self._batch = None

    @torch.inference_mode()
    def wipe(self, blocks: Ordered[int]) -> None:
        """Zeroes blocks of KV memory. Call between steps, before another sequence gets them."""
        self.kv.wipe(blocks)

    def check_device(self) -> None:
        """Raises whatever the device raises when it can no longer compute, as a GPU after an illegal access."""
        torch.zeros(1, device=self.device).item()

    def _forward(self, batch: Batch) -> torch.Tensor:
        """Logits of each sequence's last token, [b, V]."""
        plan, sequences = batch.plan, batch.sequences
        ids: list[int] = []
        positions: list[int] = []
        for sequence, chunk in zip(sequences, plan.lengths, strict=True):
            past = sequence.num_cached
            ids += sequence.next_tokens(chunk)
            positions += range(past, past + chunk)
        n = plan.num_decode
        segments = []
        for (start, stop), sequence in list(zip(plan.segments, sequences, strict=True))[n:]:
            past, length = sequence.num_cached, stop - start
            blocks = sequence.blocks[: blocks_for(past + length)]
            places = places_of(sequence, length)
            segments.append(attention.Segment(start, stop, past, self._tensor(blocks), self._tensor(places)))
        decode = None
        if n:
            batch.tables.update()
            decode = self._decode_form(batch.tables)
        tokens = attention.PackedTokens(self.kv, decode, tuple(segments))
        last = self._tensor([stop - 1 for _, stop in plan.segments])
        with attention.packed(tokens), self.mixture.running_step(batch.step):
            out = self.model(
                input_ids=self._tensor(ids)[None],
                position_ids=self._tensor(positions)[None],
                use_cache=False,
                logits_to_keep=last,
                **({"output_hidden_states": True} if batch.is_read else {}),
            )
        if batch.is_read:
            for (start, stop), sequence in zip(plan.segments, sequences, strict=True):
                if sequence.layers:
                    _read(sequence, [out.hidden_states[layer][0, start:stop] for layer in sequence.layers])
        logits: torch.Tensor = out.logits[0]
        return logits

    def _gathered(self, tables: BlockTables) -> attention.DecodeForm:
        table, positions, places = tables.array[:, : tables.width], tables.positions, tables.places()
        return attention.GatheredDecode(self.kv, self._tensor(table), self._tensor(positions), self._tensor(places))

    def _tensor(self, values: Ordered[int] | IntArray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.long, device=self.device)


def _read(sequence: Sequence, states: Ordered[torch.Tensor]) -> None:
    """Adds a chunk of its prompt: outputs of its layers, each [tokens, d]."""
    last = torch.stack([state[-1] for state in states]).float().cpu().numpy()
    # Whatever text follows, the first token's state is the same, and long.
    first = int(not sequence.num_cached and len(sequence.prompt) > 1)
    total = torch.stack([state[first:].float().sum(0) for state in states]).cpu().numpy()
    # A step that broke off runs again: its chunk counts once.
    sums = sequence.states.sums if sequence.states is not None and sequence.num_cached else {}
    sequence.states = States(last, sums | {sequence.num_cached: total})


def _check_architecture(model: torch.nn.Module, config: object, max_len: int) -> None:
    name = type(model).__name__
    why = None
    if not getattr(model, "_supports_attention_backend", False) or not hasattr(model, "set_attn_implementation"):
        why = "its attention cannot be replaced (no attention interface)"
    elif getattr(config, "is_encoder_decoder", False):
        why = "it is an encoder-decoder"
    elif (limit := max_positions(config)) is not None and limit < max_len:
        raise WrongState(
            f"{name} knows {limit} positions, executor.max_len is {max_len}",
            field="executor.max_len",
            remedy=f"set it to at most {limit}",
        )
    if why:
        raise WrongState(f"{name} cannot be served: {why}", field="base_model", remedy="choose another causal LM")
