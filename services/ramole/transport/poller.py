"""The one thread that serves all of gRPC's asyncio in a process."""

from __future__ import annotations

import grpc


def keep_poller() -> None:
    """Keeps gRPC's poller thread for the life of the process.

    gRPC ends it when its last channel or server is collected, and that waits for every operation still pending, without
    limit, in whatever thread the collector runs. One of a closed event loop never completes: the process hangs.
    """
    grpc.aio.init_grpc_aio()
