"""Vectors between numpy and the wire, without a Python float in between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import InvalidInput
from ramole.v1.embedding_pb2 import Vector

_WIRE = np.dtype("<f4")


def vector_to_pb(vector: NDArray[np.float32]) -> Vector:
    """One vector ``[dim]``."""
    return Vector(float32=vector.astype(_WIRE, copy=False).tobytes())


def vector_from_pb(message: Vector, *, field: str) -> NDArray[np.float32]:
    """The same, ``[dim]``: a view of the message's bytes, not to be written to.

    Raises:
        InvalidInput: the bytes are no whole numbers of float32.
    """
    if len(message.float32) % _WIRE.itemsize:
        raise InvalidInput(
            f"{len(message.float32)} bytes are no float32 numbers", field=field, remedy="send four bytes for each"
        )
    return np.frombuffer(message.float32, _WIRE)
