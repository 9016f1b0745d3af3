"""The services behind the gateway, as plain functions over values."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from ramole.core.composition import Composition
from ramole.core.errors import Corrupt, NotFound
from ramole.core.names import AdapterName, AdapterRef
from ramole.core.sampling import Sampling
from ramole.gateway.codec import outcome_from_pb, piece_from_pb, record_from_pb
from ramole.gateway.values import Choice, Embedded, Outcome, Piece, Record, Stored
from ramole.transport.peers import Peers
from ramole.transport.values import composition_to_pb, ref_from_pb, ref_to_pb, sampling_to_pb
from ramole.v1 import adapters_pb2, embedding_pb2, executor_pb2, retrieval_pb2

_PAGE = 200


class Backends:
    """All methods raise RamoleError, honour the current call's deadline and can be cancelled.

    Args:
        peers: the services.
        base_id: the served base model; adapters of other bases are invisible.
        tenant: whose adapters may be retrieved besides the public ones.
    """

    def __init__(self, peers: Peers, *, base_id: str, tenant: str) -> None:
        self._peers = peers
        self._base_id = base_id
        self._tenant = tenant

    async def embed(self, texts: Sequence[str], *, timeout_s: float | None = None) -> Embedded:
        """Vectors in the order of the texts."""
        answer = await self._peers.embedding.Embed(embedding_pb2.EmbedRequest(texts=texts), timeout_s=timeout_s)
        if len(answer.vectors) != len(texts):
            raise Corrupt(f"{len(answer.vectors)} vectors for {len(texts)} texts")
        return Embedded(tuple(tuple(vector.values) for vector in answer.vectors), answer.encoder_id)

    async def search(
        self, vector: Sequence[float], encoder_id: str, k: int, *, timeout_s: float | None = None
    ) -> tuple[Choice, ...]:
        """The k nearest adapters, best first."""
        request = retrieval_pb2.SearchRequest(
            vector=vector, encoder_id=encoder_id, base_model=self._base_id, tenant=self._tenant, k=k
        )
        answer = await self._peers.retrieval.Search(request, timeout_s=timeout_s)
        return tuple(Choice(ref_from_pb(hit.adapter), hit.similarity) for hit in answer.hits)

    async def index(self, record: Record, embedded: Embedded) -> None:
        """Makes a version findable by its samples' vectors."""
        vectors = retrieval_pb2.AdapterVectors(
            adapter=ref_to_pb(record.ref),
            base_model=record.base_model,
            is_public=record.is_public,
            samples=[retrieval_pb2.SampleVector(values=vector) for vector in embedded.vectors],
        )
        request = retrieval_pb2.UpsertRequest(adapters=[vectors], encoder_id=embedded.encoder_id)
        await self._peers.retrieval.Upsert(request)

    async def unindex(self, ref: AdapterRef) -> None:
        """Takes a version out of the index, if it is there."""
        await self._peers.retrieval.Remove(retrieval_pb2.RemoveRequest(adapter=ref_to_pb(ref)))

    async def indexed(self) -> list[AdapterRef]:
        """Every row of the index."""
        async with aclosing(self._peers.retrieval.ListRows(retrieval_pb2.ListRowsRequest())) as rows:
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

    async def live(self) -> AsyncIterator[AdapterRef]:
        """Every live version in the store."""
        token = ""
        while True:
            answer = await self._peers.adapters.ListAdapters(
                adapters_pb2.ListAdaptersRequest(page_size=_PAGE, page_token=token, without_samples=True)
            )
            for record in answer.records:
                yield ref_from_pb(record.adapter)
            token = answer.next_page_token
            if not token:
                return

    async def delete(self, name: AdapterName, *, is_revocation: bool, comment: str) -> tuple[AdapterRef, ...]:
        """Removes versions from the store. Raises NotFound when there is none."""
        request = adapters_pb2.DeleteAdapterRequest(adapter=str(name), is_revocation=is_revocation, comment=comment)
        answer = await self._peers.adapters.DeleteAdapter(request)
        return tuple(ref_from_pb(ref) for ref in answer.removed)

    async def evict(self, digests: Sequence[str], *, abort: bool) -> int:
        """Frees adapters on all devices. Returns how many running requests were aborted."""
        request = executor_pb2.EvictRequest(digests=digests, abort=abort)
        return sum(answer.aborted for answer in await self._peers.executor.EvictEverywhere(request))

    async def execute(
        self, prompt: str, choices: Sequence[Choice], composition: Composition, sampling: Sampling
    ) -> AsyncGenerator[Piece | Outcome]:
        """Runs one sequence: pieces, then one outcome. Closing the generator cancels the sequence."""
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
        async with aclosing(self._peers.executor.Execute(request, affinity=affinity)) as events:
            async for event in events:
                yield piece_from_pb(event.chunk) if event.HasField("chunk") else outcome_from_pb(event.done)
