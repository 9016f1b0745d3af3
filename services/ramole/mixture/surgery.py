"""Which modules can be wrapped, and how one is replaced inside a model."""

from __future__ import annotations

from torch import nn

from ramole.core.errors import WrongState


def widths_of(module: nn.Module, name: str) -> tuple[int, int]:
    """(d, o) of a module that computes y = x W: nn.Linear and its quantised kin, or GPT-2's Conv1D.

    Raises:
        WrongState: the module is of another kind.
    """
    in_features, out_features = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(in_features, int) and isinstance(out_features, int):
        return in_features, out_features
    nx, nf = getattr(module, "nx", None), getattr(module, "nf", None)
    if type(module).__name__ == "Conv1D" and isinstance(nx, int) and isinstance(nf, int):
        return nx, nf
    raise WrongState(
        f"module {name} is a {type(module).__name__}",
        field="base_model",
        remedy="only Linear and Conv1D modules can carry adapters",
    )


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The submodule called `name`. Raises WrongState when the base model has none."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise WrongState(
            f"the base model has no module {name}",
            field="adapter",
            remedy="serve the base model that the adapter was trained on",
        ) from None


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts `new` in the place of the submodule called `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
