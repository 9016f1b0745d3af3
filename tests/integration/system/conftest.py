"""The real system, five Ray Serve applications, started once for this folder."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ramole.demo import DemoReport, run_demo
from ramole.zoo.catalog import Zoo
from support.server_process import ServerProcess


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    limits = {
        "RAMOLE_ADAPTERS__MAX_UPLOAD_BYTES": str(3 * 2**20),  # so that "too large" is quick to reach
        "RAMOLE_EXECUTOR__TENANT_WEIGHTS": json.dumps({"acme": 2.0}),  # a tenant that metrics may name
    }
    server = ServerProcess(tmp_path_factory.mktemp("ramole") / "data", env=limits).wait_until_serving()
    yield server
    assert not server.stop(), "processes outlived the server"


@pytest.fixture(scope="package")
def played(system: ServerProcess, zoo: Zoo) -> DemoReport:
    """The demonstration on this system. It leaves every adapter of the zoo there."""

    @contextmanager
    def silent(what: str, total: int) -> Iterator[Callable[[], None]]:
        yield lambda: None

    return asyncio.run(run_demo(system.address, zoo, silent, time.monotonic()))
