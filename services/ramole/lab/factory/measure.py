"""What a finished world is like: whether its tasks need adapters, how hard it is to find them, who can stand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.lab.factory.base import open_base
from ramole.lab.factory.retrieval import Encode, Retriever
from ramole.lab.factory.routing import read_weights, with_slots
from ramole.lab.training.lm import Encoded, collate, encode, exact_matches
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.zoo.catalog import SEPARATOR, PairPrompt, Split, Zoo

K = 3
BATCH = 64

BoolArray = npt.NDArray[np.bool_]


def world(zoo: Zoo, encode_texts: Encode, progress: Callable[[float], None]) -> dict[str, Any]:
    """The figures of a zoo.

    Returns:
        By group of tasks (all, train, dev, test, and of these the new skills): exact match of the base and of the own
        adapter, zero-shot top-1 and top-3, exact match of SELECTION, and, the own adapter hidden, the best of the
        three nearest. For two-skill prompts: exact match of either adapter alone, of both at full strength and at
        half of it, and of the halves of the answer when each comes from its own adapter.
    """
    model, tokenizer = open_base(zoo.base_path)
    mixture = with_slots(model, [read_weights(adapter.path) for adapter in zoo.adapters], router_rank=1)
    asker = _Asker(model, mixture, tokenizer)
    retriever = Retriever.build(encode_texts, [adapter.samples for adapter in zoo.adapters])
    columns: dict[str, list[float]] = {name: [] for name in ("base", "own", "top-1", "top-3", "selection", "stand-in")}
    for number, adapter in enumerate(zoo.adapters):
        progress(number / (len(zoo.adapters) + 1))
        nearest = np.argsort(-retriever.similarities([e.prompt for e in adapter.prompts]), axis=1, kind="stable")
        others = np.stack([row[row != number][:K] for row in nearest])
        examples = [encode(tokenizer, e.prompt, e.answer) for e in adapter.prompts]
        first, *rest = (asker.right(examples, [[int(i) + 1] for i in column]) for column in (nearest[:, 0], *others.T))
        columns["base"].append(adapter.base_exact_match)
        columns["own"].append(adapter.exact_match)
        columns["top-1"].append(float((nearest[:, 0] == number).mean()))
        columns["top-3"].append(float((nearest[:, :K] == number).any(1).mean()))
        columns["selection"].append(float(first.mean()))
        columns["stand-in"].append(float(np.any(rest, axis=0).mean()))
    figures: dict[str, Any] = {
        group: {"tasks": int(rows.sum())} | {name: _mean(np.array(column)[rows]) for name, column in columns.items()}
        for group, rows in _groups(zoo)
    }
    figures["two skills"] = _two_skills(zoo, asker)
    progress(1.0)
    return figures


class _Asker:
    def __init__(self, model: Any, mixture: Mixture, tokenizer: Any) -> None:
        self.model, self.mixture, self.tokenizer = model, mixture, tokenizer

    def right(self, examples: Sequence[Encoded], slots: Sequence[Sequence[int]], scale: float = 1.0) -> BoolArray:
        """Whether each example is answered right when the adapters in these slots share it equally."""
        found: list[bool] = []
        for start in range(0, len(examples), BATCH):
            batch = collate(examples[start : start + BATCH], pad=self.tokenizer.pad_token_id)
            mixtures = []
            for chosen in slots[start : start + BATCH]:
                composition = Composition(Weighting.UNIFORM, Merge.OUTPUTS, k=len(chosen), scale=scale)
                mixtures.append(RequestMixture.build(composition, [Expert(digest="")] * len(chosen), list(chosen)))
            plan = build_step_plan(mixtures, [batch.ids.shape[1]] * len(mixtures))
            with self.mixture.running(plan):
                found += exact_matches(self.model, batch)
        return np.array(found)


def _two_skills(zoo: Zoo, asker: _Asker) -> dict[str, float]:
    slot = {adapter.name: i for i, adapter in enumerate(zoo.adapters, start=1)}
    pairs = [[slot[name] for name in pair.adapters] for pair in zoo.pairs]
    whole = [encode(asker.tokenizer, pair.prompt, pair.answer) for pair in zoo.pairs]
    halves = [_halves(asker.tokenizer, pair) for pair in zoo.pairs]
    first = asker.right([half[0] for half in halves], [pair[:1] for pair in pairs])
    second = asker.right([half[1] for half in halves], [pair[1:] for pair in pairs])
    return {
        "prompts": len(pairs),
        "first alone": _mean(asker.right(whole, [pair[:1] for pair in pairs])),
        "second alone": _mean(asker.right(whole, [pair[1:] for pair in pairs])),
        "both, mean": _mean(asker.right(whole, pairs)),
        "both, sum": _mean(asker.right(whole, pairs, scale=2.0)),
        "first half by first": _mean(first),
        "second half by second": _mean(second),
        "each half by its own": _mean(first & second),
    }


def _halves(tokenizer: Any, pair: PairPrompt) -> tuple[Encoded, Encoded]:
    """The first answer with the separator; and the second answer, given all that."""
    first = encode(tokenizer, pair.prompt, pair.answers[0] + SEPARATOR.rstrip())
    whole = encode(tokenizer, pair.prompt, pair.answer)
    cut = len(first.ids) - 1
    return Encoded(whole.ids[:cut], first.num_prompt), Encoded(whole.ids, cut)


def _groups(zoo: Zoo) -> Iterator[tuple[str, BoolArray]]:
    yield "all", np.full(len(zoo.adapters), True)
    for split in Split:
        yield split.value, np.array([adapter.split is split for adapter in zoo.adapters])
    yield "new skills", np.array([adapter.is_new_skill for adapter in zoo.adapters])


def _mean(values: npt.NDArray[Any]) -> float:
    return round(float(values.mean()), 4) if values.size else float("nan")
