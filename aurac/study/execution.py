"""Does a study: searches, trains what is missing, evaluates it, and writes the reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from aurac.errors import DataError, RecipeError
from aurac.study.design import RUN, SEARCH, Part, Planned, Study
from aurac.study.report import Reported, report
from aurac.study.search import Trials
from aurac.study.work import Work, logger
from aurac.training.data import located_data


def run_study(
    study: Study,
    out: Path,
    *,
    device: str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = logger.info,
) -> list[Reported]:
    """Train and evaluate what `out` lacks of a study, and write a report for each part.

    Adapters whose cells are there are not trained again, nor are their weights needed. Each is
    evaluated before the next is trained, recipe by recipe, and the same call goes on after an
    interruption. Several processes share a study: each takes trials and adapters that no other is
    doing, and at the end goes back once to what others had.

    Raises:
        AuracError: Data, a task or an adapter that cannot be used.
    """
    work = Work(study, out, device, progress, say)
    _check_data(work)
    for part in study.parts:
        taken = [groups for groups in study.chains if _do(Trials(work, part), groups)]
        for groups in taken:
            _do(Trials(work, part), groups)
    return write_study(work)


def _do(trials: Trials, groups: list[str]) -> bool:
    """Search, train and evaluate what recipes lack; whether another process has some of it."""
    work, part, taken = trials.work, trials.part, False
    for group in groups:
        adapters, tried = trials.run(group), set[str]()
        while new := [trial for trial in trials.left if trial.name not in tried]:
            taken |= _each(work, part, new, SEARCH)
            tried |= {trial.name for trial in new}
            trials.left.clear()
            adapters = trials.run(group)
        if trials.left:
            names = ", ".join(trial.name for trial in trials.left)
            work.say(f"{group} waits for trials that failed or that another process has: {names}")
            return taken
        taken |= _each(work, part, adapters, RUN)
    return taken


def _each(work: Work, part: Part, adapters: list[Planned], where: str) -> bool:
    """Train and evaluate those that are missing; whether another process has one of them."""
    missing, taken = work.missing(part, adapters, where), False
    for number, adapter in enumerate(missing, 1):
        with _claim(work.out / part.name, adapter.folder) as free:
            taken |= not free
            work.runs.clear()  # another process may have done it
            if free and work.missing(part, [adapter], where):
                work.say(f"{adapter.name}: {number} of {len(missing)} adapters of this recipe")
                if work.train(adapter):
                    work.evaluate(part, adapter, where)
    return taken


def write_study(work: Work) -> list[Reported]:
    """Write the report of each part that has cells."""
    work.runs.clear()  # another process may have added to them
    made = (report(Trials(work, part)) for part in work.study.parts)
    return [each for each in made if each is not None]


def left(work: Work) -> Iterator[tuple[str, Planned]]:
    """What is left of each adapter: `search`, `train` or `evaluate`; else `done`, or `diverged`."""
    _check_data(work)
    for part in work.study.parts:
        trials = Trials(work, part)
        every = [adapter for group in work.study.groups for adapter in trials.run(group)]
        yield from (("search", adapter) for adapter in trials.left)
        missing = {adapter.name for adapter in work.missing(part, every)}
        lost = work.diverged(every)
        for adapter in every:
            state = "diverged" if adapter.name in lost else "done"
            if adapter.name in missing:
                trained = all(job.folder.exists() for job in adapter.trainings(work.out))
                state = "evaluate" if trained else "train"
            yield state, adapter


def _check_data(work: Work) -> None:
    """Refuse data to train on that are not there, and tasks that cannot be built."""
    from aurac.tasks.build import build_tasks

    path = work.study.path
    for part in work.study.parts:
        tasks = {}
        for adapter in work.missing(part, part.planned()):
            tasks[adapter.plan.task], data = adapter, adapter.recipe.data
            if data and not data.startswith("hub:"):
                place = located_data(data, path.parent)
                if not place.exists():
                    needed = f"{adapter.name} needs {place}"
                    raise DataError(f"{path}: {needed}, which is not there")
        for task, adapter in tasks.items():
            for asked in adapter.plan.asked.values():
                options = msgspec.structs.replace(asked, apply_chat_template=False)
                built = build_tasks([task], tokenizer=None, options=options)
                if task not in (names := [each.name for each in built]):
                    several = f"{task} stands for {', '.join(names)}"
                    raise RecipeError(f"{path}: tasks: {several}: name these, with include_path")


@contextmanager
def _claim(folder: Path, weights: str) -> Iterator[bool]:
    """Whether no other process has an adapter; until the end of the block none takes it."""
    (locks := folder / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{weights}.lock")
    try:
        with lock.acquire(timeout=0):
            yield True
    except Timeout:
        yield False
