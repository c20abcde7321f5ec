"""Outcomes drawn for the tests of the statistics."""

from __future__ import annotations

import numpy as np

from aurac.curves.curve import Curve


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def two(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    draw = rng(seed)
    a = draw.random(n) * 0.5
    return a, np.clip(a + draw.normal(0.05, 0.2, n), 0, 1)


def items(rng: np.random.Generator, m: int, n: int, shift: float = 0.0) -> np.ndarray:
    """(m, n) areas of m adapters; the last one is better by `shift` on the latent scale."""
    hard = rng.standard_normal(n)
    own = 0.8 * rng.standard_normal((m, 1, n))
    own[-1] += shift
    return (hard + own + 0.5 * rng.standard_normal((m, 4, n)) > 0).mean(axis=1)


def curves(rng: np.random.Generator, names: str, n: int = 200, **labels: object) -> list[Curve]:
    hard = rng.standard_normal(n)
    docs = tuple(f"d{i}" for i in range(n))
    return [
        Curve.from_outcomes(
            [1, 2, 4],
            (hard + 0.4 * rng.standard_normal((3, n)) > 0).astype(float),
            adapter=name,
            doc_ids=docs,
            **labels,
        )
        for name in names
    ]
