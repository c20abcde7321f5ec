"""What the program should say of curves: the statistics, with none of the program's code.

What a rule of the statistics decides stands in a function of its own: `further_size`, `of_seeds`,
`difference`, `in_the_mean`, `above_base`, `recommended`.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
from program.commands import RefusedError
from scipy.optimize import brentq
from scipy.stats import t as student
from support import table_world as world
from support.table_world import GROUP, MEMBERS, PROSE

MEAN = "mean over tasks"
TOLD = "told"  # of a row: what no frame has, such as the name in tables

# The rule of every claim ------------------------------------------------------------------------


class Part:
    """Sums over units of examples, their sizes, and arms: S checkpoints, their means, what of
    the variance is examples × seeds, and rounding.
    """

    def __init__(self, values, clusters, names):
        (S, n), each, labels = values.shape, values.mean(axis=0), clusters or range(values.shape[1])
        units = np.array([[label == unit for label in labels] for unit in dict.fromkeys(labels)])
        self.sums, self.sizes, self.arms = units @ each, units.sum(axis=1).astype(float), []
        if S > 1:
            means = values.mean(axis=1)
            rest = (values - each - means[:, None] + means.mean()) @ units.T
            inside = (rest**2 / (1 - np.minimum(self.sizes / n, 0.5))).sum()
            self.arms = [(list(names), means, inside / (n**2 * S * (S - 1)), 1 / (12 * n**2))]


def further_size(sizes, low):
    """Examples in the further cluster: as in that of an example, less for a difference."""
    return max(1.0, (0.8 if low < 0 else 1.0) * (sizes**2).sum() / sizes.sum())


def moments(part, value, further, size):
    """Mean, its CR2 variance and Bell and McCaffrey's df, with `further` units of that value."""
    sums, sizes = np.append(part.sums, value * size), np.append(part.sizes, size)
    times = np.append(np.ones(len(part.sums)), further)
    w = sizes / (times @ sizes)
    q, mean = w**2 / (1 - w), times @ sums / (times @ sizes)
    variance = times @ ((sums - mean * sizes) ** 2 / (1 - w)) / (times @ sizes) ** 2
    return mean, variance, 1 / (times @ w**2 + (times @ q) ** 2 - times @ q**2)


def added(terms):
    """Independent variances, with the degrees of freedom of Welch and Satterthwaite."""
    total, spread = sum(v for v, _ in terms), sum(v * v / df for v, df in terms)
    return terms[0] if len(terms) == 1 else (total, total**2 / spread if spread else 1.0)


def of_seeds(parts):
    """Of each arm, over tasks, variance, df and deviation; arms share what Welch's df is more."""
    arms = {}
    for arm in (arm for part in parts for arm in part.arms):
        arms.setdefault(frozenset(arm[0]), []).append(arm)
    shared = len(parts) > 1 and sum(map(len, arms)) > len(frozenset().union(*arms))
    if shared or len({len(part.arms) for part in parts}) > 1:
        raise RefusedError("tasks share some of their seeds")
    terms = []
    for names, same in arms.items():
        rows = [[means[known.index(name)] for name in names] for known, means, _, _ in same]
        variance = np.var(np.sum(rows, axis=0) / len(parts), ddof=1)
        rounding = sum(arm[3] for arm in same) / len(parts) ** 2
        terms.append(((variance + rounding) / len(names), len(names) - 1.0, variance**0.5))
    own = [(variance, df) for variance, df, _ in terms]
    more = max(0.0, added(own)[1] - max(df for _, df in own)) / (len(own) + 1) if own else 0.0
    return [(variance, df + more, sd) for variance, df, sd in terms]


def claim(parts, low, alpha, further=1.0):
    """Of a mean over tasks both ends at 1 - alpha, and p; values lie between `low` and 1."""
    try:
        arms, T = [arm[:2] for arm in of_seeds(parts)], len(parts)
    except RefusedError:
        return None, None, None
    inside = sum(arm[2] for part in parts for arm in part.arms) / T**2

    def terms(value):
        each = [moments(x, value, further, further_size(x.sizes, low)) for x in parts]
        v, df = added([(v / T**2, df) for _, v, df in each])
        return sum(mean for mean, _, _ in each) / T, [(max(v - inside, 0.0), df), *arms]

    def reach(sources, alpha):
        return sum(v * student.isf(alpha / 2, df) ** 2 for v, df in sources) ** 0.5

    (m, below), (n, above) = terms(low), terms(1.0)
    ends = max(m - reach(below, alpha), low), min(n + reach(above, alpha), 1.0)
    value = sum(part.sums.sum() / part.sizes.sum() for part in parts) / T
    mean, sources = (m, below) if value > 0 else (n, above)
    if abs(value) < 1e-12 or mean * value <= 0 or abs(mean) <= reach(sources, math.exp(-1e-9)):
        return *ends, 1.0
    if abs(mean) >= reach(sources, 1e-15):
        return *ends, 1e-15
    gap = lambda log: abs(mean) - reach(sources, math.exp(log))  # noqa: E731
    return *ends, math.exp(brentq(gap, math.log(1e-15), -1e-9, xtol=1e-12))


# The five frames --------------------------------------------------------------------------------


class Row:
    """A curve, or those of a recipe's seeds; `over` are the ranks that all rows have."""

    def __init__(self, name, curves):
        curves = sorted(curves, key=lambda curve: curve.adapter)
        self.curves, first = curves, curves[0]
        self.task, self.rolling = first.task, first.task == PROSE
        self.key = self.name, *_ = name, *first.cut
        self.clusters, self.base, self.n = first.clusters, first.base, first.n
        self.names = [curve.adapter for curve in curves]
        self.ranks = sorted(set.intersection(*(set(curve.scores) for curve in curves)))
        self.gone = set().union(*(curve.missing for curve in curves))
        self.below = bool(self.gone) or not all(curve.scores for curve in curves)
        self.whole = not self.below and len(self.ranks) > 1 and not self.rolling
        trained = {c.spec.rank if c.spec else max({*c.scores, *c.missing}) for c in curves}
        self.trained = trained.pop() if len(trained) == 1 else None

    def values(self, rank):
        return np.array([curve.scores[rank] for curve in self.curves], dtype=float)

    def areas(self, axis=np.log2):
        """(S, n) AURAC of each example over the ranks that all rows have, by trapezoids."""
        x = axis(np.array(self.over, dtype=float))
        w = (np.diff(x, prepend=x[0]) + np.diff(x, append=x[-1])) / 2 / (x[-1] - x[0])
        return sum(weight * self.values(rank) for weight, rank in zip(w, self.over, strict=True))

    @property
    def order(self):
        """Those that are compared first, then the best; those without an area last."""
        mean = np.mean([self.values(rank).mean() for rank in self.ranks] or [0.0])
        return self.below, not self.over, -(self.areas().mean() if self.over else mean)

    def part(self, values):
        return Part(values, self.clusters, self.names)


def words_of(curves):
    """A cut as tables call it."""
    methods = {curve.spec and curve.spec.method for curve in curves}
    basis, rescale = curves[0].cut
    if rescale == "rule" and methods == {"matryoshka"}:
        return f"{basis} without P"
    words = {("svd", "keep"): "svd", ("prefix", "rule"): "prefix"}
    words |= {("prefix", "trained"): "prefix rescaled", ("prefix", "keep"): "prefix · keep"}
    return words.get((basis, rescale))


def rows_of(curves, groups):
    """Seeds together; further cuts of an adapter are named."""
    recipe = {member: name for name, members in groups.items() for member in members}
    sets, first, rows = {}, {}, []
    for curve in curves:
        looked = not (curve.scores or curve.missing)  # of it only fewer examples were asked
        name = curve.adapter if looked else recipe.get(curve.adapter, curve.adapter)
        key = name, curve.task, curve.cut
        sets.setdefault(key, []).append(curve)
    for (name, _, cut), some in sets.items():
        rows.append(row := Row(name, some))
        if cut != first.setdefault(name, cut):
            row.name = f"{name} ({words_of(some)})"
    return rows


def difference(a, b, left, right):
    """a - b: within each seed where both are of the same checkpoints, or trained alike."""
    ours, theirs = a.names, b.names
    if {*ours} != {*theirs}:  # by seed, where the data are the same
        specs = [[curve.spec for curve in row.curves] for row in (a, b)]
        ours, theirs = ([x and x.data and (x.seed, x.data) for x in some] for some in specs)
    apart = len({*ours}) < len(ours) or Counter(ours) != Counter(theirs)
    if None in ours or len(ours) < 2 or apart:
        first, second = a.part(left), b.part(right)
        first.sums, first.arms = first.sums - second.sums, first.arms + second.arms
        return first
    order = [theirs.index(key) for key in ours]
    names = [(name, b.names[at]) for name, at in zip(a.names, order, strict=True)]
    return Part(left - right[order], a.clusters, names)


def in_the_mean(tasks):
    """The tasks (name → examples) of the mean: of a group and its members the larger ones."""
    kept = []
    for task in sorted(tasks, key=lambda task: -tasks[task]):
        if not any(GROUP in (task, other) and {task, other} & {*MEMBERS} for other in kept):
            kept.append(task)
    return [task for task in tasks if task in kept]


def frames_of(curves, groups, margin=None, reference=None):
    """All that is claimed of curves: frame → key of a row → its columns."""
    rows = rows_of(curves, groups)
    tasks = {curve.task: curve.n for curve in curves}
    if reference not in (None, "all", *(row.name for row in rows if row.ranks)):
        raise RefusedError("no such reference")
    whole = [row for row in rows if row.whole]
    if reference is None and max(Counter(row.task for row in whole).values(), default=0) > 6:
        reference = Counter(row.name for row in whole).most_common(1)[0][0]
    names, by = "scores points pairs rank_pairs recommended", {(r.task, r.key): r for r in rows}
    frames = {name: {} for name in names.split()}
    for task in tasks:
        here = [row for row in rows if row.task == task]
        common = [{*row.ranks} for row in here if row.whole]
        over = sorted(set.intersection(*common)) if common else []
        for row in here:
            row.over = over if row.whole and len(over) > 1 and {*over} <= {*row.ranks} else []
            frames["scores"][(task, *row.key)] = _score([row])
            points = _points(row)
            frames["points"] |= {(task, *row.key, rank): p for rank, p in points.items()}
            if margin is not None and not row.rolling:
                frames["recommended"][(task, *row.key)] = recommended(row, points, margin)
        level = [row for row in here if not row.below]
        reference = None if reference == "all" else reference
        both = [(a, b) for a, b in combinations(level, 2) if reference in (None, a.name, b.name)]
        frames["pairs"] |= _family([([a], [b]) for a, b in both if a.over and b.over], task)
        for a, b in (sorted(pair, key=lambda row: (*row.order, row.name)) for pair in both):
            for rank in {*a.ranks} & {*b.ranks} if task != PROSE else ():
                left, right = a.values(rank), b.values(rank)
                low, high, _ = claim([difference(a, b, left, right)], -1.0, 0.05)
                row = {"difference": left.mean() - right.mean(), "low": low, "high": high}
                row["tie"] = np.allclose(a.order, b.order)
                frames["rank_pairs"][(task, *a.key, *b.key, rank)] = row
    if len(over := in_the_mean({k: n for k, n in tasks.items() if k != PROSE})) > 1:
        every = {row.key: [by.get((task, row.key)) for task in over] for row in rows}
        level = {key: all(row and row.over for row in some) for key, some in every.items()}
        frames["scores"] |= {
            (MEAN, *key): UNKNOWN | _unscored(next(filter(None, some)))
            for key, some in every.items()
            if any(some)
        }
        every = {key: some for key, some in every.items() if level[key]}
        frames["scores"] |= {(MEAN, *key): _score(some) for key, some in every.items()}
        pairs = combinations(every.values(), 2)
        both = [(a, b) for a, b in pairs if reference in (None, a[0].name, b[0].name)]
        frames["pairs"] |= _family(both, MEAN)
    return frames


UNKNOWN = dict.fromkeys(("aurac", "aurac_linear", "low", "high", "seed_sd", "base", "examples"))
UNTESTED = dict.fromkeys(("reference", "rank", "loss", "bound", "bytes", "slot", "smallest_rank"))


def _unscored(row):
    """What is said of a row that has no mean over tasks."""
    return {"seeds": len(row.curves), TOLD: {"name": row.name, "clusters": False, "tasks": []}}


def _score(rows):
    """AURAC over one task or several."""
    bases = [None if row.base is None else row.base.mean() for row in rows]
    first = rows[0]
    shared = any(row.clusters and len({*row.clusters}) < row.n for row in rows)
    told = {"name": first.name, "clusters": shared, "tasks": [row.task for row in rows]}
    result = {"base": None if None in bases else np.mean(bases), TOLD: told}
    result["seeds"] = min(len(row.curves) for row in rows)
    result["examples"] = None if first.rolling else sum(row.n for row in rows)
    if not rows[0].over:
        return result | dict.fromkeys(("aurac", "aurac_linear", "low", "high", "seed_sd"))
    areas, linear = ([row.areas(axis) for row in rows] for axis in (np.log2, np.asarray))
    parts = [row.part(x) for row, x in zip(rows, areas, strict=True)]
    low, high, _ = claim(parts, 0.0, 0.05)
    arms = [] if low is None else of_seeds(parts)
    result |= {"aurac": np.mean([x.mean() for x in areas]), "low": low, "high": high}
    result |= {"aurac_linear": np.mean([x.mean() for x in linear])}
    return result | {"seed_sd": arms[0][2] if len(arms) == 1 else None}


def _family(pairs, task):
    """Differences of AURAC, the better one first, in one order on all tasks."""
    result, count = {}, len(pairs)
    for pair in pairs:
        gap = np.mean([a.areas().mean() - b.areas().mean() for a, b in zip(*pair, strict=True)])
        ours, theirs = pair if gap >= 0 else pair[::-1]
        areas = [(a.areas(), b.areas()) for a, b in zip(ours, theirs, strict=True)]
        each = zip(ours, theirs, areas, strict=True)
        parts = [difference(a, b, *both) for a, b, both in each]
        low, high, p = claim(parts, -1.0, 0.05 / count, 1 + math.log(count) / 3)
        row = {"difference": abs(gap), "low": low, "high": high, "tie": abs(gap) < 1e-9}
        ahead = np.concatenate([left.mean(axis=0) - right.mean(axis=0) for left, right in areas])
        row |= {"wins": sum(ahead > 1e-9), "losses": sum(ahead < -1e-9), "comparisons": count}
        row |= {"p": p and min(1.0, count * p), "examples": sum(a.n for a in ours)}
        row["seeds"] = min(len(each.curves) for each in ours + theirs)
        row[TOLD] = {"arms": 0 if p is None else max(len(part.arms) for part in parts)}
        result[(task, *ours[0].key, *theirs[0].key)] = row
    return result


def above_base(row, rank):
    """Whether a rank is shown to be above the base, one-sided at 95 %."""
    return bool(claim([row.part(row.values(rank) - row.base)], -1.0, 0.1, 2)[0] > 0)


def _points(row):
    """Rank → its point; 0 is the base."""
    points, base = {}, [] if row.base is None else [(0, row.base[None])]
    for rank, values in base + [(rank, row.values(rank)) for rank in row.ranks]:
        point = dict.fromkeys(("above_base", "loss", "loss_bound", "bytes", "slot"))
        cut_off = [curve.cut_off.get(rank) for curve in row.curves[: None if rank else 1]]
        point["unfinished"] = None if None in cut_off else sum(cut_off)
        low, high, _ = (None,) * 3 if row.rolling else claim([row.part(values)], 0.0, 0.05)
        point |= {"accuracy": values.mean(), "low": low, "high": high}
        if rank and base and not row.rolling:
            point["above_base"] = above_base(row, rank)
        if row.trained in row.ranks and 0 < rank < row.trained and not row.rolling:
            loss = row.values(row.trained) - values
            point |= {"loss": loss.mean(), "loss_bound": claim([row.part(loss)], -1.0, 0.1, 2)[1]}
        if row.curves[0].spec and rank:
            point |= {"bytes": 8 * world.SIDE * rank, "slot": 1 if rank == 1 else 8}
        points[rank] = point | {TOLD: row.rolling}
    return points


def recommended(row, points, margin):
    """From the trained rank down until a rank fails or has no result."""
    if row.base is None or row.trained not in row.ranks:
        return UNTESTED | {"margin": margin}
    passing, lost = [], {"loss": 0.0, "loss_bound": 0.0}
    for rank in sorted({*row.ranks, *row.gone}, reverse=True):
        point = points.get(rank)
        if point is None or point["above_base"] is False or (point["loss_bound"] or 0.0) > margin:
            break
        passing.append({**point, "rank": rank} | (lost if rank == row.trained else {}))
    smallest = passing[-1] if passing else {"rank": None, "slot": None}
    slots = [each["slot"] for each in passing]  # 1, or 8 for the ranks 2 to 8 of these adapters
    first = slots.index(smallest["slot"]) if smallest["slot"] else -1
    shipped = passing and passing[first]
    result = {"reference": row.trained, "margin": margin}
    columns = {"rank": "rank", "loss": "loss", "bound": "loss_bound", "bytes": "bytes"}
    columns["slot"] = "slot"
    result |= {k: shipped[column] if shipped else None for k, column in columns.items()}
    return result | {"smallest_rank": smallest["rank"]}
