"""One retriever from a folder of adapters to an artefact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramole.core.errors import InvalidInput
from ramole.core.settings import PAPER_INSTRUCTION
from ramole.embedding.encoder import MINILM, Encoder, digest_of, locate, open_model
from ramole.embedding.fingerprint import Fingerprint
from ramole.embedding.retriever import MANIFEST, FingerprintOf, LinearMap, Mode, Read, Retriever
from ramole.lab.training.retriever import RetrieverRecipe, save, train_encoder
from ramole.lab.training.texts import AdapterTexts, choose, read_texts
from ramole.lab.training.whitening import fit_whitening

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, float], None]

_BATCH = 64
ZERO_SHOT = "zero_shot"


@dataclass(frozen=True, slots=True)
class RetrieverJob:
    """What to train.

    Attributes:
        adapters: folder of PEFT folders with their texts, see `training.texts`.
        share: of the adapters to train with; the others are the unseen ones.
        is_whitened: whether the artefact gets a linear map.
        fingerprint: folder or hub id of the base model, to read its hidden states as well; '' = the encoder alone.
        read: at which tokens.
    """

    adapters: Path
    out: Path
    base: str = MINILM
    recipe: RetrieverRecipe = field(default_factory=RetrieverRecipe)
    share: float = 0.4
    is_whitened: bool = False
    fingerprint: str = ""
    read: Read = Read.LAST
    instruction: str = PAPER_INSTRUCTION
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Vectors:
    """Of all adapters' samples, N x [m, d], of all queries, [n, d], and of what else is measured, [n', d]."""

    samples: list[Floats]
    queries: Floats
    others: Floats

    def mapped(self, linear_map: LinearMap) -> Vectors:
        """The same under another metric."""
        others = linear_map(self.others) if len(self.others) else self.others
        return Vectors([linear_map(one) for one in self.samples], linear_map(self.queries), others)


Measure = Callable[[Sequence[AdapterTexts], npt.NDArray[np.bool_], Mapping[str, Vectors], str], dict[str, Any]]
"""(all texts, which were trained on, the vectors of every retriever on the way, the final one's name) -> figures."""


MoreTexts = Callable[[Sequence[AdapterTexts]], Sequence[str]]
"""What `Measure` wants embedded besides, in the order of `Vectors.others`."""


def run_retriever_job(
    job: RetrieverJob,
    *,
    measure: Measure,
    more: MoreTexts = lambda texts: (),
    progress: Progress = lambda what, fraction: None,
) -> Retriever:
    """Trains, has it measured, saves.

    Args:
        measure: makes the figures that the artefact carries.
        more: texts that it needs beside samples and queries.

    Raises:
        NotFound, InvalidInput: the texts can not be used, or `out` holds a retriever.
        WrongState: the base can not be trained like this, or `out` holds checkpoints of another training.
    """
    if (job.out / MANIFEST).exists():
        raise InvalidInput(f"there is a retriever in {str(job.out)!r}", field="--out", remedy="give another folder")
    if job.recipe.mode is Mode.NONE and not job.is_whitened:
        raise InvalidInput("nothing is left to train", field="--mode", remedy="train the encoder, or whiten")
    if job.fingerprint and not job.is_whitened:
        raise InvalidInput("two views without a common metric", field="--no-whiten", remedy="leave it out")
    texts = read_texts(job.adapters)
    tasks = choose(texts, job.share, seed=job.seed)
    names = {task.name for task in tasks}
    is_seen = np.array([one.name in names for one in texts])
    model = train_encoder(
        job.base,
        tasks,
        job.recipe,
        instruction=job.instruction,
        seed=job.seed,
        out_dir=job.out,
        device=job.device,
        progress=lambda fraction: progress("training", fraction),
    )
    plain = open_model(job.base, locate(job.base))
    others = more(texts)
    vectors = {
        name: embed(Encoder(one, "", job.instruction), texts, others, lambda done: progress("measuring", done))
        for name, one in ((ZERO_SHOT, plain), ("tuned", model))
        if name == ZERO_SHOT or job.recipe.mode is not Mode.NONE
    }
    mark: FingerprintOf | None = None
    if job.fingerprint:
        folder = locate(job.fingerprint)
        base = Fingerprint.open(folder, read=job.read)
        mark = FingerprintOf(digest_of(folder), base.layers, job.read)
        both = Encoder(model, "", job.instruction, fingerprint=base)
        vectors["fingerprint"] = embed(both, texts, others, lambda done: progress("measuring", done))
    maps = {
        name: fit_whitening([one for one, seen in zip(v.samples, is_seen, strict=True) if seen])
        for name, v in vectors.items()
    }
    last = list(vectors)[-1]
    linear_map = maps[last] if job.is_whitened else None
    every = vectors | {f"{name}_whitened": vectors[name].mapped(one) for name, one in maps.items()}
    return save(
        job.out,
        model,
        linear_map,
        base=job.base,
        instruction=job.instruction,
        recipe=job.recipe,
        tasks=tasks,
        seed=job.seed,
        figures=measure(texts, is_seen, every, f"{last}_whitened" if job.is_whitened else last),
        fingerprint=mark,
    )


def embed(
    encoder: Encoder, texts: Sequence[AdapterTexts], others: Sequence[str], progress: Callable[[float], None]
) -> Vectors:
    """All texts, each different one once."""
    parts = [*(one.samples for one in texts), *(one.queries for one in texts), others]
    # By length: a batch is as long as its longest text.
    distinct = sorted({text for part in parts for text in part}, key=len)
    row = {text: i for i, text in enumerate(distinct)}
    blocks = []
    for start in range(0, len(distinct), _BATCH):
        blocks.append(encoder.encode(distinct[start : start + _BATCH]))
        progress(min(1.0, (start + _BATCH) / len(distinct)))
    table = np.concatenate(blocks)
    rows = [table[[row[text] for text in part]] for part in parts]
    return Vectors(rows[: len(texts)], np.concatenate(rows[len(texts) : -1]), rows[-1])
