"""Enums mean on the wire what they mean here, by their names; vectors come out as they went in."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from google.protobuf.descriptor import EnumDescriptor

from ramole.core.answer import FinishReason
from ramole.core.composition import PRESETS, Composition, Merge, Weighting
from ramole.core.errors import Corrupt, InvalidInput
from ramole.transport.values import composition_from_pb, composition_to_pb, finish_from_pb, finish_to_pb, names_of
from ramole.transport.vectors import vector_from_pb, vector_to_pb
from ramole.v1 import common_pb2
from ramole.v1.embedding_pb2 import Vector


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        (common_pb2.Preset.DESCRIPTOR, PRESETS),
        (common_pb2.Weighting.DESCRIPTOR, [*Weighting]),
        (common_pb2.Merge.DESCRIPTOR, [*Merge]),
        (common_pb2.FinishReason.DESCRIPTOR, [*FinishReason]),
    ],
)
def test_the_wire_and_we_know_the_same_names(kind: EnumDescriptor, ours: Collection[str]) -> None:
    assert set(names_of(kind).values()) == set(ours)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_arrives(name: str) -> None:
    message = common_pb2.Composition(preset=common_pb2.Preset.Value(f"PRESET_{name.upper()}"))
    assert composition_from_pb(message, Composition()) == PRESETS[name]


@pytest.mark.parametrize("weighting", Weighting)
@pytest.mark.parametrize("merge", Merge)
def test_a_composition_arrives(weighting: Weighting, merge: Merge) -> None:
    composition = Composition(weighting, merge, k=2, tau=0.5, spread=0.25, scale=2.0, is_adaptive=True)
    assert composition_from_pb(composition_to_pb(composition), PRESETS["fusion"]) == composition


def test_an_unknown_finish_reason_is_an_error() -> None:
    assert [finish_from_pb(finish_to_pb(reason)) for reason in FinishReason] == [*FinishReason]
    for number in (0, 99):
        with pytest.raises(Corrupt, match=f"finish reason {number}"):
            finish_from_pb(number)


def test_a_vector_arrives_bit_by_bit() -> None:
    vector = np.array([0.1, -1e-30, np.inf, np.nan], np.float32)
    arrived = vector_from_pb(Vector.FromString(vector_to_pb(vector).SerializeToString()), field="vector")
    assert arrived.dtype == np.float32
    assert arrived.tobytes() == vector.tobytes()
    with pytest.raises(InvalidInput) as caught:
        vector_from_pb(Vector(float32=b"12345"), field="vector")
    assert caught.value.field == "vector"
