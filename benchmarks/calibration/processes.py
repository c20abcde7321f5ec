"""The data-generating processes of the simulations.

`outcomes` and `areas` draw documents from a latent probit: a document of difficulty u is solved at
rank k where ``m_k + √ρ·u + √(1-ρ)·e > 0``, so that ranks, and two adapters, agree on most of them.
The truth is ``Σ_k w_k Φ(m_k)``. `Logistic` draws another way, with noise that persists over ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from aurac.curves.area import quadrature_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKS = tuple(2**i for i in range(9))
WEIGHTS = quadrature_weights(RANKS, "log2")
SIZES = (50, 200, 1319)
MIDDLE = np.linspace(0.30, 0.60, 9)
SHARED = 0.7  # ρ: ranks and adapters agree on most documents


def outcomes(
    rng: np.random.Generator,
    n: int,
    accuracy: NDArray[np.float64],
    *,
    hard: NDArray[np.float64] | None = None,
    shared: float = SHARED,
) -> NDArray[np.float64]:
    """(K, n) 0/1 scores; `hard` (n,) standard normal is the documents' own part."""
    u = rng.standard_normal(n) if hard is None else hard
    noise = rng.standard_normal((accuracy.size, n))
    latent = ndtri(accuracy)[:, None] + np.sqrt(shared) * u + np.sqrt(1 - shared) * noise
    return (latent > 0).astype(np.float64)


def areas(
    rng: np.random.Generator,
    n: int,
    accuracy: NDArray[np.float64],
    *,
    hard: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """(n,) AURAC of every document."""
    return WEIGHTS @ outcomes(rng, n, accuracy, hard=hard)


def group_of_seeds(
    rng: np.random.Generator, hard: NDArray[np.float64], seeds: int, shift: float, spread: float
) -> NDArray[np.float64]:
    """(S, n) areas of one group whose latent mean moves by N(shift, spread²) with the seed."""
    moved = [ndtr(ndtri(MIDDLE) + shift + spread * rng.standard_normal()) for _ in range(seeds)]
    return np.stack([areas(rng, hard.size, accuracy, hard=hard) for accuracy in moved])


@dataclass(frozen=True)
class Logistic:
    """Items on a logistic scale whose noise persists over ranks: no process of the probit above.

    Document d is solved at rank k under seed s of group i where
    ``ability_ik + seed_is + ease_d + between_isd + held_isd + fresh_isdk > 0``, with standard
    logistic noise of which the share `held` of the variance is the same at all ranks.

    Attributes:
        ability: (K,) of the group, logits.
        ease: Standard deviation of the documents' ease, logits.
        seed: Standard deviation of the seeds' shifts, logits.
        between: Standard deviation of the seed × document interaction, logits.
        held: Share of the noise that persists over ranks.
    """

    ability: NDArray[np.float64] = field(default_factory=lambda: np.linspace(-1.0, 0.6, 9))
    ease: float = 1.5
    seed: float = 0.0
    between: float = 0.0
    held: float = 0.5

    def group(
        self, rng: np.random.Generator, ease: NDArray[np.float64], seeds: int = 1
    ) -> NDArray[np.float64]:
        """(S, n) AURAC of each document under each seed; `ease` (n,) is standard normal."""
        n = ease.size
        shift = self.seed * rng.standard_normal((seeds, 1))
        own = self.between * rng.standard_normal((seeds, n))
        kept = np.sqrt(self.held) * rng.logistic(size=(seeds, 1, n))
        fresh = np.sqrt(1 - self.held) * rng.logistic(size=(seeds, self.ability.size, n))
        latent = (shift + own + self.ease * ease)[:, None] + self.ability[:, None] + kept + fresh
        return np.einsum("k,skn->sn", quadrature_weights_of(self.ability.size), latent > 0)

    def truth(self, draws: int = 400_000) -> float:
        """The mean AURAC over documents and seeds, by simulation from a seed of its own."""
        rng = np.random.default_rng(0)
        total = np.hypot(self.ease, np.hypot(self.seed, self.between)) * rng.standard_normal(draws)
        noise = np.sqrt(self.held) * rng.logistic(size=draws)
        noise += np.sqrt(1 - self.held) * rng.logistic(size=draws)
        shares = [(m + total + noise > 0).mean() for m in self.ability]
        return float(quadrature_weights_of(self.ability.size) @ shares)


def quadrature_weights_of(count: int) -> NDArray[np.float64]:
    """(K,) weights of ranks 1, 2, 4, … on the log2 axis."""
    return quadrature_weights(tuple(2**i for i in range(count)), "log2")
