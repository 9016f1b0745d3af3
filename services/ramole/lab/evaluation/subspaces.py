"""Which spaces the updates of adapters live in: how much two of them overlap, and how many dimensions all of them need.

An update B A of rank r reads r directions of a module's input (its row space) and writes r of its output (its column
space). All comparisons are made in rank space; B A itself is never built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ramole.lora.weights import AdapterWeights, LoraPair

Floats = npt.NDArray[np.float64]

MEASURES = ("rows", "columns", "cosine")
ENERGIES = (0.5, 0.9, 0.99)
REDUNDANT = 0.9
"""Cosine of two updates from which one of them says nothing new."""


@dataclass(frozen=True, slots=True)
class Update:
    """The singular value decomposition of one module's update, B A = left diag(values) right^T.

    Attributes:
        left: ``[o, r]``, an orthonormal basis of the column space.
        values: ``[r]``, descending.
        right: ``[d, r]``, one of the row space.
    """

    left: Floats
    values: Floats
    right: Floats

    @classmethod
    def of(cls, pair: LoraPair) -> Self:
        """Without directions that the update does not use."""
        a, b = pair.a.double().numpy(), pair.b.double().numpy()
        q, r = np.linalg.qr(b)
        p, s = np.linalg.qr(a.T)
        left, values, right = np.linalg.svd(r @ s.T)
        kept = int((values > 1e-9 * max(float(values[0]), 1e-30)).sum())
        return cls(q @ left[:, :kept], values[:kept], p @ right[:kept].T)

    @property
    def norm(self) -> float:
        """Frobenius norm of the update."""
        return float(np.sqrt((self.values**2).sum()))


Updates = Mapping[str, Update]


def updates_of(weights: AdapterWeights) -> dict[str, Update]:
    """By module; a module whose update is zero is left out."""
    found = {name: Update.of(pair) for name, pair in weights.pairs.items()}
    return {name: one for name, one in found.items() if one.norm > 0}


def angles(a: Floats, b: Floats) -> Floats:
    """Principal angles between the spaces of two orthonormal bases ``[d, r]`` and ``[d, s]``, radians, ascending."""
    found: Floats = np.arccos(np.clip(np.linalg.svd(a.T @ b, compute_uv=False), 0, 1))
    return found


def overlap(a: Update, b: Update, measure: str) -> float:
    """How much two updates of one module have in common, in [0, 1]; the cosine in [-1, 1].

    rows, columns: mean squared cosine of the principal angles: s / d in the mean for random spaces of dimension r <= s
    in d. cosine: of the updates as vectors.
    """
    if measure == "cosine":
        inner = (a.left.T @ b.left) * (a.right.T @ b.right)
        return float(a.values @ inner @ b.values) / (a.norm * b.norm)
    one, other = (a.right, b.right) if measure == "rows" else (a.left, b.left)
    return float((np.cos(angles(one, other)) ** 2).mean())


def overlaps(adapters: Sequence[Updates], measure: str) -> Floats:
    """Of all pairs, ``[N, N]``: the mean over the modules that both change; 0 where there is none, 1 with itself."""
    found = np.eye(len(adapters))
    for i, a in enumerate(adapters):
        for j in range(i):
            shared = a.keys() & adapters[j].keys()
            if shared:
                found[i, j] = found[j, i] = np.mean([overlap(a[name], adapters[j][name], measure) for name in shared])
    return found


def random_overlap(adapters: Sequence[Updates], measure: str) -> float:
    """What `overlap` would be in the mean, were all spaces random."""
    if measure == "cosine":
        return 0.0
    shares = [
        one.values.size / (one.right if measure == "rows" else one.left).shape[0]
        for adapter in adapters
        for one in adapter.values()
    ]
    return float(np.mean(shares))


def joint_dimensions(adapters: Sequence[Updates], measure: str) -> dict[str, dict[str, float]]:
    """How many dimensions hold a share of the energy of all updates together, each scaled to norm 1; by module.

    Returns:
        {module: {"50%", "90%", "99%": dimensions, "own": those that one update needs for 90 % in the mean, "sum": the
        sum of all ranks, "width": of the whole space}}.
    """
    found = {}
    for name in sorted({name for adapter in adapters for name in adapter}):
        parts = [adapter[name] for adapter in adapters if name in adapter]
        stacked = np.concatenate(
            [(one.right if measure == "rows" else one.left) * (one.values / one.norm) for one in parts], axis=1
        )
        energy = np.linalg.svd(stacked, compute_uv=False) ** 2
        found[name] = {
            **{f"{share:.0%}": float(_needed(energy, share)) for share in ENERGIES},
            "own": float(np.mean([_needed(one.values**2, 0.9) for one in parts])),
            "sum": float(stacked.shape[1]),
            "width": float(stacked.shape[0]),
        }
    return found


def clusters_of(similar: Floats, num_clusters: int) -> list[int]:
    """A cluster for each adapter, numbered from 0, by average linkage of 1 - `similar` [N, N]."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(similar) < 2:
        return [0] * len(similar)
    distances = squareform(np.clip(1 - similar, 0, None), checks=False)
    labels = fcluster(linkage(distances, "average"), num_clusters, "maxclust").tolist()
    order = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]


def _needed(energy: Floats, share: float) -> int:
    return int(np.searchsorted(np.cumsum(energy) / energy.sum(), share - 1e-12) + 1)
