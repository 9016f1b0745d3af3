"""The step plan: everything one forward over many different requests must know about their adapters. Ints, no tensors.

A step packs the tokens of b requests into T rows. Each request brings its own experts; the plan de-duplicates them
into p unique adapters (p <= b * k) and holds the mask M [b, p] of who uses what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ramole.core.composition import Composition, Expert, Merge, Weighting

NO_SLOT = 0

_SMALLEST = math.ulp(0.0)

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RequestMixture:
    """The experts of one request on the device, and how to weigh them. All tuples have length k.

    Attributes:
        slots: slot of each expert, never 0.
        gates: the weights; where `is_routed` the logits that the router's scores are added to.
        scales: multiply each expert's output; the composition's scale is folded in.
        is_routed: the weights are a softmax, per token and module.
        merges_parameters: average parameters instead of outputs.
    """

    slots: tuple[int, ...] = ()
    gates: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    is_routed: bool = False
    merges_parameters: bool = False

    @classmethod
    def build(cls, composition: Composition, experts: Sequence[Expert], slots: Sequence[int]) -> RequestMixture:
        """Resolves a composition for experts that are resident in `slots` (same order)."""
        if not experts:
            return cls()
        # The softmax over one expert is 1 whatever its score: no router needed.
        is_routed = composition.weighting.is_routed and len(experts) > 1
        return cls(
            slots=tuple(slots),
            gates=tuple(_gates(composition, experts, is_routed)),
            scales=tuple(expert.scale * composition.scale for expert in experts),
            is_routed=is_routed,
            merges_parameters=composition.merge is Merge.PARAMETERS,
        )


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One packed step. Requests with one token come first (`num_decode` of them), then longer segments.

    Attributes:
        lengths: tokens of each request in packed order, [b].
        num_tokens: T, their sum.
        num_decode: how many leading requests have exactly one token and may be computed together.
        adapters: the p unique slots, in order of first appearance.
        mask: M [b, p], whether request i uses adapter j.
        slots: [b, k] with 0 where a request has fewer experts.
        gates, scales: [b, k] float32, see RequestMixture; 0 where there is no expert.
        is_routed, merges_parameters: [b].
    """

    lengths: tuple[int, ...]
    num_tokens: int
    num_decode: int
    adapters: tuple[int, ...]
    mask: BoolArray
    slots: IntArray
    gates: FloatArray
    scales: FloatArray
    is_routed: BoolArray
    merges_parameters: BoolArray

    @property
    def num_requests(self) -> int:
        """b."""
        return len(self.lengths)

    @property
    def num_adapters(self) -> int:
        """p."""
        return len(self.adapters)

    def last_tokens(self) -> StepPlan:
        """The same requests with one token each: what the output head sees."""
        b = self.num_requests
        return replace(self, lengths=(1,) * b, num_tokens=b, num_decode=b)

    @property
    def segments(self) -> list[tuple[int, int]]:
        """First and one-past-last token of each request, in packed order."""
        ends = np.cumsum(self.lengths).tolist()
        return [(end - length, end) for end, length in zip(ends, self.lengths, strict=True)]


def build_step_plan(mixtures: Sequence[RequestMixture], lengths: Sequence[int]) -> StepPlan:
    """De-duplicates the adapters of a batch and lays its mask out.

    Args:
        mixtures: one for each request, in packed order.
        lengths: tokens of each request, same order.

    Returns:
        The plan; k is the largest number of experts of any request.
    """
    b, k = len(mixtures), max((len(m.slots) for m in mixtures), default=0)
    column_of = {slot: j for j, slot in enumerate(dict.fromkeys(slot for m in mixtures for slot in m.slots))}
    slots = np.zeros((b, k), np.int64)
    values = np.zeros((2, b, k), np.float32)
    mask = np.zeros((b, len(column_of)), np.bool_)
    for i, mixture in enumerate(mixtures):
        n = len(mixture.slots)
        slots[i, :n] = mixture.slots
        values[:, i, :n] = (mixture.gates, mixture.scales)
        mask[i, [column_of[slot] for slot in mixture.slots]] = True
    num_decode = next((i for i, length in enumerate(lengths) if length != 1), b)
    return StepPlan(
        lengths=tuple(lengths),
        num_tokens=sum(lengths),
        num_decode=num_decode,
        adapters=tuple(column_of),
        mask=mask,
        slots=slots,
        gates=values[0],
        scales=values[1],
        is_routed=np.array([m.is_routed for m in mixtures], np.bool_),
        merges_parameters=np.array([m.merges_parameters for m in mixtures], np.bool_),
    )


def _gates(composition: Composition, experts: Sequence[Expert], is_routed: bool) -> list[float]:
    if composition.weighting is Weighting.EXPLICIT:
        return [expert.weight for expert in experts]
    if composition.weighting in (Weighting.SIMILARITY, Weighting.ROUTER_WITH_PRIOR):
        prior = _log_prior([expert.similarity / composition.tau for expert in experts], composition.spread)
        return prior if is_routed else [math.exp(logit) for logit in prior]
    return [0.0 if is_routed else 1 / len(experts)] * len(experts)


def _log_prior(scaled: list[float], spread: float) -> list[float]:
    """log((1 - spread) softmax(scaled) + spread / k)."""
    top = max(scaled)
    norm = top + math.log(sum(math.exp(s - top) for s in scaled))
    if spread == 0:
        return [s - norm for s in scaled]
    # A share that is too small for a float64 is none.
    return [math.log((1 - spread) * math.exp(s - norm) + spread / len(scaled) or _SMALLEST) for s in scaled]
