"""For every test: stubs made by tests alone must not end gRPC's poller either, see `ramole.transport.poller`."""

from __future__ import annotations

from ramole.transport.poller import keep_poller


def pytest_configure() -> None:
    keep_poller()
