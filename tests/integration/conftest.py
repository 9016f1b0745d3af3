"""The real system, five Ray Serve applications, started once for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ramole.zoo.catalog import Zoo, load_zoo
from support.server_process import ServerProcess


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return load_zoo()


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    limits = {"RAMOLE_ADAPTERS__MAX_UPLOAD_BYTES": str(3 * 2**20)}  # so that "too large" is quick to reach
    server = ServerProcess(tmp_path_factory.mktemp("ramole") / "data", env=limits).wait_until_serving()
    yield server
    assert not server.stop(), "processes outlived the server"
