"""The shapes of the base model, without its weights: what an adapter must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """All modules that can carry an adapter.

    Attributes:
        base_id: the name that adapters give their base model.
        modules: full module name to (d, o), the widths in and out, for every nn.Linear and Conv1D.
    """

    base_id: str
    modules: Mapping[str, tuple[int, int]]


def read_base_shapes(path_or_id: str, base_id: str) -> BaseShapes:
    """Builds the model of a config on the meta device and reads off its shapes. No weight is read or allocated.

    Args:
        path_or_id: a folder or hub id with a config.json of a causal language model.

    Raises:
        WrongState: it cannot be read, or is not a causal language model that this installation knows.
    """
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    from ramole.core.errors import WrongState

    try:
        config = AutoConfig.from_pretrained(path_or_id)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise WrongState(
            f"the config of {path_or_id!r} does not describe a causal language model: {str(error)[:300]}",
            field="base_model",
            remedy="name a folder or hub id that transformers can load",
        ) from error
    modules: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            modules[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):  # GPT-2 keeps its weight as [in, out]
            modules[name] = (module.nx, module.nf)
    return BaseShapes(base_id, MappingProxyType(modules))
