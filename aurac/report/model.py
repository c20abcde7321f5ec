"""What a report needs from `results.json`: read, checked, frozen; several runs merged into one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from aurac.errors import RunFolderError
from aurac.readers.run import inside
from aurac.report.escape import one_line
from aurac.runs.schema import differences
from aurac.runs.store import read_cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Role = Literal["default", "published", "extra"]
SCHEMA = 1
# The tolerance of `aurac.stats.analysis` too, where nothing else was declared before looking.
DELTA = 0.02
ALPHA = 0.05
# With more tasks than this a report summarises, and looks closely at the leaders only.
MANY_TASKS = 4
_NAME = 60  # characters of an adapter's name in sentences and tables; files have it whole
ROLES: dict[str, Role] = {"default": "default", "published": "published", "extra": "extra"}


@dataclass(frozen=True)
class Interval:
    """A value and its interval, as fractions; what is not known is None."""

    value: float
    se: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class CurveRow:
    """One adapter under one inference on one task: a curve of `results.json`.

    With `members` it is the mean over training seeds: see `aurac.report.pool`. `clustered_in` is
    the file that says which documents share a passage, where the task has such a field.
    """

    id: str
    adapter: str
    task: str
    metric: str
    basis: str
    rescale: str
    role: Role
    ranks: tuple[int, ...]
    accuracy: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    method: str | None = None
    base: str | None = None
    missing: Mapping[int, str] = field(default_factory=dict)
    baseline: float | None = None
    baseline_reason: str | None = None
    trained_rank: int | None = None
    near_ties: tuple[int | None, ...] = ()
    parameters: tuple[int | None, ...] = ()
    bytes: tuple[int | None, ...] = ()
    n_docs: int | None = None
    cells: Mapping[int, tuple[Path, ...]] = field(default_factory=dict)
    log2: Interval | None = None
    linear: Interval | None = None
    mean: float | None = None
    score_reason: str | None = None
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    drops: tuple[tuple[int, int, float], ...] = ()
    label: str = ""
    seed: int | None = None
    members: tuple[CurveRow, ...] = ()
    clustered_in: Path | None = None
    documents_in: tuple[Path | None, ...] = ()

    @property
    def seeds(self) -> int:
        """How many training seeds are behind the curve."""
        return max(1, len(self.members))

    @property
    def inference(self) -> str:
        """How the adapter was cut and scaled, in aurac's words."""
        return f"{self.basis} · {self.rescale}"

    @property
    def is_default(self) -> bool:
        """Whether this is the curve that the adapter is judged by."""
        return self.role == "default"


@dataclass(frozen=True)
class Run:
    """One run, or several that may be compared, as the report shows them."""

    curves: tuple[CurveRow, ...]
    tasks: tuple[Mapping[str, Any], ...]
    adapters: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, Any], ...]
    provenance: tuple[Mapping[str, Any], ...]
    version: str
    roots: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks that have a curve, in the order of the run."""
        listed = [str(task.get("name")) for task in self.tasks]
        seen = {curve.task for curve in self.curves}
        extra = [curve.task for curve in self.curves if curve.task not in listed]
        return tuple(dict.fromkeys([name for name in listed if name in seen] + extra))

    def of_task(self, task: str) -> tuple[CurveRow, ...]:
        """The curves of one task, in the order of the run."""
        return tuple(curve for curve in self.curves if curve.task == task)

    def task(self, name: str) -> Mapping[str, Any]:
        """What the run says about one task; empty when it says nothing."""
        return next((task for task in self.tasks if task.get("name") == name), {})


def parse(results: Mapping[str, Any], root: Path | None = None) -> Run:
    """Check a `results.json` of schema 1 and freeze what the report uses.

    Args:
        results: The parsed file.
        root: The folder that the cells' paths are relative to; without it there are no cells.

    Raises:
        RunFolderError: another schema, no curves, or a curve whose lists do not match.
    """
    if results.get("schema") != SCHEMA:
        raise RunFolderError(
            f"results of schema {one_line(results.get('schema'))}", expected=f"schema {SCHEMA}"
        )
    raw = results.get("curves")
    if not isinstance(raw, list):
        raise RunFolderError("results without a list of curves", expected="the key 'curves'")
    try:
        seeds = {str(a["name"]): a.get("seed") for a in results.get("adapters") or ()}
        files = {t.get("name"): t["documents"] for t in results.get("tasks") or () if _clustered(t)}
        curves = [
            replace(
                _curve(entry, root, seeds),
                clustered_in=inside(root, files[entry["task"]])
                if root and entry["task"] in files
                else None,
                documents_in=_document_files(entry["task"], results, root) if root else (),
            )
            for entry in raw
        ]
    except (KeyError, TypeError, ValueError, AttributeError, RunFolderError) as error:
        raise RunFolderError(f"a curve that cannot be read ({error!r})") from error
    return Run(
        curves=labelled(curves),
        tasks=tuple(results.get("tasks") or ()),
        adapters=tuple(results.get("adapters") or ()),
        failures=tuple(results.get("failures") or ()),
        provenance=(results.get("provenance") or {},),
        version=str(results.get("aurac") or "unknown"),
        roots=(root,) if root else (),
        groups=results.get("groups") or {},
    )


def _document_files(name: str, results: Mapping[str, Any], root: Path) -> tuple[Path | None, ...]:
    """Where the documents of a task are listed; of a group those of each member."""
    tasks = {task.get("name"): task for task in results.get("tasks") or ()}
    members = tasks.get(name, {}).get("members") or [name]
    named = [tasks.get(member, {}).get("documents") for member in members]
    return tuple(inside(root, where) if isinstance(where, str) else None for where in named)


def _clustered(task: Mapping[str, Any]) -> bool:
    return bool(task.get("cluster") and isinstance(task.get("documents"), str))


def _curve(entry: Mapping[str, Any], root: Path | None, seeds: Mapping[str, Any]) -> CurveRow:
    ranks = [int(rank) for rank in entry["ranks"]]
    n = len(ranks)
    columns = {
        "accuracy": _column(entry, "accuracy", n),
        "low": _column(entry, "accuracy_low", n),
        "high": _column(entry, "accuracy_high", n),
        "parameters": _column(entry, "parameters", n),
        "bytes": _column(entry, "bytes", n),
        "near_ties": _column(entry, "near_ties", n),
    }
    missing = {int(rank): str(why) for rank, why in (entry.get("missing") or {}).items()}
    order = sorted(range(n), key=lambda i: ranks[i])
    kept = [i for i in order if _finite(columns["accuracy"][i])]
    for i in order:
        if i not in kept:
            missing.setdefault(ranks[i], "no accuracy was stored")
    picked: dict[str, Any] = {name: tuple(v[i] for i in kept) for name, v in columns.items()}
    score = entry.get("score") or {}
    return CurveRow(
        id=str(entry.get("id") or ""),
        adapter=str(entry["adapter"]),
        task=str(entry["task"]),
        metric=str(entry["metric"]),
        basis=str(entry.get("basis") or "prefix"),
        rescale=str(entry.get("rescale") or "not recorded"),
        role=_role(entry),
        ranks=tuple(ranks[i] for i in kept),
        method=entry.get("method"),
        base=entry.get("base"),
        missing=missing,
        baseline=entry.get("baseline"),
        baseline_reason=entry.get("baseline_reason"),
        trained_rank=entry.get("trained_rank"),
        n_docs=entry.get("n_docs"),
        cells=_cells(entry, root) if root else {},
        log2=_interval(score.get("log2")),
        linear=_interval(score.get("linear")),
        mean=score.get("mean"),
        score_reason=entry.get("score_reason"),
        weights={axis: tuple(w) for axis, w in (entry.get("weights") or {}).items() if w},
        seed=seeds.get(str(entry["adapter"])),
        drops=tuple((int(a), int(b), float(size)) for a, b, size in entry.get("drops") or ()),
        **picked,
    )


def _role(entry: Mapping[str, Any]) -> Role:
    role = entry.get("role") or ("default" if entry.get("default", True) else "extra")
    if role not in ROLES:
        raise ValueError(f"role {role!r}")
    return ROLES[role]


def _column(entry: Mapping[str, Any], key: str, n: int) -> Sequence[Any]:
    values = entry.get(key)
    if not values:
        return [None] * n
    if len(values) != n:
        raise ValueError(f"{key} has {len(values)} values for {n} ranks")
    return list(values)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _interval(raw: Mapping[str, Any] | None) -> Interval | None:
    if not raw or raw.get("value") is None:
        return None
    return Interval(float(raw["value"]), raw.get("se"), raw.get("low"), raw.get("high"))


def _cells(entry: Mapping[str, Any], root: Path) -> dict[int, tuple[Path, ...]]:
    """The files behind each rank, the base at rank 0; a group's are those of its members."""
    listed = {int(rank): where for rank, where in (entry.get("cells") or {}).items()}
    listed.setdefault(0, entry.get("baseline_cell") or entry.get("baseline_cells"))
    return {
        rank: tuple(inside(root, path) for path in ([where] if isinstance(where, str) else where))
        for rank, where in listed.items()
        if where
    }


def labelled(curves: Sequence[CurveRow]) -> tuple[CurveRow, ...]:
    """Give each curve the shortest name that is unique within the run."""
    variants: dict[str, set[tuple[str, str]]] = {}
    published = {curve.adapter for curve in curves if curve.role == "published"}
    for curve in curves:
        known = variants.setdefault(curve.adapter, set())
        if curve.role != "published":
            known.add((curve.basis, curve.rescale))
    return tuple(
        replace(curve, label=_label(curve, variants[curve.adapter], curve.adapter in published))
        for curve in curves
    )


def _label(curve: CurveRow, variants: set[tuple[str, str]], published: bool) -> str:  # noqa: FBT001
    """The name, and of basis and rescale what tells the adapter's curves apart."""
    name = one_line(curve.adapter, _NAME)
    if curve.role == "published":
        return f"{name} (published)"
    if len(variants) == 1:
        return f"{name} ({curve.rescale})" if published else name
    if len({basis for basis, _ in variants}) == len(variants):
        return f"{name} ({curve.basis})"
    if len({basis for basis, _ in variants}) == 1:
        return f"{name} ({curve.rescale})"
    return f"{name} ({curve.inference})"


def identities(run: Run) -> dict[str, Mapping[str, Any]]:
    """What one stored cell of each task says about how it was made."""
    found: dict[str, Mapping[str, Any]] = {}
    for curve in run.curves:
        if curve.task in found or not curve.cells:
            continue
        stored = read_cell(next(iter(curve.cells.values()))[0], [])
        if stored is not None:
            found[curve.task] = stored.identity.to_dict()
    return found


# What has to be the same for the numbers of one task to stand in one table.
_TASK_KEYS = {
    "documents_sha256": "other documents",
    "prompts_sha256": "other prompts",
    "metric": "another metric",
    "num_fewshot": "another number of few-shot examples",
    "limit": "another limit",
    "version": "another version of the task",
}


def merge(runs: Sequence[Run]) -> Run:
    """One run with the curves of all.

    The same curve in two runs (one adapter hash, one inference) is shown once.

    Raises:
        RunFolderError: The runs differ in base, numeric type, documents, prompts or metric, or use
            one adapter name for two checkpoints.
    """
    first = runs[0]
    for other in runs[1:]:
        _same_setting(first, other)
    tasks = _merged_tasks(runs)
    adapters = _merged_adapters(runs)
    curves: dict[tuple[str, ...], CurveRow] = {}
    for run in runs:
        for curve in run.curves:
            identity = (curve.adapter, curve.task, curve.metric, curve.basis, curve.rescale)
            known = curves.setdefault(identity, curve)
            if known.ranks != curve.ranks or known.accuracy != curve.accuracy:
                raise RunFolderError(
                    f"{one_line(curve.label)} on {one_line(curve.task)} has other numbers in "
                    f"{_place(run)}",
                    expected="one result for one curve",
                    fix="report the runs one by one",
                )
    return replace(
        first,
        curves=labelled(list(curves.values())),
        tasks=tuple(tasks.values()),
        adapters=tuple(adapters.values()),
        failures=tuple(failure for run in runs for failure in run.failures),
        provenance=tuple(item for run in runs for item in run.provenance),
        roots=tuple(root for run in runs for root in run.roots),
        groups={name: members for run in runs for name, members in run.groups.items()},
    )


def _same_setting(first: Run, other: Run) -> None:
    mine, theirs = first.provenance[0], other.provenance[0]
    pairs = {
        "another base model": (_base(mine), _base(theirs)),
        "another numeric type": (mine.get("dtype"), theirs.get("dtype")),
    }
    for what, (a, b) in pairs.items():
        if a != b:
            raise _refusal(first, other, what, a, b)
    unequal = _unequal_cells(first, other)
    if unequal:
        raise _refusal(first, other, f"their cells differ in {unequal[0]}", *unequal[1:])


def _base(provenance: Mapping[str, Any]) -> object:
    base = provenance.get("base") or {}
    return base.get("sha256") or base.get("name")


def _unequal_cells(first: Run, other: Run) -> tuple[str, object, object] | None:
    """The first difference between the identities of two stored cells of a task both runs have."""
    mine, theirs = identities(first), identities(other)
    for task in mine.keys() & theirs.keys():
        for name in differences(dict(mine[task]), dict(theirs[task])):
            return name, mine[task].get(name), theirs[task].get(name)
    return None


def _merged_tasks(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    tasks: dict[str, tuple[Run, Mapping[str, Any]]] = {}
    for run in runs:
        for task in run.tasks:
            name = str(task.get("name"))
            origin, known = tasks.setdefault(name, (run, task))
            for key, what in _TASK_KEYS.items():
                if known.get(key) != task.get(key):
                    where = f"{what} on {one_line(name)}"
                    raise _refusal(origin, run, where, known.get(key), task.get(key))
    return {name: task for name, (_, task) in tasks.items()}


def _merged_adapters(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    adapters: dict[str, tuple[Run, Mapping[str, Any]]] = {}
    for run in runs:
        for adapter in run.adapters:
            name = str(adapter.get("name"))
            origin, known = adapters.setdefault(name, (run, adapter))
            a, b = known.get("sha256"), adapter.get("sha256")
            if a != b:
                raise _refusal(origin, run, f"another adapter named {one_line(name)}", a, b)
    return {name: adapter for name, (_, adapter) in adapters.items()}


def _refusal(first: Run, other: Run, what: str, a: object, b: object) -> RunFolderError:
    values = f"{one_line(a, 24)} and {one_line(b, 24)}"
    return RunFolderError(
        f"{_place(first)} and {_place(other)} cannot be compared: {what} ({values})",
        fix="report them one by one, or measure them again alike",
    )


def _place(run: Run) -> str:
    return one_line(run.roots[0].name) if run.roots else "the other run"


def area(curve: CurveRow) -> float:
    """The headline AURAC of a curve that has one; -1 puts the others last."""
    return curve.log2.value if curve.log2 else -1.0


def ordered(curves: Sequence[CurveRow]) -> list[CurveRow]:
    """Curves by falling AURAC; those without a score come last, in the order of the run."""
    return sorted(curves, key=lambda curve: -area(curve))


def highlighted(run: Run, task: str) -> list[CurveRow]:
    """The curves in colour: the best default ones, then other inferences of these adapters."""
    curves = [curve for curve in run.of_task(task) if curve.ranks]
    default = ordered([c for c in curves if c.is_default])[:MAX_HIGHLIGHTED]
    names = {curve.adapter for curve in default}
    rest = [c for c in curves if not c.is_default and (c.adapter in names or not default)]
    ids = {curve.id for curve in [*default, *rest][:MAX_HIGHLIGHTED]}
    return [curve for curve in curves if curve.id in ids]


MAX_HIGHLIGHTED = 8


def best_default(run: Run, task: str) -> CurveRow | None:
    """The default curve of a task with the largest AURAC; the first one on a tie."""
    scored = [curve for curve in run.of_task(task) if curve.is_default and curve.log2]
    return max(scored, key=lambda c: c.log2.value if c.log2 else 0.0, default=None)


def scored_defaults(run: Run, task: str) -> list[CurveRow]:
    """The default curves of a task that have an area, the largest first."""
    scored = [curve for curve in run.of_task(task) if curve.is_default and curve.log2]
    return sorted(scored, key=lambda c: -c.log2.value if c.log2 else 0.0)
