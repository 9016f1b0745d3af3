"""Prompts of two tasks answered in parts: boundaries, retrieval and mixtures as the server makes them.

Exact match is by teacher forcing, as in `answers`: an answer that is right has its parts where the right one has them,
and what a mixture makes of the tokens before a part is what its own prefill makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ramole.core.bounds import MAX_EXPERTS
from ramole.core.composition import Composition
from ramole.executor.detokenizer import Detokenizer, Vocabulary
from ramole.executor.text import TextStream
from ramole.lab.evaluation.answers import Answerer, Outcomes
from ramole.lab.evaluation.views import request
from ramole.lab.memory_index import MemoryIndex
from ramole.lab.training.lm import Encoded
from ramole.mixture.plan import RequestMixture
from ramole.retrieval.doubt import Doubt

Plan = list[tuple[int, RequestMixture]]
"""Of one answer: the tokens of it that there are when a part begins, and the part's mixture."""


def ends_of_parts(example: Encoded, vocabulary: Vocabulary, separators: Sequence[str]) -> list[int]:
    """How many tokens of the answer there are behind each part but the last."""
    answer, ends = example.ids[example.num_prompt :], []
    stream = TextStream(Detokenizer(vocabulary), separators=separators)
    for count, token in enumerate(answer, start=1):
        stream.push(token)
        if stream.is_part and count < len(answer):
            ends.append(count)
            stream = TextStream(Detokenizer(vocabulary), separators=separators, answer=answer[:count])
    return ends


@dataclass(frozen=True, slots=True)
class InParts:
    """n questions that are to be answered in parts.

    Args:
        prompts: their texts.
        index: the adapters of the answerer.
        doubt: that of the repository; heeded by first parts, as in the server.
        separators: of the composition.
    """

    answerer: Answerer
    questions: Sequence[int]
    prompts: Sequence[str]
    index: MemoryIndex
    vocabulary: Vocabulary
    doubt: Doubt | None
    separators: Sequence[str]

    def bound(self, pairs: Sequence[tuple[int, int]], alone: Composition) -> Outcomes:
        """Each part by the adapter that was made for it, which is what no routing knows."""
        return self.outcomes(
            [
                [(start, request(alone, [own])) for start, own in zip([0, *self.ends(question)], pair, strict=False)]
                for question, pair in zip(self.questions, pairs, strict=True)
            ]
        )

    def rerouted(
        self, composition: Composition, *, named: Sequence[Sequence[int]] = (), max_parts: int = 2
    ) -> Outcomes:
        """The retriever is asked again behind each part, and leaves out who has answered.

        Args:
            named: of each question, the adapters that it names: each part is the nearest one's; () = all are looked at.
        """
        starts = [[0, *self.ends(question)][:max_parts] for question in self.questions]
        plans: list[Plan] = [[] for _ in self.questions]
        answered: list[list[int]] = [[] for _ in self.questions]
        for part in range(max_parts):
            rows = [row for row, found in enumerate(starts) if part < len(found)]
            if not rows:
                break
            examples = [self.answerer.examples[self.questions[row]] for row in rows]
            tokens = [
                one.ids[one.num_prompt : one.num_prompt + starts[row][part]]
                for row, one in zip(rows, examples, strict=True)
            ]
            similarities = self.index.similarities([self.prompts[row] for row in rows], tokens if part else ())
            for row, near in zip(rows, similarities, strict=True):
                order = [int(i) for i in np.argsort(-near, kind="stable") if i not in answered[row]]
                doubt = self.doubt([float(near[i]) for i in order[:MAX_EXPERTS]]) if self.doubt and not part else None
                mixed = composition.doubting(doubt)
                if named:
                    order, mixed = [i for i in order if i in named[row]], replace(composition, k=1)
                if order:  # else who answered last goes on
                    plans[row].append((starts[row][part], request(mixed, order[: mixed.k], near)))
                    answered[row].append(order[0])
        return self.outcomes(plans)

    def ends(self, question: int) -> list[int]:
        """See `ends_of_parts`."""
        return ends_of_parts(self.answerer.examples[question], self.vocabulary, self.separators)

    def outcomes(self, plans: Sequence[Plan]) -> Outcomes:
        """What the answers gave, each token by the mixture of its part."""
        flat = [(row, mixture) for row, plan in enumerate(plans) for _, mixture in plan]
        scores = self.answerer.token_scores([self.questions[row] for row, _ in flat], [mixture for _, mixture in flat])
        right = np.zeros(len(plans), np.bool_)
        nll = np.zeros(len(plans), np.float32)
        taken = 0
        for row, plan in enumerate(plans):
            parts = scores[taken : taken + len(plan)]
            taken += len(plan)
            ends = [*(start for start, _ in plan[1:]), None]
            kept = [
                (is_right[start:end], losses[start:end])
                for (start, _), end, (is_right, losses) in zip(plan, ends, parts, strict=True)
            ]
            right[row] = all(bool(one.all()) for one, _ in kept)
            nll[row] = np.concatenate([one for _, one in kept]).mean()
        return Outcomes(right, nll)


def vocabulary_of(base: Any) -> Vocabulary:
    """Of the tokenizer in a folder."""
    from transformers import AutoTokenizer

    return Vocabulary.of(AutoTokenizer.from_pretrained(base, local_files_only=True).backend_tokenizer)
