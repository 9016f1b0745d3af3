"""The bounded header parser: agrees with the library on good files, survives anything else."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from ramole.core.errors import AdapterRefused
from ramole.lora.header import MAX_HEADER_BYTES, read_header

NAMES = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=40).filter(
    lambda name: name != "__metadata__"
)
DTYPE = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
SHAPE = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@given(st.dictionaries(NAMES, st.tuples(DTYPE, SHAPE), min_size=1, max_size=6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_library(entries: dict[str, tuple[torch.dtype, list[int]]], has_metadata: bool) -> None:
    tensors = {name: torch.randn(shape).to(dtype) for name, (dtype, shape) in entries.items()}
    data = save(tensors, metadata={"format": "pt"} if has_metadata else None)
    specs = read_header(data)
    assert specs.keys() == tensors.keys()
    for name, spec in specs.items():
        ours = torch.frombuffer(bytearray(data[spec.start : spec.end]), dtype=spec.dtype).view(spec.shape)
        assert torch.equal(ours, tensors[name])


def test_header_sizes_that_look_like_a_pickle_are_read() -> None:
    """The size prefix 0x280 begins with the two bytes of a protocol 2 pickle."""
    for padding in range(0x280 - 70, 0x280, 8):
        data = save({"x": torch.ones(2)}, metadata={"p": "-" * padding})
        assert read_header(data).keys() == {"x"}
    entry = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    assert read_header((0x280).to_bytes(8, "little") + entry.ljust(0x280) + bytes(8)).keys() == {"x"}


def build(header: Any, size: int, *, claim: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claim is None else claim).to_bytes(8, "little") + text + bytes(size)


def tensor(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 9,
        build({}, 0),
        build({"x": tensor([2], [0, 8])}, 8, claim=2**63),
        build({"x": tensor([2], [0, 8])}, 8, claim=MAX_HEADER_BYTES + 1),
        build({"x": tensor([2], [0, 8])}, 7),
        build({"x": tensor([2], [0, 8])}, 9),
        build({"x": tensor([2], [4, 12])}, 12),
        build({"x": tensor([2], [0, 8]), "y": tensor([2], [4, 12])}, 12),
        build({"x": tensor([2], [0, 8]), "y": tensor([2], [0, 8])}, 8),
        build({"x": tensor([2], [0, 8]), "y": tensor([2], [12, 20])}, 20),
        build({"x": tensor([2], [8, 0])}, 8),
        build({"x": tensor([2], [0, 4])}, 4),
        build({"x": tensor([0], [0, 0])}, 0),
        build({"x": tensor([], [0, 4])}, 4),
        build({"x": tensor([-1, -2], [0, 8])}, 8),
        build({"x": tensor([2**31, 2**33], [0, 2**66])}, 8),
        build({"x": tensor([2**62, 4], [0, 0])}, 0),
        build({"x": tensor([2.0], [0, 8])}, 8),
        build({"x": tensor([True, 2], [0, 8])}, 8),
        build({"x": tensor("2", [0, 8])}, 8),
        build({"x": tensor([2], [0, 8], dtype=["F32"])}, 8),
        build({"x": tensor([2], [0, 16], dtype="F64")}, 16),
        build({"x": tensor([2], [0, 8]) | {"extra": 1}}, 8),
        build({"x": {"dtype": "F32", "shape": [2]}}, 8),
        build({"x": 1}, 8),
        build({"": tensor([2], [0, 8])}, 8),
        build({"x\n": tensor([2], [0, 8])}, 8),
        build({"é": tensor([2], [0, 8])}, 8),
        build({"x" * 300: tensor([2], [0, 8])}, 8),
        build({"x": tensor([2], [0, 8]), "__metadata__": {"a": 1}}, 8),
        build({"x": tensor([2], [0, 8]), "__metadata__": "a"}, 8),
        build(b'{"x":' + json.dumps(tensor([1], [0, 4])).encode() + b',"x":' + b"1}", 4),
        build(b"[" * 100_000, 0),
        build({str(i): tensor([1], [4 * i, 4 * i + 4]) for i in range(20_000)}, 80_000),
    ],
    ids=range(35),
)
def test_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(AdapterRefused) as caught:
        read_header(data)
    assert caught.value.field == "adapter_model.safetensors"


def survives(data: bytes) -> None:
    try:
        specs = read_header(data)
    except AdapterRefused:
        return
    assert load(data).keys() == specs.keys(), "whatever we accept, the library accepts too"


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes(data: bytes) -> None:
    survives(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=6), ENTRY | JSON, max_size=4) | JSON, st.integers(0, 60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_headers(header: object, size: int) -> None:
    survives(build(header, size))


GOOD = save({f"base_model.model.m{i}.lora_{s}.weight": torch.ones(2, 2) for i in range(3) for s in "AB"})


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_good_files(edits: list[tuple[int, int]], draw: st.DataObject) -> None:
    data = bytearray(GOOD)
    for position, value in edits:
        data[position] = value
    survives(bytes(data[: draw.draw(st.integers(0, len(data)))]))
    survives(bytes(data))


def test_claims_do_not_allocate() -> None:
    tracemalloc.start()
    try:
        for claim in (2**40, 2**63, MAX_HEADER_BYTES):
            with pytest.raises(AdapterRefused):
                read_header(build({"x": tensor([2**30, 2**30], [0, 2**62])}, 8, claim=claim))
        with pytest.raises(AdapterRefused):
            read_header(build({"x": tensor([2**30, 2**30], [0, 2**62])}, 8))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
