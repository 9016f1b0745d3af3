"""The services behind the gateway, as plain functions over values."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from ramole.core.call import current_call
from ramole.core.composition import Composition
from ramole.core.errors import Corrupt, NotFound
from ramole.core.names import AdapterName, AdapterRef
from ramole.core.sampling import Sampling
from ramole.gateway.codec import outcome_from_pb, piece_from_pb, record_from_pb
from ramole.gateway.values import REVOKED, Choice, Deleted, Embedded, Generation, Outcome, Piece, Record, Stored
from ramole.transport.caller import Retries
from ramole.transport.peers import Peers
from ramole.transport.values import composition_to_pb, ref_from_pb, ref_to_pb, sampling_to_pb
from ramole.v1 import adapters_pb2, embedding_pb2, executor_pb2, retrieval_pb2

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
    """

    def __init__(self, peers: Peers, *, base_id: str) -> None:
        self._peers = peers
        self._base_id = base_id

    async def embed(self, texts: Sequence[str], encoder_id: str = "", *, timeout_s: float | None = None) -> Embedded:
        """Vectors in the order of the texts; '' = of the encoder of the settings.

        Raises:
            WrongState: that encoder is not loaded.
        """
        request = embedding_pb2.EmbedRequest(texts=texts, encoder_id=encoder_id)
        answer = await self._peers.embedding.Embed(request, timeout_s=timeout_s)
        if len(answer.vectors) != len(texts):
            raise Corrupt(f"{len(answer.vectors)} vectors for {len(texts)} texts")
        return Embedded(tuple(tuple(vector.values) for vector in answer.vectors), answer.encoder_id)

    async def own_encoder(self) -> tuple[str, int]:
        """Identity and dimensions of the encoder of the settings."""
        answer = await self._peers.embedding.DescribeEncoder(embedding_pb2.DescribeEncoderRequest())
        return answer.encoder_id, answer.dim

    async def search(
        self, vector: Sequence[float], encoder_id: str, k: int, *, timeout_s: float | None = None
    ) -> tuple[tuple[Choice, ...], float | None]:
        """The k nearest adapters, best first, and how likely it is that none was made for the prompt.

        Of the caller's tenant and the public ones, whatever its roles: what an operator may look at in other tenants
        shall not answer its prompts.
        """
        tenant = current_call().principal.tenant
        request = retrieval_pb2.SearchRequest(
            vector=vector, encoder_id=encoder_id, base_model=self._base_id, tenant=tenant, k=k
        )
        answer = await self._peers.retrieval.Search(request, timeout_s=timeout_s)
        choices = tuple(Choice(ref_from_pb(hit.adapter), hit.similarity) for hit in answer.hits)
        return choices, answer.doubt if answer.HasField("doubt") else None

    async def index(
        self, records: Sequence[Record], encoder_id: str = "", *, generation: int = 0
    ) -> tuple[Generation, ...]:
        """Makes versions findable by the vectors that an encoder makes of their samples; '' = as `embed`.

        They are written to one generation, or (0) to all that are of this encoder.
        Returns the generations that must hold them; those of other encoders still lack them.

        Raises:
            WrongState: the encoder is not loaded, or no generation is of it.
        """
        texts = [sample for record in records for sample in record.samples]
        vectors: list[tuple[float, ...]] = []
        for some in in_batches(texts, lambda text: len(text.encode()), _BYTES_PER_CALL, _TEXTS_PER_CALL):
            embedded = await self.embed(some, encoder_id)
            vectors += embedded.vectors
        rest = iter(vectors)
        adapters = [
            retrieval_pb2.AdapterVectors(
                adapter=ref_to_pb(record.ref),
                base_model=record.base_model,
                is_public=record.is_public,
                samples=[retrieval_pb2.SampleVector(values=next(rest)) for _ in record.samples],
            )
            for record in records
        ]
        for batch in in_batches(adapters, lambda adapter: adapter.ByteSize(), _BYTES_PER_CALL):
            request = retrieval_pb2.UpsertRequest(adapters=batch, encoder_id=embedded.encoder_id, generation=generation)
            answer = await self._peers.retrieval.Upsert(request)
        return _generations(answer)

    async def generations(self) -> tuple[Generation, ...]:
        """First the live generation, then the one that is being built; empty while nothing was ever indexed."""
        return _generations(await self._peers.retrieval.ListGenerations(retrieval_pb2.ListGenerationsRequest()))

    async def build(self, encoder_id: str, dim: int) -> int:
        """Begins a generation beside the live one, or goes on with it."""
        request = retrieval_pb2.BuildGenerationRequest(encoder_id=encoder_id, dim=dim)
        return (await self._peers.retrieval.BuildGeneration(request)).generation

    async def promote(self, number: int) -> None:
        """Lets a built generation serve; returns when the older ones are gone."""
        await self._peers.retrieval.PromoteGeneration(retrieval_pb2.PromoteGenerationRequest(generation=number))

    async def unindex(self, refs: Sequence[AdapterRef]) -> None:
        """Takes versions out of the index, those that are there."""
        if refs:
            request = retrieval_pb2.RemoveRequest(adapters=[ref_to_pb(ref) for ref in refs])
            await self._peers.retrieval.Remove(request)

    async def indexed(self, generation: int = 0) -> list[AdapterRef]:
        """Every row of a generation; 0 = the live one."""
        request = retrieval_pb2.ListRowsRequest(generation=generation)
        async with aclosing(self._peers.retrieval.ListRows(request)) as rows:
            return [ref_from_pb(row.adapter) async for row in rows]

    async def put(self, parts: AsyncIterable[Any]) -> Stored:
        """Relays the messages of an upload, whatever they hold, to the store: it validates all of them."""
        answer = await self._peers.adapters.Put(parts)
        return Stored(record_from_pb(answer.record), answer.created)

    async def publish(self, ref: AdapterRef) -> Record:
        """Staged -> live."""
        answer = await self._peers.adapters.Publish(adapters_pb2.PublishRequest(adapter=ref_to_pb(ref)))
        return record_from_pb(answer.record)

    async def restage(self, name: AdapterName, expected_version: int | None) -> Stored:
        """Stages the content of an older version as the next one."""
        request = adapters_pb2.RollbackAdapterRequest(adapter=str(name), expected_version=expected_version)
        answer = await self._peers.adapters.Restage(request)
        return Stored(record_from_pb(answer.record), answer.created)

    async def discard(self, ref: AdapterRef) -> None:
        """Drops a staged version."""
        await self._peers.adapters.Discard(adapters_pb2.DiscardRequest(adapter=ref_to_pb(ref)))

    async def find(self, name: AdapterName, *, has_samples: bool = False) -> Record | None:
        """The pinned or latest live version; None if there is none."""
        request = adapters_pb2.GetAdapterRequest(adapter=str(name), without_samples=not has_samples)
        try:
            answer = await self._peers.adapters.GetAdapter(request)
        except NotFound:
            return None
        return record_from_pb(answer.record)

    async def is_live(self, ref: AdapterRef) -> bool:
        """Whether this very version is live."""
        record = await self.find(AdapterName(ref.tenant, ref.name, ref.version))
        return record is not None and record.is_live and record.ref == ref

    async def live(self, name: AdapterName | None = None) -> AsyncIterator[AdapterRef]:
        """Every live version in the store, or of one name."""
        request = adapters_pb2.ListAdaptersRequest(page_size=_PAGE, without_samples=True)
        if name is not None:
            request.tenant, request.name_prefix = name.tenant, name.name
        while True:
            answer = await self._peers.adapters.ListAdapters(request)
            for record in answer.records:
                if name is None or record.adapter.name == name.name:
                    yield ref_from_pb(record.adapter)
            request.page_token = answer.next_page_token
            if not answer.next_page_token:
                return

    async def live_records(self, refs: Sequence[AdapterRef]) -> AsyncIterator[Record]:
        """Those of `refs` that are live, with their samples. One that the store cannot read is logged and left out."""
        for start in range(0, len(refs), _READS_AT_ONCE):
            some = refs[start : start + _READS_AT_ONCE]
            for record in await asyncio.gather(*(self._live_record(ref) for ref in some)):
                if record is not None:
                    yield record

    async def _live_record(self, ref: AdapterRef) -> Record | None:
        try:
            record = await self.find(AdapterName(ref.tenant, ref.name, ref.version), has_samples=True)
        except Corrupt as error:
            _log.error("%s cannot be retrieved: %s", ref, error)
            return None
        return record if record is not None and record.is_live and record.ref == ref else None

    async def delete(
        self, name: AdapterName, *, is_revocation: bool, comment: str, expected_version: int | None
    ) -> Deleted:
        """Removes versions from the store. Raises NotFound when there is none, Conflict as an upload does."""
        request = adapters_pb2.DeleteAdapterRequest(
            adapter=str(name), is_revocation=is_revocation, comment=comment, expected_version=expected_version
        )
        answer = await self._peers.adapters.DeleteAdapter(request)
        return Deleted(tuple(ref_from_pb(ref) for ref in answer.removed), tuple(answer.freed_digests))

    async def revoked(self, name: AdapterName) -> tuple[AdapterRef, ...]:
        """Versions of a name, or the pinned one, that were revoked already."""
        try:
            answer = await self._peers.adapters.GetHistory(adapters_pb2.GetHistoryRequest(adapter=str(name)))
        except NotFound:
            return ()
        refs = (ref_from_pb(entry.adapter) for entry in answer.entries if entry.removal == REVOKED)
        return tuple(ref for ref in refs if name.version in (0, ref.version))

    async def evict(self, digests: Sequence[str], *, abort: bool) -> int:
        """Frees adapters on all devices. Returns how many running requests were aborted."""
        if not digests:
            return 0
        request = executor_pb2.EvictRequest(digests=digests, abort=abort)
        return sum(answer.aborted for answer in await self._peers.executor.EvictEverywhere(request))

    async def execute(
        self,
        prompt: str,
        choices: Sequence[Choice],
        composition: Composition,
        sampling: Sampling,
        retries: Retries,
    ) -> AsyncGenerator[Piece | Outcome]:
        """Runs one sequence: pieces, then one outcome. Closing the generator cancels the sequence.

        Args:
            retries: of the whole request, on other executors than the one that failed.
        """
        experts = [choice.expert for choice in choices]
        request = executor_pb2.ExecuteRequest(
            prompt=prompt,
            experts=[
                executor_pb2.Expert(
                    digest=expert.digest, similarity=expert.similarity, weight=expert.weight, scale=expert.scale
                )
                for expert in experts
            ],
            composition=composition_to_pb(composition),
            sampling=sampling_to_pb(sampling),
        )
        affinity = [expert.digest for expert in experts]
        async with aclosing(self._peers.executor.Execute(request, affinity=affinity, retries=retries)) as events:
            async for event in events:
                yield piece_from_pb(event.chunk) if event.HasField("chunk") else outcome_from_pb(event.done)


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


def _generations(
    answer: retrieval_pb2.UpsertResponse | retrieval_pb2.ListGenerationsResponse,
) -> tuple[Generation, ...]:
    return tuple(Generation(each.number, each.encoder_id) for each in answer.generations)
