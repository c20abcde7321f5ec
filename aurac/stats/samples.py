"""How much of a score's variance comes from sampling the answers: an analysis of variance.

``y[d, j] = μ + document_d + sample_dj``: the samples of a document are draws of its own, so their
spread is within documents and is part of the spread of the documents' means. An interval over
documents therefore covers both sources; this says how large each is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.errors import CurveError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Spread:
    """Variance components of the scores of n documents with K samples each.

    Attributes:
        samples: K.
        between: Variance of the documents' expected scores; 0 where its estimate is negative.
        within: Variance of the samples of one document.
    """

    samples: int
    between: float
    within: float

    @property
    def share(self) -> float | None:
        """Share of sampling in the variance of the mean over documents; None without variance."""
        sampling = self.within / self.samples
        total = self.between + sampling
        return sampling / total if total > 0 else None


def spread_of_samples(scores: NDArray[np.float64]) -> Spread:
    """One-way random-effects estimates from `scores` (n, K): mean squares within and between."""
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise CurveError(
            f"samples of shape {scores.shape}", expected="(documents, samples), from 2"
        )
    samples = scores.shape[1]
    within = float(scores.var(axis=1, ddof=1).mean())
    means = float(scores.mean(axis=1).var(ddof=1))
    return Spread(samples, max(means - within / samples, 0.0), within)
