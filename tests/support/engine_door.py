"""Both public ports before a real engine: its steps are counted, and what leaves its batch when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from ramole.adapters.servicer import AdaptersService
from ramole.core.settings import Settings
from ramole.executor import servicer
from ramole.executor.engine import Engine, Update
from ramole.executor.loading import Loaded
from ramole.executor.memory_plan import Sizes
from ramole.executor.runner import ModelRunner
from ramole.executor.scheduler import Schedule
from ramole.executor.servicer import ExecutorService
from ramole.executor.text import TextCodec
from ramole.executor.worker import EngineWorker
from ramole.lora.base import BaseShapes
from support.engine_world import Words, random_router, tiny_llama
from support.gateway_world import BASE
from support.real_door import RealDoor

_TARGETS = ("q_proj", "v_proj")
_TURN_S = 0.005

Tell = Callable[[Any], None]


class _Waiting(set[Tell]):
    """Who waits for the engine; `hear` is told first when one no longer does."""

    def __init__(self, hear: Callable[[Tell], None]) -> None:
        super().__init__()
        self._hear = hear

    def discard(self, tell: Tell) -> None:
        self._hear(tell)
        super().discard(tell)


class CountedWorker(EngineWorker):
    """Notes in which step of the engine it hears that nobody waits for an answer, and which was the last step with it.

    Attributes:
        steps: begun so far.
        heard: sequence -> steps begun when the event loop heard of it, of those that ended from outside.
        last: sequence -> the last step that it was part of.
        held_at: a batch of so many stands still, as does a smaller one that nobody waits to join; None = nothing does.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = 0
        self.heard: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.held_at: int | None = None
        self._over: dict[Tell, int] = {}
        self._waiting = _Waiting(lambda tell: self._over.update({tell: self.steps}))

    def watch(self, engine: Engine) -> None:
        """Before the engine runs."""
        runner: ModelRunner = engine._runner
        run, step = runner.run, engine.step

        def held() -> list[Update]:
            held_at = self.held_at  # the event loop's thread sets it
            if held_at is None:
                return step()
            time.sleep(_TURN_S)  # commands run between two calls
            return step() if engine.num_waiting and engine.num_running < held_at else []

        def counted(schedule: Schedule) -> Any:
            self.steps += 1
            self.last |= dict.fromkeys((sequence.id for sequence in schedule.sequences), self.steps)
            return run(schedule)

        runner.run = counted  # type: ignore[method-assign]
        engine.step = held  # type: ignore[method-assign]

    def _drop(self, sequence_id: str) -> None:
        client = self._clients.get(sequence_id)
        if client is not None and client.events.put_nowait in self._over:
            self.heard[sequence_id] = self._over[client.events.put_nowait]
        super()._drop(sequence_id)


class TinyExecutor(ExecutorService):
    """The real one with a tiny random model that never ends an answer by itself."""

    @staticmethod
    def load(settings: Settings, *, widest_rank: int = 0) -> Loaded:
        """See `load_runner`."""
        sizes = Sizes.of(settings.executor)
        model = tiny_llama(max_len=sizes.max_len)
        runner = ModelRunner(
            model,
            num_slots=sizes.num_slots,
            slot_rank=sizes.slot_rank,
            max_rows=sizes.max_rows,
            max_len=sizes.max_len,
            num_blocks=sizes.kv_blocks,
            router=random_router(model),
        )
        return Loaded(runner, TextCodec(Words(), ()), sizes)


class EngineDoor(RealDoor):
    """Everything real but the encoder; `worker` counts.

    Args:
        executor: settings of it.
    """

    def __init__(self, folder: Path, **executor: Any) -> None:
        super().__init__(folder)
        options = self.settings.executor.model_copy(update={"slot_rank": 8, "router": "", **executor})
        self.settings = self.settings.model_copy(update={"executor": options})
        shapes = {
            name: (module.in_features, module.out_features)
            for name, module in tiny_llama().named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        self._shapes = {name: shape for name, shape in shapes.items() if name.endswith(_TARGETS)}
        self.adapters = AdaptersService(self.settings, BaseShapes(BASE, shapes))  # type: ignore[assignment]
        self.tiny = TinyExecutor(self.settings, self.peers())
        self.executor = self.tiny  # type: ignore[assignment]

    @property
    def worker(self) -> CountedWorker:
        """That of the executor."""
        assert isinstance(self.tiny._worker, CountedWorker)
        return self.tiny._worker

    async def start(self, *names: str) -> None:
        """Everything, with adapters of these names.

        The worker must be patched in before: see `counted_workers`.
        """
        await self.start_neighbours()
        assert self.tiny._engine is not None
        self.worker.watch(self.tiny._engine)
        await self.start_gateway()
        for number, name in enumerate(names):
            folder = self.settings.data_dir / f"new-{name}"
            write_adapter(folder, self._shapes, number)
            await self.client.upload(folder, [f"sample n{number}"], adapter=name)

    async def held(self) -> dict[str, int]:
        """What requests hold, all over the system: of each kind so many."""
        executor, engine = self.tiny, self.tiny._engine
        assert engine is not None

        def inside(engine: Any) -> dict[str, int]:
            scheduler = engine._scheduler
            return {
                "blocks": engine.memory.num_used_blocks,
                "running": engine.num_running,
                "waiting": engine.num_waiting,
                "slots": sum(scheduler.slots._refs.values()),
                "loads": len(engine._loads),
                "sequences": len(engine._sequences),
            }

        found = await self.worker.ask(inside)
        servers = {f"calls of {name}": server.inflight for name, server in self.servers.items()}
        pins = sum(executor._host._pins.values())
        return (
            found | {"pins": pins, "callers": self.worker.num_callers, "clients": len(self.worker._clients)} | servers
        )


def counted_workers(monkeypatch: Any) -> None:
    """Executors that start from now on count."""
    monkeypatch.setattr(servicer, "EngineWorker", CountedWorker)


def write_adapter(folder: Path, shapes: dict[str, tuple[int, int]], number: int) -> None:
    """A folder as PEFT saves it; another number is other content."""
    rng = np.random.default_rng(number)
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 2,
        "base_model_name_or_path": BASE,
        "target_modules": list(_TARGETS),
    }
    tensors = {
        f"base_model.model.{name}.lora_{half}.weight": 0.1 * rng.standard_normal(shape).astype(np.float32)
        for name, (d, o) in shapes.items()
        for half, shape in {"A": (2, d), "B": (o, 2)}.items()
    }
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
