"""The executor on the wire: validates, converts, delegates to the engine's worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ramole.core.answer import Chunk
from ramole.core.bounds import MAX_EXPERTS
from ramole.core.call import current_call
from ramole.core.composition import Composition
from ramole.core.errors import InvalidInput, Unavailable
from ramole.core.names import check_digest
from ramole.core.settings import Settings
from ramole.executor.codec import (
    event_to_pb,
    expert_from_pb,
    part_from_pb,
    states_to_pb,
    status_to_pb,
    tier_status_to_pb,
)
from ramole.executor.engine import Engine
from ramole.executor.loading import load_runner
from ramole.executor.memory_plan import Sizes
from ramole.executor.metrics import EngineMetrics
from ramole.executor.source import AdapterSource
from ramole.executor.stages import LOAD
from ramole.executor.text import TokenIds
from ramole.executor.worker import Done, EngineWorker
from ramole.lora.content import Content
from ramole.lora.weights import AdapterWeights
from ramole.mixture.router import router_digest
from ramole.observability.specs import TenantNames
from ramole.observability.tiers import Tier, TierCounts, TierMetrics
from ramole.tiers.disk import DiskTier
from ramole.tiers.host import HostTier
from ramole.tiers.machine import machine_id
from ramole.transport.peers import Peers
from ramole.transport.service import Service
from ramole.transport.values import composition_from_pb, messages_from_pb, sampling_from_pb
from ramole.v1 import adapters_pb2, executor_pb2, executor_pb2_grpc

# How long a digest that the store does not know is not asked for again: it may come at any moment.
_MISSING_S = 1.0
# How long a start waits for the service that holds the repository.
_PATIENCE_S = 120.0
_PAUSE_S = 0.5

_MAX_TEXTS = 64
"""Of one call that has them read."""


class ExecutorService(executor_pb2_grpc.ExecutorServicer, Service):
    """One base model, its engine, and the adapters at hand: on the device, in host memory, on local disk."""

    name = "executor"
    full_name = "ramole.v1.Executor"
    load = staticmethod(load_runner)
    """Gives what computes tokens, and the tokenizer. Blocks."""

    def __init__(self, settings: Settings, peers: Peers) -> None:
        self._settings = settings
        self._peers = peers
        self._worker: EngineWorker | None = None
        self._engine: Engine | None = None
        self._sizes: Sizes
        self._tiers: dict[Tier, Callable[[], TierCounts]] = {}
        self._num_ended = self._num_tokens = 0

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        executor_pb2_grpc.add_ExecutorServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads the base model, the tokenizer and the router, and starts the engine's thread."""
        options, cache = self._settings.executor, self._settings.cache
        metrics = TierMetrics(self.registry)
        tenants = TenantNames.of(self._settings)
        self._metrics = counts = EngineMetrics(self.registry, tenants, max_waiting=options.max_waiting)
        widest_rank = await self._slot_rank() if options.slot_rank == "auto" else 0
        runner, codec, sizes = await asyncio.to_thread(self.load, self._settings, widest_rank=widest_rank)
        self._codec, self._sizes = codec, sizes
        self._router = await asyncio.to_thread(router_digest, Path(options.router)) if options.router else ""
        self._disk = disk = await asyncio.to_thread(
            DiskTier, self._settings.cache_dir, cache.disk_bytes, Content.copy_of_folder
        )
        self._source = source = AdapterSource(self._peers.adapters.stub, disk, metrics, machine=machine_id())
        worker = EngineWorker(codec, max_step_s=options.max_step_s)
        loop = asyncio.get_running_loop()
        self._host = host = HostTier[AdapterWeights](
            lambda digest: asyncio.run_coroutine_threadsafe(source.load(digest), loop),
            cache.host_bytes,
            negative_s=cache.negative_s,
            missing_s=min(_MISSING_S, cache.negative_s),
        )

        def load(digest: str) -> Future[AdapterWeights]:
            future = host.get(digest, pin=True)
            if not future.done():
                future.add_done_callback(lambda _: worker.wake())
            return future

        self._engine = engine = Engine(
            runner,
            load=load,
            release=host.unpin,
            placed=lambda seconds: metrics.loaded(Tier.DEVICE, seconds),
            stepped=counts.step,
            eos_token_ids=codec.eos_token_ids,
            num_slots=sizes.num_slots,
            max_rows=sizes.max_rows,
            token_budget=options.token_budget,
            max_waiting=options.max_waiting,
            prefix_reuse=options.prefix_reuse,
            tenant_weights=options.tenant_weights,
        )
        counts.watch(engine)
        self._tiers = {
            Tier.DEVICE: lambda: _slot_counts(engine),
            Tier.HOST: lambda: host.counts,
            Tier.DISK: lambda: disk.counts,
        }
        for tier, count in self._tiers.items():
            metrics.watch(tier, count)
        worker.start(engine)
        self._worker = worker

    async def close(self) -> None:
        """Stops the engine."""
        if self._worker is not None:
            await self._worker.stop()

    def check_health(self) -> None:
        """Raises Unavailable when the engine has failed and the replica should be replaced."""
        if self._worker is not None:
            self._worker.check()

    def routing_stats(self) -> dict[str, object]:
        """Resident adapters and how many requests run at once, for the affinity picker."""
        resident = list(self._engine.resident) if self._engine else []
        return {"adapters": resident, "capacity": self._settings.executor.max_rows}

    def usage(self) -> dict[str, float]:
        """Tokens, places and slots in use and waited for, beside what there is of them."""
        if self._engine is None:
            return {}
        sizes, engine = self._sizes, self._engine
        return {
            "running": engine.num_running,
            "queued": engine.num_held_up,
            "max_running": sizes.max_rows,
            "running_tokens": engine.running_tokens,
            "queued_tokens": engine.waiting_tokens,
            "max_tokens": engine.max_tokens,
            "slots": engine.num_busy_slots,
            "max_slots": sizes.num_slots - 1,
            "first_token_s": engine.first_token_s,
        }

    async def Execute(
        self, request: executor_pb2.ExecuteRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[executor_pb2.ExecuteResponse]:
        """Streams one answer."""
        experts = tuple(expert_from_pb(expert) for expert in request.experts)
        composition = composition_from_pb(request.composition, Composition())
        worker = self._ready()
        digests = [expert.digest for expert in experts]
        tiers = [self._tier(digest) for digest in digests]
        part = part_from_pb(request)
        for digest, tier in dict(zip(digests, tiers, strict=True)).items():
            self._prefetch(digest, tier)
        for digest in request.next_digests[:MAX_EXPERTS]:
            self._prefetch(digest, self._tier(check_digest(digest, field="next_digests")))
        tokens = TokenIds(request.prompt_token_ids)
        prompt = tokens or messages_from_pb(request.messages) or request.prompt
        events = worker.generate(prompt, experts, composition, sampling_from_pb(request.sampling), part)
        try:
            async for event in events:
                self._num_tokens += len(event.token_ids) if isinstance(event, Chunk) else 0
                if isinstance(event, Done):
                    self._metrics.answered(event.sequence)
                yield event_to_pb(event, tiers)
        finally:
            self._num_ended += 1
            await events.aclose()

    async def Evict(
        self, request: executor_pb2.EvictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> executor_pb2.EvictResponse:
        """Drops adapters from the local disk, from host memory and from the device."""
        worker, digests = self._ready(), request.digests
        if not request.abort or request.tenant:  # accepted requests finish: they take what they need while it is there
            await worker.evict(digests, abort=False)
        # The device comes last: a request right behind would bring back what host memory still has.
        await self._drop(digests)
        aborted = await worker.evict(digests, abort=request.abort, tenant=request.tenant)
        await self._drop(digests)  # what was loaded in between
        return executor_pb2.EvictResponse(aborted=aborted)

    async def Detokenize(
        self, request: executor_pb2.DetokenizeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> executor_pb2.DetokenizeResponse:
        """The text of tokens."""
        self._ready()
        text = await asyncio.to_thread(self._codec.decode, TokenIds(request.token_ids))
        return executor_pb2.DetokenizeResponse(text=text)

    async def ReadStates(
        self, request: executor_pb2.ReadStatesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> executor_pb2.ReadStatesResponse:
        """What the bare base model makes of texts."""
        worker, texts, layers = self._ready(), request.texts, tuple(request.layers)
        answers = [tuple(answer.token_ids) for answer in request.answers] or [()] * len(texts)
        if not 1 <= len(texts) <= _MAX_TEXTS or len(answers) != len(texts):
            remedy = f"give 1 to {_MAX_TEXTS}, and as many answers or none"
            raise InvalidInput(f"{len(texts)} texts, {len(answers)} answers", field="texts", remedy=remedy)
        reads = map(worker.read, texts, answers, repeat(layers))
        tasks = [asyncio.ensure_future(read) for read in reads]
        try:
            read = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # of the others when one has failed
                task.cancel()
        return executor_pb2.ReadStatesResponse(states=map(states_to_pb, read))

    async def GetStatus(
        self, request: executor_pb2.GetStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> executor_pb2.GetStatusResponse:
        """What is loaded and how full it is."""
        options, worker, sizes = self._settings.executor, self._ready(), self._sizes
        status = await worker.ask(lambda engine: status_to_pb(engine, num_slots=sizes.num_slots))
        status.max_len, status.max_waiting = min(sizes.max_len, sizes.kv_tokens), options.max_waiting
        status.router, status.has_chat_template = self._router, self._codec.has_chat_template
        status.max_running, status.ended, status.tokens_out = sizes.max_rows, self._num_ended, self._num_tokens
        status.tiers.extend(tier_status_to_pb(tier, counts()) for tier, counts in self._tiers.items())
        return status

    async def _slot_rank(self) -> int:
        """That of the repository, once its service is there: on Ray all of them start at the same time."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            stop=stop_after_delay(_PATIENCE_S),
            wait=wait_fixed(_PAUSE_S),
            reraise=True,
        ):
            with attempt:
                asked = adapters_pb2.GetSlotRankRequest()
                answer = await self._peers.adapters.stub.GetSlotRank(asked, timeout=_PATIENCE_S)
        return answer.slot_rank

    def _ready(self) -> EngineWorker:
        if self._worker is None:
            raise Unavailable("the base model is still loading", remedy="retry in a moment")
        return self._worker

    async def _drop(self, digests: Iterable[str]) -> None:
        for digest in digests:
            # The disk first: host memory disowns a load that has read it just before.
            await self._source.drop(digest)
            self._host.drop(digest)

    def _tier(self, digest: str) -> Tier:
        """The nearest place that has an adapter."""
        if self._engine is not None and self._engine.holds(digest):
            return Tier.DEVICE
        if digest in self._host:
            return Tier.HOST
        return Tier.STORE if self._disk.path(digest) is None else Tier.DISK

    def _prefetch(self, digest: str, tier: Tier) -> None:
        """Brings an adapter closer while its request is read, tokenised and queued. Failures are met again there."""
        if tier in (Tier.DEVICE, Tier.HOST):
            return
        trace, since_s = current_call().trace, time.monotonic()
        load = self._host.prefetch(digest)
        if load is not None and trace.is_kept:
            attributes = {"tier": tier.value, "digest": digest}
            load.add_done_callback(lambda _: trace.note(LOAD, since_s, time.monotonic(), attributes))


def _slot_counts(engine: Engine) -> TierCounts:
    hits, misses, evictions = engine.slot_counts
    return TierCounts(hits, misses, evictions, num_entries=engine.num_resident, num_bytes=engine.resident_bytes)
