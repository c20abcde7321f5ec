"""What the program should say: recomputed from the table, with none of the program's code.

In this order: the rule of every claim, the five frames, what a run folder holds after its commands
(and so which examples a command may ask for), and what its export says.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from program.world import (
    ADAPTERS,
    GROUP,
    MEMBERS,
    WIDTH,
    Command,
    Spec,
    kind_of,
    leaves_of,
    outcomes,
    passage,
)
from scipy.optimize import brentq
from scipy.stats import t as student

MEAN = "mean over tasks"
POOLED = {GROUP: MEMBERS}
Frames = dict[str, dict[tuple, dict]]  # frame → key of a row → its columns


class RefusedError(Exception):
    """What the program should refuse."""


# The rule of every claim ------------------------------------------------------------------------


@dataclass
class Part:
    """Of one task the sums over units of examples, their sizes, and the arms of seeds."""

    sums: np.ndarray
    sizes: np.ndarray
    arms: list[tuple]  # names of S checkpoints, S means, examples × seeds, rounding

    @classmethod
    def of(cls, values: np.ndarray, clusters: list | None, names: list) -> Part:
        """Of (S, n) numbers."""
        (S, n), each, arms = values.shape, values.mean(axis=0), []
        labels = range(n) if clusters is None else clusters
        units = np.array([[label == unit for label in labels] for unit in dict.fromkeys(labels)])
        sizes = units.sum(axis=1).astype(float)
        if S > 1:
            means = values.mean(axis=1)
            rest = (values - each - means[:, None] + means.mean()) @ units.T
            inside = (rest**2 / (1 - np.minimum(sizes / n, 0.5))).sum() / (n**2 * S * (S - 1))
            arms = [(list(names), means, inside, 1 / (12 * n**2))]
        return cls(units @ each, sizes, arms)

    def minus(self, other: Part) -> Part:
        """The difference of two arms of seeds on the same examples."""
        return Part(self.sums - other.sums, self.sizes, self.arms + other.arms)


def further_size(sizes: np.ndarray) -> float:
    """Examples in the further cluster: as many as that of an example has on average."""
    return float((sizes**2).sum() / sizes.sum())


def moments(part: Part, value: float, further: float) -> tuple[float, float, float]:
    """Mean, its CR2 variance and Bell and McCaffrey's df, with `further` units of that value."""
    size = further_size(part.sizes)
    sums, sizes = np.append(part.sums, value * size), np.append(part.sizes, size)
    times = np.append(np.ones(len(part.sums)), further)
    w = sizes / (times @ sizes)
    q, mean = w**2 / (1 - w), times @ sums / (times @ sizes)
    variance = times @ ((sums - mean * sizes) ** 2 / (1 - w)) / (times @ sizes) ** 2
    return mean, variance, 1 / (times @ w**2 + (times @ q) ** 2 - times @ q**2)


def added(terms: list[tuple[float, float]]) -> tuple[float, float]:
    """Independent variances, with the degrees of freedom of Welch and Satterthwaite."""
    total, spread = sum(v for v, _ in terms), sum(v * v / df for v, df in terms)
    return terms[0] if len(terms) == 1 else (total, total**2 / spread if spread else 1.0)


def of_seeds(parts: list[Part]) -> list[tuple[float, float]]:
    """Variance and df of the arms, averaged over tasks that the same checkpoints met."""
    arms: dict[frozenset, list] = {}
    for arm in (arm for part in parts for arm in part.arms):
        arms.setdefault(frozenset(arm[0]), []).append(arm)
    some = len({bool(part.arms) for part in parts}) > 1
    if some or sum(map(len, arms)) > len(frozenset().union(*arms)):
        raise RefusedError("tasks share some of their seeds")
    terms = []
    for names, same in arms.items():
        rows = [[means[known.index(name)] for name in names] for known, means, _, _ in same]
        variance = np.var(np.sum(rows, axis=0) / len(parts), ddof=1)
        rounding = sum(arm[3] for arm in same) / len(parts) ** 2
        terms.append(((variance + rounding) / len(names), len(names) - 1.0))
    return terms


def claim(parts: list[Part], low: float, alpha: float, further: float) -> tuple:
    """Of a mean over tasks both ends at 1 - alpha, and p; values lie between `low` and 1."""
    try:
        arms = of_seeds(parts)
    except RefusedError:
        return None, None, None
    T = len(parts)
    inside = sum(arm[2] for part in parts for arm in part.arms) / T**2

    def terms(value: float) -> tuple[float, list]:
        each = [moments(part, value, further) for part in parts]
        v, df = added([(v / T**2, df) for _, v, df in each])
        seeds = [added(arms)] if arms else []
        return sum(mean for mean, _, _ in each) / T, [(max(v - inside, 0.0), df), *seeds]

    def reach(sources: list, alpha: float) -> float:
        return sum(v * student.isf(alpha / 2, df) ** 2 for v, df in sources) ** 0.5

    below, above = terms(low), terms(1.0)
    ends = max(below[0] - reach(below[1], alpha), low), min(above[0] + reach(above[1], alpha), 1.0)
    value = sum(part.sums.sum() / part.sizes.sum() for part in parts) / T
    mean, sources = below if value > 0 else above
    if abs(value) < 1e-12 or mean * value <= 0 or abs(mean) <= reach(sources, math.exp(-1e-9)):
        return *ends, 1.0
    if abs(mean) >= reach(sources, 1e-15):
        return *ends, 1e-15
    gap = lambda x: abs(mean) - reach(sources, math.exp(x))  # noqa: E731
    return *ends, math.exp(brentq(gap, math.log(1e-15), -1e-9, xtol=1e-12))


# The five frames --------------------------------------------------------------------------------


@dataclass
class Curve:
    """The scores of an adapter's cut on a task."""

    task: str
    adapter: str
    scores: dict[int, np.ndarray]  # rank → (n,)
    missing: set[int]
    base: np.ndarray | None
    clusters: list | None = None
    basis: str | None = None
    rescale: str | None = None
    spec: Spec | None = None  # None for curves of logs


class Row:
    """A curve, or those of a recipe's seeds."""

    def __init__(self, name: str, curves: list[Curve]) -> None:
        self.name, self.curves, first = name, sorted(curves, key=lambda c: c.adapter), curves[0]
        self.task, self.clusters, self.base = first.task, first.clusters, first.base
        self.names = [curve.adapter for curve in self.curves]
        self.ranks = sorted(set.intersection(*(set(curve.scores) for curve in curves)))
        self.gone = set().union(*(curve.missing for curve in curves))
        same = all(sorted(curve.scores) == self.ranks for curve in curves)
        self.whole = same and not self.gone and len(self.ranks) > 1
        self.examples = len(next(iter(first.scores.values())))
        method = {curve.spec and curve.spec.method for curve in curves}
        self.cut = cut_name(first.basis, first.rescale, method.pop() if len(method) == 1 else None)
        trained = {c.spec.rank if c.spec else max({*c.scores, *c.missing}) for c in curves}
        self.trained = trained.pop() if len(trained) == 1 else None

    def values(self, rank: int) -> np.ndarray:
        """(S, n) scores."""
        return np.array([curve.scores[rank] for curve in self.curves], dtype=float)

    def areas(self, ranks: list[int], axis=np.log2) -> np.ndarray:
        """(S, n) AURAC of each example, by the trapezoidal rule."""
        x = axis(np.array(ranks, dtype=float))
        w = (np.diff(x, prepend=x[0]) + np.diff(x, append=x[-1])) / 2 / (x[-1] - x[0])
        return sum(weight * self.values(rank) for weight, rank in zip(w, ranks, strict=True))

    def part(self, values: np.ndarray) -> Part:
        """The sources of variance of (S, n) numbers."""
        return Part.of(values, self.clusters, self.names)


def cut_name(basis: str | None, rescale: str | None, method: str | None) -> str | None:
    """How tables call a cut."""
    if rescale == "trained":
        return f"{basis}, with P"
    if rescale == "rule" and method == "matryoshka":
        return f"{basis}, without P"
    own = rescale in (None, "keep" if basis == "svd" else "rule")
    return basis if own else f"{basis} · {rescale}"


def rows_of(curves: list[Curve], groups: dict[str, list[str]]) -> list[Row]:
    """Seeds together; further cuts of an adapter are named."""
    recipe = {member: name for name, members in groups.items() for member in members}
    sets: dict[tuple, list[Curve]] = {}
    for curve in curves:
        key = recipe.get(curve.adapter, curve.adapter), curve.task, curve.basis, curve.rescale
        sets.setdefault(key, []).append(curve)
    first: dict[str, list] = {}
    rows = []
    for (name, _, *cut), some in sets.items():
        rows.append(row := Row(name, some))
        if cut != first.setdefault(name, cut):
            row.name = f"{name}, {row.cut.split(', ')[-1]}"
    if any(len({r.examples for r in rows if r.task == row.task}) > 1 for row in rows):
        raise RefusedError("adapters on other examples")
    return rows


def difference(a: Row, b: Row, left: np.ndarray, right: np.ndarray) -> Part:
    """a - b: within each seed where both are of the same checkpoints, or trained alike."""
    keys = [{c.adapter: i for i, c in enumerate(row.curves)} for row in (a, b)]
    if set(keys[0]) != set(keys[1]):  # by seed, where the data are the same
        keys = [{c.spec and c.spec.order: i for i, c in enumerate(r.curves)} for r in (a, b)]
    ours, theirs = keys
    if None in ours or not 1 < len(ours) == len(a.curves) or set(ours) != set(theirs):
        return a.part(left).minus(b.part(right))
    order = [theirs[key] for key in ours]
    names = [(name, b.names[at]) for name, at in zip(a.names, order, strict=True)]
    return Part.of(left - right[order], a.clusters, names)


def in_the_mean(tasks: list[str]) -> list[str]:
    """The tasks that the mean is over: no member of a group that is there itself."""
    inside = {member for group in POOLED if group in tasks for member in POOLED[group]}
    return [task for task in tasks if task not in inside]


def frames_of(curves, groups, margin=None, reference=None) -> Frames:
    """All that is claimed of curves."""
    rows = rows_of(curves, groups)
    if reference is not None and reference not in {row.name for row in rows}:
        raise RefusedError("no such reference")
    frames: Frames = {n: {} for n in ("scores", "points", "pairs", "rank_pairs", "recommended")}
    known: dict[str, dict[str, tuple[Row, list[int]]]] = {}  # task → those with an area
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        whole = [row for row in here if row.whole]
        ranks = sorted(set.intersection(*(set(row.ranks) for row in whole))) if whole else []
        known[task] = {row.name: (row, ranks) for row in whole} if len(ranks) > 1 else {}
        height = {}
        for row in here:
            area = [known[task][row.name]] if row.name in known[task] else []
            frames["scores"][task, row.name] = score = _score(area, row)
            means = [row.values(rank).mean() for rank in row.ranks] or [0.0]
            height[row] = (1, score["aurac"]) if area else (0, np.mean(means))
            for point in _points(row):
                frames["points"][task, row.name, point["rank"]] = point
            if margin is not None and row.trained in row.ranks:
                frames["recommended"][task, row.name] = _recommended(row, margin)
        pairs = [(a, b) for a, b in combinations(here, 2) if reference in (None, a.name, b.name)]
        both = [(a.name, b.name) for a, b in pairs if {a.name, b.name} <= set(known[task])]
        frames["pairs"] |= _family([[(known[task][a], known[task][b])] for a, b in both], task)
        for a, b in pairs:
            a, b = sorted((a, b), key=lambda row: (*(-x for x in height[row]), row.name))
            frames["rank_pairs"] |= _rank_pairs(a, b, np.allclose(height[a], height[b]))
    over = in_the_mean(list(known))
    if len(over) > 1:
        names = [n for n in known[over[0]] if all(n in known[task] for task in over)]
        every = {name: [known[task][name] for task in over] for name in names}
        frames["scores"] |= {(MEAN, n): _score(area, area[0][0]) for n, area in every.items()}
        both = [pair for pair in combinations(names, 2) if reference in (None, *pair)]
        pairs = [list(zip(every[a], every[b], strict=True)) for a, b in both]
        frames["pairs"] |= _family(pairs, MEAN)
    return frames


def _score(areas: list, row: Row) -> dict:
    """AURAC over one task or several; without areas there is none."""
    rows = [each for each, _ in areas] or [row]
    bases = [None if each.base is None else each.base.mean() for each in rows]
    result = {"cut": row.cut, "seeds": min(len(each.curves) for each in rows)}
    result |= {"examples": sum(each.examples for each in rows)}
    result |= {"base": None if None in bases else np.mean(bases)}
    if not areas:
        return result | dict.fromkeys(("aurac", "aurac_linear", "mean", "low", "high"))
    log, linear = ([r.areas(ranks, f) for r, ranks in areas] for f in (np.log2, np.asarray))
    plain = [np.mean([r.values(k).mean() for k in ranks]) for r, ranks in areas]
    result |= {"aurac": np.mean([x.mean() for x in log]), "mean": np.mean(plain)}
    parts = [each.part(x) for each, x in zip(rows, log, strict=True)]
    result["low"], result["high"], _ = claim(parts, 0.0, 0.05, 1.0)
    return result | {"aurac_linear": np.mean([x.mean() for x in linear])}


def _family(pairs: list, task: str) -> dict[tuple, dict]:
    """Differences of AURAC, the better one first, in one order on all tasks."""
    result, count = {}, len(pairs)
    for tasks in pairs:
        gap = np.mean([a.areas(r).mean() - b.areas(s).mean() for (a, r), (b, s) in tasks])
        turn = gap < 0
        both = [(y, x) if turn else (x, y) for x, y in tasks]
        parts = [difference(a, b, a.areas(r), b.areas(s)) for (a, r), (b, s) in both]
        low, high, p = claim(parts, -1.0, 0.05 / count, 1 + math.log(count) / 3)
        row = {"difference": abs(gap), "low": low, "high": high, "comparisons": count}
        row |= {"p": p and min(1.0, count * p), "examples": sum(a.examples for (a, _), _ in both)}
        row |= {"seeds": min(len(r.curves) for x in both for r, _ in x), "tie": abs(gap) < 1e-9}
        result[task, both[0][0][0].name, both[0][1][0].name] = row
    return result


def _rank_pairs(a: Row, b: Row, tie: bool) -> dict[tuple, dict]:
    result = {}
    for rank in set(a.ranks) & set(b.ranks):
        left, right = a.values(rank), b.values(rank)
        low, high, _ = claim([difference(a, b, left, right)], -1.0, 0.05, 1.0)
        row = {"difference": left.mean() - right.mean(), "low": low, "high": high, "tie": tie}
        result[a.task, a.name, b.name, rank] = row
    return result


def above_base(row: Row, rank: int) -> bool | None:
    """Whether a rank is shown to be above the base, one-sided at 95 %."""
    if row.base is None:
        return None
    return bool(claim([row.part(row.values(rank) - row.base)], -1.0, 0.1, 1.0)[0] > 0)


def _points(row: Row) -> list[dict]:
    points = []
    empty = dict.fromkeys(("above_base", "loss", "loss_bound", "bytes", "slot")) | {"cut": row.cut}
    if row.base is not None:
        low, high, _ = claim([Part.of(row.base[None], row.clusters, [])], 0.0, 0.05, 1.0)
        points.append(empty | {"rank": 0, "accuracy": row.base.mean(), "low": low, "high": high})
    for rank in row.ranks:
        values = row.values(rank)
        low, high, _ = claim([row.part(values)], 0.0, 0.05, 1.0)
        point = empty | {"rank": rank, "accuracy": values.mean(), "low": low, "high": high}
        point["above_base"] = above_base(row, rank)
        if row.trained in row.ranks and rank < row.trained:
            loss = row.values(row.trained) - values
            point["loss"], bound = loss.mean(), claim([row.part(loss)], -1.0, 0.1, 2.0)
            point["loss_bound"] = bound[1]
        if row.curves[0].spec:
            slot = next(step for step in (1, 8, 16) if step >= rank)
            point |= {"bytes": 4 * WIDTH * rank, "slot": 2 * WIDTH * slot}
        points.append(point)
    return points


def _recommended(row: Row, margin: float) -> dict:
    """From the trained rank down until a rank fails or has no result."""
    points, shipped = {point["rank"]: point for point in _points(row)}, None
    for rank in sorted({*row.ranks, *row.gone}, reverse=True):
        point = points.get(rank)
        if point is None or point["above_base"] is False:
            break
        if rank != row.trained and point["loss_bound"] > margin:
            break
        shipped = point
    result = {"cut": row.cut, "reference": row.trained, "margin": margin}
    if shipped is None:
        return result | dict.fromkeys(("rank", "loss", "bound", "bytes"))
    whole = shipped["rank"] == row.trained
    loss, bound = (0.0, 0.0) if whole else (shipped["loss"], shipped["loss_bound"])
    return result | {k: shipped[k] for k in ("rank", "bytes")} | {"loss": loss, "bound": bound}


# What a run folder holds ------------------------------------------------------------------------


def cell_of(name: str, rank: int, basis: str, rescale: str) -> tuple[str, int, str, str]:
    """What is evaluated: at full rank the adapter itself, whatever the cut."""
    spec = ADAPTERS[name]
    if spec.members or rank < spec.rank:
        return name, rank, basis, rescale
    with_p = spec.method == "matryoshka" and (basis == "svd" or rescale == "trained")
    return name, rank, "prefix", "trained" if with_p else "rule"


def cells_of(command: Command) -> dict[tuple, int]:
    """Cell (None: the base) and task → how many examples."""
    cells = [cell_of(name, rank, *way) for name, *way, ranks in command.ways for rank in ranks]
    return {
        (cell, leaf): command.examples(leaf) for leaf in command.leaves for cell in [None, *cells]
    }


def recipes(adapters, groups: dict[str, tuple]) -> dict[str, list[str]]:
    """Recipe → its seeds: those named, and adapters whose recipes differ in the seed alone."""
    named = {name: [m for m in members if m in adapters] for name, members in groups.items()}
    taken, same = {m for members in named.values() for m in members}, {}
    for name in adapters:
        if ADAPTERS[name].recipe and name not in taken:
            same.setdefault(ADAPTERS[name].recipe["name"], []).append(name)
    return {name: some for name, some in named.items() if some} | {
        name: some for name, some in same.items() if len(some) > 1
    }


def clusters_of(task: str, counts: dict[str, tuple[int, bool]]) -> list[str] | None:
    """What the first examples of each task share; without clusters each is one by itself."""
    if not any(clustered for _, clustered in counts.values()):
        return None
    return [
        f"{leaf} {passage(at) if c else at}" for leaf, (n, c) in counts.items() for at in range(n)
    ]


class Folder:
    """What a run folder holds after its commands: in the order in which it came."""

    def __init__(self, table: int) -> None:
        self.table, self.adapters, self.asked = table, [], []
        self.examples: dict[str, tuple[int, bool]] = {}  # task → how many, clustered
        self.cuts: dict[tuple, dict[str, list]] = {}  # cut → task → how many, ranks
        self.groups: dict[str, tuple] = {}
        self.prompts: dict[str, str] = {}
        self.stored, self.failed = Counter(), set()  # (cell, task) → how many; those without

    def refuse(self, command: Command) -> None:
        """What cannot be done is refused before anything is computed."""
        leaves, members = command.leaves, [m for some in command.groups.values() for m in some]
        if len(set(leaves)) < len(leaves) or len(set(members)) < len(members):
            raise RefusedError("a task or a seed twice")
        for leaf in leaves:
            if self.prompts.get(leaf) not in (None, command.prompts(leaf)):
                raise RefusedError("a task with other prompts")
        groups = recipes(command.adapters, command.groups)
        seeds = {member for some in groups.values() for member in some}
        if command.reference not in {None, *groups, *(set(command.adapters) - seeds)}:
            raise RefusedError("no such reference")

    def told(self, command: Command) -> Folder:
        """Add what a command asks for."""
        self.adapters = list(dict.fromkeys([*self.adapters, *command.adapters]))
        self.asked = list(dict.fromkeys([*self.asked, *command.tasks]))
        taken = {member for members in command.groups.values() for member in members}
        kept = {name: some for name, some in self.groups.items() if not taken & set(some)}
        self.groups = kept | command.groups
        for leaf in command.leaves:
            n = command.examples(leaf)
            self.prompts[leaf] = command.prompts(leaf)
            before = self.examples.get(leaf, (0, False))
            self.examples[leaf] = before if before[0] > n else (n, command.clustered(leaf))
            for *cut, ranks in command.ways:
                has = self.cuts.setdefault(tuple(cut), {}).setdefault(leaf, [0, set()])
                has[:] = max(has[0], n), has[1] | set(ranks)
        return self

    def part(self, command: Command) -> Folder:
        """What the report of a command covers: what it asked for, of what is there."""
        part = Folder(self.table).told(command)
        part.stored, part.failed = self.stored, self.failed
        return part

    def may_ask(self, command: Command) -> Counter:
        """What the model may be asked: (kind, task, example, prompts), each so many times."""
        asked = Counter()
        for (cell, leaf), n in cells_of(command).items():
            places = range(self.stored[cell, leaf], n)
            asked.update((kind_of(cell), leaf, at, command.prompts(leaf)) for at in places)
        return asked

    def run(self, command: Command, fails: set) -> None:
        """Compute what a command asks for; `fails` are (kind, task)."""
        self.told(command)
        for key, n in cells_of(command).items():
            if self.stored[key] < n:
                fine = (kind_of(key[0]), key[1]) not in fails
                self.stored[key] = n if fine else self.stored[key]
                (self.failed.discard if fine else self.failed.add)(key)

    def scores(self, cell: tuple | None, leaf: str, n: int) -> np.ndarray | None:
        """(n,) scores of the base or a cut; None where some are not there."""
        if self.stored[cell, leaf] < n:
            return None
        return np.array(outcomes(self.table, kind_of(cell), leaf, self.prompts[leaf])[:n], float)

    def failures(self) -> set[tuple]:
        """Cell and task of what could not be computed."""
        wanted = {(None, leaf): n for leaf, (n, _) in self.examples.items()}
        for cut, tasks in self.cuts.items():
            for leaf, (n, ranks) in tasks.items():
                for key in ((cell_of(*cut[:1], rank, *cut[1:]), leaf) for rank in ranks):
                    wanted[key] = max(n, wanted.get(key, 0))
        return {key for key in self.failed if self.stored[key] < wanted.get(key, 0)}

    def curves(self) -> list[Curve]:
        """A curve for each task and cut that has a score at some rank."""
        return list(filter(None, (self._curve(t, c) for t in self.asked for c in self.cuts)))

    def _curve(self, task: str, cut: tuple) -> Curve | None:
        has, leaves, (name, *way) = self.cuts[cut], leaves_of(task), cut
        if not set(leaves) <= set(has):
            return None
        ranks, base = set().union(*(has[leaf][1] for leaf in leaves)), []
        found = {rank: [] for rank in ranks}
        for leaf in leaves:
            n, there = has[leaf]
            base.append(self.scores(None, leaf, n))
            for rank in ranks:
                known = self.scores(cell_of(name, rank, *way), leaf, n) if rank in there else None
                found[rank].append(known)
        whole = {k: np.concatenate(v) for k, v in found.items() if not any(x is None for x in v)}
        base = None if any(x is None for x in base) else np.concatenate(base)
        clusters = clusters_of(
            task, {leaf: (has[leaf][0], self.examples[leaf][1]) for leaf in leaves}
        )
        gone = ranks - set(whole)
        return (
            Curve(task, name, whole, gone, base, clusters, *way, ADAPTERS[name]) if whole else None
        )

    def logs(self) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """An export: folder and rank → task → scores, of cells that are whole."""
        leaves = list(dict.fromkeys(leaf for task in self.asked for leaf in leaves_of(task)))
        points: dict = {("base", 0): dict.fromkeys(leaves)}
        for name, *way in self.cuts:
            first = next(cut for cut in self.cuts if cut[0] == name)
            folder = name if first == (name, *way) else f"{name}@{way[0]}-{way[1]}"
            for leaf, (_, ranks) in self.cuts[name, *way].items():
                for rank in ranks:
                    points.setdefault((folder, rank), {})[leaf] = cell_of(name, rank, *way)
        whole = {}
        for point, cells in points.items():
            found = {leaf: self.scores(cells[leaf], leaf, self.examples[leaf][0]) for leaf in cells}
            whole[point] = {leaf: scores for leaf, scores in found.items() if scores is not None}
        return {point: found for point, found in whole.items() if found or not point[1]}


def curves_of_logs(logs: dict, pooled: bool, clusters: tuple[str, ...]) -> list[Curve]:
    """What `score` reads of an export: each task, and a group that was asked for."""
    base = logs["base", 0]
    names = dict.fromkeys(name for name, rank in logs if rank)
    tasks, curves = dict.fromkeys(leaf for found in logs.values() for leaf in found), []
    pooled &= any(set(MEMBERS) <= set(found) for found in logs.values())
    for task in [*tasks, *((GROUP,) if pooled else ())]:
        leaves = leaves_of(task)
        for name in names:
            points = {rank: found for (n, rank), found in logs.items() if n == name and rank}
            some = {r for r, found in points.items() if set(leaves) & set(found)}
            whole = {
                r: np.concatenate([found[leaf] for leaf in leaves])
                for r, found in points.items()
                if set(leaves) <= set(found)
            }
            bases = np.concatenate([base[x] for x in leaves]) if set(leaves) <= set(base) else None
            if whole:
                n = {
                    leaf: len(next(f[leaf] for f in logs.values() if leaf in f)) for leaf in leaves
                }
                shared = clusters_of(task, {x: (n[x], x in clusters) for x in leaves})
                curves.append(Curve(task, name, whole, some - set(whole), bases, shared))
    return curves
