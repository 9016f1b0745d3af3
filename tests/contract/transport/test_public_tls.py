"""Certificates over gRPC and HTTP: the same files, renewed while connections come, also by halves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import grpc
import pytest

from ramole.core.errors import WrongState
from ramole.core.settings import TlsSettings
from ramole.transport.tls import ServerTls
from support.certificates import Authority

Connect = Callable[[int, bytes, tuple[bytes, bytes] | None], Coroutine[Any, Any, str]]


def settings_of(cert: Path, key: Path, client_ca: Path | None = None) -> TlsSettings:
    return TlsSettings(cert_file=str(cert), key_file=str(key), client_ca_file=str(client_ca or ""))


@asynccontextmanager
async def grpc_server(tls: ServerTls) -> AsyncIterator[int]:
    async def who(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return b" ".join([b"connected", *(context.peer_identities() or ())])

    server = grpc.aio.server()
    port = server.add_secure_port("localhost:0", tls.grpc_credentials())
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))
    await server.start()
    yield port
    await server.stop(0)


@asynccontextmanager
async def stream_server(tls: ServerTls) -> AsyncIterator[int]:
    """As uvicorn uses a context."""

    async def who(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = (writer.get_extra_info("peercert") or {}).get("subject", ())
        writer.write(b" ".join([b"connected", *(value.encode() for ((_, value),) in subject)]))
        writer.close()

    server = await asyncio.start_server(who, "localhost", 0, ssl=tls.context())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def over_grpc(port: int, root: bytes, pair: tuple[bytes, bytes] | None = None) -> str:
    """The client's names that the server has seen; '' = no connection came about."""
    cert, key = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(root, key, cert)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        try:
            told: bytes = await channel.unary_unary("/test.Who/Who")(b"", timeout=10)
        except grpc.aio.AioRpcError:
            return ""
        return told.decode()


async def over_stream(port: int, root: bytes, pair: tuple[bytes, bytes] | None = None) -> str:
    context = ssl.create_default_context(cadata=root.decode())
    if pair is not None:
        with NamedTemporaryFile() as file:  # the library takes files only
            file.write(b"".join(pair))
            file.flush()
            context.load_cert_chain(file.name)
    try:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        told = await reader.read()  # nothing, when the server refuses the client's certificate
    except (ssl.SSLError, ConnectionError):
        return ""
    writer.close()
    return told.decode()


BOTH = pytest.mark.parametrize(
    ("serve", "connect"), [(grpc_server, over_grpc), (stream_server, over_stream)], ids=["grpc", "stream"]
)


@BOTH
async def test_renewed_files_take_effect_and_halves_do_not(tmp_path: Path, serve: Any, connect: Connect) -> None:
    old, new = Authority("old"), Authority("new")
    cert, key, _ = old.write(tmp_path, "server")
    async with serve(ServerTls(settings_of(cert, key))) as port:
        assert await connect(port, old.pem, None) == "connected"
        assert await connect(port, new.pem, None) == ""
        new_cert, new_key = new.issue("server")
        cert.write_bytes(new_cert)  # its key is not there yet
        assert await connect(port, old.pem, None) == "connected"
        key.write_bytes(new_key)
        assert await connect(port, new.pem, None) == "connected"
        assert await connect(port, old.pem, None) == ""
        key.unlink()
        assert await connect(port, new.pem, None) == "connected"


@BOTH
async def test_clients_show_a_certificate_where_one_is_asked_for(tmp_path: Path, serve: Any, connect: Connect) -> None:
    ours, theirs = Authority(), Authority()
    async with serve(ServerTls(settings_of(*ours.write(tmp_path, "server")))) as port:
        assert await connect(port, ours.pem, None) == ""
        assert await connect(port, ours.pem, theirs.issue("mallory")) == ""
        told = await connect(port, ours.pem, ours.issue("alice"))
        assert told.startswith("connected ")
        assert "alice" in told


@pytest.mark.parametrize("which", ["cert", "key", "ca"])
@pytest.mark.parametrize("text", [None, b"", b"no PEM"])
def test_files_that_cannot_be_used_end_the_start(tmp_path: Path, which: str, text: bytes | None) -> None:
    paths = Authority().write(tmp_path, "server")
    broken = tmp_path / f"{which}.pem"
    broken.unlink()
    if text is not None:
        broken.write_bytes(text)
    with pytest.raises(WrongState, match="cannot be used") as caught:
        ServerTls(settings_of(*paths))
    assert caught.value.field == "gateway.tls"


def test_a_key_of_another_certificate_ends_the_start(tmp_path: Path) -> None:
    cert, key, _ = Authority().write(tmp_path, "server")
    key.write_bytes(Authority().issue("server")[1])
    with pytest.raises(WrongState, match="cannot be used"):
        ServerTls(settings_of(cert, key))
