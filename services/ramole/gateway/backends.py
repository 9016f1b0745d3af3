"""What the gateway's flows ask of the services behind it, where that takes more than one call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeVar

from ramole.core.call import current_call
from ramole.core.errors import Corrupt, NotFound
from ramole.core.names import AdapterName, AdapterRef
from ramole.transport.caller import Caller
from ramole.transport.peers import Peers
from ramole.transport.stubs import reading
from ramole.transport.values import ref_from_pb, ref_to_pb
from ramole.v1.adapters_pb2 import GetStoredHistoryRequest, GetStoredRequest, GetStoredResponse, ListStoredRequest
from ramole.v1.embedding_pb2 import AnswerSoFar, EmbedRequest, EmbedResponse, Vector
from ramole.v1.executor_pb2 import DetokenizeRequest, EvictRequest
from ramole.v1.executor_pb2_grpc import ExecutorStub
from ramole.v1.gateway_pb2 import ListAdaptersRequest
from ramole.v1.records_pb2 import AdapterRecord
from ramole.v1.retrieval_pb2 import (
    AdapterVectors,
    Generation,
    ListGenerationsRequest,
    ListRowsRequest,
    RemoveRequest,
    SearchRequest,
    SearchResponse,
    UpsertRequest,
)

_PAGE = 200
_TEXTS_PER_CALL = 256
_BYTES_PER_CALL = 2 * 2**20
_READS_AT_ONCE = 8

_log = logging.getLogger(__name__)


class Backends:
    """All methods raise RamoleError, honour the current call's deadline and can be cancelled.

    Args:
        peers: the services.
        base_id: the served base model; adapters of other bases are invisible.

    Attributes:
        embedding, retrieval, adapters: for what is a single call.
        executor: all replicas.
    """

    def __init__(self, peers: Peers, *, base_id: str) -> None:
        self.embedding = peers.embedding.stub
        self.retrieval = peers.retrieval.stub
        self.adapters = peers.adapters.stub
        self.executor = peers.executor
        self._base_id = base_id
        self._by_name: dict[str, Caller] = {
            "adapters": peers.adapters,
            "embedding": peers.embedding,
            "retrieval": peers.retrieval,
            "executor": peers.executor,
        }

    async def health(self, *, timeout_s: float) -> dict[str, list[bool]]:
        """Of each service by its name: which of its replicas say in time that they serve."""
        asked = (
            remote.health(f"ramole.v1.{name.capitalize()}", timeout_s=timeout_s)
            for name, remote in self._by_name.items()
        )
        return dict(zip(self._by_name, await asyncio.gather(*asked), strict=True))

    async def embed(
        self,
        texts: Sequence[str],
        encoder_id: str = "",
        *,
        answers: Sequence[Sequence[int]] = (),
        timeout_s: float | None = None,
    ) -> EmbedResponse:
        """Vectors in the order of the texts; '' = of the encoder of the settings.

        Args:
            answers: tokens of the answer to each text so far; () = there are none.

        Raises:
            EncoderMismatch: that encoder is not loaded.
        """
        request = EmbedRequest(
            texts=texts, encoder_id=encoder_id, answers=[AnswerSoFar(token_ids=tokens) for tokens in answers]
        )
        answer = await self.embedding.Embed(request, timeout=timeout_s)
        if len(answer.vectors) != len(texts):
            raise Corrupt(f"{len(answer.vectors)} vectors for {len(texts)} texts")
        return answer

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens. Raises InvalidInput for one that the base model does not have."""
        return (await self.executor.stub.Detokenize(DetokenizeRequest(token_ids=tokens))).text

    async def search(
        self,
        vector: Vector,
        encoder_id: str,
        k: int,
        tags: Sequence[str] = (),
        *,
        without: Sequence[AdapterRef] = (),
        among: Sequence[AdapterRef] = (),
        timeout_s: float | None = None,
    ) -> SearchResponse:
        """The k nearest adapters with all of `tags`, best first, and how likely it is that none was made for it.

        None of `without`, and only of `among` if there are some, whatever their versions.

        Of the caller's tenant and the public ones, whatever its roles: what an operator may look at in other tenants
        shall not answer its prompts.
        """
        tenant = current_call().principal.tenant
        request = SearchRequest(
            vector=vector,
            encoder_id=encoder_id,
            base_model=self._base_id,
            tenant=tenant,
            k=k,
            tags=tags,
            without=map(ref_to_pb, without),
            among=map(ref_to_pb, among),
        )
        return await self.retrieval.Search(request, timeout=timeout_s)

    async def index(
        self, records: Sequence[AdapterRecord], encoder_id: str = "", *, generation: int = 0
    ) -> list[Generation]:
        """Makes versions findable by the vectors that an encoder makes of their samples; '' = as `embed`.

        They are written to one generation, or (0) to all that are of this encoder.
        Returns the generations that must hold them; those of other encoders still lack them.

        Raises:
            EncoderMismatch: the encoder is not loaded, or no generation is of it.
        """
        texts = [sample for record in records for sample in record.samples]
        vectors: list[Vector] = []
        for some in in_batches(texts, lambda text: len(text.encode()), _BYTES_PER_CALL, _TEXTS_PER_CALL):
            embedded = await self.embed(some, encoder_id)
            vectors += embedded.vectors
        rest = iter(vectors)
        adapters = [
            AdapterVectors(
                adapter=record.adapter,
                base_model=record.base_model,
                is_public=record.is_public,
                tags=record.tags,
                samples=[next(rest) for _ in record.samples],
            )
            for record in records
        ]
        for batch in in_batches(adapters, lambda adapter: adapter.ByteSize(), _BYTES_PER_CALL):
            request = UpsertRequest(adapters=batch, encoder_id=embedded.encoder_id, generation=generation)
            answer = await self.retrieval.Upsert(request)
        return list(answer.generations)

    async def generations(self) -> list[Generation]:
        """First the live generation, then the one that is being built; empty while nothing was ever indexed."""
        return list((await self.retrieval.ListGenerations(ListGenerationsRequest())).generations)

    async def unindex(self, refs: Sequence[AdapterRef]) -> None:
        """Takes versions out of the index, those that are there."""
        if refs:
            await self.retrieval.Remove(RemoveRequest(adapters=[ref_to_pb(ref) for ref in refs]))

    async def indexed(self, generation: int = 0) -> list[AdapterRef]:
        """Every row of a generation; 0 = the live one."""
        async with reading(self.retrieval.ListRows(ListRowsRequest(generation=generation))) as rows:
            return [ref_from_pb(row.adapter) async for row in rows]

    async def find(self, name: AdapterName, *, has_samples: bool = False) -> GetStoredResponse | None:
        """The pinned version, live or not, or the latest live one; None if there is none."""
        try:
            return await self.adapters.GetStored(GetStoredRequest(adapter=str(name), without_samples=not has_samples))
        except NotFound:
            return None

    async def is_live(self, ref: AdapterRef) -> bool:
        """Whether this very version is live."""
        return await self._find_live(ref) is not None

    async def live(self, name: AdapterName | None = None) -> AsyncIterator[AdapterRef]:
        """Every live version in the store, or of one name."""
        query = ListAdaptersRequest(page_size=_PAGE, without_samples=True)
        if name is not None:
            query.tenant, query.name_prefix = name.tenant, name.name
        async for record in self._listed(query):
            if name is None or record.adapter.name == name.name:
                yield ref_from_pb(record.adapter)

    async def _listed(self, query: ListAdaptersRequest, *, from_writer: bool = False) -> AsyncIterator[AdapterRecord]:
        while True:
            page = (await self.adapters.ListStored(ListStoredRequest(query=query, from_writer=from_writer))).page
            for record in page.records:
                yield record
            query.page_token = page.next_page_token
            if not page.next_page_token:
                return

    async def findable(self) -> set[AdapterRef]:
        """What the index must hold: the latest live version of each name, unless it is one that is only named.

        Raises:
            Unavailable: the store here is not the writer any more. By its view the rows of newer adapters would go.
        """
        query = ListAdaptersRequest(page_size=_PAGE, without_samples=True, latest_only=True)
        found = self._listed(query, from_writer=True)
        return {ref_from_pb(record.adapter) async for record in found if record.report.num_samples}

    async def live_records(self, refs: Sequence[AdapterRef]) -> AsyncIterator[AdapterRecord]:
        """Those of `refs` that are live, with their samples. One that the store cannot read is logged and left out."""
        for start in range(0, len(refs), _READS_AT_ONCE):
            some = refs[start : start + _READS_AT_ONCE]
            for record in await asyncio.gather(*(self._readable(ref) for ref in some)):
                if record is not None:
                    yield record

    async def _readable(self, ref: AdapterRef) -> AdapterRecord | None:
        try:
            return await self._find_live(ref, has_samples=True)
        except Corrupt as error:
            _log.error("%s cannot be retrieved: %s", ref, error)
            return None

    async def _find_live(self, ref: AdapterRef, *, has_samples: bool = False) -> AdapterRecord | None:
        found = await self.find(AdapterName(ref.tenant, ref.name, ref.version), has_samples=has_samples)
        is_it = found is not None and found.is_live and ref_from_pb(found.record.adapter) == ref
        return found.record if found is not None and is_it else None

    async def revoked(self, name: AdapterName) -> tuple[list[AdapterRef], set[str]]:
        """Versions of a name, or the pinned one, that were revoked already, and the contents that others still have."""
        try:
            answer = await self.adapters.GetStoredHistory(GetStoredHistoryRequest(adapter=str(name)))
        except NotFound:
            return [], set()
        refs = (ref_from_pb(entry.adapter) for entry in answer.entries if entry.removal == "revoked")
        return [ref for ref in refs if name.version in (0, ref.version)], set(answer.held_digests)

    async def evict(self, digests: Sequence[str], *, abort: bool, tenant: str = "") -> int:
        """Frees adapters on all devices. Returns how many running requests were aborted.

        Args:
            tenant: only requests that use adapters of this one are; '' = all.
        """
        if not digests:
            return 0
        request = EvictRequest(digests=digests, abort=abort, tenant=tenant)
        answers = await self.executor.everywhere(
            lambda channel: ExecutorStub(channel).Evict, request, name="/ramole.v1.Executor/Evict"
        )
        return sum(answer.aborted for answer in answers)


T = TypeVar("T")


def in_batches(
    items: Sequence[T], size: Callable[[T], int], max_bytes: int, max_items: int = 1000
) -> Iterator[list[T]]:
    """The items in order, some at a time: as many as fit into `max_bytes`, but at least one."""
    batch: list[T] = []
    num_bytes = 0
    for item in items:
        item_bytes = size(item)
        if batch and (len(batch) == max_items or num_bytes + item_bytes > max_bytes):
            yield batch
            batch, num_bytes = [], 0
        batch.append(item)
        num_bytes += item_bytes
    if batch:
        yield batch
