"""The reports of a study: one for each part, with the seeds of each recipe as one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aurac.curves.question import ALL_PAIRS, Key, Question, Renamed
from aurac.files import write_json
from aurac.study.design import RUN, Part
from aurac.study.file import Cut
from aurac.study.search import Survey, survey
from aurac.study.work import Work

if TYPE_CHECKING:
    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun


class Reported(NamedTuple):
    """A part of a study: what was measured and says, and its primary comparisons if whole."""

    run: StoredRun
    analysis: Analysis
    primary: Analysis | None


def report(work: Work, part: Part) -> Reported | None:
    """Write what a search chose, and the report of a part; None where no adapter is whole.

    The report is that of a question to the part's run, from which alone it can be made again.
    """
    from aurac.analysis import analyse
    from aurac.show import write_report

    found, folder = survey(work, part), work.out / part.name
    if found.winners:
        won = {name: winner.record() for name, winner in found.winners.items()}
        write_json(folder / "search.json", won)
    if (run := work.stored(part, RUN)) is None:
        return None
    asked = question(work, part, found, run)
    if not asked.rows:
        return None
    view, primary = run.under(asked), None
    if pairs := asked.primary:
        primary = analyse(view.curves, asked.but(pairs=pairs, primary=()))
    analysis = analyse(view.curves, asked)
    write_report(view, analysis, folder)
    return Reported(view, analysis, primary)


def question(work: Work, part: Part, found: Survey, run: StoredRun) -> Question:
    """What a study asks of the run of a part.

    Its rows are the cuts of the adapters that are whole, each recipe's own cut first, under the
    study's names: recipes that are the same with the settings that were found share adapters. The
    primary comparisons are one family with those of the other parts, and are asked once all of
    their adapters are there.
    """
    file, groups = work.study.file, dict[str, tuple[str, ...]]()
    own: dict[str, Cut] = {group: plans[0].cuts[0] for group, plans in part.groups.items()}
    own |= {group: winner.cut for group, winner in found.winners.items()}
    rows, missing, limits = list[Renamed](), set[str](), set[float | None]()
    for step in (each for each in found.steps if each.where == RUN):
        adapter, plan = step.adapter, step.adapter.plan
        name = adapter.stored(run, RUN) if step.state == "done" else None
        limits.add(plan.asked[RUN].limit)
        if name is None:
            missing.add(plan.group)
            continue
        groups[plan.group] = tuple(dict.fromkeys([*groups.get(plan.group, ()), adapter.name]))
        cuts = (cut for cut in dict.fromkeys([own[plan.group], *plan.cuts]) if cut in plan.cuts)
        rows += [Renamed(adapter.name, name, plan.task, *cut) for cut in cuts]
    pairs = tuple(
        tuple(key if key.basis else Key(key.adapter, *own[key.adapter]) for key in pair)
        for pair in part.primary
    )
    lacking = sorted(missing.intersection(key.adapter for pair in pairs for key in pair))
    whole, said = pairs and not lacking, found.said()
    if lacking:
        said += (f"The declared comparisons are not made yet: {', '.join(lacking)} is not whole.",)
    limit = limits.pop() if len(limits) == 1 else None
    return Question(
        margin=file.margin,
        reference=file.reference if file.reference in (*groups, ALL_PAIRS) else None,
        groups=groups,
        ranks=tuple(sorted(set.intersection(*(set(adapter.ranks) for adapter in found.adapters)))),
        rows=tuple(rows),
        limit=int(limit) if limit and limit >= 1 else None,
        labels={name: label for name, label in file.labels.items() if name in groups},
        title=file.question,
        primary=pairs if whole else (),  # type: ignore[arg-type]
        family=sum(len(each.primary) for each in work.study.parts) if whole else None,
        notes=said,
    )
