"""The service over real gRPC, with the encoder that ships."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest

from ramole.core.errors import EncoderMismatch, InvalidInput, NotFound, Unavailable
from ramole.core.settings import EmbeddingSettings, PreviousEncoder, ServerSettings, Settings
from ramole.embedding.encoder import identify, locate
from ramole.embedding.servicer import EmbeddingService
from ramole.transport.errors import from_rpc_error
from ramole.transport.server import GrpcServer
from ramole.transport.vectors import vector_from_pb
from ramole.v1.embedding_pb2 import DescribeEncoderRequest, EmbedRequest
from ramole.v1.embedding_pb2_grpc import EmbeddingStub

PLAIN = Settings(embedding=EmbeddingSettings(retriever=""))


@pytest.fixture
async def stub() -> AsyncIterator[EmbeddingStub]:
    server = GrpcServer(EmbeddingService(PLAIN), ServerSettings())
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield EmbeddingStub(channel)
    await server.stop()


async def test_embed_and_describe(stub: EmbeddingStub) -> None:
    about = await stub.DescribeEncoder(DescribeEncoderRequest())
    calls = [stub.Embed(EmbedRequest(texts=[f"task {i}", "the same"])) for i in range(10)]
    answers = await asyncio.gather(*calls)
    assert {answer.encoder_id for answer in answers} == {about.encoder_id}
    vectors = np.array([[vector_from_pb(vector, field="vectors") for vector in answer.vectors] for answer in answers])
    assert vectors.shape == (10, 2, about.dim)
    assert np.linalg.norm(vectors, axis=2) == pytest.approx(np.ones((10, 2)), abs=1e-5)
    assert np.allclose(vectors[:, 1], vectors[0, 1], atol=1e-5)
    assert not np.allclose(vectors[0, 0], vectors[9, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("texts", "field"), [([], "texts"), (["x"] * 1025, "texts"), (["x", ""], "texts[1]"), ([" \n"], "texts[0]")]
)
async def test_bad_requests_name_the_text(texts: list[str], field: str, stub: EmbeddingStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Embed(EmbedRequest(texts=texts))
    error = from_rpc_error(failure.value)
    assert (type(error), error.field) == (InvalidInput, field)


async def test_before_the_start_it_is_unavailable() -> None:
    service = EmbeddingService(PLAIN)
    with pytest.raises(Unavailable):
        await service.Embed(EmbedRequest(texts=["x"]), None)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await service.DescribeEncoder(DescribeEncoderRequest(), None)  # type: ignore[arg-type]
    await service.close()


async def test_the_previous_encoder_answers_beside_the_new_one() -> None:
    options = EmbeddingSettings(retriever="", instruction="New: ", previous=PreviousEncoder(instruction="Old: "))
    server = GrpcServer(EmbeddingService(Settings(embedding=options)), ServerSettings())
    await server.start()
    previous = identify("minilm", locate("minilm"), "Old: ")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = EmbeddingStub(channel)
        own = (await stub.DescribeEncoder(DescribeEncoderRequest())).encoder_id
        by_default, new, old = [
            await stub.Embed(EmbedRequest(texts=["hi"], encoder_id=each)) for each in ("", own, previous)
        ]
        assert (by_default.encoder_id, new.encoder_id, old.encoder_id) == (own, own, previous)
        assert by_default.vectors == new.vectors
        assert new.vectors != old.vectors
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Embed(EmbedRequest(texts=["hi"], encoder_id="other"))
        error = from_rpc_error(failure.value)
        assert (type(error), error.field) == (EncoderMismatch, "encoder_id")
    await server.stop()


async def test_an_encoder_that_does_not_exist_fails_the_start() -> None:
    service = EmbeddingService(Settings(embedding=EmbeddingSettings(retriever="", encoder="/no/such/folder")))
    with pytest.raises(NotFound, match=r"embedding\.encoder"):
        await service.start()
    await service.close()
