"""Functions over raw memory as machine code: numba compiles them when a process starts, and keeps them on disk."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from typing import Any

_log = logging.getLogger(__name__)


def machine_code(
    function: Callable[..., None], signature: Any, fastmath: set[str], argtypes: Sequence[Any]
) -> Callable[..., None]:
    """Compiles a function, or loads it from numba's cache on disk. Takes seconds the first time: call it at start.

    Args:
        signature: numba's.
        argtypes: the same for ctypes. A call releases the interpreter lock.
    """
    import numba

    try:
        compiled = numba.cfunc(signature, cache=True, fastmath=fastmath)(function)
    except RuntimeError as error:  # neither the package's folder nor the user's cache folder can be written
        _log.info("native code is compiled at every start: %s", error)
        compiled = numba.cfunc(signature, fastmath=fastmath)(function)
    kernel: Any = ctypes.CFUNCTYPE(None, *argtypes)(compiled.address)
    kernel.compiled = compiled  # the function object owns the machine code
    return kernel  # type: ignore[no-any-return]
