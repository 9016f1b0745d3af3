"""The shapes of the base model, without its weights: what an adapter must fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ramole.lora.sources import empty_model, is_gguf

if TYPE_CHECKING:
    import torch

ReadWeight = Callable[[str], "torch.Tensor | None"]


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """All modules that can carry an adapter.

    Attributes:
        base_id: the name that adapters give their base model.
        modules: full module name to (d, o), the widths in and out, for every nn.Linear and Conv1D.
        read_weight: the weight of a module, read from the checkpoint; None where it cannot be found there.
        norms: full module name to the Frobenius norm of its weight, where it is known.
        head: full name of the output head; empty = it has none.
        embedding: full name of the input embedding; empty = not known.
    """

    base_id: str
    modules: Mapping[str, tuple[int, int]]
    read_weight: ReadWeight = lambda _: None
    norms: Mapping[str, float] = field(default_factory=dict)
    head: str = ""
    embedding: str = ""


def read_base_shapes(path_or_id: str, base_id: str, revision: str = "") -> BaseShapes:
    """Builds the model of a config on the meta device and reads off its shapes. Of its weights, a sample is read.

    Args:
        path_or_id: a folder or hub id with a config.json of a causal language model, or a GGUF file.
        revision: commit, tag or branch of a hub id; empty = its default.

    Raises:
        WrongState: it cannot be read, or is not a causal language model that this installation knows.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from ramole.lora.base_norms import read_base_norms

    model: Any = empty_model(path_or_id, revision)
    modules: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            modules[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):  # GPT-2 keeps its weight as [in, out]
            modules[name] = (module.nx, module.nf)
    names = {id(module): name for name, module in model.named_modules()}
    head = names.get(id(model.get_output_embeddings()), "")
    embedding = names.get(id(_input_embedding(model)), "")
    # A tied head has no weight of its own: checkpoints hold that of the embedding.
    tied = {head: embedding} if head and embedding and getattr(model.config, "tie_word_embeddings", False) else {}

    def read_weight(module: str) -> torch.Tensor | None:
        wanted = [name for name in (module, tied.get(module)) if name]
        # Some checkpoints, GPT-2's for example, leave out the name of the backbone.
        wanted += [name.partition(".")[2] for name in wanted if "." in name]
        return _read_tensor(path_or_id, revision, [f"{name}.weight" for name in wanted])

    norms = read_base_norms(path_or_id, modules, revision=revision, tied=tied)
    return BaseShapes(base_id, MappingProxyType(modules), read_weight, norms, head, embedding)


def _input_embedding(model: Any) -> object:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:  # transformers does not know which module it is
        return None


def _read_tensor(path_or_id: str, revision: str, names: list[str]) -> torch.Tensor | None:
    """The first of `names` that a safetensors checkpoint, in one file or several, holds."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    if is_gguf(path_or_id):
        return None

    def find(name: str) -> str | None:
        found: str | None = cached_file(
            path_or_id, name, revision=revision or "main", _raise_exceptions_for_missing_entries=False
        )
        return found

    index = find("model.safetensors.index.json")
    files: dict[str, str] = {}
    if index is not None:
        with open(index) as file:
            files = json.load(file)["weight_map"]
    for name in names:
        path = find(files.get(name, "model.safetensors"))
        if path is not None:
            with safe_open(path, framework="pt") as checkpoint:
                if name in set(checkpoint.keys()):
                    tensor: torch.Tensor = checkpoint.get_tensor(name)
                    return tensor
    return None
