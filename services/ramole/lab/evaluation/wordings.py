"""The same request in other words: what a retriever must bear, made from the samples and prompts that there are.

An adapter's samples share a few wordings, and test prompts often share them too. Then counting words is enough, and a
retriever that has learned the wordings by heart looks perfect. Four kinds of prompts, of which the last three tell:

| kind  | prompt                                                        | found among                          |
|-------|---------------------------------------------------------------|--------------------------------------|
| given | the adapter's test prompt as it is                            | all samples                          |
| new   | a sample                                                      | the samples of other wordings        |
| bare  | a test prompt without its cues ("Answer:", "Review:")         | all samples                          |
| chat  | a test prompt as a chat template writes it                    | all samples                          |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.lab.evaluation.retrieval import accuracy, gain, hits, score

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

MAX_PER_TASK = 8
"""Prompts of each kind and task."""

_MIN_SHARE, _MIN_COUNT = 0.12, 2
_MAX_DISTANCE = 0.6
_CUE = re.compile(r"^[^\n:]{0,60}:\s*$")
_LEAD = re.compile(r"^[A-Z][\w' ]{0,30}: ")
_WORD = re.compile(r"[^\W\d_]+")


class Kind(StrEnum):
    """Which prompts are asked."""

    GIVEN = "given"
    NEW = "new"
    BARE = "bare"
    CHAT = "chat"


def wordings(samples: Sequence[str]) -> list[int]:
    """The wording of each sample, numbered from 0: samples of one wording share the words that are no input.

    Words that several samples have are the adapter's phrases; samples are put together by those they have in common.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(samples) < 2:
        return [0] * len(samples)
    words = [set(_WORD.findall(sample.lower())) for sample in samples]
    counts = Counter(word for one in words for word in one)
    least = max(_MIN_COUNT, _MIN_SHARE * len(samples))
    phrases = [{word for word in one if counts[word] >= least} for one in words]
    distances = np.array([[1 - _jaccard(a, b) for b in phrases] for a in phrases])
    np.fill_diagonal(distances, 0)
    labels = fcluster(linkage(squareform(distances), "average"), _MAX_DISTANCE, "distance")
    order = {label: i for i, label in enumerate(dict.fromkeys(labels.tolist()))}
    return [order[label] for label in labels.tolist()]


def bare(prompt: str) -> str:
    """Without a cue line at its end and without labels at the begin of its lines; as it is where nothing else is left.

    >>> bare("Review: a fine film\\nSentiment:")
    'a fine film'
    """
    lines = prompt.strip().split("\n")
    if len(lines) > 1 and _CUE.match(lines[-1]):
        lines = lines[:-1]
    return "\n".join(_LEAD.sub("", line) for line in lines).strip() or prompt


def chat(prompt: str) -> str:
    """As the most common template (ChatML) writes a single message of a user."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts of one kind.

    Attributes:
        texts: n prompts.
        own: number of the adapter that each was made for, [n].
        left_out: of the own adapter, the samples that share the prompt's wording, by number; empty = none.
    """

    texts: tuple[str, ...]
    own: Ints
    left_out: tuple[frozenset[int], ...]

    def of_rows(self, rows: npt.NDArray[np.bool_]) -> Asked:
        """Some of the prompts."""
        numbers = np.flatnonzero(rows).tolist()
        return Asked(tuple(self.texts[i] for i in numbers), self.own[rows], tuple(self.left_out[i] for i in numbers))


def asked(samples: Sequence[Sequence[str]], queries: Sequence[str], own: Ints) -> dict[Kind, Asked]:
    """Prompts of every kind, at most MAX_PER_TASK of each task; kinds without prompts are left out.

    Args:
        samples: of each adapter.
        queries: test prompts.
        own: number of the adapter that was made for each, [n].
    """
    rows = np.concatenate([np.flatnonzero(own == task)[:MAX_PER_TASK] for task in np.unique(own)])
    texts, owners = [queries[row] for row in rows], own[rows]
    nothing = (frozenset[int](),) * len(texts)
    found = {
        Kind.GIVEN: Asked(tuple(texts), owners, nothing),
        Kind.BARE: Asked(tuple(map(bare, texts)), owners, nothing),
        Kind.CHAT: Asked(tuple(map(chat, texts)), owners, nothing),
    }
    new: list[tuple[str, int, frozenset[int]]] = []
    for number, group in enumerate(samples):
        labels = wordings(group)
        if max(labels, default=0) == 0:
            continue
        # Of each wording a few, in turn.
        turns = sorted(range(len(group)), key=lambda i: (labels[:i].count(labels[i]), i))[:MAX_PER_TASK]
        new += [(group[i], number, frozenset(j for j, label in enumerate(labels) if label == labels[i])) for i in turns]
    if new:
        found[Kind.NEW] = Asked(
            tuple(text for text, _, _ in new), np.array([n for _, n, _ in new]), tuple(out for _, _, out in new)
        )
    return found


def scores_of(one: Asked, prompts: Floats, samples: Sequence[Floats]) -> Floats:
    """Cosine of each prompt with each adapter's mean, [n, N]; its own adapter is without what is left out.

    Args:
        prompts: unit vectors, [n, d].
        samples: unit vectors of each adapter, N x [m, d].
    """
    found = score(prompts, samples).copy()
    for row, (owner, out) in enumerate(zip(one.own.tolist(), one.left_out, strict=True)):
        if out:
            rest = np.delete(samples[owner], sorted(out), axis=0)
            found[row, owner] = score(prompts[row : row + 1], [rest])[0, 0]
    return found


def judge(
    kinds: Mapping[Kind, Asked],
    vectors: Mapping[str, Mapping[Kind, Floats]],
    samples: Mapping[str, Sequence[Floats]],
    *,
    clusters: Sequence[str],
    reference: str,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every retriever on every kind of prompts, and its paired gain over the reference.

    Args:
        vectors: of each retriever, those of the prompts.
        samples: of each retriever, those of each adapter's samples.

    Returns:
        {kind: {retriever: {"top1", "top3", ..., "top1_gain": {"score", "low", "high"}}}}; "all" pools new, bare and
        chat. The reference has no gain.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    seen: dict[str, list[tuple[dict[str, npt.NDArray[np.bool_]], Ints]]] = {name: [] for name in vectors}
    for kind, one in kinds.items():
        for name, of_kind in vectors.items():
            seen[name].append((hits(scores_of(one, of_kind[kind], samples[name]), one.own, clusters), one.own))
        found[kind] = _compared({name: each[-1] for name, each in seen.items()}, reference)
    others = [i for i, kind in enumerate(kinds) if kind is not Kind.GIVEN]
    if others:
        pooled = {name: _pooled([each[i] for i in others]) for name, each in seen.items()}
        found["all"] = _compared(pooled, reference)
    return found


def is_proven(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], name: str) -> bool:
    """Whether a retriever is better than the reference with confidence on wordings that no sample has."""
    return bool(figures and figures.get("all", {}).get(name, {}).get("top1_gain", {"low": 0})["low"] > 0)


def _compared(
    found: Mapping[str, tuple[Mapping[str, npt.NDArray[np.bool_]], Ints]], reference: str
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, (values, own) in found.items():
        rows[name] = dict(accuracy(values, own))
        if name != reference:
            rows[name]["top1_gain"] = gain(values["top1"], found[reference][0]["top1"], own)
    return rows


def _pooled(
    parts: Sequence[tuple[Mapping[str, npt.NDArray[np.bool_]], Ints]],
) -> tuple[dict[str, npt.NDArray[np.bool_]], Ints]:
    names = parts[0][0]
    return {name: np.concatenate([values[name] for values, _ in parts]) for name in names}, np.concatenate(
        [own for _, own in parts]
    )


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0
