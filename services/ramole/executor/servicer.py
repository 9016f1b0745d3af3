"""The executor on the wire: thin; validates, converts, delegates to the engine's worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import grpc

from ramole.core.composition import Composition
from ramole.core.errors import Corrupt, Unavailable
from ramole.core.settings import Settings
from ramole.executor.codec import event_to_pb, expert_from_pb, status_to_pb
from ramole.executor.engine import Engine
from ramole.executor.loading import load_runner
from ramole.executor.worker import EngineWorker
from ramole.lora.weights import AdapterWeights
from ramole.transport.peers import Peers
from ramole.transport.values import composition_from_pb, sampling_from_pb
from ramole.v1 import adapters_pb2, executor_pb2, executor_pb2_grpc

if TYPE_CHECKING:
    pass

FETCH_TIMEOUT_S = 60.0


class ExecutorService(executor_pb2_grpc.ExecutorServicer):
    """One base model and its engine."""

    full_name = "ramole.v1.Executor"

    def __init__(self, settings: Settings, peers: Peers) -> None:
        self._settings = settings
        self._peers = peers
        self._worker: EngineWorker | None = None
        self._engine: Engine | None = None
        self._inflight = 0

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        executor_pb2_grpc.add_ExecutorServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads the base model, the tokenizer and the router, and starts the engine's thread."""
        options = self._settings.executor
        runner, codec = await asyncio.to_thread(load_runner, self._settings)
        worker = EngineWorker(codec)
        loop = asyncio.get_running_loop()

        def load(digest: str) -> Future[AdapterWeights]:
            future = asyncio.run_coroutine_threadsafe(self._fetch(digest), loop)
            future.add_done_callback(lambda _: worker.wake())
            return future

        self._engine = Engine(
            runner,
            load=load,
            eos_token_ids=codec.eos_token_ids,
            num_slots=options.num_slots,
            max_rows=options.max_rows,
            token_budget=options.token_budget,
            max_waiting=options.max_waiting,
        )
        worker.start(self._engine)
        self._worker = worker

    async def close(self) -> None:
        """Stops the engine."""
        if self._worker is not None:
            await self._worker.stop()

    def check_health(self) -> None:
        """Raises Unavailable when the engine has failed and the replica should be replaced."""
        if self._worker is not None and not self._worker.is_alive:
            raise Unavailable("the engine has failed", remedy="replace this replica")

    def routing_stats(self) -> dict[str, object]:
        """Resident adapters and load, for the affinity picker."""
        resident = list(self._engine.resident) if self._engine else []
        return {"adapters": resident, "inflight": self._inflight}

    def load(self) -> float:
        """Requests in flight."""
        return float(self._inflight)

    async def Execute(
        self, request: executor_pb2.ExecuteRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[executor_pb2.ExecuteEvent]:
        """Streams one answer."""
        experts = tuple(expert_from_pb(expert) for expert in request.experts)
        composition = composition_from_pb(request.composition, Composition())
        events = self._ready().generate(request.prompt, experts, composition, sampling_from_pb(request.sampling))
        self._inflight += 1
        try:
            async for event in events:
                yield event_to_pb(event)
        finally:
            self._inflight -= 1
            await events.aclose()

    async def Evict(
        self, request: executor_pb2.EvictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> executor_pb2.EvictResponse:
        """Drops adapters from the device."""
        aborted = await self._ready().evict(request.digests, abort=request.abort)
        return executor_pb2.EvictResponse(aborted=aborted)

    async def GetStatus(
        self, request: executor_pb2.GetStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> executor_pb2.GetStatusResponse:
        """What is loaded and how full it is."""
        base_id, num_slots = self._settings.base_id, self._settings.executor.num_slots
        return await self._ready().ask(lambda engine: status_to_pb(engine, base_model=base_id, num_slots=num_slots))

    def _ready(self) -> EngineWorker:
        if self._worker is None:
            raise Unavailable("the base model is still loading", remedy="retry in a moment")
        return self._worker

    async def _fetch(self, digest: str) -> AdapterWeights:
        """Pulls one adapter from the adapter cache and reads it."""
        from ramole.lora.reader import read_adapter

        config, data = b"", bytearray()
        size = None
        async for part in self._peers.adapters.Fetch(
            adapters_pb2.FetchRequest(digest=digest), timeout_s=FETCH_TIMEOUT_S
        ):
            if part.WhichOneof("part") == "header":
                config, size = part.header.config_json, part.header.size
            else:
                data += part.data
        if size != len(data):
            raise Corrupt(f"{len(data)} of {size} bytes of adapter {digest[:12]} arrived", remedy="retry")
        return await asyncio.to_thread(read_adapter, config, bytes(data))
