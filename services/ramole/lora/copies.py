"""Weights of the base model that a file brings along: harmless as long as they are the base's own, to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ramole.core.errors import AdapterRefused
from ramole.lora.base import BaseShapes
from ramole.lora.files import TENSORS_FILE
from ramole.lora.foreign import about_name
from ramole.lora.header import TensorSpec
from ramole.lora.reader import load_tensor

# Compared at a time: whole embeddings take gigabytes.
_BLOCK_ROWS = 4096

_LEAVE_OUT = "save with save_embedding_layers=False"


def check_copies(copies: Mapping[str, TensorSpec], tensors: bytes | memoryview, base: BaseShapes) -> None:
    """Compares the weights that came along with the base's.

    Args:
        copies: by module. PEFT saves those of the embedding and the head, and of modules that it wrapped.

    Raises:
        AdapterRefused: one is not the base's, or cannot be compared.
    """
    for module, spec in copies.items():
        if module not in base.modules and module != base.embedding:
            found = about_name(f"{module}.weight")
            raise _refuse(f"{module}.weight is {found.what}", found.remedy)
        own = base.read_weight(module)
        if own is None:
            raise _refuse(
                f"the file brings its own weight of {module}; the one of base model {base.base_id!r} cannot be read to "
                "compare it",
                _LEAVE_OUT,
            )
        if tuple(own.shape) != spec.shape:
            _refuse_shape(module, spec.shape, tuple(own.shape), base)
        differing, is_rounded = _compare(own, spec, tensors)
        if differing:
            why = (
                f"is the base's, rounded to {str(spec.dtype).removeprefix('torch.')}"
                if is_rounded
                else f"differs from the base's in {differing} of {spec.shape[0]} rows: it was trained"
            )
            raise _refuse(
                f"the file brings its own weight of {module}, which all adapters here share, and it {why}",
                _LEAVE_OUT if is_rounded else f"train without it; if only its pair was trained, {_LEAVE_OUT}",
            )


def resized(module: str, theirs: int, own: int) -> AdapterRefused:
    """The refusal of an adapter that was trained with another number of tokens."""
    return _refuse(
        f"the vocabulary was resized: {module} has {theirs} rows in the file, {own} in the base model",
        "train without added tokens, or serve the resized model as the base",
    )


def _refuse(message: str, remedy: str) -> AdapterRefused:
    return AdapterRefused(message, field=TENSORS_FILE, remedy=remedy)


def _refuse_shape(module: str, theirs: tuple[int, ...], own: tuple[int, ...], base: BaseShapes) -> None:
    if module in (base.head, base.embedding) and theirs[1:] == own[1:]:
        raise resized(module, theirs[0], own[0])
    raise _refuse(
        f"the file brings its own weight of {module}, of shape {list(theirs)}; the base's has {list(own)}",
        "train on exactly this base model",
    )


def _compare(own: torch.Tensor, spec: TensorSpec, tensors: bytes | memoryview) -> tuple[int, bool]:
    """How many rows differ, and whether none does once the base's are rounded to the file's dtype."""
    size = (spec.end - spec.start) // spec.shape[0]
    differing, is_rounded = 0, True
    for first in range(0, spec.shape[0], _BLOCK_ROWS):
        ours = own[first : first + _BLOCK_ROWS]
        start = spec.start + first * size
        part = TensorSpec(spec.dtype, tuple(ours.shape), start, start + len(ours) * size)
        theirs = load_tensor(part, tensors)
        # The same numbers in a wider type are the same weight.
        differing += int((ours.float() != theirs.float()).flatten(1).any(1).sum())
        is_rounded = is_rounded and torch.equal(ours.to(spec.dtype), theirs)
    return differing, is_rounded
