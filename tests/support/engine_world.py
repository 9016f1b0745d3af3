"""A tiny random Llama, random adapters, and an engine over them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from ramole.executor.engine import Engine, Update
from ramole.executor.runner import ModelRunner
from ramole.executor.sequence import Sequence
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.step import Layout


def tiny_llama(seed: int = 0, max_len: int = 128) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_len,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def random_adapter(model: torch.nn.Module, seed: int, rank: int, targets: tuple[str, ...]) -> AdapterWeights:
    g = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, module in model.named_modules():
        if name.endswith(targets) and isinstance(module, torch.nn.Linear):
            a = torch.randn(rank, module.in_features, generator=g) / module.in_features**0.5
            b = torch.randn(module.out_features, rank, generator=g) / rank**0.5
            pairs[name] = LoraPair(a, b)
    return AdapterWeights(pairs)


def random_router(model: torch.nn.Module, rank: int = 4) -> AdapterWeights:
    return random_adapter(model, 999, rank, ("_proj",))


class Words:
    """A tokenizer of 97 one-character tokens, in the shape that TextCodec expects."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer, decoders, models

        vocab = {chr(0x4E00 + i): i for i in range(97)}
        self.backend_tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=chr(0x4E00)))
        self.backend_tokenizer.decoder = decoders.Fuse()

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(c) % 90 for c in text]}


@dataclass
class World:
    """An engine and hand-driven adapter loads. Its clock goes on by a second whenever it is read."""

    engine: Engine
    num_slots: int
    max_batch: int
    adapters: dict[str, AdapterWeights]
    loads: dict[str, Future[AdapterWeights]] = field(default_factory=dict)
    holds_loads: bool = False
    started: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    placed: list[float] = field(default_factory=list)
    stepped: Callable[..., None] = lambda *step: None

    def load(self, digest: str) -> Future[AdapterWeights]:
        future: Future[AdapterWeights] = Future()
        self.loads[digest] = future
        self.started.append(digest)
        if not self.holds_loads:
            self.finish_load(digest)
        return future

    def finish_load(self, digest: str) -> None:
        if digest in self.adapters:
            self.loads[digest].set_result(self.adapters[digest])
        else:
            self.loads[digest].set_exception(KeyError(digest))

    def run(self, *sequences: Sequence, max_steps: int = 500) -> list[Update]:
        for sequence in sequences:
            self.engine.add(sequence)
        updates = []
        for _ in range(max_steps):
            if not self.engine.has_work:
                return updates
            updates += self.engine.step()
        raise AssertionError("the engine did not come to rest")


def make_world(
    num_slots: int = 9,
    max_rows: int = 8,
    token_budget: int = 64,
    num_adapters: int = 8,
    layout: Layout | None = None,
    **engine: Any,
) -> World:
    """A fresh engine over the tiny model with adapters a0, a1, ... of mixed ranks and targets."""
    model = tiny_llama()
    targets = [("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"), ("_proj",), ("down_proj",)]
    adapters = {f"a{i}": random_adapter(model, i, [2, 4, 8][i % 3], targets[i % 4]) for i in range(num_adapters)}
    return make_engine(
        model, adapters, num_slots=num_slots, max_rows=max_rows, token_budget=token_budget, layout=layout, **engine
    )


def make_engine(
    model: torch.nn.Module,
    adapters: dict[str, AdapterWeights],
    *,
    router: AdapterWeights | None = None,
    num_slots: int = 9,
    max_rows: int = 8,
    token_budget: int = 64,
    uses_graphs: bool = True,
    layout: Layout | None = None,
    num_blocks: int | None = None,
    prefix_reuse: bool = False,
) -> World:
    """A fresh engine over any model and adapters; no `router` = a random one."""
    runner = ModelRunner(
        model,
        num_slots=num_slots,
        slot_rank=8,
        max_rows=max_rows,
        max_len=96,
        num_blocks=num_blocks,
        router=router or random_router(model),
        uses_graphs=uses_graphs,
        layout=layout,
    )
    world = World(None, num_slots, min(max_rows, token_budget // 2), adapters)  # type: ignore[arg-type]
    world.engine = Engine(
        runner,
        load=world.load,
        release=world.released.append,
        placed=world.placed.append,
        stepped=lambda *step: world.stepped(*step),  # noqa: PLW0108  # a test may replace it
        clock=map(float, count()).__next__,
        eos_token_ids={2},
        num_slots=num_slots,
        max_rows=max_rows,
        token_budget=token_budget,
        prefix_reuse=prefix_reuse,
    )
    return world
