"""Simulation of sequential comparisons: error rates, power, documents used, coverage.

    python benchmarks/sequential.py [--only pairs,families,margins,ranks,widths,stored] [--scale 1]

Outcomes are discrete: a latent probit model gives each adapter right and wrong answers at five
ranks, and AURAC of each document is averaged over them; rare and one-sided differences are drawn as
such. The procedure is the one that `aurac compare --until decided` prints. For speed, looks whose
Student's t is far from every boundary skip the corrections for few differing documents, which only
move z towards 0; the first repetitions of every cell are checked against `decide` itself.
docs/explain/stopping-early.md has the results.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri, stdtr

from aurac.curves.area import quadrature_weights
from aurac.stats import sequential
from aurac.stats.boundaries import boundaries, futility_bounds
from aurac.stats.intervals import interval
from aurac.stats.mean import Layout
from aurac.stats.multiplicity import holm
from aurac.stats.noninferiority import FEW
from aurac.stats.paired import difference
from aurac.stats.sequential import Design, Series, decide
from aurac.stats.stopping import width_reached

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RANKS = (1, 2, 4, 8, 16)
WEIGHTS = quadrature_weights(RANKS)
ACCURACY = np.linspace(0.3, 0.6, len(RANKS))
SHARED = 0.7  # of the latent variance: how hard the document is
SIZES = (200, 1000, 5000)
PLANNED = 3.2415  # z at all documents that a two-sided test at .05 finds with 90 % power
CHECKED = 8  # repetitions of a cell that `decide` repeats


def probit(rng: np.random.Generator, shape: tuple[int, int], lift: float) -> NDArray[np.float32]:
    """Differences of two adapters' areas; `lift` raises the second on the probit scale."""
    hard = np.float32(np.sqrt(SHARED)) * rng.standard_normal(shape, dtype=np.float32)
    total = np.zeros(shape, dtype=np.float32)
    for weight, accuracy in zip(WEIGHTS, ACCURACY, strict=True):
        bar = np.float32(ndtri(accuracy))
        for sign, raised in ((1, lift), (-1, 0.0)):
            own = np.float32(np.sqrt(1 - SHARED)) * rng.standard_normal(shape, dtype=np.float32)
            total += np.float32(sign * weight) * (hard + own < bar + np.float32(raised))
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


MODELS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "probit": probit,
    "rare": rare,
    "skewed": skewed,
}


def lift_for(model: str, effect: float) -> tuple[float, float]:
    """The lift at which the mean difference is `effect` standard deviations, and that mean."""
    if effect == 0:
        return 0.0, 0.0
    low, high = 0.0, {"probit": 6.0, "rare": 0.95, "skewed": 0.1}[model]
    for _ in range(25):
        lift = (low + high) / 2
        sample = MODELS[model](np.random.default_rng(7), (1, 400_000), lift)
        mean, sd = float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64))
        low, high = (low, lift) if mean > effect * sd else (lift, high)
    return lift, mean


def student(differences: NDArray[np.float32], looks: tuple[int, ...]) -> NDArray[np.float64]:
    """(R, K) z of the plain t test of a mean of 0 at each look."""
    columns = np.array(looks) - 1
    sums = np.cumsum(differences, axis=1, dtype=np.float64)[:, columns]
    squares = np.cumsum(differences.astype(np.float64) ** 2, axis=1)[:, columns]
    n = np.array(looks, dtype=np.float64)
    variance = np.maximum(squares / n - (sums / n) ** 2, 0.0) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(variance > 1e-18, sums / n / np.sqrt(variance), 8.0 * np.sign(sums))
    return np.sign(t) * -ndtri(np.maximum(stdtr(n - 1, -np.abs(t)), 1e-15))


class Question:
    """One question with the differences (R, n) of all repetitions, z refined where it matters."""

    def __init__(self, design: Design, differences: NDArray[np.float32]) -> None:
        self.design, self.differences = design, differences
        self.count, self.total = differences.shape
        self.looks = design.documents(self.total)
        self.fractions = tuple(n / self.total for n in self.looks)
        self.z = student(differences - np.float32(design.null), self.looks)
        changed = np.cumsum(np.abs(differences) > 1e-6, axis=1)[:, np.array(self.looks) - 1]
        # Of one side alone the exact bound for few documents may be nearer than Student's t.
        self.few = (changed < FEW) & design.one_sided
        self.exact = np.zeros(self.z.shape, dtype=bool)
        self.known: dict[tuple[int, int, float], bool] = {}

    def bounds(self, level: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Boundaries and futility bounds of all looks."""
        design = self.design
        outer = boundaries(self.fractions, level, design.gamma, design.sides)
        return outer, futility_bounds(self.fractions, outer[-1], design.futility, design.sides)

    def ends(self, r: int, look: int) -> sequential.Ends:
        """The interval of the procedure, for a repetition and a look."""
        values = self.differences[r, : self.looks[look]].astype(np.float64)
        return sequential._ends(self.design, values, Layout(values.size))

    def refine(self, r: int, look: int) -> float:
        """The z of the procedure; positive where b is better, of one side where only it counts."""
        if not self.exact[r, look]:
            mean = float(self.differences[r, : self.looks[look]].mean(dtype=np.float64))
            z = sequential._statistic(self.ends(r, look), mean, self.design.null)
            self.z[r, look], self.exact[r, look] = z, True
        return float(self.z[r, look])

    def beyond(self, r: int, look: int, edge: float) -> bool:
        """Whether z is beyond an edge; the procedure itself is asked where Student's t is."""
        two, key = self.design.sides == 2, (r, look, edge)
        z = float(self.z[r, look])
        if not (self.few[r, look] or (abs(z) if two else z) >= edge):
            return False
        if key not in self.known:
            self.known[key] = self._beyond(r, look, edge)
        return self.known[key]

    def _beyond(self, r: int, look: int, edge: float) -> bool:
        if edge <= 0.0:
            return self.refine(r, look) >= edge
        null, mean = self.design.null, self.differences[r, : self.looks[look]].mean()
        low, high = self.ends(r, look)(sequential._normal_tail(edge))
        return low >= null if mean > null else self.design.sides == 2 and high <= null

    def crosses(self, r: int, until: int, level: float) -> int:
        """Direction of the first crossing up to a look; 0 where there is none."""
        outer, _ = self.bounds(level)
        for look in range(until + 1):
            if self.beyond(r, look, outer[look]):
                return 1 if self.z[r, look] > 0 else -1
        return 0

    def ends_there(self, r: int, look: int, level: float) -> bool:
        """Whether it stops without an answer."""
        edge = self.bounds(level)[1][look]
        return look + 1 == len(self.looks) or (edge > -np.inf and not self.beyond(r, look, edge))


def replay(questions: list[Question]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Directions (Q, R) of the answers, 0 for none, and the looks at which each stops."""
    shape = len(questions), questions[0].count
    answers, stops = np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
    for r in range(shape[1]):
        answers[:, r], stops[:, r] = _replay(questions, r)
    return answers, stops


def _replay(questions: list[Question], r: int) -> tuple[list[int], list[int]]:
    answers, stops = [0] * len(questions), [-1] * len(questions)
    error = questions[0].design.error
    for look in range(len(questions[0].looks)):
        while rest := [i for i, answer in enumerate(answers) if not answer]:
            level, new = error / len(rest), False
            for i in rest:
                until = look if stops[i] < 0 else stops[i]
                answers[i] = questions[i].crosses(r, until, level)
                new |= answers[i] != 0
                if answers[i] and stops[i] < 0:
                    stops[i] = look
            if not new:
                break
        level = error / max(len(rest), 1)
        for i, question in enumerate(questions):
            if stops[i] < 0 and question.ends_there(r, look, level):
                stops[i] = look
        if min(stops) >= 0:
            break
    return answers, stops


def check(questions: list[Question], answers: Any, stops: Any) -> None:
    """Repeat some repetitions with `decide` itself."""
    design = questions[0].design
    signs = {"superior": 1, "non-inferior": 1, "inferior": -1}
    for r in range(CHECKED):
        family = {
            i: Series(q.differences[r].astype(np.float64), q.total) for i, q in enumerate(questions)
        }
        for i, decision in decide(design, family).items():
            expected = answers[i, r], questions[i].looks[stops[i, r]]
            got = signs.get(decision.verdict, 0), decision.documents
            assert got == expected, (r, i, decision, expected)


def covered(question: Question, stops: Any, mean: float) -> float:
    """Share of repeated intervals that cover the true mean."""
    outer, _ = question.bounds(question.design.error)
    hits = 0
    for r, look in enumerate(stops):
        low, high = question.ends(r, look)(sequential._normal_tail(outer[look]))
        hits += low <= mean <= high
    return hits / question.count


def fixed_power(question: Question, most: int = 2000) -> float:
    """Share of the fixed-sample tests on all documents that give the answer upward."""
    last = len(question.looks) - 1
    critical = float(-ndtri(question.design.error / question.design.sides))
    chosen = range(min(most, question.count))
    return float(np.mean([question.refine(r, last) >= critical for r in chosen]))


def pairs(scale: float) -> None:
    """One pair: type I error, power, documents, coverage, for models, sizes and effects."""
    print("| outcomes | n | effect | up | down | fixed test | documents | coverage |")
    print("|---|---|---|---|---|---|---|---|")
    for model, n in ((model, n) for model in MODELS for n in SIZES):
        for times in (0, 1, 2, 4):
            lift, mean = lift_for(model, times * PLANNED / np.sqrt(n))
            count = int(scale * (4000 if times == 0 else 600) * (0.5 if n == max(SIZES) else 1))
            rng = np.random.default_rng([n, times])
            question = Question(Design(), MODELS[model](rng, (count, n), lift))
            answers, stops = replay([question])
            check([question], answers, stops)
            share = np.array(question.looks)[stops[0]].mean() / n
            print(
                f"| {model} | {n} | {times} | {np.mean(answers > 0):.4f} |"
                f" {np.mean(answers < 0):.4f} | {fixed_power(question):.3f} | {share:.3f} |"
                f" {covered(question, stops[0], mean):.3f} |",
                flush=True,
            )


def families(scale: float) -> None:
    """Three adapters on two tasks: family-wise error, and the documents of the adapters."""
    print("| outcomes | n | better by | any false | true found | fixed: true found | documents |")
    print("|---|---|---|---|---|---|---|")
    for n, times in ((n, times) for n in SIZES[:2] for times in (0, 1, 2)):
        lift, _ = lift_for("probit", times * PLANNED / np.sqrt(n))
        count, rng = int(scale * (3000 if times == 0 else 1000)), np.random.default_rng([n, times])
        questions, truths = [], []
        for _task in range(2):
            scores = three(rng, (count, n), lift)
            for a, b in ((0, 1), (0, 2), (1, 2)):
                questions.append(Question(Design(), scores[b] - scores[a]))
                truths.append(b == 2 and times > 0)
        answers, stops = replay(questions)
        check(questions, answers, stops)
        true = np.array(truths)
        false = (answers[~true] != 0).any(axis=0) | (answers[true] < 0).any(axis=0)
        found = float((answers[true] > 0).mean()) if true.any() else np.nan
        fixed = _holm_power(questions, true) if true.any() else np.nan
        most = np.array(questions[0].looks)[stops.max(axis=0)].mean() / n
        print(
            f"| probit | {n} | {times} | {false.mean():.4f} | {found:.3f} | {fixed:.3f} |"
            f" {most:.3f} |",
            flush=True,
        )


def _holm_power(questions: list[Question], true: NDArray[np.bool_]) -> float:
    """Share of true differences that the fixed tests find with Holm's procedure."""
    rows = []
    for r in range(min(500, questions[0].count)):
        z = [q.refine(r, len(q.looks) - 1) for q in questions]
        adjusted = holm([2 * sequential._normal_tail(abs(value)) for value in z])
        rows.append([p is not None and p <= 0.05 for p in adjusted])
    return float(np.array(rows)[:, true].mean())


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
    print("| outcomes | n | difference | non-inferior | inferior | fixed test | documents |")
    print("|---|---|---|---|---|---|---|")
    for model, n in ((model, n) for model in ("probit", "skewed") for n in SIZES):
        for times in (0.0, 1.0):
            sd = float(MODELS[model](np.random.default_rng(3), (1, 400_000), 0.0).std())
            design = Design(margin=(1.6449 + 1.2816) * sd / np.sqrt(n))
            count = int(scale * (4000 if times == 0 else 1000))
            # Drawn at a mean of 0 and moved to the margin, to keep the shape of the null.
            sample = MODELS[model](np.random.default_rng([n, 9]), (count, n), 0.0)
            if times == 0:
                sample = np.clip(sample - np.float32(design.margin), -1, 1)
            question = Question(design, sample)
            answers, stops = replay([question])
            check([question], answers, stops)
            share = np.array(question.looks)[stops[0]].mean() / n
            name = "-margin" if times == 0 else "0"
            print(
                f"| {model} | {n} | {name} | {np.mean(answers > 0):.4f} |"
                f" {np.mean(answers < 0):.4f} | {fixed_power(question):.3f} | {share:.3f} |",
                flush=True,
            )


def ranks(scale: float) -> None:
    """The smallest non-inferior rank: rank 4 loses exactly the margin, rank 8 nothing."""
    print("| n | margin | rank 4 or less named | rank 8 named | documents × ranks |")
    print("|---|---|---|---|---|")
    for n, margin in ((200, 0.1), (1000, 0.05), (5000, 0.02)):
        design, top = Design(margin=margin, one_sided=True), 0.5
        count, rng = int(scale * 2000), np.random.default_rng(n)
        hard = np.float32(np.sqrt(SHARED)) * rng.standard_normal((count, n), dtype=np.float32)
        full = _right(rng, hard, top, 0.0).astype(np.float32)
        losses = [_right(rng, hard, top - loss, 0.0) - full for loss in (0.0, margin, 0.3)]
        questions = [Question(design, loss) for loss in losses]
        named, used = np.zeros(count, dtype=int), np.zeros(count)
        for r in range(count):
            most = 0
            for step, question in enumerate(questions):
                (answer,), (stop,) = _replay([question], r)
                used[r] += question.looks[stop]
                most = max(most, question.looks[stop])
                if answer <= 0:
                    break
                named[r] = step + 1
            used[r] += most  # the reference
        print(
            f"| {n} | {margin} | {np.mean(named >= 2):.4f} | {np.mean(named >= 1):.3f} |"
            f" {used.mean() / (4 * n):.3f} |",
            flush=True,
        )


def widths(scale: float) -> None:
    """Stopping at a width: coverage of the interval of one adapter."""
    print("| accuracy | width | documents | coverage |")
    print("|---|---|---|---|")
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
    print("| outcomes | n | effect | up | down | documents |")
    print("|---|---|---|---|---|---|")
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


def estimates(scale: float) -> None:
    """The estimate after stopping: how often it and the plain mean are above the truth."""
    print(
        "| outcomes | n | effect | median-unbiased above | mean above | bias | bias of the mean |"
    )
    print("|---|---|---|---|---|---|---|")
    for model, times in ((model, times) for model in ("probit", "rare") for times in (0, 1, 2)):
        n, count = 1000, int(scale * 800)
        lift, truth = lift_for(model, times * PLANNED / np.sqrt(n))
        sample = MODELS[model](np.random.default_rng([times, 4]), (count, n), lift)
        rows = [decide(Design(), {0: Series(row.astype(np.float64), n)})[0] for row in sample]
        values = np.array([[d.estimate, d.mean] for d in rows], dtype=np.float64)
        above, bias = (values > truth).mean(axis=0), values.mean(axis=0) - truth
        print(
            f"| {model} | {n} | {times} | {above[0]:.3f} | {above[1]:.3f} | {bias[0]:+.4f} |"
            f" {bias[1]:+.4f} |",
            flush=True,
        )


def stored(scale: float) -> None:
    """Replay the stored full run in many orders of its documents."""
    from aurac.curves.area import document_areas
    from aurac.readers.run import read_run

    curves, _ = read_run(Path(__file__).parent.parent / "reports" / "word_problems")
    areas = {c.label: document_areas(c) for c in curves if c.outcomes is not None}
    names, count, rng = list(areas), int(scale * 300), np.random.default_rng(2)
    print("| pair | full run: p | same verdict | opposite | documents |")
    print("|---|---|---|---|---|")
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
    for part in (pairs, families, margins, ranks, widths, anytime, estimates, stored)
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
