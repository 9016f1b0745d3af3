"""IPv6 wherever an address is made or read, and proxies that the environment names, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from ramole.client.client import RamoleClient
from ramole.core.errors import InvalidInput, Unavailable
from ramole.core.settings import MetricsSettings, ServerSettings
from ramole.observability.export import Shared
from ramole.transport.replica import Replica
from ramole.transport.server import GrpcServer
from support.probe_service import ProbeService, call_unary

DEAD_PROXY = "http://127.0.0.1:9"
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*PROXIES, "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on loopback")


def own_address() -> str:
    """An IPv4 address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    pytest.skip("this machine has loopback only")


@asynccontextmanager
async def refusing_proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that refuses everything; its URL, and what it was asked for."""
    asked: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode())
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_an_ipv6_server_is_found_where_it_says(net: Any, ipv6: None, host: str) -> None:
    server = await net.serve(ProbeService(), ServerSettings(host=host))
    assert server.address == f"[::1]:{server.port}"
    assert await call_unary(net.peers(server.address)) == "x"


async def test_an_ipv6_replica_is_found_where_it_says(net: Any, ipv6: None) -> None:
    for host, node in (("::1", "unused"), ("::", "::1")):
        replica = Replica.__new__(Replica)
        server = GrpcServer(ProbeService(), ServerSettings(host=host))
        await replica.__init__(lambda made=server: made, lambda node=node: node, in_no_file)  # type: ignore[misc]
        address = replica.record_replica_metadata()["address"]
        assert address.startswith("[::1]:")
        assert await call_unary(net.peers(address)) == "x"
        drain = replica.__del__()
        assert drain is not None
        await drain


def in_no_file(server: GrpcServer) -> Shared:
    return Shared(server.name, server.registry, MetricsSettings())


@pytest.mark.parametrize("address", ["::1:50051", "http://127.0.0.1:50051", "localhost"])
def test_a_client_says_how_an_address_is_written(address: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        RamoleClient(address)
    assert refused.value.field == "address"


async def test_inside_the_system_no_call_goes_through_a_proxy(net: Any, no_proxies: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        no_proxies.setenv(name, DEAD_PROXY)
    server = await net.serve(ProbeService(), ServerSettings(host="0.0.0.0"))
    for host in ("127.0.0.1", own_address()):
        assert await call_unary(net.peers(f"{host}:{server.port}")) == "x"


@pytest.mark.parametrize("variable", PROXIES)
async def test_a_client_uses_a_proxy_for_other_machines_only_and_names_it(
    no_proxies: pytest.MonkeyPatch, variable: str
) -> None:
    async with refusing_proxy() as (url, asked):
        no_proxies.setenv(variable, url)
        async with RamoleClient("ramole.invalid:50051", timeout_s=10, retries=0) as client:
            with pytest.raises(Unavailable) as caught:
                await client.describe()
        assert asked
        assert set(asked) == {"CONNECT ramole.invalid:50051 HTTP/1.1\r\n"}
        assert variable in caught.value.remedy
        assert "no_proxy" in caught.value.remedy
        asked.clear()
        async with RamoleClient("127.0.0.1:1", timeout_s=10, retries=0) as client:
            with pytest.raises(Unavailable) as caught:
                await client.describe()
        assert not asked
        assert "proxy" not in caught.value.remedy
