"""How k experts become one update of a module: weighting x merge x k x tau x spread x scale.

For one module and one token x, with u_i = A_i x and weights a_i (an expert that does not touch the module is
A_i = B_i = 0 there: it keeps its weight and adds nothing):

    OUTPUTS     y = W x + scale * sum_i a_i B_i u_i
    PARAMETERS  y = W x + scale * (sum_i a_i B_i) (sum_j a_j u_j)

| weighting         | a                                                       |
|-------------------|---------------------------------------------------------|
| UNIFORM           | 1 / k                                                   |
| SIMILARITY        | p = (1 - spread) softmax(similarity / tau) + spread / k |
| ROUTER            | softmax(s), s_i = <A_r x, B_r^T B_i u_i> / sqrt(Q)      |
| ROUTER_WITH_PRIOR | softmax(s + log p)                                      |
| EXPLICIT          | the weights of the request, exactly as given            |

The paper's names are presets, SELECTION, MIXTURE, FUSION, RAMOLE (Zhao et al., "Retrieval-Augmented Mixture of LoRA
Experts for Uploadable Machine Learning"), beside four of our own.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ramole.core.bounds import DEFAULT_PARTS, check_number, check_texts
from ramole.core.errors import InvalidInput


class Weighting(StrEnum):
    """Where the weights of the experts come from."""

    UNIFORM = "uniform"
    SIMILARITY = "similarity"
    ROUTER = "router"
    ROUTER_WITH_PRIOR = "router_with_prior"
    EXPLICIT = "explicit"

    @property
    def is_routed(self) -> bool:
        """Whether the weights depend on the token, so that a RouterLoRA must run."""
        return self in (Weighting.ROUTER, Weighting.ROUTER_WITH_PRIOR)


class Merge(StrEnum):
    """Whether the experts' outputs or their parameters are averaged."""

    OUTPUTS = "outputs"
    PARAMETERS = "parameters"


class Reroute(StrEnum):
    """When an answer goes on with other adapters."""

    OFF = "off"
    AT = "at"
    """Behind each of the separators."""
    AT_END = "at_end"
    """Where the adapters end the answer and the bare base model would go on; behind separators too."""


REROUTED_PRESET = "selection"
"""Of requests that ask for re-routing and for nothing else: after a change the nearest adapter alone is right most
often."""


@dataclass(frozen=True, slots=True)
class Composition:
    """One point of the axes above, and when an answer goes on with other adapters.

    Attributes:
        k: experts to retrieve, 0 = the bare base model.
        tau: temperature of the similarities.
        spread: what the k experts share alike, in [0, 1]: a hedge against a nearest one that is wrong.
        is_adaptive: whether the repository's doubt that any adapter was made for the prompt takes the place of
            `spread`, where it can tell (`retrieval/doubt.py`), and of few adapters also lessens `scale`.
        scale: multiplies the whole update.
        reroute: when the retriever is asked again for what follows of the answer.
        separators: texts behind which it is; the token that completes one ends the part.
        max_parts: parts of an answer at most; 0 = `DEFAULT_PARTS`.
    """

    weighting: Weighting = Weighting.ROUTER
    merge: Merge = Merge.OUTPUTS
    k: int = 3
    tau: float = 0.05
    spread: float = 0.0
    scale: float = 1.0
    is_adaptive: bool = False
    reroute: Reroute = Reroute.OFF
    separators: tuple[str, ...] = ()
    max_parts: int = 0

    def __post_init__(self) -> None:
        for field in ("k", "tau", "spread", "scale"):
            check_number(f"composition.{field}", getattr(self, field))
        check_texts("composition.separators", self.separators)
        if self.max_parts:
            check_number("composition.max_parts", self.max_parts)
        if self.reroute is Reroute.AT and not self.separators:
            raise InvalidInput(
                "re-routing at separators without any",
                field="composition.separators",
                remedy=f"give some, or set reroute to {Reroute.AT_END}",
            )
        if self.reroute is Reroute.OFF:
            for field in ("separators", "max_parts"):
                if getattr(self, field):
                    raise InvalidInput(
                        f"{field} without re-routing",
                        field=f"composition.{field}",
                        remedy=f"leave it out, or set reroute to {Reroute.AT} or {Reroute.AT_END}",
                    )

    @property
    def most_parts(self) -> int:
        """Parts that an answer may have."""
        return 1 if self.reroute is Reroute.OFF else self.max_parts or DEFAULT_PARTS

    @property
    def of_one_part(self) -> Composition:
        """The mixture of a part, which knows of no others."""
        return replace(self, reroute=Reroute.OFF, separators=(), max_parts=0)

    def with_axes(
        self,
        *,
        preset: str | None = None,
        weighting: str | None = None,
        merge: str | None = None,
        k: int | None = None,
        tau: float | None = None,
        spread: float | None = None,
        scale: float | None = None,
        is_adaptive: bool | None = None,
        reroute: str | None = None,
        separators: Collection[str] = (),
        max_parts: int | None = None,
    ) -> Composition:
        """What a request makes of this default: a preset, and any axis on top of it; None = not given.

        Re-routing without a preset and axes starts from `REROUTED_PRESET`.

        Raises:
            InvalidInput: an unknown name, or an axis out of its range.
        """
        when = None if reroute is None else Reroute(_known(reroute, list(Reroute), "reroute"))
        given = (preset, weighting, merge, k, tau, spread, scale, is_adaptive)
        if when not in (None, Reroute.OFF) and all(axis is None for axis in given):
            preset = REROUTED_PRESET
        base = self if preset is None else PRESETS[_known(preset, PRESETS, "preset")]
        if is_adaptive is None and spread is not None:
            is_adaptive = False  # who gives a spread means it
        axes: dict[str, Any] = {
            "weighting": None if weighting is None else Weighting(_known(weighting, list(Weighting), "weighting")),
            "merge": None if merge is None else Merge(_known(merge, list(Merge), "merge")),
            "k": k,
            "tau": tau,
            "spread": spread,
            "scale": scale,
            "is_adaptive": is_adaptive,
            "reroute": when,
            "separators": tuple(separators) or None,
            "max_parts": max_parts,
        }
        return replace(base, **{axis: value for axis, value in axes.items() if value is not None})

    def doubting(self, doubt: float | None, *, of_few: bool = False) -> Composition:
        """The same for a prompt of which the repository says how much to doubt what it found; None = it cannot tell.

        Args:
            of_few: it has few adapters. What they share is then no consensus that the rest of the weight could go to:
                half of the doubt is spread, and the whole update fades towards the base model.
        """
        if not self.is_adaptive or doubt is None:
            return self
        if of_few:
            return replace(self, spread=doubt / 2, scale=self.scale * (1 - doubt**2 / 2))
        return replace(self, spread=doubt)


PRESETS: dict[str, Composition] = {
    "selection": Composition(Weighting.UNIFORM, Merge.OUTPUTS, k=1),
    "mixture": Composition(Weighting.UNIFORM, Merge.OUTPUTS, k=3),
    "fusion": Composition(Weighting.UNIFORM, Merge.PARAMETERS, k=3),
    "ramole": Composition(Weighting.ROUTER, Merge.OUTPUTS, k=3),
    "ramole_prior": Composition(Weighting.ROUTER_WITH_PRIOR, Merge.OUTPUTS, k=3, tau=0.01),
    "similarity": Composition(Weighting.SIMILARITY, Merge.OUTPUTS, k=3, tau=0.02),
    "hedged": Composition(Weighting.SIMILARITY, Merge.OUTPUTS, k=5, tau=0.005, spread=0.35),
    "calibrated": Composition(Weighting.SIMILARITY, Merge.OUTPUTS, k=5, tau=0.005, spread=0.35, is_adaptive=True),
}


def _known(name: str, names: Collection[str], axis: str) -> str:
    if name not in names:
        raise InvalidInput(
            f"unknown {axis} {name[:80]!r}", field=f"composition.{axis}", remedy=f"use {', '.join(names)}"
        )
    return name


@dataclass(frozen=True, slots=True)
class Expert:
    """One adapter in the mixture of one request.

    Attributes:
        digest: which content.
        similarity: cosine between prompt and adapter, in [-1, 1]; 0 when the request named the adapter itself.
        weight: used by EXPLICIT weighting only.
        scale: multiplies this expert's output whatever the weighting.
        tenant: by whose adapter the content is used; '' = nobody's.
    """

    digest: str
    similarity: float = 0.0
    weight: float = 1.0
    scale: float = 1.0
    tenant: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.similarity):
            raise InvalidInput(f"similarity = {self.similarity}", field="adapters.similarity", remedy="give a cosine")
        for field in ("weight", "scale"):
            check_number(f"adapters.{field}", getattr(self, field))
