"""A request that is no message, or holds bytes that are no text, is refused as every other bad request is."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from support.probe_service import ProbeService

NO_TEXT = b"\x02\xff\xfe"


def upload(message: bytes) -> bytes:
    """A PutRequest with these bytes as its `upload`."""
    return b"\x0a" + bytes([len(message)]) + message


CASES = {
    "text": ("GetStored", [b"\x0a" + NO_TEXT], "adapter"),
    "inner text": ("Put", [upload(b"\x0a\x04\x0a" + NO_TEXT)], "upload.header.adapter"),
    "repeated text": ("Put", [upload(b"\x0a\x0c\x0a\x01a\x1a\x01a\x1a\x04a\xff\xfea")], "upload.header.samples"),
    "second message": ("Put", [upload(b"\x0a\x03\x0a\x01a"), upload(b"\x12\x04\x0a" + NO_TEXT)], "upload.chunk.file"),
    "stream of answers": ("Fetch", [b"\x0a" + NO_TEXT], "digest"),
    "no message": ("GetStored", [b"\x0a\xff"], "message"),
    "no message in a stream": ("Put", [b"\xff\xff\xff"], "message"),
}


async def send(channel: grpc.aio.Channel, method: str, parts: list[bytes]) -> object:
    """As a client of another kind does: bytes."""
    path = f"/ramole.v1.Adapters/{method}"
    metadata = (("x-request-id", "mine-1"),)
    match method:
        case "Put":
            return await channel.stream_unary(path)(iter(parts), metadata=metadata)
        case "Fetch":
            return [answer async for answer in channel.unary_stream(path)(parts[0], metadata=metadata)]
        case _:
            return await channel.unary_unary(path)(parts[0], metadata=metadata)


@pytest.mark.parametrize("case", CASES)
async def test_it_has_our_error_form_and_a_request_id(net: Any, case: str) -> None:
    method, parts, field = CASES[case]
    server = await net.serve(ProbeService())
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, method, parts)
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert dict(error.trailing_metadata() or ())["x-request-id"] == "mine-1"
    status = rpc_status.from_call(error)
    assert status is not None
    info, request = ErrorInfo(), BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert (info.reason, info.metadata["field"]) == ("INVALID_INPUT", field)
    assert info.metadata["remedy"]
    assert request.field_violations[0].field == field
    async with asyncio.timeout(10):  # the status travels before the place is given back
        while server.inflight:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
