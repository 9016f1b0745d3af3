"""A form becomes the messages of an upload, however it is cut into pieces; what is no form is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import InvalidInput, LimitExceeded
from ramole.gateway.http.upload_form import upload_messages
from ramole.v1.gateway_pb2 import UploadAdapterRequest
from ramole.v1.records_pb2 import UploadHeader

TYPE = "multipart/form-data; boundary=bound"
HEADER = {
    "adapter": "mine",
    "samples": ["one", "zwei ☃"],
    "tags": ["a"],
    "expected_version": 2**53,
    "sha256": {"x": "y"},
}


def form_of(header: bytes, config: bytes, weights: bytes) -> bytes:
    parts = (("header", header), ("config", config), ("weights", weights))
    return b"".join(
        f'--bound\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in parts
    ) + b"--bound--\r\n"  # fmt: skip


async def read(pieces: Sequence[bytes], limit: int = 10_000) -> list[UploadAdapterRequest]:
    async def body() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    return [message async for message in upload_messages(TYPE, body(), max_header_bytes=limit)]


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


FILES = st.binary(max_size=300) | st.lists(
    st.sampled_from([b"\r\n", b"--bound", b"--", b"\r", b"\n", b"x"]), max_size=20
).map(b"".join).filter(lambda data: b"\r\n--bound" not in b"\r\n" + data)


@given(FILES, FILES, st.lists(st.integers(0, 10_000), max_size=40))
async def test_the_files_come_as_they_are(config: bytes, weights: bytes, places: list[int]) -> None:
    form = form_of(json.dumps(HEADER).encode(), config, weights)
    header, *chunks = await read(cut(form, places))
    assert header.header == UploadHeader(**HEADER)
    for file, data in (("adapter_config.json", config), ("adapter_model.safetensors", weights)):
        assert b"".join(each.chunk.data for each in chunks if each.chunk.file == file) == data


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda data: b"--bound\r\n" + data), st.integers(1, 50))
async def test_no_bytes_break_it(data: bytes, size: int) -> None:
    with pytest.raises((InvalidInput, LimitExceeded)):
        await read([data[start : start + size] for start in range(0, len(data), size)])


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
async def test_a_form_with_a_hole_is_refused_or_other_content(place: int, junk: bytes) -> None:
    form = form_of(json.dumps(HEADER).encode(), b"config", b"weights")
    place %= len(form)
    try:
        header, *chunks = await read([form[:place], junk, form[place:]])
    except (InvalidInput, LimitExceeded):
        return
    assert header.HasField("header")
    assert {each.chunk.file for each in chunks} <= {"adapter_config.json", "adapter_model.safetensors"}


async def test_pieces_are_no_larger_than_they_must_be() -> None:
    weights = bytes(5 * 2**20 + 1)
    messages = await read(cut(form_of(json.dumps(HEADER).encode(), b"{}", weights), range(0, 6 * 2**20, 65_536)))
    sizes = [len(each.chunk.data) for each in messages[2:]]
    assert sum(sizes) == len(weights)
    assert max(sizes) < 2**20 + 65_536
