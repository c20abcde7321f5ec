"""AURAC of one curve, with the interval that fits its documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.arguments import converted, kind_of, suggestion
from aurac.curves.area import (
    AXES,
    BUDGETS,
    Axis,
    area_name,
    check_axis,
    curve_weights,
    document_areas,
    drops,
    shared_span,
    span_dict,
)
from aurac.curves.coerce import as_curve, check_single
from aurac.curves.curve import Curve
from aurac.curves.display import counted, percent, picture, points, show_span, table, text
from aurac.curves.names import some
from aurac.errors import CurveError
from aurac.stats.intervals import VERY_FEW, effective_events, mean_interval
from aurac.stats.mean import NO_DOCUMENTS, Estimate, check_level, layout_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.analysis.groups import Groups
    from aurac.curves.area import Span
    from aurac.files import Json


RECORDED_LEVEL = 0.95  # of the intervals in results.json, and of those that come with accuracies
OF_POINTS = "weighted mean of the ranks' own intervals, wide enough for any correlation of ranks"


@dataclass(frozen=True, repr=False)
class Score:
    """AURAC of one curve on both axes of the rank, with what is needed to read it.

    Attributes:
        log2: The area over log2 rank, every doubling of the rank weighing alike.
        linear: The area over the rank itself.
        mean: The plain mean over the ranks.
        ranks: The K ranks that were integrated.
        accuracy: Their accuracies, fractions.
        weights: For each axis the weights of the K ranks, summing to 1.
        n_docs: Documents behind the interval; None for point values.
        drops: ``(rank, next rank, size)`` wherever accuracy falls from one rank to the next.
        axis: The headline axis, which `value` and ``float()`` give.
        notes: What a reader should know about the interval.
        budget: The area over the headline axis where that is a budget, parameters or bytes.
        span: The amounts of the budget.
    """

    log2: Estimate
    linear: Estimate
    mean: float
    ranks: tuple[int, ...]
    accuracy: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]
    n_docs: int | None
    drops: tuple[tuple[int, int, float], ...]
    axis: Axis = "log2"
    notes: tuple[str, ...] = field(default=())
    budget: Estimate | None = None
    span: Span | None = None

    @property
    def estimate(self) -> Estimate:
        """The estimate on the headline axis."""
        return self.budget or (self.log2 if self.axis == "log2" else self.linear)

    @property
    def value(self) -> float:
        """AURAC on the headline axis, a fraction."""
        return self.estimate.value

    def __repr__(self) -> str:
        area = self.estimate
        ends = "" if area.low is None else f" [{area.low:.4f}, {area.high:.4f}]"
        ranks = ", ".join(map(str, self.ranks))
        documents = "" if self.n_docs is None else f"; {self.n_docs} documents"
        axis = f"on the {self.axis} axis" if self.span is None else self._domain
        return f"Score({self.value:.4f}{ends} {axis}, ranks {ranks}{documents})"

    def __lt__(self, other: Score) -> bool:
        """Whether the area is smaller, of two on one axis and the same ranks or budgets.

        Raises:
            CurveError: They are areas over something else each.
        """
        ours, theirs = self._domain, other._domain
        if (ours, self.span) != (theirs, other.span):
            raise CurveError(
                f"{ours} against {theirs}",
                expected="areas over the same axis and range",
                fix="compare the curves: aurac.analysis.paired_curves(a, b, axis=...)",
            )
        return self.value < other.value

    @property
    def _domain(self) -> str:
        if self.span is not None:
            return f"{area_name(self.axis)}, {show_span(self.span, self.axis)}"
        return f"AURAC on the {self.axis} axis, ranks {', '.join(map(str, self.ranks))}"

    def __float__(self) -> float:
        return self.value

    def _repr_html_(self) -> str:
        """What a notebook shows: both axes with intervals, the weights, and what to know."""
        rows = []
        areas = {"log2": self.log2, "linear": self.linear, self.axis: self.estimate}
        over = f", {show_span(self.span, self.axis)}" if self.span else ""
        for axis, area in areas.items():
            ends = "–" if area.low is None else f"{percent(area.low)} to {percent(area.high)}"
            name = f"{axis}{f' (headline){over}' if axis == self.axis else ''}"
            rows.append([name, percent(area.value, 2), ends, area.method])
        rows.append(["mean over ranks", percent(self.mean, 2), "–", ""])
        weights = [
            [rank, percent(y), f"{self.weights['log2'][k]:.3f}", f"{self.weights['linear'][k]:.3f}"]
            for k, (rank, y) in enumerate(zip(self.ranks, self.accuracy, strict=True))
        ]
        known = self.estimate.low is not None
        level = f"{100 * self.estimate.level:g} % interval" if known else "interval"
        drops = [f"falls by {points(size)} from rank {r} to {s}" for r, s, size in self.drops]
        notes = "".join(f"<li>{text(note)}</li>" for note in [*self.notes, *drops])
        return (
            f"<div><p><strong>{area_name(self.axis)} {percent(self.value, 2)} %</strong></p>"
            f"{table(['axis', 'AURAC (%)', level, 'interval by'], rows)}"
            f"{picture([('accuracy', self.ranks, self.accuracy)])}"
            f"{table(['rank', 'accuracy (%)', 'weight, log2', 'weight, linear'], weights)}"
            f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
        )

    def to_dict(self) -> dict[str, Json]:
        """The ``score`` object of a result file."""
        areas: dict[str, Json] = {"log2": self.log2.to_dict(), "linear": self.linear.to_dict()}
        if self.budget is not None:
            areas[f"aurac_{self.axis}"] = self.budget.to_dict() | span_dict(self.span)
        return {**areas, "mean": self.mean}


def score(
    curve: Any,
    values: Any = None,
    *,
    axis: Axis = "log2",
    level: float = 0.95,
    adapter: str | None = None,
    task: str | None = None,
) -> Score:
    """The area under a rank-accuracy curve (AURAC), with an interval where documents are known.

    For ranks ``r_1 < … < r_K`` with accuracies ``y_k`` in [0, 1] and x = log2 r or r,
    ``AURAC = Σ_k (x_{k+1} - x_k)(y_k + y_{k+1}) / 2 / (x_K - x_1)``. With per-document outcomes the
    interval is that of the documents' own areas, which carry the correlation between ranks
    (Student's t, near 0 and 1 wider). A row of ``results.json`` keeps the 95 % interval that it
    holds. Where only the ranks' own 95 % intervals are known, their weighted mean is the interval:
    the standard error of a sum is at most the sum of the standard errors. Rank 0, the base, is no
    part: it is left out, and `notes` says so.

    Args:
        curve: A `Curve`, a mapping ``rank -> accuracy`` or ``rank -> per-document scores``,
            ``(ranks, accuracies)``, a pandas Series (index: ranks), a DataFrame (columns ``rank,
            accuracy``, optional ``low, high``; or ``rank, doc_id, score``; with optional
            ``parameters, bytes``), a row of ``results.json``, a `Run` (`Run.scores` has all of its
            curves), or the path of a run, a table or sample logs.
        values: Where `curve` is K ranks: their K accuracies, or (K, n) scores of documents. A text
            is the axis.
        axis: The headline: "log2" or "linear" of the rank, which are both computed, or a budget,
            "parameters" or "bytes" of the truncated adapter, where the curve knows them: x is then
            log2 of the amount.
        level: Coverage of the intervals.
        adapter: Of the curves of a run or path, this adapter's, in its default truncation; or the
            one that tables call so, such as ``lora (prefix)``.
        task: Of the curves of a run or path, the one on this task.

    Raises:
        CurveError: Fewer than two ranks, a duplicate or invalid rank, a missing rank, a number
            that is not finite or outside [0, 1], ragged or unequal documents; or a run or path
            with several curves of which none was chosen.
        DataError, RunFolderError: A path that cannot be read.
    """
    headline = check_axis(values if isinstance(values, str) else axis)
    level = converted(level, float, "level")
    check_level(level)
    adapter = converted(adapter, str | None, "adapter")
    task = converted(task, str | None, "task")
    if values is not None and not isinstance(values, str):
        curve = (curve, values)
    if isinstance(curve, (str, Path)) or hasattr(curve, "curves"):
        curve = _curve_of(curve, adapter, task)
    else:
        curve = _selected(curve, adapter=adapter, task=task)
    if hasattr(curve, "score_method") and hasattr(curve, "to_dict"):  # a record of results.json
        curve = curve.to_dict()
    return _score(as_curve(curve), curve, headline, level)


def _score(points: Curve, source: Any, headline: Axis, level: float) -> Score:
    if points.missing:
        rank, reason = next(iter(points.missing.items()))
        raise CurveError(
            f"{points.label} has no accuracy at rank {rank} ({reason})",
            fix="evaluate it, or integrate the ranks that exist with curve.at(curve.ranks)",
        )
    axes = dict.fromkeys((*AXES, headline))
    weights = {name: curve_weights(points, name) for name in axes}
    estimates = {name: _estimate(points, name, weights[name], level) for name in axes}
    estimates |= _recorded(source, estimates, level)
    row = isinstance(source, Curve) or (isinstance(source, Mapping) and "ranks" in source)
    notes = score_notes(estimates[headline])
    if points.baseline is not None and not row:
        notes += ("rank 0 is the base model and no part of the area",)
    return Score(
        log2=estimates["log2"],
        linear=estimates["linear"],
        mean=float(np.mean(points.accuracy)),
        ranks=points.ranks,
        accuracy=points.accuracy,
        weights={k: tuple(map(float, w)) for k, w in weights.items()},
        n_docs=points.n_docs,
        drops=drops(points),
        axis=headline,
        notes=notes,
        budget=estimates[headline] if headline in BUDGETS else None,
        span=shared_span([points], headline) if headline in BUDGETS else None,
    )


def _selected(source: Any, **wanted: str | None) -> Any:
    """The rows of a table that are meant; a curve by itself must have the names."""
    for name, value in wanted.items():
        if value is None:
            continue
        if name in getattr(source, "columns", ()):
            there = dict.fromkeys(source[name])
            source = source[source[name] == value]
        else:
            row = source if isinstance(source, Mapping) and "ranks" in source else {}
            there = dict.fromkeys([getattr(source, name, None) or row.get(name)])
            label = getattr(source, "label", "").removesuffix(f" on {getattr(source, 'task', '')}")
            there |= {label: None} if name == "adapter" else {}
        if value not in there:
            known = ", ".join(map(str, filter(None, there)))
            raise CurveError(
                f"{name}={value!r} of {kind_of(source)}",
                expected=f"one of {known}" if known else "a run, a path or a table with names",
                fix="leave it out of a single curve",
            )
    return source


def _curve_of(source: Any, adapter: str | None, task: str | None) -> Any:
    from aurac.readers import read_curves

    path = source if isinstance(source, (str, Path)) else None
    run: Any = source if path is None else read_curves(Path(path).expanduser())
    called = [each for each in run.curves if each.label in (adapter, f"{adapter} on {each.task}")]
    first: dict[tuple[str | None, str | None], Any] = {}
    for curve in (listed := called or run.curves):  # an adapter's default truncation comes first
        first.setdefault((curve.adapter, curve.task), curve)
    way = attrgetter("basis", "rescale")  # of which a table may have several seeds
    default = [c for c in listed if way(c) == way(first[c.adapter, c.task])]
    names = {"adapter": None if called else adapter, "task": task}
    wanted = {k: name for k, name in names.items() if name is not None}
    curves = [c for c in default if all(getattr(c, k) == v for k, v in wanted.items())]
    if len(curves) == 1:
        return curves[0]
    groups = (run if hasattr(run, "groups") else read_curves(run.folder)).groups
    _refuse_seeds(adapter, run.curves, groups)
    every = "run.scores of run = aurac.load_run(path)"
    if getattr(run, "kind", "run") != "run":
        every = "aurac.analysis.analyse(aurac.readers.read_curves(path).curves).scores"
    of_task = [c for c in run.curves if task in (None, c.task)]
    _refuse_table(source, curves if adapter else of_task, every)
    labels = {each.label: None for each in run.curves if adapter is not None and not curves}
    known = some(labels or (" on ".join(filter(None, names)) for names in first))
    there = {k: {name for c in default if (name := getattr(c, k))} for k in names}
    there["adapter"] |= {each.label for each in run.curves} | set(groups)
    near = next((suggestion(v, there[k]) for k, v in wanted.items() if v not in there[k]), None)
    left = " and ".join(f"{k}=" for k in names if len({getattr(c, k) for c in curves}) > 1)
    asked = ", ".join(filter(None, (adapter, task))) or "any adapter"
    raise CurveError(
        f"{source} with {len(curves)} curves of {asked}",
        expected=f"one of {known}",
        fix=near or f"{f'name {left}, or ' if left else ''}take all: {every}",
    )


def _refuse_seeds(adapter: str | None, curves: Sequence[Curve], groups: Groups) -> None:
    """Refuse the name of a recipe, or of a truncation of one as in tables."""
    for recipe, members in groups.items():
        seeds = [
            c
            for c in curves
            if c.adapter in members
            and adapter in (recipe, name := c.name_of(recipe), f"{name} on {c.task}")
        ]
        if seeds:
            one = seeds[0].name_of(seeds[0].adapter or recipe)
            raise CurveError(
                f"{adapter} is {counted(len({c.adapter for c in seeds}), 'training seed')}",
                expected="one curve",
                fix=f"run.scores has the mean over them; one of these is {one}",
            )


def _refuse_table(source: Any, curves: Sequence[Curve], every: str) -> None:
    """Refuse a table that has several seeds, or metrics, of each of these curves."""
    labels = Counter(curve.label for curve in curves)
    if not labels or min(labels.values()) < 2:
        return
    what = f"{source}, {some(labels)}: a table"
    fix = f"take one of aurac.readers.read_curves(path).curves, or the mean over seeds: {every}"
    for name in ("metric", "seed"):
        same = {getattr(c, name) for c in curves if c.label == curves[0].label}
        check_single(name, same, what, fix)


def _estimate(curve: Curve, axis: Axis, weights: NDArray[np.float64], level: float) -> Estimate:
    if curve.outcomes is None:
        value = float(weights @ np.asarray(curve.accuracy))
        known = all(rank in curve.intervals for rank in curve.ranks)
        if not known or abs(level - RECORDED_LEVEL) > 1e-9:
            method = OF_POINTS if known else NO_DOCUMENTS
            return Estimate(value, None, None, None, method, level)
        low, high = weights @ np.array([curve.intervals[rank] for rank in curve.ranks])
        return Estimate(value, None, float(low), float(high), OF_POINTS, level)
    return mean_interval(document_areas(curve, axis), layout_of(curve), level)


def _recorded(source: Any, computed: Mapping[Axis, Estimate], level: float) -> dict[Axis, Estimate]:
    """The intervals of a row of ``results.json``, which has no outcomes to compute them from."""
    recorded = source.get("score") if isinstance(source, Mapping) else None
    if not isinstance(recorded, Mapping) or abs(level - RECORDED_LEVEL) > 1e-9:
        return {}
    method = str(source.get("score_method") or "as recorded")
    result: dict[Axis, Estimate] = {}
    for axis, plain in computed.items():
        row = recorded.get(axis) or {}
        known = None not in (row.get("value"), row.get("low"), row.get("high"))
        if known and abs(row["value"] - plain.value) < 1e-6:
            result[axis] = Estimate(plain.value, row.get("se"), row["low"], row["high"], method)
    return result


def score_notes(estimate: Estimate) -> tuple[str, ...]:
    """What a reader should know about an interval; nothing where it is an ordinary one."""
    if estimate.method == NO_DOCUMENTS:
        return ("no interval: it needs per-document outcomes, mean accuracies do not carry it",)
    if estimate.method == OF_POINTS and estimate.low is None:
        return (f"no interval: those of the ranks are at 95 %, not at level={estimate.level:g}",)
    events = effective_events(estimate.value, estimate.se or 0.0)
    if estimate.low is None or events >= VERY_FEW:
        return ()
    return (f"only {events:.1f} effective events away from 0 or 1 decide the interval",)
