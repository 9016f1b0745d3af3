"""What commands check of their options before they load a library that would not say what is wrong."""

from __future__ import annotations

import os
import re

from ramole.core.errors import InvalidInput
from ramole.core.texts import check_text


def check_device(device: str) -> str:
    """Returns ``cpu``, ``cuda`` or ``cuda:N``. Raises InvalidInput for anything else."""
    from ramole.core.settings import DEVICE

    if not re.fullmatch(DEVICE, device):
        raise InvalidInput(f"no device {device!r}", field="--device", remedy="use cpu, cuda or cuda:0")
    return device


def check_environment() -> None:
    """Raises InvalidInput, by its name, for one of ramole's own variables that is not UTF-8."""
    for name, value in os.environ.items():
        if name.startswith("RAMOLE_"):
            check_text(value, field=name)
