"""The executor's own service, engine and tokenizer around a model that computes nothing: what is left is the door."""

from __future__ import annotations

import time
from itertools import cycle, islice
from types import SimpleNamespace
from typing import cast

import torch

from ramole.core.errors import RamoleError
from ramole.core.settings import Settings
from ramole.executor.block_pool import blocks_for
from ramole.executor.loading import Loaded
from ramole.executor.memory_plan import Sizes
from ramole.executor.runner import ModelRunner
from ramole.executor.sampler import SampledToken
from ramole.executor.scheduler import Schedule
from ramole.executor.sequence import Sequence
from ramole.executor.servicer import ExecutorService
from ramole.executor.text import TextCodec
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan

STEP_S = 0.004
"""Of the null model: as fast as no real one decodes a full batch."""

_TEXT = "one token after the other "


class NullRunner:
    """Answers everything with the same few tokens; stands where the engine expects a `ModelRunner`.

    Args:
        tokens: of every answer, again and again.
        max_len: prompt and answer of one request.
        num_rows: requests that run at once.
        step_s: how long a step takes; nothing else can run longer on a thread that computes elsewhere.
    """

    def __init__(self, tokens: list[int], max_len: int, step_s: float, *, num_rows: int) -> None:
        self.device = torch.device("cpu")
        self.kv = SimpleNamespace(max_len=max_len, num_blocks=num_rows * blocks_for(max_len))
        self.mixture = SimpleNamespace(has_router=False)
        self._tokens = [SampledToken(token) for token in islice(cycle(tokens), max_len)]
        self._step_s = step_s
        self._due_s = 0.0

    def run(self, schedule: Schedule) -> tuple[list[SampledToken | RamoleError | None], StepPlan]:
        """The next token of each sequence."""
        now = time.monotonic()
        self._due_s = max(now, self._due_s + self._step_s)
        time.sleep(self._due_s - now)
        pairs = list(zip(schedule.sequences, schedule.chunks, strict=True))
        plan = build_step_plan([each.mixture or RequestMixture() for each, _ in pairs], schedule.chunks)
        return [self._tokens[len(each.tokens)] if chunk == each.num_missing else None for each, chunk in pairs], plan

    def settle(self) -> None:
        """Nothing is outstanding."""

    def take_unbooked(self) -> list[tuple[Sequence, Exception]]:
        """None ever."""
        return []

    def forget(self) -> None:
        """Nothing is kept."""

    def wipe(self, blocks: list[int]) -> None:
        """They hold nothing."""

    def check_device(self) -> None:
        """There is none."""


class NullExecutorService(ExecutorService):
    """Serves a `NullRunner` with the tokenizer of the base model."""

    @staticmethod
    def load(settings: Settings, *, widest_rank: int = 0) -> Loaded:
        """No weights are read."""
        sizes = Sizes.of(settings.executor)
        codec = TextCodec.load(settings.base_model, None)
        runner = NullRunner(codec.encode(_TEXT)[1:], sizes.max_len, STEP_S, num_rows=sizes.max_rows)
        return Loaded(cast(ModelRunner, runner), codec, sizes)
