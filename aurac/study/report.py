"""The reports of a study: one for each part, with the seeds of each recipe as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aurac.curves.question import ALL_PAIRS, Key, Question, Renamed
from aurac.files import write_json
from aurac.records.run import Failure
from aurac.study.design import RUN, Planned
from aurac.study.file import Cut
from aurac.study.search import Trials
from aurac.study.work import logger

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
    every = [adapter for group in study.groups for adapter in trials.run(group)]
    if trials.winners:
        found = {name: winner.record() for name, winner in trials.winners.items()}
        write_json(work.out / part.name / "search.json", found)
    for name, winner in trials.winners.items():
        for said in winner.said():
            logger.warning("search of %s: %s", name, said)
    if (run := work.stored(part, RUN)) is None:
        return None
    names = [(adapter, adapter.stored(run)) for adapter in every]
    there = [(adapter, name) for adapter, name in names if name]
    own = {plan.group: plan.cuts[0] for plan in reversed(part.plans)}
    own |= {group: winner.cut for group, winner in trials.winners.items()}
    rows = _renamed(run, there, own)
    groups: dict[str, tuple[str, ...]] = {}
    for group, name in dict.fromkeys((a.plan.group, a.name) for a, _ in there):
        groups[group] = (*groups.get(group, ()), name)
    asked = Question(
        margin=study.margin,
        reference=study.reference if study.reference in (*groups, ALL_PAIRS) else None,
        groups=groups,
        ranks=tuple(sorted(set.intersection(*(set(adapter.ranks) for adapter in every)))),
        rows=tuple(rows),
        labels={name: label for name, label in study.labels.items() if name in groups},
        title=study.question,
    )
    view = run.under(asked)
    analysis, primary = analyse(view.curves, asked), None
    needed = {group for pair in part.primary for group in (pair.a, pair.b)}
    if needed and not any(name is None and a.plan.group in needed for a, name in names):
        pairs = tuple(
            (Key(pair.a, *(pair.cut or own[pair.a])), Key(pair.b, *(pair.cut or own[pair.b])))
            for pair in part.primary
        )
        family = sum(len(each.primary) for each in study.parts)
        asked = asked.but(primary=pairs, family=family)
        primary = analyse(view.curves, asked.but(pairs=pairs, primary=()))
        view = view.under(asked)
        analysis = analyse(view.curves, asked)
    lost = work.diverged(every)
    view.failures = run.failures + tuple(
        Failure(a.name, None, None, a.recipe.rank, a.plan.task, lost[a.name])
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
        plan = adapter.plan
        cuts = (cut for cut in dict.fromkeys([own[plan.group], *plan.cuts]) if cut in plan.cuts)
        rows += [Renamed(adapter.name, name, plan.task, *cut) for cut in cuts]
    return rows
