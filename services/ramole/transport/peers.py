"""The internal services, seen from another service; their methods are those of ``protos/ramole/v1``.

Every call honours the current call's deadline and request id, is tried again once where that is safe, and raises
RamoleError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ramole.transport.channels import Channels
from ramole.transport.picker import Picker
from ramole.transport.stubs import Remote
from ramole.transport.trust import Trust
from ramole.v1.adapters_pb2_grpc import AdaptersStub
from ramole.v1.embedding_pb2_grpc import EmbeddingStub
from ramole.v1.executor_pb2_grpc import ExecutorStub
from ramole.v1.retrieval_pb2_grpc import RetrievalStub

if TYPE_CHECKING:  # the generated types of stubs on asynchronous channels
    from ramole.v1.adapters_pb2_grpc import AdaptersAsyncStub
    from ramole.v1.embedding_pb2_grpc import EmbeddingAsyncStub
    from ramole.v1.executor_pb2_grpc import ExecutorAsyncStub
    from ramole.v1.retrieval_pb2_grpc import RetrievalAsyncStub


class Peers:
    """The internal services, seen from another service. Belongs to one event loop; close it at the end.

    Args:
        picker_of: how to reach a service, by its name.
        trust: how they know each other; None = they ask for nothing.
    """

    def __init__(self, picker_of: Callable[[str], Picker], trust: Trust | None = None) -> None:
        self._channels = channels = Channels(trust=trust)
        self.embedding: Remote[EmbeddingAsyncStub] = Remote(
            EmbeddingStub, picker_of("embedding"), channels, "embedding"
        )
        self.retrieval: Remote[RetrievalAsyncStub] = Remote(
            RetrievalStub, picker_of("retrieval"), channels, "retrieval"
        )
        self.adapters: Remote[AdaptersAsyncStub] = Remote(AdaptersStub, picker_of("adapters"), channels, "adapters")
        self.executor: Remote[ExecutorAsyncStub] = Remote(ExecutorStub, picker_of("executor"), channels, "executor")

    async def close(self) -> None:
        """Closes all connections."""
        await self._channels.close()
