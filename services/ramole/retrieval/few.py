"""Doubt where adapters are few: a prompt's similarity beside what the nearest adapter's own samples score with it.

Too few adapters tell nothing of how their repository looks, so what a world of many small ones taught is a constant
here: a logistic function of z, the distance from the mean in standard deviations, and of the number of adapters. It
takes no notice of which encoder made the vectors: each adapter brings its own scale (docs/adr/0032).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ramole.retrieval.doubt import KNOWN_SHARE, own_similarity

MIN_SAMPLES = 3
"""Fewer have no deviation worth the name."""

_PER_DEVIATION, _PER_LOG_NUMBER, _BIAS = 0.56, -0.53, 3.35
_MIN_DEVIATION = 0.01


@dataclass(frozen=True, slots=True)
class OwnScores:
    """What an adapter's samples score with it, each one left out: mean and standard deviation, cosines."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, samples: npt.NDArray[np.float32], best_of: int) -> Self | None:
        """None where there are fewer than MIN_SAMPLES.

        Args:
            samples: unit vectors, ``[m, dim]``.
            best_of: see `ranking`; 0 = the mean.
        """
        if len(samples) < MIN_SAMPLES:
            return None
        scores = [own_similarity(samples, i, best_of) for i in range(len(samples))]
        return cls(float(np.mean(scores)), float(np.std(scores)))

    def doubt(self, similarity: float, num_adapters: int) -> float:
        """How likely it is that no adapter was made for a prompt, in [0, 1].

        Args:
            similarity: of the prompt and this adapter, the nearest one.
            num_adapters: among which it is the nearest.
        """
        z = (similarity - self.mean) / max(self.deviation, _MIN_DEVIATION)
        score = _PER_DEVIATION * z + _PER_LOG_NUMBER * math.log(max(1, num_adapters)) + _BIAS
        score += math.log(KNOWN_SHARE / (1 - KNOWN_SHARE))
        return 1 / (1 + math.exp(min(score, 700.0)))
