"""The reports of a study: one for each part, with the seeds of each recipe as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aurac.curves.question import ALL_PAIRS, Key, Question, Renamed
from aurac.files import write_json
from aurac.records.run import Failure
from aurac.study.design import Cut, Planned, groups_of, parts_of, primaries_of
from aurac.study.search import Trials
from aurac.study.work import RUN

if TYPE_CHECKING:
    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun


class Reported(NamedTuple):
    """A part of a study: what was measured and says, and its primary comparisons if whole."""

    run: StoredRun
    analysis: Analysis
    primary: Analysis | None


def report(trials: Trials) -> Reported | None:
    """Write what a search chose, and the report of a part; None where nothing is stored.

    The primary comparisons are one family with those of the other parts, and are made once all of
    their adapters are there.
    """
    from aurac.analysis import analyse
    from aurac.show import write_report

    work, part, study = trials.work, trials.part, trials.work.study
    every = [adapter for group in groups_of(study) for adapter in trials.run(group)]
    if trials.winners:
        found = {name: winner.record() for name, winner in trials.winners.items()}
        write_json(work.out / part.name / "search.json", found)
    if (run := work.stored(part, RUN)) is None:
        return None
    names = [(adapter, adapter.stored(run, work.limit(adapter, RUN))) for adapter in every]
    there = [(adapter, name) for adapter, name in names if name]
    own = {group: winner.cut for group, winner in trials.winners.items()}
    rows = _renamed(run, there, own)
    groups: dict[str, tuple[str, ...]] = {}
    for group, name in dict.fromkeys((a.group, a.name) for a, _ in there):
        groups[group] = (*groups.get(group, ()), name)
    known = {*groups, ALL_PAIRS}
    asked = Question(
        margin=study.margin,
        reference=study.reference if str(study.reference).partition(" (")[0] in known else None,
        groups=groups,
        ranks=tuple(sorted(set.intersection(*(set(adapter.ranks) for adapter in every)))),
        rows=tuple(rows),
        labels={name: label for name, label in study.labels.items() if name in groups},
        title=study.question,
    )
    view = run.under(asked)
    analysis, primary = analyse(view.curves, asked), None
    declared = primaries_of(study, part)
    needed = {group for pair in declared for group in (pair.a, pair.b)}
    if needed and not any(name is None and a.group in needed for a, name in names):
        pairs = tuple(
            (_row(analysis, pair.a, pair.cut, own), _row(analysis, pair.b, pair.cut, own))
            for pair in declared
        )
        family = sum(len(primaries_of(study, each)) for each in parts_of(study))
        asked = asked.but(primary=pairs, family=family)
        primary = analyse(view.curves, asked.but(pairs=pairs, primary=()))
        view = view.under(asked)
        analysis = analyse(view.curves, asked)
    lost = work.diverged(every)
    view.failures = run.failures + tuple(
        Failure(a.name, None, None, a.recipe.rank, a.task, lost[a.name])
        for a in every
        if a.name in lost
    )
    write_report(view, analysis, work.out / part.name)
    return Reported(view, analysis, primary)


def _renamed(
    run: StoredRun, there: Sequence[tuple[Planned, str]], own: Mapping[str, Cut]
) -> list[Renamed]:
    """The curves of a study, each recipe's own cut first, with the study's names of adapters.

    Recipes that are the same with the settings that were found share their adapters in the run;
    here these stand under the name of each.
    """
    rows = []
    for adapter, name in there:
        has = [(c.basis, c.rescale) for c in run.cuts if c.adapter == name]
        order = dict.fromkeys([*filter(None, [own.get(adapter.group)]), *(adapter.cuts or has)])
        cuts = (cut for cut in order if cut in has)
        rows += [Renamed(adapter.name, name, adapter.task, *cut) for cut in cuts]
    return rows


def _row(analysis: Analysis, group: str, cut: Cut | None, own: Mapping[str, Cut]) -> Key:
    """The row of a recipe under a cut, where it has that; else under its own, else the first."""
    rows = {(r.key.basis, r.key.rescale): r.key for r in analysis.rows if r.key.adapter == group}
    found = [rows[each] for each in (cut, own.get(group)) if each in rows]
    return found[0] if found else next(iter(rows.values()))
