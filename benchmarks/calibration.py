"""Does every claim of `aurac.stats` hold? Simulate, count, and print the table.

    python benchmarks/calibration.py --seed 20250501 --repetitions 1200 --out NOTE.md

Documents are drawn from a latent probit: a document of difficulty u is solved at rank k where
``m_k + √ρ·u + √(1-ρ)·e > 0``, so that ranks, and two adapters, agree on most of them. The truth
is ``Σ_k w_k Φ(m_k)``, and an interval covers when it holds the truth. The library itself is
called on every repetition; nothing here repeats their formulas.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.stats import bands, certify, difference, interval, over_seeds
from aurac.stats import multiplicity as holm
from aurac.stats.mean import Layout
from aurac.stats.paired import compare_arms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

RANKS = tuple(2**i for i in range(9))
WEIGHTS = quadrature_weights(RANKS, "log2")
SIZES = (50, 200, 1319)
MIDDLE = np.linspace(0.30, 0.60, 9)
SHARED = 0.7  # ρ: ranks and adapters agree on most documents


@dataclass(frozen=True)
class Row:
    """One line of the table: a share of repetitions, what it should be, and how it was counted."""

    claim: str
    setting: str
    n: int
    found: float
    repetitions: int
    target: str
    note: str = ""

    def cells(self) -> list[str]:
        """The row as text, with the simulation's own standard error."""
        spread = np.sqrt(self.found * (1 - self.found) / self.repetitions)
        share = f"{self.found:.3f} ± {spread:.3f}"
        return [self.claim, self.setting, str(self.n), share, self.target, self.note]


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


def share(repetitions: int, once: Callable[[], bool]) -> float:
    """Share of repetitions in which `once` is true."""
    return sum(once() for _ in range(repetitions)) / repetitions


def one_adapter(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage of `interval` for one adapter, at accuracies near 0, in the middle, near 1."""
    settings = {
        "near 0 (.005 to .03)": np.linspace(0.005, 0.03, 9),
        "low (.02 to .12)": np.linspace(0.02, 0.12, 9),
        "middle (.30 to .60)": MIDDLE,
        "near 1 (.97 to .995)": np.linspace(0.97, 0.995, 9),
    }
    for name, accuracy in settings.items():
        truth = float(WEIGHTS @ accuracy)
        for n in SIZES:
            used: dict[str, int] = {}

            def once(
                n: int = n,
                accuracy: NDArray[np.float64] = accuracy,
                truth: float = truth,
                used: dict[str, int] = used,
            ) -> bool:
                found = interval(areas(rng, n, accuracy), rng=rng)
                word = re.split(" with| at|,| [(]", found.method)[0]
                used[word] = used.get(word, 0) + 1
                return found.low <= truth <= found.high

            covered = share(repetitions, once)
            words = ", ".join(f"{w} {c / repetitions:.0%}" for w, c in used.items())
            yield Row("one adapter, interval covers", name, n, covered, repetitions, ".95", words)


def pairs(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage of the paired difference, and the rate of false positives without one."""
    settings = {
        "middle, difference .05": (MIDDLE, MIDDLE + 0.05),
        "near 0, difference .01": (np.full(9, 0.01), np.full(9, 0.02)),
        "near 1, difference .01": (np.full(9, 0.98), np.full(9, 0.99)),
    }
    for name, (first, second) in settings.items():
        truth = float(WEIGHTS @ (second - first))
        for n in SIZES:

            def once(
                n: int = n,
                first: NDArray[np.float64] = first,
                second: NDArray[np.float64] = second,
                truth: float = truth,
            ) -> bool:
                hard = rng.standard_normal(n)
                found = difference(
                    areas(rng, n, first, hard=hard), areas(rng, n, second, hard=hard), rng=rng
                ).estimate
                return found.low <= truth <= found.high

            yield Row(
                "pair, interval covers", name, n, share(repetitions, once), repetitions, ".95"
            )
    for name, accuracy in {"middle": MIDDLE, "near 0 (.01)": np.full(9, 0.01)}.items():
        for n in SIZES:

            def wrong(n: int = n, accuracy: NDArray[np.float64] = accuracy) -> bool:
                hard = rng.standard_normal(n)
                found = difference(
                    areas(rng, n, accuracy, hard=hard), areas(rng, n, accuracy, hard=hard), rng=rng
                )
                return found.p <= 0.05

            yield Row(
                "pair, p ≤ .05 without a difference",
                name,
                n,
                share(repetitions, wrong),
                repetitions,
                "≤ .05",
            )


def clusters(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage with documents that share passages, and without saying so."""
    truth = float(WEIGHTS @ MIDDLE)
    for passages, size in ((8, 25), (40, 5), (300, 4)):
        labels = np.repeat(np.arange(passages), size)
        n = labels.size
        plain = Layout(n)
        hits = np.zeros(2)
        for _ in range(repetitions):
            passage = rng.standard_normal(passages)[labels]
            hard = np.sqrt(0.5) * passage + np.sqrt(0.5) * rng.standard_normal(n)
            scores = areas(rng, n, MIDDLE, hard=hard)
            for i, given in enumerate((labels, None)):
                found = interval(scores, rng=rng, clusters=given)
                hits[i] += found.low <= truth <= found.high
        name = f"{passages} passages of {size}"
        yield Row(
            "clusters, CR1 interval covers", name, n, hits[0] / repetitions, repetitions, ".95"
        )
        yield Row(
            "clusters ignored (not offered)",
            name,
            plain.n,
            hits[1] / repetitions,
            repetitions,
            "–",
            "what iid formulas would do",
        )


def strata(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage over another draw of documents within the same fixed subjects."""
    subjects, size = 20, 10
    labels = np.repeat(np.arange(subjects), size)
    level = np.random.default_rng(7).normal(0, 1, subjects)[labels]
    truth = float(np.mean(WEIGHTS @ ndtr(ndtri(MIDDLE)[:, None] + level)))

    def once() -> bool:
        hard = level / np.sqrt(SHARED) + rng.standard_normal(labels.size)
        found = interval(areas(rng, labels.size, MIDDLE, hard=hard), rng=rng, strata=labels)
        return found.low <= truth <= found.high

    yield Row(
        "strata, interval covers",
        "20 fixed subjects of 10",
        labels.size,
        share(repetitions, once),
        repetitions,
        ".95",
    )


def _arm(
    rng: np.random.Generator, hard: NDArray[np.float64], seeds: int, shift: float, spread: float
) -> NDArray[np.float64]:
    """(S, n) areas of one arm whose latent mean moves by N(shift, spread²) with the seed."""
    moved = [ndtr(ndtri(MIDDLE) + shift + spread * rng.standard_normal()) for _ in range(seeds)]
    return np.stack([areas(rng, hard.size, accuracy, hard=hard) for accuracy in moved])


def seeds(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Coverage of documents × seeds, for a mean and a difference."""
    for spread in (0.0, 0.05, 0.15):
        wide = np.sqrt(1 + spread**2)
        means = [float(WEIGHTS @ ndtr((ndtri(MIDDLE) + s) / wide)) for s in (0.0, 0.1)]
        for count in (3, 5):
            for n in SIZES:
                hits = np.zeros(2)
                for _ in range(repetitions):
                    hard = rng.standard_normal(n)
                    a = _arm(rng, hard, count, 0.0, spread)
                    b = _arm(rng, hard, count, 0.1, spread)
                    one = over_seeds(a)
                    two = difference(a, b, rng=rng).estimate
                    hits[0] += one.low <= means[0] <= one.high
                    hits[1] += two.low <= means[1] - means[0] <= two.high
                name = f"{count} seeds, seed sd {spread * 0.38:.3f}"
                for claim, hit in zip(("one arm", "two arms"), hits, strict=True):
                    yield Row(
                        f"seeds × documents, {claim}, covers",
                        name,
                        n,
                        hit / repetitions,
                        repetitions,
                        ".95",
                    )


def curve_bands(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Simultaneous bands hold the whole curve; pointwise bands hold each rank."""
    repetitions //= 2  # the slowest of all
    for n in SIZES:
        hits = np.zeros(2)
        for _ in range(repetitions):
            curve = Curve.from_outcomes(RANKS, outcomes(rng, n, MIDDLE))
            for i, kind in enumerate(("simultaneous", "pointwise")):
                found = bands(curve, rng=rng, kind=kind)
                inside = (np.array(found.low) <= MIDDLE) & (np.array(found.high) >= MIDDLE)
                hits[i] += inside.all() if kind == "simultaneous" else inside.mean()
        yield Row(
            "simultaneous band holds the whole curve",
            "middle",
            n,
            hits[0] / repetitions,
            repetitions,
            ".95",
        )
        yield Row(
            "pointwise band holds a rank", "middle", n, hits[1] / repetitions, repetitions, ".95"
        )


def certificates(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """How often a rank that loses at least delta is certified, and what naive rules do."""
    settings = {
        "small ranks lose .02 exactly": np.where(np.arange(9) < 5, 0.58, 0.60),
        "one step loses .02, then .10": np.array([0.5] * 4 + [0.58] + [0.595] * 3 + [0.6]),
        "near 1, lose .02 exactly": np.where(np.arange(9) < 5, 0.97, 0.99),
        "losses only, .02 exactly": np.where(np.arange(9) < 5, 0.58, 0.60),
        "losses only, .012 of .012": np.where(np.arange(9) < 5, 0.588, 0.60),
        "slow decline to a loss of .30": np.linspace(0.30, 0.60, 9),
    }
    for name, accuracy in settings.items():
        delta = 0.012 if ".012" in name else 0.02
        shared = 1.0 if "only" in name else SHARED  # then what r solves, the full rank does
        too_much = {
            r for r, y in zip(RANKS, accuracy, strict=True) if accuracy[-1] - y >= delta - 1e-9
        }
        for n in SIZES:
            wrong = np.zeros(3)
            for _ in range(repetitions):
                scores = outcomes(rng, n, accuracy, shared=shared)
                found = certify(Curve.from_outcomes(RANKS, scores), delta=delta)
                wrong[0] += found.rank in too_much
                wrong[1] += _not_significant(scores) in too_much
                means = scores.mean(axis=1)
                close = [r for r, y in zip(RANKS, means, strict=True) if means[-1] - y < delta]
                wrong[2] += min(close) in too_much
            rules = zip(
                ("certificate", "'not significantly different'", "point estimate"),
                wrong,
                strict=True,
            )
            for rule, count in rules:
                target = "≤ .05" if rule == "certificate" else "–"
                yield Row(
                    f"rank settings wrongly, {rule}",
                    name,
                    n,
                    count / repetitions,
                    repetitions,
                    target,
                )


def _not_significant(scores: NDArray[np.float64]) -> int:
    """The smallest rank whose paired t test against the full rank has p > .05 (not offered)."""
    loss = scores[-1] - scores[:-1]
    se = loss.std(axis=1, ddof=1) / np.sqrt(scores.shape[1])
    same = np.abs(loss.mean(axis=1)) <= 1.96 * se
    return next((r for r, ok in zip(RANKS, same, strict=False) if ok), RANKS[-1])


def detectable_differences(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Power at a true difference equal to the MDE that is reported there."""
    for n in SIZES:
        delta = 0.05
        for _ in range(6):  # the spread depends on the difference a little: find the fixed point
            reported = [_pair(rng, n, delta).mde for _ in range(100)]
            delta = float(np.mean(reported))
        found = [_pair(rng, n, delta) for _ in range(repetitions)]
        power = float(np.mean([f.p <= 0.05 for f in found]))
        note = f"MDE {delta:.4f}"
        yield Row("power at the reported MDE", "middle", n, power, repetitions, ".80 ± .04", note)


def _pair(rng: np.random.Generator, n: int, delta: float) -> object:
    hard = rng.standard_normal(n)
    a = areas(rng, n, MIDDLE, hard=hard)
    b = areas(rng, n, MIDDLE + delta, hard=hard)
    return compare_arms(a[None], b[None], Layout(n), rng=rng, level=0.95)


def families(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Any false claim among the ten pairs of five adapters that are the same."""
    n = 200

    def once() -> bool:
        hard = rng.standard_normal(n)
        arms = [areas(rng, n, MIDDLE, hard=hard) for _ in range(5)]
        p = [difference(arms[i], arms[j], rng=rng).p for i in range(5) for j in range(i)]
        return min(holm(p)) <= 0.05

    yield Row(
        "any of 10 pairs, Holm p ≤ .05",
        "five equal adapters",
        n,
        share(repetitions, once),
        repetitions,
        "≤ .05",
    )


STUDIES = (
    one_adapter,
    pairs,
    clusters,
    strata,
    seeds,
    curve_bands,
    certificates,
    detectable_differences,
    families,
)
HEAD = ("claim", "setting", "n", "found", "wanted", "note")


def main() -> None:
    """Run every study and print (or write) the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--only", choices=[s.__name__ for s in STUDIES])
    parser.add_argument("--out", type=Path, help="the note whose table is replaced")
    options = parser.parse_args()
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    print(*lines, sep="\n")
    for index, study in enumerate(STUDIES):
        if options.only not in (None, study.__name__):
            continue
        start = time.perf_counter()
        # Each study has a stream of its own, so that one can be run again by itself.
        rng = np.random.default_rng([options.seed, index])
        for row in study(rng, options.repetitions):
            lines.append(f"| {' | '.join(row.cells())} |")
            print(lines[-1], flush=True)
        print(f"({study.__name__}: {time.perf_counter() - start:.0f} s)", flush=True)
    if options.out:
        write(options.out, lines, options)


def write(path: Path, lines: list[str], options: argparse.Namespace) -> None:
    """Put the table between the two marks of the note, with the seed it was made from."""
    begin, end = "<!-- table -->", "<!-- end of table -->"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    made = f"Seed {options.seed}, {options.repetitions} repetitions; ± is the simulation's own se."
    table = "\n".join([begin, "", made, "", *lines, "", end])
    path.write_text(before + table + after, encoding="utf-8")


if __name__ == "__main__":
    main()
