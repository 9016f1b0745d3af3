"""Every way to run the system keeps strangers away from every service behind the gateway, and its secret to itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from ramole.client.client import RamoleClient
from ramole.core.sampling import Sampling
from ramole.core.settings import InternalSettings, InternalTlsSettings
from support.certificates import Authority
from support.local_system import local_system
from support.server_process import ServerProcess
from support.strangers import INTERNAL, codes, listeners, services_at, words


async def check_closed(processes: list[psutil.Process]) -> None:
    found = await services_at(listeners(processes))
    assert sorted(found) == sorted(INTERNAL)
    for name, port in found.items():
        told = await codes(name, port)
        assert set(told.values()) == {"UNAUTHENTICATED"}, told


async def test_on_ray(system: ServerProcess) -> None:
    async with RamoleClient(system.address) as client:
        assert (await client.complete("hello", sampling=Sampling(max_tokens=2))).usage.completion_tokens
    await check_closed(system.descendants())
    kept, sent = words(system.data_dir)
    for process in [psutil.Process(system.process.pid), *system.descendants()]:
        seen = str([process.cmdline(), process.environ()])
        assert kept not in seen
        assert sent not in seen
    assert kept not in system.log
    assert sent not in system.log


async def test_in_one_process(tmp_path: Path) -> None:
    async with local_system(tmp_path) as system, RamoleClient(system.address) as client:
        assert (await client.complete("hello", sampling=Sampling(max_tokens=2))).usage.completion_tokens
        await check_closed([psutil.Process()])
        assert (tmp_path / "internal.key").stat().st_mode & 0o777 == 0o600


@asynccontextmanager
async def with_certificates(folder: Path, authority: Authority) -> AsyncIterator[RamoleClient]:
    cert, key, ca = map(str, authority.write(folder, "localhost"))
    tls = InternalTlsSettings(cert_file=cert, key_file=key, ca_file=ca, server_name="localhost")
    running = local_system(folder / "data", internal=InternalSettings(tls=tls))
    async with running as system, RamoleClient(system.address) as client:
        yield client


async def test_with_certificates(tmp_path: Path) -> None:
    ours = Authority("ours")
    ca, (cert, key) = ours.pem, Authority("theirs").issue("localhost")
    async with with_certificates(tmp_path, ours) as client:
        assert (await client.complete("hello", sampling=Sampling(max_tokens=2))).usage.completion_tokens
        ports = listeners([psutil.Process()])
        assert await services_at(ports) == {}
        assert await services_at(ports, grpc.ssl_channel_credentials(ca)) == {}
        assert await services_at(ports, grpc.ssl_channel_credentials(ca, key, cert)) == {}
        cert, key = ours.issue("localhost")
        assert sorted(await services_at(ports, grpc.ssl_channel_credentials(ca, key, cert))) == sorted(INTERNAL)
        assert not (tmp_path / "data" / "internal.key").exists()


@pytest.mark.slow
async def test_with_certificates_on_ray(tmp_path: Path) -> None:
    files = dict(zip(("CERT_FILE", "KEY_FILE", "CA_FILE"), map(str, Authority().write(tmp_path, "x")), strict=True))
    env = {f"RAMOLE_INTERNAL__TLS__{name}": value for name, value in files.items()}
    server = ServerProcess(tmp_path / "data", env=env).wait_until_serving()
    try:
        async with RamoleClient(server.address) as client:
            assert (await client.complete("hello", sampling=Sampling(max_tokens=2))).usage.completion_tokens
        assert await services_at(listeners(server.descendants())) == {}
    finally:
        assert not server.stop()
