"""Simulation of sequential comparisons: error rates, power, documents used, coverage.

    python benchmarks/sequential.py [--only pairs,margins,again,…] [--scale 1]

Outcomes are discrete: a latent probit model gives each adapter right and wrong answers at five
ranks, and AURAC of each document is averaged over them; rare and one-sided differences are drawn as
such. The procedure is the one that `aurac compare --until decided` prints, for all repetitions at
once; the first ones of every cell are checked against `decide` itself.
docs/explain/stopping-early.md has the results.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from aurac.curves.area import quadrature_weights
from aurac.stats.boundaries import boundaries, futility_bounds, spent
from aurac.stats.design import Design, Series, width_reached
from aurac.stats.intervals import ENOUGH, SYMMETRIC, interval
from aurac.stats.noninferiority import FEW
from aurac.stats.paired import difference
from aurac.stats.sequential import decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Numbers = NDArray[Any]

RANKS = (1, 2, 4, 8, 16)
WEIGHTS = quadrature_weights(RANKS)
ACCURACY = np.linspace(0.3, 0.6, len(RANKS))
SHARED = 0.7  # of the latent variance: how hard the document is
SIZES = (200, 1000, 5000)
PLANNED = 3.2415  # z at all documents that a two-sided test at .05 finds with 90 % power
CHECKED = 2  # repetitions of a cell that `decide` repeats


def probit(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> NDArray[np.float32]:
    """Differences of two adapters' areas; `lift` raises the second on the probit scale."""
    hard = np.float32(np.sqrt(SHARED)) * rng.standard_normal(shape, dtype=np.float32)
    total = np.zeros(shape, dtype=np.float32)
    for weight, accuracy in zip(WEIGHTS, ACCURACY, strict=True):
        for sign, raised in ((1, lift), (-1, 0.0)):
            total += np.float32(sign * weight) * _right(rng, hard, accuracy, raised)
    return total


def rare(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> NDArray[np.float32]:
    """Single answers of which 4 % differ, in either direction when `lift` is 0."""
    draw = rng.random(shape, dtype=np.float32)
    gain, loss = 0.02 + lift, 0.02
    return (draw < gain).astype(np.float32) - (draw > 1 - loss)


def skewed(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> NDArray[np.float32]:
    """Many small gains and few large losses: 1/8 in 16 %, -1 in 2 %, mean 0 when `lift` is 0."""
    draw = rng.random(shape, dtype=np.float32)
    return np.float32(0.125) * (draw < 0.16 + 8 * lift) - (draw > 0.98)


def gains_of(share: float, size: float) -> Callable[..., NDArray[np.float32]]:
    """Outcomes without a difference: a share gains so much, and losses of 1 make up for it."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
        part = rng.random(shape, dtype=np.float32)
        return np.float32(size) * (part < share) - (part > 1 - share * size)

    return draw


MODELS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "probit": probit,
    "rare": rare,
    "skewed": skewed,
}


def effect_of(model: str, lift: float) -> tuple[float, float]:
    """Mean and standard deviation of a difference."""
    if model == "rare":
        return lift, float(np.sqrt(0.04 + lift - lift * lift))
    if model == "skewed":
        return lift, float(np.sqrt((0.16 + 8 * lift) / 64 + 0.02 - lift * lift))
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    bars = ndtri(ACCURACY)[:, None]
    first, second = (
        ndtr((bars + up - np.sqrt(SHARED) * nodes) / np.sqrt(1 - SHARED)) for up in (0.0, lift)
    )
    inside = WEIGHTS**2 @ (first * (1 - first) + second * (1 - second))
    mean, share = WEIGHTS @ (second - first), weights / weights.sum()
    total = float(share @ mean)
    return total, float(np.sqrt(share @ (inside + (mean - total) ** 2)))


def lift_for(model: str, effect: float) -> tuple[float, float]:
    """The lift at which the mean difference is `effect` standard deviations, and that mean."""
    low, high = 0.0, {"probit": 6.0, "rare": 0.95, "skewed": 0.1}[model]
    for _ in range(50):
        lift = (low + high) / 2
        mean, sd = effect_of(model, lift)
        low, high = (low, lift) if mean > effect * sd else (lift, high)
    return (lift, effect_of(model, lift)[0]) if effect else (0.0, 0.0)


@dataclass
class Side:
    """Gains, or losses: (R, K) mean, standard error, largest and count at each look."""

    mean: Numbers
    se: Numbers
    most: Numbers
    count: Numbers

    @classmethod
    def of(cls, part: Numbers, looks: tuple[int, ...]) -> Side:
        """From (R, n) numbers of at least 0."""
        n, starts = np.array(looks), [0, *looks[:-1]]
        mean = _sums(part, looks) / n
        variance = np.maximum(_sums(part.astype(np.float64) ** 2, looks) / n - mean**2, 0.0)
        most = np.maximum.accumulate(np.maximum.reduceat(part, starts, axis=1), axis=1)
        return cls(mean, np.sqrt(variance / (n - 1)), most, _sums(part > 1e-6, looks))

    def reach(self, at: Any, tail: Numbers, n: Numbers) -> tuple[Numbers, Numbers]:
        """`aurac.stats.intervals._side_reach` of the entries `at`."""
        mean, se, share = self.mean[at], self.se[at], -np.expm1(np.log(tail) / n)
        alike = se <= 1e-12
        size = 1 + mean * (1 - mean) / np.where(alike, 1.0, se) ** 2
        hits = np.maximum(mean * size, 1e-300)
        down = mean - betaincinv(hits, size - hits + 1, tail)
        up = betaincinv(hits + 1, np.maximum(size - hits, 1e-300), 1 - tail) - mean
        return (
            np.where(alike, mean * share, down),
            np.where(alike, (1 - mean) * share, np.maximum(up, share * (1 - self.most[at]))),
        )

    def events(self) -> Numbers:
        """`aurac.stats.intervals._events`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(self.se > 1e-12, (self.mean / self.se) ** 2, np.inf)
        return np.where(self.mean > 1e-12, ratio, 0.0)


def _sums(values: Numbers, looks: tuple[int, ...]) -> Numbers:
    parts = np.add.reduceat(values, [0, *looks[:-1]], axis=1, dtype=np.float64)
    return np.cumsum(parts, axis=1)


class Question:
    """One question with the differences (R, n) of all repetitions: its interval at every look."""

    def __init__(self, design: Design, differences: Numbers, questions: int = 1) -> None:
        self.design, self.differences = design, differences
        self.count, self.total = differences.shape
        self.gamma = design.gamma_of(questions)
        self.looks = looks = design.documents(self.total)
        self.fractions = tuple(n / self.total for n in looks)
        self.n = n = np.array(looks, dtype=np.float64)
        double = differences.astype(np.float64)
        self.mean = _sums(differences, looks) / n
        second, third = _sums(double**2, looks) / n, _sums(double**3, looks) / n
        variance = np.maximum(second - self.mean**2, 0.0)
        self.se = np.sqrt(variance / (n - 1))
        self.cubes = (third - 3 * self.mean * second + 2 * self.mean**3) * n * (n / (n - 1)) ** 1.5
        self.gains = Side.of(np.maximum(differences, 0), looks)
        self.losses = Side.of(np.maximum(-differences, 0), looks)
        scale = self.gains.se * self.losses.se * (n - 1)
        product = np.where(scale > 0, self.gains.mean * self.losses.mean, 0.0)
        self.correlation = -product / np.where(scale > 0, scale, 1.0)
        squares = variance * n * (n / (n - 1)) + 1
        self.few = np.minimum(self.gains.events(), self.losses.events()) < ENOUGH - 1e-6
        self.few |= squares**3 / (np.abs(self.cubes) + 1) ** 2 < SYMMETRIC - 1e-6
        self.few |= design.one_sided
        self.known: dict[float, Numbers] = {}

    def reach(self, tail: Any, where: Any = 1) -> tuple[Numbers, Numbers]:
        """How far the interval reaches down and up; `where` only Student's is not enough."""
        tail = np.broadcast_to(tail, self.mean.shape)
        t = -stdtrit(self.n - 1, tail)
        half = t * self.se
        down, up = half.copy(), half.copy()
        at = np.nonzero(self.few * where)
        tails, n, c = tail[at], self.n[at[1]], self.correlation[at]
        gain, loss = (side.reach(at, tails, n) for side in (self.gains, self.losses))
        for ends, x, y in ((down, gain[0], loss[1]), (up, gain[1], loss[0])):
            ends[at] = np.maximum(ends[at], np.sqrt(x * x + y * y - 2 * c * x * y))
        if self.design.one_sided:
            changed = self.gains.count + self.losses.count < FEW
            for ends, side, sign in ((down, self.losses, 1), (up, self.gains, -1)):
                share = betaincinv(side.count + 1, np.maximum(self.n - side.count, 0.5), 1 - tail)
                ends[changed] = (sign * self.mean + share)[changed]
        elif self.design.margin is not None:
            squares = np.where(self.se > 0, self.se, 1.0) ** 2
            shift = self.cubes / self.n**3 * (1 + 2 * t * t) / (6 * squares)
            down = np.maximum(down, half - np.minimum(shift, 0.0))
            up = np.maximum(up, half + np.maximum(shift, 0.0))
        return down, up

    def beyond(self, up_edge: Any, down_edge: Any) -> NDArray[np.int_]:
        """(R, K) 1 or -1 where z is beyond an edge above 0; 0 elsewhere."""
        gap = self.mean - self.design.null
        tail = ndtr(-np.where(gap > 0, up_edge, down_edge))
        near = np.abs(gap) >= -stdtrit(self.n - 1, tail) * self.se - 1e-12
        down, up = self.reach(tail, near | self.design.one_sided)
        crossed = np.where(gap > 0, gap >= down, -gap >= up) & (np.abs(gap) > 1e-12)
        return np.where(crossed, np.sign(gap), 0).astype(int)

    def bounds(self, level: float) -> Numbers:
        """(2, R, K) critical values upward and downward."""
        if level not in self.known:
            tail, sides = self.design.error / self.design.sides, range(self.design.sides)
            half = -stdtrit(self.n - 1, tail) * self.se
            with np.errstate(divide="ignore", invalid="ignore"):
                factors = [np.where(half > 0, reach / half, 10.0) for reach in self.reach(tail)]
            if self.design.margin is not None:
                factors = [np.ones(half.shape)] * 2
            tail, args = level / self.design.sides, (self.fractions, self.gamma)
            rows = [boundary(np.clip(factors[side], 1.0, 10.0), tail, *args) for side in sides]
            self.known[level] = np.array([rows[0], rows[-1]])
        return self.known[level]

    def first(self, level: float) -> tuple[NDArray[np.intp], NDArray[np.int_]]:
        """The look at which each repetition crosses, or the number of looks, and its direction."""
        crossed = self.beyond(*self.bounds(level))
        if self.design.one_sided:
            crossed = np.maximum(crossed, 0)
        at = np.where(crossed.any(axis=1), (crossed != 0).argmax(axis=1), len(self.looks))
        every = np.arange(self.count)
        return at, crossed[every, np.minimum(at, len(self.looks) - 1)]

    def hopeless(self, level: float) -> NDArray[np.bool_]:
        """(R, K) whether z is below the edge of futility."""
        sides = self.design.sides
        last = boundaries(self.fractions, level / sides, self.gamma)[-1]
        edges = np.array(futility_bounds(self.fractions, last, self.design.futility, sides))
        answer = self.beyond(*[np.maximum(np.abs(np.maximum(edges, -9)), 1e-9)] * 2)
        if sides == 2:
            return (answer == 0) & (edges > 0)
        return np.where(edges > 0, answer < 1, answer < 0) & (edges > -np.inf)

    def z(self) -> Numbers:
        """(R, K) by bisection."""
        low, high = np.zeros(self.mean.shape), np.full(self.mean.shape, 8.0)
        for _ in range(16):
            middle = (low + high) / 2
            beyond = self.beyond(middle, middle) != 0
            low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
        return low * np.sign(self.mean - self.design.null)


def boundary(factors: Numbers, alpha: float, fractions: tuple[float, ...], gamma: float) -> Numbers:
    """`aurac.stats.boundaries.Boundary` for each row of (R, K) factors, on a grid of steps."""
    step, far = 0.05, 4.5
    edges = np.arange(-far, far + step, step)
    middles, rows = (edges[1:] + edges[:-1]) / 2, np.arange(factors.shape[0])
    mass, before, used = np.zeros((rows.size, middles.size)), 0.0, np.zeros(rows.size)
    bounds = np.zeros(factors.shape)
    for look, t in enumerate(fractions):
        # A cell's mass counts as at its middle, which adds the variance of a cell.
        sd = np.sqrt(t - before - step**2 / 12 * (look > 0))
        start = np.zeros(1) if look == 0 else middles
        moved = np.diff(ndtr((edges[None, :] - start[:, None]) / sd), axis=1)
        mass = np.broadcast_to(moved, mass.shape).copy() if look == 0 else mass @ moved
        above = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]  # beyond the lower edge of each cell
        tails = np.log(np.maximum(np.pad(above, ((0, 0), (0, 1))), 1e-30))
        goal = np.log(np.maximum(spent(t, alpha, gamma) - used, 1e-29))
        at = np.clip((tails > goal[:, None]).sum(axis=1) - 1, 0, middles.size - 1)
        over = (tails[rows, at] - goal) / (tails[rows, at] - tails[rows, at + 1])
        bounds[:, look] = (edges[at] + step * over) / np.sqrt(t)
        stop = np.maximum(bounds[:, look], bounds[:, look] * factors[:, look]) * np.sqrt(t)
        kept = np.clip((stop[:, None] - edges[None, :-1]) / step, 0.0, 1.0)
        used += (mass * (1 - kept)).sum(axis=1)
        mass, before = mass * kept, t
    return bounds


def replay(questions: list[Question]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Directions (Q, R) of the answers, 0 for none, and the looks at which each stops."""
    design, looks, many = questions[0].design, len(questions[0].looks), len(questions)
    levels = [design.error / rest for rest in range(1, many + 1)]
    first, signs = np.array([[q.first(x) for x in levels] for q in questions]).transpose(2, 0, 1, 3)
    hopeless = np.array([[q.hopeless(x) for x in levels] for q in questions])
    strength = np.abs([q.z() for q in questions]) if many > 1 else np.zeros((1, 1, looks))
    shape = many, questions[0].count
    answers, stops = np.zeros(shape, dtype=int), np.full(shape, looks)
    one, every = np.arange(many)[:, None], np.arange(shape[1])
    for look in range(looks):
        while True:
            rest = np.maximum((answers == 0).sum(axis=0), 1)
            at = first[one, rest - 1, every]
            new = (answers == 0) & (at <= np.minimum(stops, look))
            if not new.any():
                break
            answers = np.where(new, signs[one, rest - 1, every], answers)
            stops = np.where(new, np.minimum(stops, look), stops)
        waiting = np.where(stops == looks, strength[:, :, look], -1.0)
        stronger = (waiting[None] > waiting[:, None]).sum(axis=1)
        level = np.maximum(rest - stronger, 1) - 1
        ends = hopeless[one, level, every, look] | (look + 1 == looks)
        stops = np.where((stops == looks) & ends, look, stops)
    return answers, stops


def check(questions: list[Question], answers: Any, stops: Any) -> None:
    """Repeat some repetitions with `decide` itself."""
    signs = {"superior": 1, "non-inferior": 1, "inferior": -1}
    for r in range(CHECKED):
        family = {
            i: Series(q.differences[r].astype(np.float64), q.total) for i, q in enumerate(questions)
        }
        for i, decision in decide(questions[0].design, family).items():
            expected = answers[i, r], questions[i].looks[stops[i, r]]
            got = signs.get(decision.verdict, 0), decision.documents
            near = any(abs(abs(one.z) - one.boundary) < 0.01 for one in decision.path)
            assert got == expected or near, (r, i, decision, expected)


def covered(question: Question, stops: Any, mean: float) -> float:
    """Share of repeated intervals that cover the true mean."""
    at = np.arange(question.count), stops
    lower, upper = (ndtr(-one[at])[:, None] for one in question.bounds(question.design.error))
    low = question.mean - question.reach(lower)[0]
    high = question.mean + question.reach(upper)[1]
    return float(np.mean((low[at] <= mean) & (mean <= high[at])))


def fixed(question: Question, level: float) -> NDArray[np.int_]:
    """(R,) the answers of the fixed-sample test on all documents."""
    critical = -ndtri(level / question.design.sides)
    return question.beyond(critical, critical)[:, -1]


def pairs(scale: float) -> None:
    """One pair: type I error, power, documents, coverage, for models, sizes and effects."""
    print("| outcomes | n | effect | up | down | fixed test | documents | coverage |")
    print("|---|---|---|---|---|---|---|---|")
    for model, n in ((model, n) for model in MODELS for n in SIZES):
        for times in (0, 1, 2, 4):
            lift, mean = lift_for(model, times * PLANNED / np.sqrt(n))
            count = int(scale * (8000 if times == 0 else 2000) * (0.5 if n == max(SIZES) else 1))
            rng = np.random.default_rng([n, times])
            question = Question(Design(), MODELS[model](rng, (count, n), lift))
            answers, stops = replay([question])
            check([question], answers, stops)
            share = np.array(question.looks)[stops[0]].mean() / n
            print(
                f"| {model} | {n} | {times} | {np.mean(answers > 0):.4f} |"
                f" {np.mean(answers < 0):.4f} | {np.mean(fixed(question, 0.05) > 0):.3f} |"
                f" {share:.3f} | {covered(question, stops[0], mean):.3f} |",
                flush=True,
            )


def shapes(scale: float) -> None:
    """Type I error of further outcomes without a difference: many small gains, few large losses."""
    print("| share that gains | by | n | up | down | fixed test: up | down |")
    print("|---|---|---|---|---|---|---|")
    for n in SIZES[:2]:
        for share, size in (
            (0.9, 0.005),
            (0.9, 0.02),
            (0.9, 0.1),
            (0.5, 0.04),
            (0.1, 0.5),
            (0.1, 1),
            (0.01, 1),
        ):
            draw, count = gains_of(share, size), int(scale * 8000)
            question = Question(Design(), draw(np.random.default_rng(n), (count, n)))
            answers, stops = replay([question])
            check([question], answers, stops)
            ends = [np.mean(a) for x in (answers, fixed(question, 0.05)) for a in (x > 0, x < 0)]
            print(
                f"| {share} | {size} | {n} | {' | '.join(f'{end:.4f}' for end in ends)} |",
                flush=True,
            )


def families(scale: float) -> None:
    """Three adapters on two tasks: family-wise error, and the documents of the adapters."""
    print("| n | better by | any false | true found | fixed | documents of an adapter | most |")
    print("|---|---|---|---|---|---|---|")
    for n, times in ((n, times) for n in SIZES[:2] for times in (0, 1, 2)):
        lift, _ = lift_for("probit", times * PLANNED / np.sqrt(n))
        count, rng = int(scale * (3000 if times == 0 else 2000)), np.random.default_rng([n, times])
        questions, truths = [], []
        for _task in range(2):
            scores = three(rng, (count, n), lift)
            for a, b in ((0, 1), (0, 2), (1, 2)):
                questions.append(Question(Design(), scores[b] - scores[a], 6))
                truths.append(b == 2 and times > 0)
        answers, stops = replay(questions)
        check(questions, answers, stops)
        true = np.array(truths)
        false = (answers[~true] != 0).any(axis=0) | (answers[true] < 0).any(axis=0)
        found = float((answers[true] > 0).mean()) if true.any() else np.nan
        whole = _holm_power(questions, true) if true.any() else np.nan
        # An adapter is evaluated until both of its pairs on the task are decided.
        last = np.array(questions[0].looks)[stops].reshape(2, 3, count) / n
        each = np.mean([last[:, pair].max(axis=1) for pair in ([0, 1], [0, 2], [1, 2])])
        print(
            f"| {n} | {times} | {false.mean():.4f} | {found:.3f} | {whole:.3f} | {each:.3f} |"
            f" {last.max(axis=(0, 1)).mean():.3f} |",
            flush=True,
        )


def _holm_power(questions: list[Question], true: NDArray[np.bool_]) -> float:
    """Share of true differences that the fixed tests find with Holm's procedure."""
    levels = [0.05 / rest for rest in range(1, len(questions) + 1)]
    shown = np.array([[fixed(q, level) != 0 for level in levels] for q in questions])
    rejected, every = np.zeros(shown[:, 0].shape, dtype=bool), np.arange(questions[0].count)
    for _ in questions:
        rest = np.maximum((~rejected).sum(axis=0), 1)
        rejected |= shown[:, rest - 1, every]
    return float(rejected[true].mean())


def three(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> list[Any]:
    """Areas (R, n) of three adapters, the third better by `lift`."""
    hard = np.float32(np.sqrt(SHARED)) * rng.standard_normal(shape, dtype=np.float32)
    return [_areas(rng, hard, raised) for raised in (0.0, 0.0, lift)]


def _areas(rng: np.random.Generator, hard: Any, lift: float) -> NDArray[np.float32]:
    total = np.zeros(hard.shape, dtype=np.float32)
    for weight, accuracy in zip(WEIGHTS, ACCURACY, strict=True):
        total += np.float32(weight) * _right(rng, hard, accuracy, lift)
    return total


def _right(rng: np.random.Generator, hard: Any, accuracy: float, lift: float) -> Any:
    own = np.float32(np.sqrt(1 - SHARED)) * rng.standard_normal(hard.shape, dtype=np.float32)
    return hard + own < np.float32(ndtri(accuracy) + lift)


def margins(scale: float) -> None:
    """Non-inferiority at a margin: true difference at the margin, and none."""
    print("| outcomes | n | difference | non-inferior | inferior | fixed | documents |")
    print("|---|---|---|---|---|---|---|")
    for model, n in ((model, n) for model in ("probit", "skewed") for n in SIZES):
        for times in (0.0, 1.0):
            design = Design(margin=(1.6449 + 1.2816) * effect_of(model, 0.0)[1] / np.sqrt(n))
            count = int(scale * (8000 if times == 0 else 2000))
            # Drawn at a mean of 0 and moved to the margin, to keep the shape of the null; a loss of
            # 1 cannot grow, so the rest move farther.
            sample = MODELS[model](np.random.default_rng([n, 9]), (count, n), 0.0)
            if times == 0:
                rest = 0.98 if model == "skewed" else 1.0
                moved = np.maximum(sample - np.float32(design.margin / rest), -1)
                sample = np.where(sample > -1, moved, sample)
            question = Question(design, sample)
            answers, stops = replay([question])
            check([question], answers, stops)
            share = np.array(question.looks)[stops[0]].mean() / n
            name = "-margin" if times == 0 else "0"
            print(
                f"| {model} | {n} | {name} | {np.mean(answers > 0):.4f} |"
                f" {np.mean(answers < 0):.4f} | {np.mean(fixed(question, 0.1) > 0):.3f} |"
                f" {share:.3f} |",
                flush=True,
            )


def ranks(scale: float) -> None:
    """The smallest non-inferior rank: rank 4 loses exactly the margin, rank 8 nothing."""
    print(
        "| n | margin | rank 4 or less named | 8 named | documents × ranks |\n|---|---|---|---|---|"
    )
    for n, margin in ((200, 0.1), (1000, 0.05), (5000, 0.02)):
        design, top = Design(margin=margin, one_sided=True), 0.5
        count, rng = int(scale * 2000), np.random.default_rng(n)
        hard = np.float32(np.sqrt(SHARED)) * rng.standard_normal((count, n), dtype=np.float32)
        full = _right(rng, hard, top, 0.0).astype(np.float32)
        losses = [_right(rng, hard, top - loss, 0.0) - full for loss in (0.0, margin, 0.3)]
        questions = [Question(design, loss) for loss in losses]
        named, used, most = np.zeros(count, dtype=int), np.zeros(count), np.zeros(count)
        for step, question in enumerate(questions):
            (answer,), (stop,) = replay([question])
            check([question], answer[None], stop[None])
            asked = named == step
            documents = np.where(asked, np.array(question.looks)[stop], 0)
            used, most = used + documents, np.maximum(most, documents)
            named += asked & (answer > 0)
        used += most  # the reference
        wrong, right, share = np.mean(named >= 2), np.mean(named >= 1), used.mean() / (4 * n)
        print(f"| {n} | {margin} | {wrong:.4f} | {right:.3f} | {share:.3f} |", flush=True)


def widths(scale: float) -> None:
    """Stopping at a width: coverage of the interval of one adapter."""
    print("| accuracy | width | documents | coverage |\n|---|---|---|---|")
    for accuracy, width in ((0.5, 0.1), (0.5, 0.04), (0.1, 0.06), (0.03, 0.04), (0.9, 0.06)):
        rng, hits, used = np.random.default_rng(11), 0, []
        count, n = int(scale * 1000), 4000
        for _ in range(count):
            hard = np.float32(np.sqrt(SHARED)) * rng.standard_normal((1, n), dtype=np.float32)
            values = np.mean([_right(rng, hard, accuracy, 0.0)[0] for _ in range(3)], axis=0)
            for documents in range(50, n + 1, 50):
                if width_reached(values[:documents], width):
                    break
            estimate = interval(values[:documents])
            used.append(documents)
            hits += estimate.low <= accuracy <= estimate.high
        print(f"| {accuracy} | {width} | {np.mean(used):.0f} | {hits / count:.3f} |", flush=True)


def anytime(scale: float) -> None:
    """The betting confidence sequence: type I error, power, documents."""
    print("| outcomes | n | effect | up | down | documents |\n|---|---|---|---|---|---|")
    for model, times in ((model, times) for model in MODELS for times in (0, 1, 2, 4)):
        n, count = 1000, int(scale * 300)
        lift, _ = lift_for(model, times * PLANNED / np.sqrt(n))
        sample = MODELS[model](np.random.default_rng(times), (count, n), lift)
        rows = [
            decide(Design(anytime=True), {0: Series(row.astype(np.float64), n)})[0]
            for row in sample
        ]
        up, down = (np.mean([d.verdict == v for d in rows]) for v in ("superior", "inferior"))
        share = np.mean([d.documents for d in rows]) / n
        print(f"| {model} | {n} | {times} | {up:.3f} | {down:.3f} | {share:.3f} |", flush=True)


def again(scale: float) -> None:
    """No difference: an error of the first plan, or of it and one with twice the budget."""
    print("| outcomes | n | first plan | begun again |\n|---|---|---|---|")
    for model, n in ((model, n) for model in MODELS for n in SIZES[:2]):
        count = int(scale * 8000)
        sample = MODELS[model](np.random.default_rng([n, 5]), (count, 2 * n), 0.0)
        one, two = (replay([Question(Design(), part)])[0] != 0 for part in (sample[:, :n], sample))
        print(f"| {model} | {n} | {one.mean():.4f} | {(one | two).mean():.4f} |", flush=True)


def estimates(scale: float) -> None:
    """The estimate after stopping: how often it and the plain mean are above the truth."""
    print("| outcomes | n | effect | above: median-unbiased | mean | bias | of the mean |")
    print("|---|---|---|---|---|---|---|")
    for model, times in ((model, times) for model in ("probit", "rare") for times in (0, 1, 2)):
        n, count = 1000, int(scale * 800)
        lift, truth = lift_for(model, times * PLANNED / np.sqrt(n))
        sample = MODELS[model](np.random.default_rng([times, 4]), (count, n), lift)
        rows = [decide(Design(), {0: Series(row.astype(np.float64), n)})[0] for row in sample]
        values = np.array([[d.estimate, d.mean] for d in rows], dtype=np.float64)
        above, bias = (values > truth).mean(axis=0), values.mean(axis=0) - truth
        print(f"| {model} | {n} | {times} | {above[0]:.3f} | {above[1]:.3f} |", end="")
        print(f" {bias[0]:+.4f} | {bias[1]:+.4f} |", flush=True)


def stored(scale: float) -> None:
    """Replay the stored full run in many orders of its documents."""
    from aurac.curves.area import document_areas
    from aurac.records.reader import read_run

    curves, _ = read_run(Path(__file__).parent.parent / "reports" / "word_problems")
    areas = {c.label: document_areas(c) for c in curves if c.outcomes is not None}
    names, count, rng = list(areas), int(scale * 300), np.random.default_rng(2)
    print("| pair | full run: p | same verdict | opposite | documents |\n|---|---|---|---|---|")
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            gap = areas[second] - areas[first]
            p = difference(areas[first], areas[second]).p
            whole = 0 if p is None or p > 0.05 else int(np.sign(gap.mean()))
            orders = np.stack([rng.permutation(gap.size) for _ in range(count)])
            question = Question(Design(), gap[orders].astype(np.float32))
            answers, stops = replay([question])
            share = np.array(question.looks)[stops[0]].mean() / gap.size
            same, other = np.mean(answers[0] == whole), np.mean(answers[0] * whole < 0)
            print(f"| {second} - {first} | {p:.4f} | {same:.2f} | {other:.3f} | {share:.2f} |")


PARTS = {
    part.__name__: part
    for part in (pairs, shapes, families, margins, ranks, widths, anytime, again, estimates, stored)
}


def main() -> None:
    """Run the parts that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the repetitions")
    options = parser.parse_args()
    for name in options.only.split(","):
        started = time.perf_counter()
        print(f"\n{PARTS[name].__doc__}\n", flush=True)
        PARTS[name](options.scale)
        print(f"\n{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
