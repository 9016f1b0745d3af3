"""The encoder on the wire: validates, converts, delegates to the micro-batcher."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import grpc

from ramole.core.errors import EncoderMismatch, InvalidInput, Unavailable
from ramole.core.settings import EmbeddingSettings, PreviousEncoder, Settings
from ramole.embedding.batcher import MicroBatcher, Vectors
from ramole.embedding.encoder import Asked, Encoder, OpenStates
from ramole.embedding.executor_states import ExecutorStates
from ramole.embedding.fingerprint import Fingerprint
from ramole.embedding.metrics import ENCODE_S, ENCODE_TEXTS
from ramole.transport.peers import Peers
from ramole.transport.service import Service
from ramole.transport.vectors import vector_to_pb
from ramole.v1 import embedding_pb2, embedding_pb2_grpc

MAX_TEXTS = 1024


class EmbeddingService(embedding_pb2_grpc.EmbeddingServicer, Service):
    """The encoder of the settings and, until the index is rebuilt, the one before it; each with its batcher."""

    name = "embedding"
    full_name = "ramole.v1.Embedding"

    def __init__(self, settings: Settings, peers: Peers | None = None) -> None:
        self._settings = settings
        self._peers = peers
        self._encoders: list[tuple[Encoder, MicroBatcher[Asked]]] = []

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        embedding_pb2_grpc.add_EmbeddingServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads the encoders.

        Raises:
            NotFound: there is no such encoder.
            Corrupt: the shipped encoder is damaged.
            WrongState: it cannot be loaded.
        """
        options, base_model = self._settings.embedding, self._settings.base_model
        open_states: OpenStates = Fingerprint.open
        if options.states == "executor" and self._peers is not None:
            open_states = partial(ExecutorStates, self._peers.executor.stub, asyncio.get_running_loop())
        loaded = [await asyncio.to_thread(_load, options, options, base_model, open_states)]
        if options.previous is not None:
            loaded.append(await asyncio.to_thread(_load, options.previous, options, base_model, open_states))
        seconds, sizes = ENCODE_S.on(self.registry), ENCODE_TEXTS.on(self.registry)

        def measured(encoder: Encoder, texts: list[Asked]) -> Vectors:
            started_s = time.perf_counter()
            vectors = encoder.encode_asked(texts)
            seconds.observe(time.perf_counter() - started_s)
            sizes.observe(len(texts))
            return vectors

        for encoder in loaded:
            batcher = MicroBatcher(
                partial(measured, encoder), max_batch=options.max_batch, window_s=options.batch_window_s
            )
            batcher.start()
            self._encoders.append((encoder, batcher))

    async def close(self) -> None:
        """Stops the batchers and drops the encoders."""
        encoders, self._encoders = self._encoders, []
        for _, batcher in encoders:
            await batcher.close()

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> embedding_pb2.EmbedResponse:
        """Embeds texts."""
        encoder, batcher = self._ready(request.encoder_id)
        texts = list(request.texts)
        _check_texts(texts)
        answers = [tuple(answer.token_ids) for answer in request.answers] or [()] * len(texts)
        if len(answers) != len(texts):
            raise InvalidInput(f"{len(answers)} answers to {len(texts)} texts", field="answers", remedy="one for each")
        vectors = await batcher.submit(list(map(Asked, texts, answers)))
        return embedding_pb2.EmbedResponse(
            vectors=[vector_to_pb(vector) for vector in vectors], encoder_id=encoder.encoder_id
        )

    async def DescribeEncoder(
        self, request: embedding_pb2.DescribeEncoderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> embedding_pb2.DescribeEncoderResponse:
        """Which encoder this is."""
        encoder, _ = self._ready("")
        return embedding_pb2.DescribeEncoderResponse(encoder_id=encoder.encoder_id, dim=encoder.dim)

    def _ready(self, encoder_id: str) -> tuple[Encoder, MicroBatcher[Asked]]:
        if not self._encoders:
            raise Unavailable("the encoder is still loading", remedy="retry in a moment")
        for encoder, batcher in self._encoders:
            if encoder_id in ("", encoder.encoder_id):
                return encoder, batcher
        raise EncoderMismatch(
            f"the encoder {encoder_id!r} is not loaded",
            field="encoder_id",
            remedy="rebuild the index with `ramole reindex`, or name it in embedding.previous meanwhile",
        )


def _load(
    which: EmbeddingSettings | PreviousEncoder, options: EmbeddingSettings, base_model: str, open_states: OpenStates
) -> Encoder:
    return Encoder.load(
        which.encoder,
        instruction=which.instruction,
        threads=options.threads,
        retriever=which.retriever,
        base_model=base_model,
        runtime=options.runtime,
        open_states=open_states,
    )


def _check_texts(texts: list[str]) -> None:
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidInput(f"{len(texts)} texts", field="texts", remedy=f"give 1 to {MAX_TEXTS}")
    for i, text in enumerate(texts):
        if not text.strip():
            raise InvalidInput("the text is empty", field=f"texts[{i}]", remedy="give some words")
