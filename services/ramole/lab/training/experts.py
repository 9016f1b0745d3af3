"""Every adapter of a repository on one model, ready to be mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ramole.lora.weights import AdapterWeights
from ramole.mixture.dispatch import layout_for
from ramole.mixture.mixture import Mixture
from ramole.mixture.slots import SlotShape


def with_slots(model: Any, weights: Sequence[AdapterWeights], *, router_rank: int) -> Mixture:
    """Wraps `model`, in the form that serves; adapter i is in slot i + 1.

    Raises:
        RamoleError: an adapter does not fit the model.
    """
    shape = SlotShape(len(weights) + 1, max(one.rank for one in weights), router_rank)
    parameter = next(model.parameters())
    mixture = Mixture(model, shape, layout=layout_for(parameter.device, parameter.dtype, shape))
    for slot, one in enumerate(weights, start=1):
        mixture.write(slot, one)
    return mixture
