"""Typed access to the services. Method names are those of the wire; see ``protos/ramole/v1``.

Every call honours the current call's deadline and request id, is tried again once where that is safe, and raises
RamoleError.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence

from ramole.transport.caller import Caller, Retries
from ramole.transport.channels import Channels
from ramole.transport.picker import Picker
from ramole.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    executor_pb2,
    executor_pb2_grpc,
    retrieval_pb2,
    retrieval_pb2_grpc,
)


class EmbeddingPeer(Caller):
    """The encoder."""

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, *, timeout_s: float | None = None
    ) -> embedding_pb2.EmbedResponse:
        """Embeds texts."""
        return await self.unary(lambda c: embedding_pb2_grpc.EmbeddingStub(c).Embed, request, timeout_s=timeout_s)

    async def DescribeEncoder(
        self, request: embedding_pb2.DescribeEncoderRequest, *, timeout_s: float | None = None
    ) -> embedding_pb2.DescribeEncoderResponse:
        """Which encoder this is."""
        return await self.unary(
            lambda c: embedding_pb2_grpc.EmbeddingStub(c).DescribeEncoder, request, timeout_s=timeout_s
        )


class RetrievalPeer(Caller):
    """The vector index."""

    async def Search(
        self, request: retrieval_pb2.SearchRequest, *, timeout_s: float | None = None
    ) -> retrieval_pb2.SearchResponse:
        """The k nearest adapters."""
        return await self.unary(lambda c: retrieval_pb2_grpc.RetrievalStub(c).Search, request, timeout_s=timeout_s)

    async def Upsert(
        self, request: retrieval_pb2.UpsertRequest, *, timeout_s: float | None = None
    ) -> retrieval_pb2.UpsertResponse:
        """Makes a version findable."""
        return await self.unary(lambda c: retrieval_pb2_grpc.RetrievalStub(c).Upsert, request, timeout_s=timeout_s)

    async def Remove(
        self, request: retrieval_pb2.RemoveRequest, *, timeout_s: float | None = None
    ) -> retrieval_pb2.RemoveResponse:
        """Removes a version from the index."""
        return await self.unary(lambda c: retrieval_pb2_grpc.RetrievalStub(c).Remove, request, timeout_s=timeout_s)

    def ListRows(
        self, request: retrieval_pb2.ListRowsRequest, *, timeout_s: float | None = None
    ) -> AsyncGenerator[retrieval_pb2.IndexRow]:
        """Every row's identity."""
        return self.stream(lambda c: retrieval_pb2_grpc.RetrievalStub(c).ListRows, request, timeout_s=timeout_s)

    async def ListGenerations(
        self, request: retrieval_pb2.ListGenerationsRequest, *, timeout_s: float | None = None
    ) -> retrieval_pb2.ListGenerationsResponse:
        """What must hold every adapter."""
        return await self.unary(
            lambda c: retrieval_pb2_grpc.RetrievalStub(c).ListGenerations, request, timeout_s=timeout_s
        )

    async def BuildGeneration(
        self, request: retrieval_pb2.BuildGenerationRequest, *, timeout_s: float | None = None
    ) -> retrieval_pb2.BuildGenerationResponse:
        """Begins a generation, or goes on with it."""
        return await self.unary(
            lambda c: retrieval_pb2_grpc.RetrievalStub(c).BuildGeneration, request, timeout_s=timeout_s
        )

    async def PromoteGeneration(
        self, request: retrieval_pb2.PromoteGenerationRequest, *, timeout_s: float | None = None
    ) -> retrieval_pb2.PromoteGenerationResponse:
        """Lets a generation serve."""
        return await self.unary(
            lambda c: retrieval_pb2_grpc.RetrievalStub(c).PromoteGeneration, request, timeout_s=timeout_s
        )


class AdaptersPeer(Caller):
    """The adapter store."""

    async def Put(
        self, requests: AsyncIterable[adapters_pb2.UploadRequest], *, timeout_s: float | None = None
    ) -> adapters_pb2.PutResponse:
        """Admits and stages an upload."""
        return await self.upload(lambda c: adapters_pb2_grpc.AdaptersStub(c).Put, requests, timeout_s=timeout_s)

    async def Publish(
        self, request: adapters_pb2.PublishRequest, *, timeout_s: float | None = None
    ) -> adapters_pb2.PublishResponse:
        """Staged -> live."""
        return await self.unary(lambda c: adapters_pb2_grpc.AdaptersStub(c).Publish, request, timeout_s=timeout_s)

    async def Restage(
        self, request: adapters_pb2.RollbackAdapterRequest, *, timeout_s: float | None = None
    ) -> adapters_pb2.PutResponse:
        """Stages an older version's content anew. Not retried: a second try would stage another version."""
        return await self.unary(
            lambda c: adapters_pb2_grpc.AdaptersStub(c).Restage, request, timeout_s=timeout_s, may_retry=False
        )

    async def Discard(
        self, request: adapters_pb2.DiscardRequest, *, timeout_s: float | None = None
    ) -> adapters_pb2.DiscardResponse:
        """Drops a staged version."""
        return await self.unary(lambda c: adapters_pb2_grpc.AdaptersStub(c).Discard, request, timeout_s=timeout_s)

    async def GetAdapter(
        self, request: adapters_pb2.GetAdapterRequest, *, timeout_s: float | None = None
    ) -> adapters_pb2.GetAdapterResponse:
        """One version."""
        return await self.unary(lambda c: adapters_pb2_grpc.AdaptersStub(c).GetAdapter, request, timeout_s=timeout_s)

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, *, timeout_s: float | None = None
    ) -> adapters_pb2.ListAdaptersResponse:
        """One page of live versions."""
        return await self.unary(lambda c: adapters_pb2_grpc.AdaptersStub(c).ListAdapters, request, timeout_s=timeout_s)

    async def GetHistory(
        self, request: adapters_pb2.GetHistoryRequest, *, timeout_s: float | None = None
    ) -> adapters_pb2.GetHistoryResponse:
        """All versions of a name."""
        return await self.unary(lambda c: adapters_pb2_grpc.AdaptersStub(c).GetHistory, request, timeout_s=timeout_s)

    async def DeleteAdapter(
        self, request: adapters_pb2.DeleteAdapterRequest, *, timeout_s: float | None = None
    ) -> adapters_pb2.DeleteAdapterResponse:
        """Removes versions. Not retried: after a lost answer the second try would find nothing."""
        return await self.unary(
            lambda c: adapters_pb2_grpc.AdaptersStub(c).DeleteAdapter, request, timeout_s=timeout_s, may_retry=False
        )

    def Fetch(
        self, request: adapters_pb2.FetchRequest, *, timeout_s: float | None = None
    ) -> AsyncGenerator[adapters_pb2.FetchResponse]:
        """The files of one digest."""
        return self.stream(lambda c: adapters_pb2_grpc.AdaptersStub(c).Fetch, request, timeout_s=timeout_s)


class ExecutorPeer(Caller):
    """The engines."""

    def Execute(
        self,
        request: executor_pb2.ExecuteRequest,
        *,
        affinity: Sequence[str] = (),
        retries: Retries | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[executor_pb2.ExecuteEvent]:
        """Runs one sequence, best on a replica that holds the adapters of `affinity`."""
        return self.stream(
            lambda c: executor_pb2_grpc.ExecutorStub(c).Execute,
            request,
            affinity=affinity,
            retries=retries,
            timeout_s=timeout_s,
        )

    async def EvictEverywhere(
        self, request: executor_pb2.EvictRequest, *, timeout_s: float | None = None
    ) -> list[executor_pb2.EvictResponse]:
        """Drops adapters from the devices of all replicas."""
        return await self.everywhere(lambda c: executor_pb2_grpc.ExecutorStub(c).Evict, request, timeout_s=timeout_s)

    async def GetStatusEverywhere(
        self, request: executor_pb2.GetStatusRequest, *, timeout_s: float | None = None
    ) -> list[executor_pb2.GetStatusResponse]:
        """What is loaded on each replica."""
        return await self.everywhere(
            lambda c: executor_pb2_grpc.ExecutorStub(c).GetStatus, request, timeout_s=timeout_s
        )


class Peers:
    """The internal services, seen from another service. Belongs to one event loop; close it at the end.

    Args:
        picker_of: how to reach a service, by its name.
    """

    def __init__(self, picker_of: Callable[[str], Picker]) -> None:
        self._channels = Channels()
        self.embedding = EmbeddingPeer(picker_of("embedding"), self._channels, "embedding")
        self.retrieval = RetrievalPeer(picker_of("retrieval"), self._channels, "retrieval")
        self.adapters = AdaptersPeer(picker_of("adapters"), self._channels, "adapters")
        self.executor = ExecutorPeer(picker_of("executor"), self._channels, "executor")

    async def close(self) -> None:
        """Closes all connections."""
        await self._channels.close()
