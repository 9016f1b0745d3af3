"""The stream's rules, each with the field that it names."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ramole.adapters.intake.spools import SpoolRoom
from ramole.adapters.intake.upload import Upload, UploadHeader
from ramole.core.errors import Cancelled, InvalidInput, LimitExceeded, RamoleError
from ramole.core.names import AdapterName
from ramole.lora.digest import content_digest

HEADER = UploadHeader(AdapterName("default", "math"), ("1 + 1",))
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def upload(scratch: Path, max_bytes: int = 10_000, room: SpoolRoom | None = None) -> Upload:
    return Upload(scratch, max_bytes, 3, room or SpoolRoom(2**40))


def test_interleaved_chunks_make_two_files(tmp_path: Path) -> None:
    sha256 = {CONFIG: hashlib.sha256(b"{}").hexdigest(), TENSORS: hashlib.sha256(b"abcdef").hexdigest()}
    with upload(tmp_path) as stream:
        stream.begin(replace(HEADER, sha256=sha256))
        for file, data in [(TENSORS, b"abc"), (CONFIG, b"{"), (TENSORS, b"def"), (CONFIG, b"}")]:
            stream.write(file, data)
        received = stream.finish()
        assert received.config_json == b"{}"
        assert bytes(received.tensors()) == b"abcdef" == received.tensors_path.read_bytes()
        assert received.digest == content_digest(b"{}", b"abcdef")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_stream_leaves_nothing(tmp_path: Path) -> None:
    with suppress(ConnectionError), upload(tmp_path) as stream:
        stream.begin(HEADER)
        stream.write(TENSORS, b"abc")
        raise ConnectionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "header"),
    [
        ("header.adapter", replace(HEADER, name=AdapterName("default", "math", 3))),
        ("header.samples", replace(HEADER, samples=())),
        ("header.samples", replace(HEADER, samples=("a", "b", "c", "d"))),
        ("header.samples", replace(HEADER, samples=("a", " \n"))),
        ("header.samples", replace(HEADER, samples=("a" * 20_000,))),
        ("header.idempotency_key", replace(HEADER, idempotency_key="k" * 200)),
        ("header.base_model", replace(HEADER, base_model="b" * 300)),
        ("header.sha256", replace(HEADER, sha256={"x.bin": "0" * 64})),
        ("header.sha256", replace(HEADER, sha256={CONFIG: "xyz"})),
    ],
)
def test_header_is_checked(tmp_path: Path, field: str, header: UploadHeader) -> None:
    with upload(tmp_path) as stream, pytest.raises(InvalidInput) as caught:
        stream.begin(header)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("sample", "words"), [(" \n", "sample 2 is empty"), ("a" * 20_000, "sample 2 is too long: 20000")]
)
def test_the_sample_at_fault_is_named(tmp_path: Path, sample: str, words: str) -> None:
    with upload(tmp_path) as stream, pytest.raises(InvalidInput, match=words):
        stream.begin(replace(HEADER, samples=("1 + 1", sample)))


def test_samples_are_limited_in_all(tmp_path: Path) -> None:
    with Upload(tmp_path, 10_000, 64, SpoolRoom(10_000)) as stream, pytest.raises(InvalidInput, match="too long"):
        stream.begin(replace(HEADER, samples=("a" * 16_000,) * 9))


def test_order_of_the_stream(tmp_path: Path) -> None:
    with upload(tmp_path) as stream:
        with pytest.raises(InvalidInput, match="no header"):
            stream.write(CONFIG, b"{}")
        with pytest.raises(InvalidInput, match="no header"):
            stream.finish()
        stream.begin(HEADER)
        with pytest.raises(InvalidInput, match="second header"):
            stream.begin(HEADER)
        for file in ("adapter_model.bin", "../adapter_config.json", ""):
            with pytest.raises(InvalidInput, match="not taken"):
                stream.write(file, b"")
        with pytest.raises(InvalidInput, match=r"adapter_config\.json is missing"):
            stream.finish()
        stream.write(CONFIG, b"{}")
        with pytest.raises(InvalidInput, match=r"adapter_model\.safetensors is missing"):
            stream.finish()


def test_announced_hash_must_be_right(tmp_path: Path) -> None:
    with upload(tmp_path) as stream:
        stream.begin(replace(HEADER, sha256={TENSORS: "0" * 64}))
        stream.write(CONFIG, b"{}")
        stream.write(TENSORS, b"abc")
        with pytest.raises(InvalidInput, match="another sha256"):
            stream.finish()


def test_size_is_limited_while_streaming(tmp_path: Path) -> None:
    with upload(tmp_path, max_bytes=100) as stream:
        stream.begin(HEADER)
        stream.write(TENSORS, b"x" * 90)
        with pytest.raises(LimitExceeded) as caught:
            stream.write(CONFIG, b"x" * 11)
        assert isinstance(caught.value, RamoleError)
        assert caught.value.remedy
    with upload(tmp_path, max_bytes=2**30) as stream:
        stream.begin(HEADER)
        with pytest.raises(LimitExceeded, match=r"adapter_config\.json is larger"):
            stream.write(CONFIG, b"x" * (2**20 + 1))


def test_all_uploads_in_flight_share_one_room(tmp_path: Path) -> None:
    room = SpoolRoom(100)
    with upload(tmp_path, room=room) as second:
        second.begin(HEADER)
        with upload(tmp_path, room=room) as first:
            first.begin(HEADER)
            first.write(CONFIG, b"{}")
            first.write(TENSORS, b"x" * 58)
            second.write(TENSORS, b"x" * 40)
            for stream in (first, second):
                with pytest.raises(LimitExceeded, match="hold 100 of 100 bytes") as caught:
                    stream.write(TENSORS, b"x")
                assert caught.value.field == "adapters.max_spool_bytes"
                assert caught.value.remedy
        second.write(TENSORS, b"x" * 60)
    with upload(tmp_path, room=room) as third:
        third.begin(HEADER)
        third.write(TENSORS, b"x" * 100)


def test_nothing_is_taken_after_the_end(tmp_path: Path) -> None:
    """A fetch that nobody waits for any more may go on writing."""
    room = SpoolRoom(100)
    with upload(tmp_path, room=room) as late:
        late.begin(replace(HEADER, source="hf://org/repo"))
        late.write_fetched(TENSORS, b"x" * 50)
    for file in (CONFIG, TENSORS):
        with pytest.raises(Cancelled):
            late.write_fetched(file, b"x" * 50)
    assert list(tmp_path.iterdir()) == []
    room.take(100)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"samples": ("a", " ")}, "sample 2 is empty"),
        ({"samples": ("a", "b" * 16_385)}, "sample 2 is too long: 16385 characters"),
        ({"idempotency_key": "k" * 129}, "129 characters"),
        ({"base_model": "k" * 257}, "257 characters"),
    ],
)
def test_what_breaks_a_limit_is_named_with_its_size(tmp_path: Path, header: dict[str, Any], says: str) -> None:
    with upload(tmp_path) as stream, pytest.raises(InvalidInput) as caught:
        stream.begin(replace(HEADER, **header))
    assert says in caught.value.message
    assert caught.value.field == f"header.{next(iter(header))}"
