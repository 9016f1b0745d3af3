"""A gateway on a real index, with encoders that tell numbered texts apart."""

from __future__ import annotations

import numpy as np

from ramole.client import RamoleClient, ReindexProgress
from ramole.core.errors import EncoderMismatch
from ramole.retrieval.servicer import RetrievalService
from ramole.transport.vectors import vector_to_pb
from ramole.v1 import embedding_pb2
from support.gateway_world import Context, Embedding, World

DIM = 64
SHIFT = {"old": 0, "new": 7}
"""What one encoder says of adapter i is what the other says of adapter i + 7: a mixed search finds the wrong one."""


class Encoders(Embedding):
    """Any text with a number n<i> in it points along axis i, shifted by the encoder."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.loaded = ["old"]  # the first is that of the settings
        self.num_texts = dict.fromkeys(SHIFT, 0)

    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Context) -> embedding_pb2.EmbedResponse:
        encoder_id = request.encoder_id or self.loaded[0]
        if encoder_id not in self.loaded:
            raise EncoderMismatch(f"{encoder_id} is not loaded", field="encoder_id", remedy="ramole reindex")
        await self.begin("Embed")
        self.num_texts[encoder_id] += len(request.texts)
        vectors = []
        for text in request.texts:
            axis = (int(text.rsplit("n", 1)[1]) + SHIFT[encoder_id]) % DIM
            vectors.append(vector_to_pb(np.eye(DIM, dtype=np.float32)[axis]))
        return embedding_pb2.EmbedResponse(vectors=vectors, encoder_id=encoder_id)

    async def DescribeEncoder(
        self, request: embedding_pb2.DescribeEncoderRequest, context: Context
    ) -> embedding_pb2.DescribeEncoderResponse:
        return embedding_pb2.DescribeEncoderResponse(encoder_id=self.loaded[0], dim=DIM)


class LiveWorld(World):
    """The gateway on a real index, with `num` adapters n0, n1, ... in the store."""

    def __init__(self, uri: str, num: int, timeout_s: float = 20.0) -> None:
        super().__init__()
        options = self.settings.retrieval.model_copy(update={"uri": uri, "timeout_s": timeout_s})
        self.settings = self.settings.model_copy(update={"retrieval": options})
        self.embedding: Encoders = Encoders(self.log)
        self.retrieval = RetrievalService(self.settings)  # type: ignore[assignment]
        for i in range(num):
            self.adapters.add(f"n{i}")

    async def find(self, i: int, client: RamoleClient | None = None) -> str:
        route = await (client or self.client).route(f"prompt n{i}", k=1)
        [adapter] = route.adapters
        return adapter.ref.name if adapter.similarity > 0.99 else f"only {adapter.ref} at {adapter.similarity}"

    async def reindex(self, client: RamoleClient | None = None) -> ReindexProgress:
        async for step in (client or self.client).reindex():
            last = step
        return last
