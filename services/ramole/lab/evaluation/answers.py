"""Many prompts under many compositions through the mixture that serves, each pair computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ramole.lab.training.lm import Encoded, PaddedBatch, answer_scores, answer_token_scores, collate
from ramole.lora.weights import AdapterWeights
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan
from ramole.mixture.step import Form, Step

MAX_ROWS = 48
MAX_TOKENS = 2048

MakeForm = Callable[[StepPlan, PaddedBatch], Form]
"""How a rival that is no composition computes a step."""


_NOTHING = (np.zeros(0, np.bool_), np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What n prompts gave.

    Attributes:
        right: whether greedy decoding gives exactly the answer, [n].
        nll: negative log likelihood of the answer per token, nats, [n].
    """

    right: npt.NDArray[np.bool_]
    nll: npt.NDArray[np.float32]


@dataclass(slots=True)
class Answerer:
    """One model with every adapter of the repository in a slot: number i in slot i + 1.

    Exact match is by teacher forcing, which equals greedy decoding and needs one forward instead of one per token.

    Attributes:
        model: carries `mixture`.
        examples: the prompts with their answers.
    """

    model: Any
    mixture: Mixture
    examples: Sequence[Encoded]
    pad: int
    _router: str = ""
    _known: dict[tuple[str, int, RequestMixture], tuple[bool, float]] = field(default_factory=dict)

    def use_router(self, name: str, router: AdapterWeights) -> None:
        """Routed compositions use this RouterLoRA from now on. `name` must be its own."""
        self.mixture.set_router(router)
        self._router = name

    def outcomes(self, questions: Sequence[int], requests: Sequence[RequestMixture]) -> Outcomes:
        """The outcome of each of n (example number, experts) pairs."""
        keys = [
            (self._router if request.is_routed else "", question, request)
            for question, request in zip(questions, requests, strict=True)
        ]
        todo = list(dict.fromkeys(key for key in keys if key not in self._known))
        for rows in self._batches([question for _, question, _ in todo]):
            batch = self.collate([todo[row][1] for row in rows])
            plan = build_step_plan([todo[row][2] for row in rows], [batch.ids.shape[1]] * len(rows))
            with self.mixture.running(plan):
                right, nll = answer_scores(self.model, batch)
            for row, is_right, loss in zip(rows, right.tolist(), nll.tolist(), strict=True):
                self._known[todo[row]] = (is_right, loss)
        found = [self._known[key] for key in keys]
        return Outcomes(np.array([r for r, _ in found], np.bool_), np.array([n for _, n in found], np.float32))

    def token_scores(
        self, questions: Sequence[int], requests: Sequence[RequestMixture]
    ) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
        """Of each pair whether each token of the answer and its end is that of greedy decoding, and its nats."""
        found: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]] = [_NOTHING] * len(questions)
        for rows in self._batches(questions):
            batch = self.collate([questions[row] for row in rows])
            plan = build_step_plan([requests[row] for row in rows], [batch.ids.shape[1]] * len(rows))
            with self.mixture.running(plan):
                for row, scores in zip(rows, answer_token_scores(self.model, batch), strict=True):
                    found[row] = scores
        return found

    def rival_outcomes(
        self, questions: Sequence[int], requests: Sequence[RequestMixture], make_form: MakeForm
    ) -> Outcomes:
        """The same for a rival with a compute form of its own; `requests` only say who may use which adapters."""
        right = np.zeros(len(questions), np.bool_)
        nll = np.zeros(len(questions), np.float32)
        for rows in self._batches(questions):
            batch = self.collate([questions[row] for row in rows])
            plan = build_step_plan([requests[row] for row in rows], [batch.ids.shape[1]] * len(rows))
            with torch.no_grad(), self.mixture.running_step(Step(plan, make_form(plan, batch))):
                right[rows], nll[rows] = answer_scores(self.model, batch)
        return Outcomes(right, nll)

    def _batches(self, questions: Sequence[int]) -> list[list[int]]:
        """Rows of like length together: little is padded, and short segments stay short."""
        lengths = np.array([len(self.examples[question].ids) for question in questions], np.int64)
        order = np.argsort(lengths, kind="stable").tolist()
        batches: list[list[int]] = []
        while order:
            size = min(MAX_ROWS, len(order))
            while size > 1 and size * lengths[order[size - 1]] > MAX_TOKENS:
                size -= 1
            batches.append(order[:size])
            order = order[size:]
        return batches

    def collate(self, questions: Sequence[int]) -> PaddedBatch:
        """Examples by number as one batch on the model's device."""
        batch = collate([self.examples[question] for question in questions], pad=self.pad)
        return batch.to(next(self.model.parameters()).device)
