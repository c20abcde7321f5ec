"""Does a study: searches, trains what is missing, evaluates it, and writes the reports."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout
from msgspec.structs import replace

from aurac.analysis import analyse
from aurac.curves.question import ALL_PAIRS, Key, Question, Renamed
from aurac.errors import RecipeError
from aurac.files import write_json
from aurac.models.base import check_base
from aurac.records.run import StoredRun
from aurac.show import write_report
from aurac.study.design import RUN, Part, Planned, Study
from aurac.study.file import refused_at
from aurac.study.search import OVER, Survey, survey
from aurac.study.work import Step, Work
from aurac.tasks.build import build_tasks
from aurac.training.data import render, source_rows

TO_DO = ("search", "train", "evaluate")


def run_study(work: Work) -> list[StoredRun]:
    """Train and evaluate what a study lacks, and write a report for each part; their runs.

    Adapters whose cells are there are not trained again, nor are their weights needed. Each is
    evaluated before the next is trained, recipe by recipe, and the same call goes on after an
    interruption. Several processes share a study: each takes trials and adapters that no other is
    doing, and at the end goes back once to what others had.

    Raises:
        AuracError: Data, a task or an adapter that cannot be used.
    """
    left(work)
    for part in work.study.parts:
        if _do(work, part):
            _do(work, part)
    work.refresh()  # another process may have added to it
    if names := [step.adapter.name for step in steps(work) if step.state not in OVER]:
        work.say(f"left, which failed or which another process has: {', '.join(names)}")
    made = (_report(work, part) for part in work.study.parts if part.plans)
    return [each for each in made if each is not None]


def _do(work: Work, part: Part) -> bool:
    """Do what is left of a part; whether another process has some of it."""
    taken, tried = False, list[Planned]()
    while todo := [
        step.adapter
        for step in survey(work, part).steps
        if step.state in TO_DO and step.adapter not in tried
    ]:
        tried.append(adapter := todo[0])
        lock = FileLock(work.out / part.name / "locks" / f"{Path(adapter.folder).name}.lock")
        try:
            with lock.acquire(timeout=0):
                work.refresh()  # another process may have done it
                if work.step(part, adapter).state not in OVER:
                    work.say(f"{adapter.name}: {len(todo)} can be done now")
                    work.do(part, adapter)
        except Timeout:
            taken = True
        work.refresh()
    return taken


def steps(work: Work) -> list[Step]:
    """Every trial and adapter, and what is left of it."""
    return [step for part in work.study.parts for step in survey(work, part).steps]


def left(work: Work) -> list[Step]:
    """The same, once data that cannot be trained on and tasks that cannot be built are refused."""
    every, path = steps(work), work.study.path
    todo = [step.adapter for step in every if step.state not in OVER]
    for name in dict.fromkeys(adapter.recipe.base for adapter in todo):
        with refused_at(f"{path}: base"):
            check_base(name)
    data = ("task", "data", "prompt", "prompt_without", "target")
    for adapter in {tuple(getattr(x.recipe, n) for n in data): x for x in todo}.values():
        if not (work.out / adapter.folder).exists():
            with refused_at(f"{path}: {adapter.name} cannot be trained"):
                render(adapter.recipe, source_rows(adapter.recipe)[0], 1)
    for adapter in {(x.plan.task, x.where): x for x in todo}.values():
        with refused_at(f"{path}: tasks.{(name := adapter.plan.task)}"):
            options = replace(adapter.asked, apply_chat_template=False)
            built = [task.name for task in build_tasks([name], tokenizer=None, options=options)]
            if name not in built:
                several = f"this stands for {', '.join(built)}"
                raise RecipeError(f"{several}: name these, with include_path")
    return every


def _report(work: Work, part: Part) -> StoredRun | None:
    """Write what a search chose, and the report of a part; None where no adapter is whole.

    The report is that of a question to the part's run, from which alone it can be made again.
    """
    found, folder = survey(work, part), work.out / part.name
    if found.winners:
        won = {name: winner.record() for name, winner in found.winners.items()}
        write_json(folder / "search.json", won)
    run = work.stored(part, RUN)
    if run is None or not (asked := _question(work.study, part, found)).rows:
        return None
    view = run.under(asked)
    write_report(view, analyse(view.curves, asked), folder)
    return view


def _question(study: Study, part: Part, found: Survey) -> Question:
    """What a study asks of the run of a part.

    Its rows are the cuts of the adapters that are whole, each recipe's own cut first, under the
    study's names: recipes that are the same with the settings that were found share adapters. The
    primary comparisons are one family with those of the other parts, and are asked once all of
    their adapters are there.
    """
    file, said = study.file, found.said()
    own = {group: plans[0].cuts[0] for group, plans in part.groups.items()}
    own |= {group: winner.cut for group, winner in found.winners.items()}
    names, rows, missing = dict[str, dict[str, None]](), list[Renamed](), set[str]()
    seeds = [step for step in found.steps if step.adapter.where == RUN]
    for _, adapter, curves, _ in seeds:
        group, task = adapter.plan.group, adapter.plan.task
        if not curves:
            missing.add(group)
            continue
        names.setdefault(group, {})[adapter.name] = None
        cuts = sorted(curves, key=lambda cut: cut != own[group])
        rows += [Renamed(adapter.name, str(curves[cut].adapter), task, *cut) for cut in cuts]

    def row(key: Key) -> Key:
        return key if key.basis else Key(key.adapter, *own[key.adapter])

    pairs = tuple((row(a), row(b)) for a, b in part.primary)
    lacking = sorted(missing.intersection(key.adapter for pair in pairs for key in pair))
    if lacking:
        said += (f"The declared comparisons are not made yet: {', '.join(lacking)} is not whole.",)
    whole, limits = pairs and not lacking, {step.adapter.asked.limit for step in seeds}
    limit = limits.pop() if len(limits) == 1 else None
    return Question(
        margin=file.margin,
        reference=file.reference if file.reference in (*names, ALL_PAIRS) else None,
        groups={group: tuple(some) for group, some in names.items()},
        ranks=tuple(sorted(set.intersection(*({*step.adapter.ranks} for step in seeds)))),
        rows=tuple(rows),
        limit=int(limit) if limit and limit >= 1 else None,
        labels={name: label for name, label in file.labels.items() if name in names},
        title=file.question,
        primary=pairs if whole else (),
        family=sum(len(each.primary) for each in study.parts) if whole else None,
        notes=said,
    )
