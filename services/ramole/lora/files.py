"""The two files of a PEFT LoRA folder: their names, and both read whole. Torch-free: clients name them as well."""

from __future__ import annotations

from pathlib import Path

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
FILES = (CONFIG_FILE, TENSORS_FILE)


def read_folder(folder: Path) -> tuple[bytes, bytes]:
    """Config and tensors. Raises FileNotFoundError when one of them is not there."""
    return (folder / CONFIG_FILE).read_bytes(), (folder / TENSORS_FILE).read_bytes()
