"""Milvus Lite inside this process: the embedded default.

`MilvusClient` can open a Lite path by itself, but then hides why it could not and never closes it. Here the same server
is opened by name, so that a locked index says so and `close` gives it back.
"""

from __future__ import annotations

from pathlib import Path

import grpc
from milvus_lite.adapter.grpc.server import start_server_in_thread
from milvus_lite.db import MilvusLite
from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError

from ramole.core.errors import WrongState

_STOP_GRACE_S = 2.0


class LiteServer:
    """One open index folder and the loopback server in front of it. Made by `open`.

    Attributes:
        uri: what a `MilvusClient` connects to.
    """

    def __init__(self, server: grpc.Server, database: MilvusLite, port: int) -> None:
        self._server = server
        self._database = database
        self.uri = f"http://127.0.0.1:{port}"

    @classmethod
    def open(cls, path: Path) -> LiteServer:
        """Opens the index folder at `path`, creating it if there is none, and locks it.

        Raises:
            WrongState: it is already open, here or in another process, or it is not an index folder.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(*start_server_in_thread(str(path), host="127.0.0.1", port=0))
        except DataDirLockedError as error:
            raise WrongState(
                f"the index {path} is already open",
                field="retrieval.uri",
                remedy="let one replica own it, or run `milvus-lite server --host 127.0.0.1` and give its address",
            ) from error
        except (MilvusLiteError, OSError, ValueError) as error:
            raise WrongState(
                f"the index {path} cannot be opened: {error}",
                field="retrieval.uri",
                remedy="move it away and rebuild it from the adapter store",
            ) from error

    def close(self) -> None:
        """Ends running calls, writes everything out and unlocks the folder."""
        self._server.stop(_STOP_GRACE_S).wait()
        self._database.close()
