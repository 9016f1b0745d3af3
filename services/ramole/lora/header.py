"""The header of a safetensors file, read by a bounded parser of our own.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian size N, N bytes of JSON that map a tensor's name
to its dtype, shape and [start, end) offsets, then the data that the offsets count from. Nothing is allocated for a
tensor before every number of the header has been checked against the bytes that are really there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ramole.core.errors import AdapterRefused
from ramole.lora.files import TENSORS_FILE
from ramole.lora.foreign import START_BYTES, about_file
from ramole.lora.strict_json import parse_object

MAX_HEADER_BYTES = 4 * 2**20
MAX_TENSORS = 16_384
MAX_NAME_CHARS = 256
MAX_DIMS = 8
MAX_DIM = 2**31 - 1

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
)

_PREFIX_BYTES = 8
_SAVE_AGAIN = "save the adapter again with PEFT's save_pretrained(..., safe_serialization=True)"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the file. `start` and `end` are positions in the whole file, in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(data: bytes | memoryview) -> dict[str, TensorSpec]:
    """All tensors of a safetensors file, by name. Their ranges tile the data part without gap or overlap.

    Raises:
        AdapterRefused: the bytes are not a well-formed safetensors file of F32, F16 or BF16 tensors.
    """
    size = int.from_bytes(data[:_PREFIX_BYTES], "little")
    if not 2 <= size <= min(MAX_HEADER_BYTES, len(data) - _PREFIX_BYTES):
        found = about_file(bytes(data[:START_BYTES]))
        raise _refuse(f"this is {found.what}", found.remedy) if found else _refuse(f"the header claims {size} bytes")
    data_start = _PREFIX_BYTES + size
    header = bytes(data[_PREFIX_BYTES:data_start])
    entries = parse_object(header, field=TENSORS_FILE, max_bytes=MAX_HEADER_BYTES, max_depth=3)
    _check_metadata(entries.pop("__metadata__", {}))
    if not 1 <= len(entries) <= MAX_TENSORS:
        raise _refuse(f"{len(entries)} tensors, 1 to {MAX_TENSORS} are accepted")
    specs = {_check_name(name): _read_entry(name, entry, data_start) for name, entry in entries.items()}
    _check_tiling(specs, data_start, len(data))
    return specs


def _refuse(message: str, remedy: str = _SAVE_AGAIN) -> AdapterRefused:
    return AdapterRefused(message, field=TENSORS_FILE, remedy=remedy)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _refuse("__metadata__ is not a map of strings")


def _check_name(name: str) -> str:
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isascii() or not name.isprintable():
        raise _refuse(f"{name[:80]!r} is not a tensor name")
    return name


def _read_entry(name: str, entry: object, data_start: int) -> TensorSpec:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _refuse(f"the entry of {name[:80]!r} does not hold exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _refuse(
            f"{name[:80]!r} is {str(entry['dtype'])[:20]!r}",
            f"use one of {', '.join(DTYPES)}; quantised adapters are not read",
        )
    shape, offsets = _numbers(name, entry["shape"]), _numbers(name, entry["data_offsets"])
    if 0 in shape:
        raise _refuse(
            f"{name[:80]!r} is empty, of shape {list(shape)[:MAX_DIMS]}: what a process of DeepSpeed ZeRO-3 or FSDP "
            "keeps of a tensor that is not gathered",
            "gather the parameters before saving, for example stage3_gather_16bit_weights_on_model_save in DeepSpeed",
        )
    if not 1 <= len(shape) <= MAX_DIMS or any(not 1 <= dim <= MAX_DIM for dim in shape):
        raise _refuse(f"{name[:80]!r} has a shape of {len(shape)} dimensions that are not all in 1 to {MAX_DIM}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise _refuse(f"the offsets of {name[:80]!r} do not agree with its shape and dtype")
    return TensorSpec(dtype, shape, data_start + offsets[0], data_start + offsets[1])


def _numbers(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise _refuse(f"the entry of {name[:80]!r} holds something that is not a list of counts")
    return tuple(value)


def _check_tiling(specs: Mapping[str, TensorSpec], data_start: int, data_end: int) -> None:
    position = data_start
    for name, spec in sorted(specs.items(), key=lambda item: item[1].start):
        if spec.start != position:
            raise _refuse(f"the data of {name[:80]!r} leaves a gap or overlaps another tensor's")
        position = spec.end
    if position != data_end:
        held = data_end - data_start
        raise _refuse(
            f"the header describes {position - data_start} bytes of data, the file holds {held}",
            "copy or download the file again, it did not arrive whole" if held < position - data_start else _SAVE_AGAIN,
        )
