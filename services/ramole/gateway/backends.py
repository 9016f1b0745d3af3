"""The services behind the gateway, as plain functions over values."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Container, Sequence
from contextlib import aclosing
from typing import Any

from ramole.core.composition import Composition
from ramole.core.errors import Corrupt, NotFound
from ramole.core.names import AdapterName, AdapterRef
from ramole.core.sampling import Sampling
from ramole.gateway.codec import outcome_from_pb, piece_from_pb, record_from_pb
from ramole.gateway.values import Choice, Embedded, Generation, Outcome, Piece, Record, Stored
from ramole.transport.peers import Peers
from ramole.transport.values import composition_to_pb, ref_from_pb, ref_to_pb, sampling_to_pb
from ramole.v1 import adapters_pb2, embedding_pb2, executor_pb2, retrieval_pb2

_PAGE = 200
_TEXTS_PER_CALL = 256


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
        """The k nearest adapters, best first, and how likely it is that none was made for the prompt."""
        request = retrieval_pb2.SearchRequest(
            vector=vector, encoder_id=encoder_id, base_model=self._base_id, tenant=self._tenant, k=k
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
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            embedded = await self.embed(texts[start : start + _TEXTS_PER_CALL], encoder_id)
            vectors += embedded.vectors
        adapters, rest = [], iter(vectors)
        for record in records:
            samples = [retrieval_pb2.SampleVector(values=next(rest)) for _ in record.samples]
            adapters.append(
                retrieval_pb2.AdapterVectors(
                    adapter=ref_to_pb(record.ref),
                    base_model=record.base_model,
                    is_public=record.is_public,
                    samples=samples,
                )
            )
        request = retrieval_pb2.UpsertRequest(adapters=adapters, encoder_id=embedded.encoder_id, generation=generation)
        return _generations(await self._peers.retrieval.Upsert(request))

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

    async def unindex(self, ref: AdapterRef) -> None:
        """Takes a version out of the index, if it is there."""
        await self._peers.retrieval.Remove(retrieval_pb2.RemoveRequest(adapter=ref_to_pb(ref)))

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

    async def live(self) -> AsyncIterator[AdapterRef]:
        """Every live version in the store."""
        async for record in self._listed(has_samples=False):
            yield ref_from_pb(record.adapter)

    async def live_records(self, refs: Container[AdapterRef]) -> AsyncIterator[Record]:
        """Those of `refs` that are live."""
        async for record in self._listed(has_samples=True):
            if ref_from_pb(record.adapter) in refs:
                yield record_from_pb(record)

    async def _listed(self, *, has_samples: bool) -> AsyncIterator[adapters_pb2.AdapterRecord]:
        token = ""
        while True:
            answer = await self._peers.adapters.ListAdapters(
                adapters_pb2.ListAdaptersRequest(page_size=_PAGE, page_token=token, without_samples=not has_samples)
            )
            for record in answer.records:
                yield record
            token = answer.next_page_token
            if not token:
                return

    async def delete(
        self, name: AdapterName, *, is_revocation: bool, comment: str, expected_version: int | None
    ) -> tuple[AdapterRef, ...]:
        """Removes versions from the store. Raises NotFound when there is none, Conflict as an upload does."""
        request = adapters_pb2.DeleteAdapterRequest(
            adapter=str(name), is_revocation=is_revocation, comment=comment, expected_version=expected_version
        )
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


def _generations(
    answer: retrieval_pb2.UpsertResponse | retrieval_pb2.ListGenerationsResponse,
) -> tuple[Generation, ...]:
    return tuple(Generation(each.number, each.encoder_id) for each in answer.generations)
