"""How large the weights of the base model are: the measure for the updates of its adapters."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ramole.lora.sources import weight_files

# Larger weights are sampled in blocks of rows: their rows are alike, and the limit is one of magnitude.
_MAX_ROWS = 512
_BLOCKS = 8

_log = logging.getLogger(__name__)


def read_base_norms(
    path_or_id: str, modules: Iterable[str], *, revision: str = "", tied: Mapping[str, str] = MappingProxyType({})
) -> dict[str, float]:
    """Frobenius norms of the modules' weights, from the safetensors files that are on this machine.

    Args:
        tied: module to the one whose weight it uses where the files hold none of its own.

    Returns:
        Norms by full module name; of large weights an estimate. Modules whose weight is not found, or is quantised, are
        left out.
    """
    wanted = set(modules)
    known = {name: name for name in (*wanted, *tied.values())}
    # Some checkpoints, GPT-2's for example, leave out the name of the backbone.
    known.update({name.partition(".")[2]: name for name in list(known) if "." in name})
    norms: dict[str, float] = {}
    for path in weight_files(path_or_id, revision):
        norms.update(_norms_of(path, known))
    for module, other in tied.items():
        if other in norms:
            norms.setdefault(module, norms[other])
    missing = len(wanted - norms.keys())
    if missing:
        _log.warning("no base weight was found for %d modules: the limit of their updates goes by their shape", missing)
    return {module: norm for module, norm in norms.items() if module in wanted}


def _norms_of(path: Path, known: Mapping[str, str]) -> dict[str, float]:
    from safetensors import SafetensorError, safe_open

    norms = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                module = known.get(key.removesuffix(".weight"))
                if module is not None and key.endswith(".weight"):
                    norm = _norm(file.get_slice(key))
                    if norm > 0:
                        norms[module] = norm
    except (SafetensorError, OSError) as error:
        _log.warning("%s cannot be read for the norms of the base weights: %s", path, error)
    return norms


def _norm(weight: Any) -> float:
    """Of an ``[o, d]`` slice; 0 when it holds no floats."""
    rows = weight.get_shape()[0]
    if rows <= _MAX_ROWS:
        starts, size = [0], rows
    else:
        size = _MAX_ROWS // _BLOCKS
        starts = [index * (rows - size) // (_BLOCKS - 1) for index in range(_BLOCKS)]
    square = 0.0
    for start in starts:
        block = weight[start : start + size]
        if not block.is_floating_point():
            return 0.0
        square += float(block.float().square().sum(dtype=block.double().dtype))
    return math.sqrt(square * rows / (size * len(starts)))
