"""The spread of outcomes that a plan assumes, and outcomes drawn with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aurac.errors import CurveError
from aurac.stats.intervals import interval
from aurac.stats.seeds import Components

CONFIDENCE = 0.95  # of a pilot's upper limits, one-sided
# Share of the variance of one pair of checkpoints over documents that may change with the seed,
# where nobody has seen it: between the methods of reports/study it is .44 to
# .89, with LoRA by SVD .57 to 1.
INTERACTION = 0.75


@dataclass(frozen=True)
class Spread:
    """What makes a paired difference (or one adapter's mean) vary.

    Attributes:
        document: Variance over documents of the seeds' average with many seeds.
        seed: Variance over training seeds of one recipe group's true mean.
        rest: Variance of a document's score that changes with the seed (documents × seeds).
        groups: 2 for a difference, 1 for one adapter or the loss of one of its ranks.
        source: Where the numbers come from.
        changed: Share of the documents whose score differs between two checkpoints, where known;
            without an effect half of them gain. None: every document differs a little.
        mean: One adapter's score, for the question "interval".
        upper: The same at the upper 95 % confidence limits, where the numbers are estimates.
        interaction: Largest share of `single` that is taken as documents × seeds where nothing was
            seen of it, `rest` being 0; 0 where it was measured.
    """

    document: float
    seed: float = 0.0
    rest: float = 0.0
    groups: int = 2
    source: str = "assumed"
    changed: float | None = None
    mean: float = 0.5
    upper: Spread | None = None
    interaction: float = 0.0

    def shared(self, share: float) -> Spread:
        """The same for one checkpoint in each group, with this share as documents × seeds."""
        rest = share * self.single / self.groups
        return replace(self, document=(1.0 - share) * self.single, rest=rest, interaction=0.0)

    @property
    def single(self) -> float:
        """Variance over documents with one checkpoint in each group."""
        return self.document + self.groups * self.rest

    @property
    def largest_effect(self) -> float | None:
        """The mean difference if every change were a gain; None where `changed` is not known."""
        return None if self.changed is None else float(np.sqrt(self.single * self.changed))


def spread_of_flips(flip_rate: float) -> Spread:
    """The spread of a paired 0/1 difference when `flip_rate` of the documents change.

    Raises:
        CurveError: A share out of range.
    """
    if not 0.0 < flip_rate <= 1.0:
        raise CurveError(f"flip rate {flip_rate:g}", expected="a share in (0, 1]")
    source = f"flip rate {flip_rate:g}"
    return Spread(flip_rate, source=source, changed=flip_rate, interaction=INTERACTION)


def spread_of_pilot(
    parts: Components, documents: int, *, changes: NDArray[np.float64] | None = None
) -> Spread:
    """The spread seen in a pilot: take its components apart into documents, seeds, and the rest.

    The upper limits are one-sided at 95 %: for the variance over documents that of the mean square
    of `changes` (near 0 Clopper-Pearson, so that a pilot without differences has one), else
    ``df·s²/χ²``; for the variance over seeds ``df·s²/χ²`` on the groups' ``Σ (S - 1)``.

    Args:
        parts: Of the pilot's difference or mean.
        documents: The pilot's number of documents (or clusters' documents).
        changes: (n,) differences between two single checkpoints, for independent documents; leave
            it out for clusters.
    """
    many = [group for group in parts.groups if group.seeds > 1]
    arms = 2 if parts.paired else 1  # a difference within each seed has the variances of both

    def mean(numbers: Iterable[float]) -> float:
        return float(np.mean(list(numbers) or [0.0]))

    seed = mean(max(0.0, group.seeds * (group.between - group.rest)) / arms for group in many)
    rest = mean(group.seeds * group.rest * documents / arms for group in many)
    # The document term of a pilot with S seeds holds rest/S for each group.
    inside = sum(arms * rest / group.seeds for group in many)
    document = max(parts.document * documents - inside, 0.0)
    changed = None
    if changes is not None:
        changed = float(np.mean(np.abs(changes) > 1e-12))
        document += parts.value**2  # the mean square: a plan has an effect of its own
    source = f"pilot of {documents} documents"
    if many:
        source += f" × {', '.join(str(group.seeds) for group in parts.groups)} seeds"
        source += f", {parts.pairing}" if parts.pairing else ""
    result = Spread(document, seed, rest, arms * len(parts.groups), source, changed)
    unseen = 0.0 if many else INTERACTION
    result = replace(result, mean=abs(parts.value), interaction=unseen)
    between = mean(group.seeds * group.between / arms for group in many)
    return replace(result, upper=_upper(result, parts, changes, between))


def _upper(
    spread: Spread, parts: Components, changes: NDArray[np.float64] | None, between: float
) -> Spread:
    """Every variance of a pilot at its upper limit."""
    from scipy.special import betaincinv, chdtri

    df = max(parts.document_df, 1.0)
    if changes is None and spread.single <= 0:  # no cluster changed: the rule of three
        share = 1.0 - (1.0 - CONFIDENCE) ** (1.0 / (df + 1.0))
        upper = replace(spread, document=share, changed=share)
    elif changes is None:
        grown = df / float(chdtri(df, CONFIDENCE))
        upper = replace(spread, document=spread.document * grown, rest=spread.rest * grown)
    else:
        squares, n = np.square(changes), changes.size
        differing = int(np.count_nonzero(squares > 1e-24))
        share = (
            float(betaincinv(differing + 1, n - differing, CONFIDENCE)) if differing < n else 1.0
        )
        upper = replace(spread, document=share, changed=share)
        if differing:
            whole = interval(squares, level=2.0 * CONFIDENCE - 1.0).high
            grown = max(share * n / differing, float(whole or 0.0) / float(squares.mean()))
            document, rest = spread.document * grown, spread.rest * grown
            upper = replace(spread, document=document, rest=rest, changed=share)
    df_seeds = sum(group.seeds - 1 for group in parts.groups)
    seed = between * df_seeds / float(chdtri(df_seeds, CONFIDENCE)) if between > 0 else spread.seed
    return replace(upper, seed=seed)


class Outcomes:
    """Draws scores in [0, 1] with an assumed spread and effect, of 0/1 changes where known.

    A document's change is drawn once for all seeds; in each checkpoint it is drawn anew with the
    probability that gives the variance `rest`, and a checkpoint's own shift (normal, variance
    `seed`) turns further documents into gains or losses.

    Args:
        spread: What is assumed.
        effect: The true mean: of the difference, of the loss, or 0 for one adapter.
        seeds: Checkpoints in each group; with one the shift between seeds is 0, since the claim is
            about those checkpoints.
        level: Whether scores of one adapter around `spread.mean` are drawn, not changes.
    """

    def __init__(self, spread: Spread, effect: float, seeds: int, *, level: bool = False) -> None:
        self.seeds, self.groups = seeds, spread.groups
        several = seeds > 1
        self.shift = spread.groups * float(np.sqrt(spread.seed)) if several else 0.0
        noisy = spread.groups**2 * spread.rest if several else 0.0
        total = spread.document + noisy if several else spread.single
        self.size = 0.0  # of a change; 0 where the scores are no changes
        if level:
            mean = min(max(spread.mean, 0.01), 0.99)
            most = mean * (1.0 - mean)
            total = min(total, most)
            ends = np.sqrt(total * mean / (1 - mean)), np.sqrt(total * (1 - mean) / mean)
            self.values = np.array([mean - ends[0], mean + ends[1]])
            self.edges = np.array([1.0 - mean])
            reach = min(3.0 * total, min(mean, 1.0 - mean) ** 2)
            if total < reach and most > 1.0 / 6.0:
                # Two values near the middle have the same variance in every sample. Three have the
                # kurtosis of a normal, 3, or the largest in [0, 1].
                self.values = mean + np.sqrt(reach) * np.array([-1.0, 0.0, 1.0])
                self.edges = np.array([total, 2.0 * reach - total]) / (2.0 * reach)
        elif spread.changed is None:
            self.values = effect + np.array([-1.0, 1.0]) * np.sqrt(total)
            self.edges = np.array([0.5])
        else:
            noisy, total = self._changes(spread, effect, total, noisy)
        self.keep = float(np.sqrt(max(0.0, 1.0 - noisy / total))) if total > 0 else 1.0

    def _changes(
        self, spread: Spread, effect: float, total: float, noisy: float
    ) -> tuple[float, float]:
        """Changes of one size with the given mean square; returns what is left of the variances."""
        share = (spread.changed or 0.0) * total / max(spread.single, 1e-12)
        share = min(1.0, max(share, total))
        self.size = float(np.sqrt(total / share)) if share > 0 else 1.0
        moved = min(0.5, self.shift * float(np.sqrt(2.0 / np.pi)) / self.size)
        effect /= 1.0 - moved  # documents moved by the shift between seeds have lost the effect
        gain = min(1.0, max(0.0, (1.0 + effect / (self.size * share)) / 2.0)) if share else 0.5
        self.values = self.size * np.array([-1.0, 0.0, 1.0])
        self.edges = np.array([share * (1.0 - gain), 1.0 - share * gain])
        extra = moved * self.size**2 * (1.0 + share)
        return max(0.0, noisy - extra), total - min(noisy, extra)

    def _draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        return self.values[np.searchsorted(self.edges, rng.random(size), side="right")]

    def _group(self, base: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        scores = np.tile(base, (self.seeds, 1))
        if self.keep < 1.0:
            anew = rng.random(scores.shape) > self.keep
            scores[anew] = self._draw(rng, int(anew.sum()))
        if self.shift > 0:
            shift = rng.normal(0.0, self.shift, (self.seeds, 1))
            if self.size > 0:
                moved = rng.random(scores.shape) < np.abs(shift) / self.size
                scores = np.where(moved, np.sign(shift) * self.size, scores)
            else:
                scores = scores + shift
        return scores

    def scores(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """(S, n) scores of one adapter."""
        return np.clip(self._group(self._draw(rng, n), rng), 0.0, 1.0)

    def pair(
        self, rng: np.random.Generator, n: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two (S, n) groups whose difference, second minus first, has the assumed mean and spread.

        With one group (`Spread.groups`), the two are one adapter's lower and reference rank, whose
        difference varies with the seed as a whole.
        """
        base = self._draw(rng, n)
        gain = self._group(base, rng) / 2.0
        loss = gain if self.groups == 1 else self._group(base, rng) / 2.0
        return np.clip(0.5 - loss, 0.0, 1.0), np.clip(0.5 + gain, 0.0, 1.0)
