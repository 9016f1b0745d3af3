"""How often each way of composing k retrieved adapters gives the right answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.core.composition import PRESETS, Composition, Expert, Weighting
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.training.lm import Encoded, collate, exact_matches

TAUS = (0.01, 0.02, 0.05, 0.1)
MAX_REQUESTS = 32


@dataclass(frozen=True, slots=True)
class Question:
    """A test prompt with its answer, and its similarity to the adapter in slot 1, 2, ..."""

    example: Encoded
    similarities: npt.NDArray[np.float32]


def methods() -> Iterator[tuple[str, Composition]]:
    """All presets; those that use the similarities at several temperatures."""
    for name, composition in PRESETS.items():
        if composition.weighting in (Weighting.SIMILARITY, Weighting.ROUTER_WITH_PRIOR):
            for tau in TAUS:
                yield f"{name} tau={tau}", replace(composition, tau=tau)
        else:
            yield name, composition


def right_answers(
    model: Any, mixture: Mixture, questions: Sequence[Question], composition: Composition, *, pad: int
) -> list[bool]:
    """Whether greedy decoding answers each question right when the k most similar adapters are composed."""
    is_right: list[bool] = []
    for start in range(0, len(questions), MAX_REQUESTS):
        chunk = questions[start : start + MAX_REQUESTS]
        batch = collate([question.example for question in chunk], pad=pad)
        requests = [_request(question, composition) for question in chunk]
        with mixture.running(build_step_plan(requests, [batch.ids.shape[1]] * len(chunk))):
            is_right.extend(exact_matches(model, batch))
    return is_right


def _request(question: Question, composition: Composition) -> RequestMixture:
    nearest = np.argsort(-question.similarities, kind="stable")[: composition.k]
    experts = [Expert(digest="", similarity=float(question.similarities[i])) for i in nearest]
    return RequestMixture.build(composition, experts, [int(i) + 1 for i in nearest])
