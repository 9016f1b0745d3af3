"""What the memory plan must know of the base model and of the device. Reads configs and headers, never weights."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ramole.core.errors import WrongState
from ramole.executor.memory_plan import BaseFacts, DeviceFacts
from ramole.executor.positions import max_positions
from ramole.lora.sources import empty_model, is_gguf, weight_files

_CGROUP = Path("/sys/fs/cgroup")


def read_base_facts(base: str, revision: str = "") -> BaseFacts:
    """Builds the model on the meta device and reads off what it takes.

    Args:
        base: folder, hub id or GGUF file.

    Raises:
        WrongState: it cannot be read, or is no causal language model.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    model = empty_model(base, revision)
    config: Any = model.config
    text = config.get_text_config()
    head = model.get_output_embeddings()
    linears = tuple(
        (m.nx, m.nf) if isinstance(m, Conv1D) else (m.in_features, m.out_features)
        for m in model.modules()
        if isinstance(m, nn.Linear | Conv1D) and m is not head
    )
    num_weights = sum({id(p): p.numel() for p in model.parameters()}.values())
    packed, form = 0, ""
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else quantised.quant_method
        form = f"quantised: {getattr(method, 'value', method)}"
        packed = _packed_bytes(base, revision, quantised, num_weights)
        num_weights = 0
    elif is_gguf(base):
        form = "dequantised from a GGUF file"
    return BaseFacts(
        dtype="bfloat16" if is_gguf(base) else str(config.dtype or "float32").removeprefix("torch."),
        num_weights=num_weights,
        packed_bytes=packed,
        num_layers=text.num_hidden_layers,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        hidden=text.hidden_size,
        feed_forward=max((max(widths) for widths in linears), default=text.hidden_size),
        vocab_size=text.vocab_size,
        linears=linears,
        max_positions=max_positions(text),
        form=form,
    )


def _packed_bytes(base: str, revision: str, quantised: Any, num_weights: int) -> int:
    """Of a quantised checkpoint: that of its files, or what its bits say."""
    if files := weight_files(base, revision):
        return sum(path.stat().st_size for path in files)
    told = quantised if isinstance(quantised, dict) else quantised.to_dict()
    bits = 4 if told.get("load_in_4bit") else int(told.get("bits") or 8)
    return num_weights * bits // 8


def read_device_facts(setting: str) -> DeviceFacts:
    """Of the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here.

    Raises:
        WrongState: there is no such device.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    name = ("cuda" if num_gpus else "cpu") if setting == "auto" else setting
    cores = _cores()
    if name == "cpu":
        total, free = _machine_memory()
        return DeviceFacts(
            device=name,
            name="this machine",
            total_bytes=total,
            free_bytes=free,
            cores=cores,
            has_bf16=bool(torch.cpu.get_capabilities().get("amx_bf16")),
        )
    check_device(name, num_gpus)
    number = int(name.partition(":")[2] or 0)
    free, total = torch.cuda.mem_get_info(number)
    return DeviceFacts(
        device=name,
        name=torch.cuda.get_device_name(number),
        total_bytes=total,
        free_bytes=free,
        cores=cores,
        has_bf16=torch.cuda.get_device_capability(number) >= (8, 0),
        others=num_gpus - 1,
    )


def check_device(device: str, num_gpus: int) -> None:
    """Raises WrongState if there is no such device.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        num_gpus: that the executor sees.
    """
    number = int(device.partition(":")[2] or 0)
    if device != "cpu" and number >= num_gpus:
        raise WrongState(
            f"there is no device {device!r}; this machine has {num_gpus} that can be used",
            field="executor.device",
            remedy="set it to cuda" if num_gpus else "set it to cpu",
        )


def _cores() -> int:
    """Physical ones that this process may use: affinity and the quota of its container count."""
    import psutil

    cores = min(len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False) or 1)
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))  # "max" = no quota
    return cores


def _machine_memory() -> tuple[int, int]:
    """All bytes and those that are free: of the machine, or of the container that this process is in."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    with suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())  # "max" = no limit
        counted = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        used = int((_CGROUP / "memory.current").read_text()) - int(counted.get("inactive_file", 0))
        total, free = min(total, limit), min(free, limit - used)
    return total, max(free, 0)
