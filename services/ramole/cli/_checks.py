"""What commands check of their options before they load a library that would not say what is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ramole.core.errors import InvalidInput
from ramole.core.texts import check_text

_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")


def check_device(device: str) -> str:
    """Returns ``cpu``, ``cuda`` or ``cuda:N``. Raises InvalidInput for anything else."""
    if not _DEVICE.fullmatch(device):
        raise InvalidInput(f"no device {device!r}", field="--device", remedy="use cpu, cuda or cuda:0")
    return device


def check_model(model: str, *, field: str) -> str:
    """Returns the name of a model. Raises InvalidInput for what can only be a folder, and is none."""
    is_path = model.startswith(("/", ".", "~")) or model.count("/") > 1 or model.endswith("/")
    if is_path and not Path(model).is_dir():
        raise InvalidInput(f"there is no folder {model}", field=field, remedy="give a model's folder or its hub id")
    return model


def check_environment() -> None:
    """Raises InvalidInput, by its name, for one of ramole's own variables that is not UTF-8."""
    for name, value in os.environ.items():
        if name.startswith("RAMOLE_"):
            check_text(value, field=name)
