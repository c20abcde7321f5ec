"""What a run folder that is one task of a study takes from it: names of curves, and its tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from aurac.analysis.findings import truncation_advice
from aurac.analysis.record import ANALYSIS_FILE, Analysis, Caveat
from aurac.analysis.rows import BestRow, PairRow  # noqa: TC001 - msgspec reads the hints
from aurac.records.decisions import Declaration  # noqa: TC001
from aurac.records.results_file import STATE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from aurac.analysis.record import Code
    from aurac.records.run import CurveRow

_CODE: Code = "task of a study"
_SAME = 1e-6  # of estimates and p values; another processor rounds the last digits differently


class _Tests(msgspec.Struct):
    """Of `analysis.json` what has the p values of a study, or follows from them."""

    pairs: tuple[PairRow, ...]
    variants: tuple[PairRow, ...]
    best: tuple[BestRow, ...]
    primary: Declaration | None = None
    caveats: tuple[Caveat, ...] = ()


class OfStudy(NamedTuple):
    """The study of a run: name and page, folder, the run's task there, method → its label."""

    name: str
    folder: Path
    task: str
    labels: Mapping[str, str]


def study_of(folder: Path) -> OfStudy | None:
    """The study of a run in `STUDY/results/TASK`, where there is `STUDY/study.json`; else None."""
    at = folder.expanduser().resolve()
    try:
        results = next(above for above in at.parents[:3] if above.name == "results")
        state = msgspec.json.decode((results.parent / STATE_FILE).read_bytes())["study"]
        methods = state.get("methods", {}).items()
        labels = {name: plan.get("label") or name for name, plan in methods}
        page = " (later tests: its README.md)"
        name = f"{state['name']}{page * (results.parent / 'README.md').is_file()}"
        return OfStudy(name, results.parent, at.relative_to(results).parts[0], labels)
    except (OSError, AttributeError, KeyError, StopIteration, TypeError, msgspec.DecodeError):
        return None  # what is not the file of a study says nothing


def study_labels(folder: Path, curves: Sequence[CurveRow]) -> dict[str, str]:
    """Adapter or group of a run folder → what its study calls it; empty outside of a study."""
    study, labels = study_of(folder), dict[str, str]()
    for adapter in dict.fromkeys(curve.adapter for curve in curves) if study else ():
        known = study.labels if study else {}
        label = known.get(adapter) or known.get(adapter.rpartition("-lr")[0], adapter)
        if label not in labels.values():
            labels[adapter] = label
    return labels


def within_study(known: Analysis, folders: Iterable[Path]) -> Analysis:
    """The analysis with a caveat for each folder that is one task of a study.

    Where the study's `analysis.json` has the pairs of a single folder and no others on its task,
    their p values, verdicts and what follows from them are those of the study: a pair has one p
    value wherever it stands. A folder that was copied out of its study has the caveat from its own
    `analysis.json`.
    """
    places = list(folders)
    studies, numbers = list(map(study_of, places)), {}
    if len(studies) == 1 and studies[0]:
        stored = _tests_in(studies[0].folder)
        own = known.primary is None or (stored is not None and known.primary == stored.primary)
        if stored and own and (adopted := _adopted(known, stored)):
            kinds = [r.exploratory for r in (*stored.pairs, *stored.variants) if r.p is not None]
            names = {"tests": None} if None in kinds else {"primary": False, "exploratory": True}
            known, numbers = adopted, {name: float(kinds.count(k)) for name, k in names.items()}
    caveats = [Caveat(_CODE, s.task, (), numbers, s.name) for s in studies if s]
    caveats += (caveat for place in places for caveat in copied_from(place))
    return replace(known, caveats=(*known.caveats, *caveats))


def copied_from(folder: Path) -> list[Caveat]:
    """What the `analysis.json` of a run says of the study that the folder was copied out of."""
    own = None if study_of(folder) else _tests_in(folder)
    said = own.caveats if own else ()
    return [replace(caveat, numbers={}) for caveat in said if caveat.code == _CODE]


def _tests_in(folder: Path) -> _Tests | None:
    try:
        return msgspec.json.decode((folder / ANALYSIS_FILE).read_bytes(), type=_Tests)
    except (OSError, msgspec.DecodeError):
        return None  # not written yet, or damaged


def _adopted(known: Analysis, stored: _Tests) -> Analysis | None:
    """The analysis with the tests of the study; None where they are not of the same curves."""
    tasks = {row.task for row in known.best}
    every = (row for row in (*stored.pairs, *stored.variants) if row.task in tasks)
    rows = {(row.task, row.a, row.b): row for row in every}
    here = {(row.task, row.a, row.b): row for row in (*known.pairs, *known.variants)}
    if not here or here.keys() != rows.keys():
        return None  # leader and candidates would be of other curves
    if not all(_same(row, rows[key]) for key, row in here.items() if row.estimate):
        return None
    pairs, variants = (
        tuple(rows[row.task, row.a, row.b] if row.estimate else row for row in some)
        for some in (known.pairs, known.variants)
    )
    leaders = {row.task: row for row in stored.best}
    return replace(
        known,
        pairs=pairs,
        variants=variants,
        best=tuple(leaders.get(row.task, row) for row in known.best),
        advice=truncation_advice(known.scores, variants, known.axis),
        primary=stored.primary,
    )


def _same(row: PairRow, other: PairRow) -> bool:
    """Whether two rows are of the same difference, tested alike before adjustment."""
    if (row.axis, row.n_docs) != (other.axis, other.n_docs):
        return False
    ends = [
        np.array([e.level, e.value, e.low, e.high, r.p], dtype=float)
        for r in (row, other)
        if (e := r.estimate) is not None
    ]
    return len(ends) == 2 and bool(np.allclose(ends[0], ends[1], 0, _SAME, equal_nan=True))
