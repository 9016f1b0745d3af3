"""The gateway's four neighbours in memory, on real gRPC servers, with failures on demand and a log of calls."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import numpy as np

from ramole.app.services import SERVICES
from ramole.client.client import RamoleClient
from ramole.core import access
from ramole.core.call import Principal, current_call
from ramole.core.errors import InvalidInput, NotFound, WrongState
from ramole.core.names import AdapterName
from ramole.core.settings import (
    GatewaySettings,
    HttpSettings,
    PublicServerSettings,
    RetrievalSettings,
    ServerSettings,
    Settings,
)
from ramole.core.trace import Tracing
from ramole.transport.peers import Peers
from ramole.transport.picker import DirectoryPicker
from ramole.transport.server import GrpcServer
from ramole.transport.service import Service
from ramole.transport.trust import Trust
from ramole.transport.vectors import vector_to_pb
from ramole.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    common_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    executor_pb2,
    executor_pb2_grpc,
    retrieval_pb2,
    retrieval_pb2_grpc,
)
from ramole.v1.gateway_pb2 import ListAdaptersResponse
from ramole.v1.records_pb2 import AdapterRecord, AdmissionReport, HistoryEntry, UploadHeader

BASE = "zoo/base"
TRUST = Trust(b"known to the services alone")
Context = grpc.aio.ServicerContext[Any, Any]
Key = tuple[str, str, int]
GLUE = 99
"""The token of what the bare base model goes on with."""


class Neighbour(Service):
    """What all four share.

    Attributes:
        log: shared by all; ``Service.Method`` of each call in order.
        failures: method -> errors to raise, one for each call; None = this call is answered.
        gates: method -> event that the call waits for.
        delays_s: method -> seconds that the call takes.
        entered: method -> set when the method is called.
    """

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.failures: dict[str, list[Exception | None]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.delays_s: dict[str, float] = {}
        self.entered: dict[str, asyncio.Event] = {}

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def begin(self, method: str, *, is_logged: bool = True) -> None:
        if is_logged:
            self.log.append(method)
        self.entered.setdefault(method, asyncio.Event()).set()
        await asyncio.sleep(self.delays_s.get(method, 0.0))
        if method in self.gates:
            await self.gates[method].wait()
        if self.failures.get(method) and (error := self.failures[method].pop(0)) is not None:
            raise error

    async def until(self, method: str) -> None:
        async with asyncio.timeout(10):
            await self.entered.setdefault(method, asyncio.Event()).wait()


def key_of(ref: common_pb2.AdapterRef) -> Key:
    return ref.tenant, ref.name, ref.version


def position(record: AdapterRecord) -> str:
    return f"{record.adapter.tenant}/{record.adapter.name}@{record.adapter.version:09}"


class Adapters(Neighbour, adapters_pb2_grpc.AdaptersServicer):
    """Takes any bytes as an adapter, each as new content; for the rest like the real one, as a contract test proves.

    Attributes:
        gone: reason and comment of versions that were removed.
        headers: of all uploads.
        weights: of every adapter, as the pieces that they are sent in.
        num_fetching: streams of them that run.
    """

    name = "adapters"
    full_name = "ramole.v1.Adapters"

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.records: dict[Key, AdapterRecord] = {}
        self.staged: set[Key] = set()
        self.removals: list[adapters_pb2.DeleteStoredRequest] = []
        self.gone: list[HistoryEntry] = []
        self.last: Counter[tuple[str, str]] = Counter()
        self.callers: dict[str, Principal] = {}
        self.headers: list[UploadHeader] = []
        self.weights = [b"ab", b"cd"]
        self.num_fetching = 0

    async def begin(self, method: str, *, is_logged: bool = True) -> None:
        self.callers[method] = current_call().principal
        await super().begin(method, is_logged=is_logged)

    def register(self, server: grpc.aio.Server) -> None:
        adapters_pb2_grpc.add_AdaptersServicer_to_server(self, server)

    def add(
        self, name: str, version: int = 1, *, base: str = BASE, is_live: bool = True, tenant: str = "default"
    ) -> common_pb2.AdapterRef:
        """A version that is there already."""
        digest = hashlib.sha256(f"{tenant}/{name}@{version}".encode()).hexdigest()
        ref = common_pb2.AdapterRef(tenant=tenant, name=name, version=version, digest=digest)
        self.last[tenant, name] = max(version, self.last[tenant, name])
        report = AdmissionReport(num_samples=1)
        self.records[key_of(ref)] = AdapterRecord(
            adapter=ref, base_model=base, samples=[f"sample of {name}"], report=report
        )
        if not is_live:
            self.staged.add(key_of(ref))
        return ref

    async def Put(
        self, request_iterator: AsyncIterator[adapters_pb2.PutRequest], context: Context
    ) -> adapters_pb2.PutResponse:
        requests = [request async for request in request_iterator]
        await self.begin("Put")
        header = requests[0].upload.header
        self.headers.append(header)
        answer = self.put(access.named_to_change(header.adapter, field="header.adapter"))
        self.records[key_of(answer.record.adapter)].is_public = answer.record.is_public = header.is_public
        return answer

    def put(self, name: AdapterName) -> adapters_pb2.PutResponse:
        ref = self.add(name.name, self.last[name.tenant, name.name] + 1, is_live=False, tenant=name.tenant)
        return adapters_pb2.PutResponse(record=self.records[key_of(ref)], created=True)

    async def Restage(self, request: adapters_pb2.RestageRequest, context: Context) -> adapters_pb2.RestageResponse:
        await self.begin("Restage")
        name = access.named_to_change(request.adapter)
        old = next(iter(self.versions(name)), None)
        if old is None:
            raise access.missing(name)
        latest = self.versions(replace(name, version=0))[-1]
        if (old.adapter.digest, old.is_public) == (latest.adapter.digest, latest.is_public):
            return adapters_pb2.RestageResponse(record=latest, created=False, is_live=True)
        record = self.put(name).record
        record.MergeFrom(AdapterRecord(source=str(name), is_public=old.is_public))
        record.adapter.digest = old.adapter.digest
        self.records[key_of(record.adapter)] = record
        return adapters_pb2.RestageResponse(record=record, created=True)

    async def GetStoredHistory(
        self, request: adapters_pb2.GetStoredHistoryRequest, context: Context
    ) -> adapters_pb2.GetStoredHistoryResponse:
        await self.begin("GetStoredHistory")
        name = replace(access.named(request.adapter), version=0)
        entries = [HistoryEntry(adapter=r.adapter, source=r.source) for r in self.versions(name)]
        if access.may_see(name.tenant, is_public=False):
            gone = [entry for entry in self.gone if key_of(entry.adapter)[:2] == (name.tenant, name.name)]
            entries = sorted(entries + gone, key=lambda entry: entry.adapter.version)
        if not entries:
            raise access.missing(name)
        held = {record.adapter.digest for record in self.records.values()}
        return adapters_pb2.GetStoredHistoryResponse(
            entries=entries[::-1], held_digests=sorted(held & {entry.adapter.digest for entry in entries})
        )

    def remove(self, ref: common_pb2.AdapterRef, removal: str, comment: str = "") -> None:
        """What the history keeps of a version."""
        self.records.pop(key_of(ref))
        self.gone.append(HistoryEntry(adapter=ref, removal=removal, comment=comment))
        self.gone[-1].removed_at.FromSeconds(10**9)

    async def Fetch(
        self, request: adapters_pb2.FetchRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.FetchResponse]:
        self.num_fetching += 1
        try:
            await self.begin("Fetch")
            size = sum(map(len, self.weights))
            yield adapters_pb2.FetchResponse(header=adapters_pb2.WeightsHeader(config_json=b"{}", size=size))
            for data in self.weights:
                yield adapters_pb2.FetchResponse(data=data)
        finally:
            self.num_fetching -= 1

    async def Publish(self, request: adapters_pb2.PublishRequest, context: Context) -> adapters_pb2.PublishResponse:
        await self.begin("Publish")
        record = self.records.get(key_of(request.adapter))
        if record is None:
            raise NotFound("there is no such version", field="adapter")
        ref = record.adapter
        if (ref.tenant, ref.digest, "revoked") in {(e.adapter.tenant, e.adapter.digest, e.removal) for e in self.gone}:
            raise WrongState("it is revoked")
        self.staged.discard(key_of(ref))
        return adapters_pb2.PublishResponse(record=record)

    async def Discard(self, request: adapters_pb2.DiscardRequest, context: Context) -> adapters_pb2.DiscardResponse:
        await self.begin("Discard")
        if key_of(request.adapter) in self.records and key_of(request.adapter) not in self.staged:
            raise WrongState("it is live")
        self.staged.discard(key_of(request.adapter))
        self.records.pop(key_of(request.adapter), None)
        return adapters_pb2.DiscardResponse()

    def live(self) -> list[AdapterRecord]:
        return sorted((r for key, r in self.records.items() if key not in self.staged), key=position)

    def versions(self, name: AdapterName) -> list[AdapterRecord]:
        """Those of a name, or the pinned one, that are live and that the caller may see; oldest first."""
        named = [r for r in self.live() if (r.adapter.tenant, r.adapter.name) == (name.tenant, name.name)]
        return [r for r in named if name.version in (0, r.adapter.version) and self.is_visible(r)]

    def is_visible(self, record: AdapterRecord) -> bool:
        """As the real one: a version is public while the latest of its name is."""
        ref = record.adapter
        named = [r for r in self.live() if (r.adapter.tenant, r.adapter.name) == (ref.tenant, ref.name)]
        is_public = record in named and record.is_public and named[-1].is_public
        return access.may_see(ref.tenant, is_public=is_public)

    async def GetStored(
        self, request: adapters_pb2.GetStoredRequest, context: Context
    ) -> adapters_pb2.GetStoredResponse:
        await self.begin("GetStored")
        record = self.get(access.named(request.adapter))
        return adapters_pb2.GetStoredResponse(record=record, is_live=key_of(record.adapter) not in self.staged)

    def get(self, name: AdapterName) -> AdapterRecord:
        """As the real one: a pinned version in any state."""
        pinned = self.records.get((name.tenant, name.name, name.version))
        found = [pinned] if pinned is not None and self.is_visible(pinned) else self.versions(name)
        if not found:
            raise access.missing(name)
        return found[-1]

    async def ListStored(
        self, request: adapters_pb2.ListStoredRequest, context: Context
    ) -> adapters_pb2.ListStoredResponse:
        await self.begin("ListStored")
        query = request.query
        size = min(query.page_size or 2, 2)  # several pages in every test
        behind = [
            r
            for r in self.live()
            if position(r) > query.page_token
            and r.adapter.name.startswith(query.name_prefix)
            and query.tenant in ("", r.adapter.tenant)
            and self.is_visible(r)
        ]
        page = behind[:size]
        token = position(page[-1]) if len(behind) > size else ""
        return adapters_pb2.ListStoredResponse(page=ListAdaptersResponse(records=page, next_page_token=token))

    async def DeleteStored(
        self, request: adapters_pb2.DeleteStoredRequest, context: Context
    ) -> adapters_pb2.DeleteStoredResponse:
        await self.begin("DeleteStored")
        name = access.named_to_change(request.adapter)
        gone = [r.adapter for r in self.versions(name)]
        if not gone:
            raise access.missing(name)
        if request.is_revocation:
            digests = {ref.digest for ref in gone}
            gone = [r.adapter for r in self.live() if r.adapter.digest in digests and r.adapter.tenant == name.tenant]
        self.removals.append(request)
        for ref in gone:
            self.remove(ref, "revoked" if request.is_revocation else "deleted", request.comment)
        used = {record.adapter.digest for record in self.records.values()}
        freed = {ref.digest for ref in gone} - used
        return adapters_pb2.DeleteStoredResponse(removed=gone, freed_digests=freed)


class Embedding(Neighbour, embedding_pb2_grpc.EmbeddingServicer):
    name = "embedding"
    full_name = "ramole.v1.Embedding"

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.texts: list[str] = []
        self.answers: list[list[int]] = []

    def register(self, server: grpc.aio.Server) -> None:
        embedding_pb2_grpc.add_EmbeddingServicer_to_server(self, server)

    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Context) -> embedding_pb2.EmbedResponse:
        await self.begin("Embed")
        self.texts += request.texts
        self.answers += [list(answer.token_ids) for answer in request.answers] or [[] for _ in request.texts]
        vectors = [vector_to_pb(np.array([1.0, 0.0], np.float32)) for _ in request.texts]
        return embedding_pb2.EmbedResponse(vectors=vectors, encoder_id="e")


class Retrieval(Neighbour, retrieval_pb2_grpc.RetrievalServicer):
    name = "retrieval"
    full_name = "ramole.v1.Retrieval"

    doubt: float | None = None

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.rows: dict[Key, common_pb2.AdapterRef] = {}
        self.public: set[Key] = set()
        self.searches: list[retrieval_pb2.SearchRequest] = []
        self.generations = [retrieval_pb2.Generation(number=1, encoder_id="e")]

    def register(self, server: grpc.aio.Server) -> None:
        retrieval_pb2_grpc.add_RetrievalServicer_to_server(self, server)

    def add(self, ref: common_pb2.AdapterRef, *, is_public: bool = False) -> None:
        """As the real index: a version takes the place of the older ones of its name."""
        self.rows = {
            key: row
            for key, row in self.rows.items()
            if (row.tenant, row.name) != (ref.tenant, ref.name) or row.version > ref.version
        } | {key_of(ref): ref}
        self.public = self.public - {key_of(ref)} | ({key_of(ref)} if is_public else set())

    async def Search(self, request: retrieval_pb2.SearchRequest, context: Context) -> retrieval_pb2.SearchResponse:
        self.searches.append(request)
        await self.begin("Search")
        seen = [row for key, row in self.rows.items() if row.tenant == request.tenant or key in self.public]
        gone, only = [{(ref.tenant, ref.name) for ref in refs} for refs in (request.without, request.among)]
        seen = [row for row in seen if (row.tenant, row.name) not in gone]
        seen = [row for row in seen if not only or (row.tenant, row.name) in only]
        rows = sorted(seen, key=lambda row: (row.name, row.tenant))[: request.k]
        hits = [retrieval_pb2.Hit(adapter=row, similarity=0.5 - 0.125 * i) for i, row in enumerate(rows)]
        return retrieval_pb2.SearchResponse(hits=hits, doubt=self.doubt)

    async def Upsert(self, request: retrieval_pb2.UpsertRequest, context: Context) -> retrieval_pb2.UpsertResponse:
        await self.begin("Upsert")
        for each in request.adapters:
            self.add(each.adapter, is_public=each.is_public)
        return retrieval_pb2.UpsertResponse(generations=self.generations)

    async def ListGenerations(
        self, request: retrieval_pb2.ListGenerationsRequest, context: Context
    ) -> retrieval_pb2.ListGenerationsResponse:
        await self.begin("ListGenerations", is_logged=False)
        return retrieval_pb2.ListGenerationsResponse(generations=self.generations)

    async def Remove(self, request: retrieval_pb2.RemoveRequest, context: Context) -> retrieval_pb2.RemoveResponse:
        await self.begin("Remove")
        for adapter in request.adapters:
            self.rows.pop(key_of(adapter), None)
        return retrieval_pb2.RemoveResponse()

    async def ListRows(
        self, request: retrieval_pb2.ListRowsRequest, context: Context
    ) -> AsyncIterator[retrieval_pb2.ListRowsResponse]:
        await self.begin("ListRows")
        for row in list(self.rows.values()):
            yield retrieval_pb2.ListRowsResponse(adapter=row)


class Executor(Neighbour, executor_pb2_grpc.ExecutorServicer):
    """Answers with the prompt, word by word; token i of a prompt says ``w<i>``, and there are 100 of them.

    Word i of an answer is its token i, the token 99 one of the bare base model, which goes on with `glue`; and adapters
    end where a word ends with a full stop.

    Attributes:
        glue: '' = the base model ends too.
        endless: said again and again, until nobody listens or it is changed; '' = it is not.
    """

    name = "executor"
    full_name = "ramole.v1.Executor"

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.requests: list[executor_pb2.ExecuteRequest] = []
        self.evicted: list[executor_pb2.EvictRequest] = []
        self.num_running = 0
        self.endless = ""
        self.finish_reason: int = common_pb2.FINISH_REASON_LENGTH
        self.glue = "and"

    def register(self, server: grpc.aio.Server) -> None:
        executor_pb2_grpc.add_ExecutorServicer_to_server(self, server)

    async def Execute(
        self, request: executor_pb2.ExecuteRequest, context: Context
    ) -> AsyncIterator[executor_pb2.ExecuteResponse]:
        self.requests.append(request)
        self.num_running += 1
        try:
            await self.begin("Execute")
            while self.endless:
                yield executor_pb2.ExecuteResponse(chunk=common_pb2.TokenChunk(text=self.endless, token_ids=[1]))
            text = request.prompt or " ".join(turn.content for turn in request.messages)
            words = [f"w{token}" for token in request.prompt_token_ids] or text.split()
            begun = sum(1 for token in request.answer_token_ids if token != GLUE)
            part_end, said, reason = 0, list(enumerate(words))[begun:], self.finish_reason
            if request.part_tokens:
                part_end = common_pb2.PART_END_TOKENS if self.glue else 0
                said, reason = [(GLUE, self.glue)] if self.glue else [], common_pb2.FINISH_REASON_STOP
            num_said = 0
            for i, word in said:
                chunk = common_pb2.TokenChunk(text=word, token_ids=[i], logprobs=[-1.0], token_bytes=[word.encode()])
                yield executor_pb2.ExecuteResponse(chunk=chunk)
                await self.begin("step")
                num_said += 1
                if any(separator in word for separator in request.part_ends):
                    part_end = common_pb2.PART_END_SEPARATOR
                elif request.part_at_end and word.endswith("."):
                    part_end = common_pb2.PART_END_ADAPTERS
                if part_end:
                    break
            yield executor_pb2.ExecuteResponse(
                done=executor_pb2.ExecuteDone(
                    finish_reason=reason,  # type: ignore[arg-type]
                    part_end=part_end,  # type: ignore[arg-type]
                    prompt_tokens=3,
                    completion_tokens=num_said,
                    experts=[
                        executor_pb2.ExpertUsage(
                            mean_weight=0.25 + i, layer_weights=[0.25, 0.5], tier=common_pb2.CACHE_TIER_DISK
                        )
                        for i in range(len(request.experts))
                    ],
                    queue_s=0.5,
                    max_batch=4,
                    max_unique_adapters=5,
                    prefill_s=0.25,
                    decode_s=0.75,
                )
            )
        finally:
            self.num_running -= 1

    async def Detokenize(
        self, request: executor_pb2.DetokenizeRequest, context: Context
    ) -> executor_pb2.DetokenizeResponse:
        await self.begin("Detokenize")
        for i, token in enumerate(request.token_ids):
            if token >= 100:
                raise InvalidInput(f"the base model has no token {token}", field=f"prompt_token_ids[{i}]", remedy="no")
        return executor_pb2.DetokenizeResponse(text=" ".join(f"w{token}" for token in request.token_ids if token))

    async def Evict(self, request: executor_pb2.EvictRequest, context: Context) -> executor_pb2.EvictResponse:
        await self.begin("Evict")
        self.evicted.append(request)
        return executor_pb2.EvictResponse(aborted=2 if request.abort else 0)

    async def GetStatus(
        self, request: executor_pb2.GetStatusRequest, context: Context
    ) -> executor_pb2.GetStatusResponse:
        await self.begin("GetStatus")
        step = common_pb2.StepSnapshot(b=2, digests=["p", "q"], mask=[True, False, True, True], tokens=7)
        return executor_pb2.GetStatusResponse(
            num_slots=8,
            resident_digests=["p"],
            running=1,
            fullest_step=step,
            max_len=512,
            max_waiting=64,
            router="r",
            has_chat_template=True,
            max_running=32,
            ended=9,
            tokens_out=90,
            tiers=[common_pb2.TierStatus(tier=common_pb2.CACHE_TIER_DEVICE, adapters=1, bytes=100, hits=7, misses=3)],
        )


class World:
    """A gateway among its neighbours, and a client of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.adapters = Adapters(self.log)
        self.embedding = Embedding(self.log)
        self.retrieval = Retrieval(self.log)
        self.executor = Executor(self.log)
        self.settings = Settings(
            base_model=BASE,
            base_id=BASE,
            gateway=GatewaySettings(
                server=PublicServerSettings(port=0),
                http=HttpSettings(port=None),
                preset="mixture",
                max_prompt_chars=100,
                deadline_s=30.0,
            ),
            retrieval=RetrievalSettings(timeout_s=2.0),
        )
        self._directory: dict[str, str] = {}
        self._stack = AsyncExitStack()
        self.servers: dict[str, GrpcServer] = {}
        self.client: RamoleClient

    async def start_neighbours(self) -> None:
        """All four."""
        for service in (self.adapters, self.embedding, self.retrieval, self.executor):
            server = self.servers[service.name] = GrpcServer(
                service, ServerSettings(), identify=TRUST.identify, tracing=self.tracing_of(service.name)
            )
            await server.start()
            self._stack.push_async_callback(server.stop)
            self._directory[service.name] = server.address

    async def start_gateway(self) -> None:
        """Starts the gateway and connects the client."""
        self.client = await self.add_gateway()
        self.log.clear()

    async def add_gateway(self) -> RamoleClient:
        """One more gateway before the same neighbours; a client of it."""
        peers = self.peers()
        server = self.serve(peers)
        self.servers.setdefault("gateway", server)
        self._stack.push_async_callback(server.stop)
        await server.start()
        client = RamoleClient(server.address, retries=0)  # a failure is a failure
        self._stack.push_async_callback(client.close)
        return client

    def serve(self, peers: Peers) -> GrpcServer:
        """The public server of a gateway."""
        return SERVICES["gateway"].server(self.settings, lambda: peers, TRUST)

    def tracing_of(self, service: str) -> Tracing | None:
        """Of the calls of one service; None = they are not traced."""
        return None

    def peers(self) -> Peers:
        """The neighbours, for a gateway or a part of one."""
        peers = Peers(partial(DirectoryPicker, self._directory), TRUST)
        self._stack.push_async_callback(peers.close)
        return peers

    async def stop(self) -> None:
        """Everything."""
        await self._stack.aclose()

    @property
    def live(self) -> set[str]:
        """``name@version`` of all live versions."""
        return {f"{r.adapter.name}@{r.adapter.version}" for r in self.adapters.live()}

    @property
    def stored(self) -> set[str]:
        """``name@version`` of all versions, staged ones too."""
        return {f"{name}@{version}" for _, name, version in self.adapters.records}

    @property
    def findable(self) -> set[str]:
        """``name@version`` of all rows of the index."""
        return {f"{row.name}@{row.version}" for row in self.retrieval.rows.values()}

    def give(self, *names: str) -> None:
        """Live and findable adapters."""
        for name in names:
            self.retrieval.add(self.adapters.add(name))
