"""Does a study: searches, trains what is missing, evaluates it, and writes the reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from msgspec.structs import replace

from aurac.errors import RecipeError
from aurac.models.base import check_base
from aurac.study.design import Part, Study
from aurac.study.file import refused_at
from aurac.study.report import Reported, report
from aurac.study.search import Step, survey
from aurac.study.work import Work, logger
from aurac.training.data import identified, render, source_rows

if TYPE_CHECKING:
    from aurac.study.work import Train

TO_DO, OVER = ("search", "train", "evaluate"), ("done", "diverged")


def run_study(
    study: Study,
    out: Path,
    *,
    device: str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = logger.info,
    train: Train | None = None,
) -> list[Reported]:
    """Train and evaluate what `out` lacks of a study, and write a report for each part.

    Adapters whose cells are there are not trained again, nor are their weights needed. Each is
    evaluated before the next is trained, recipe by recipe, and the same call goes on after an
    interruption. Several processes share a study: each takes trials and adapters that no other is
    doing, and at the end goes back once to what others had.

    Args:
        study: What is done.
        out: The study's folder.
        device: Of trainings and evaluations.
        progress: Whether to show bars.
        say: Called with what is done next.
        train: Trains a recipe to a folder, as `aurac.train` does; None: that.

    Raises:
        AuracError: Data, a task or an adapter that cannot be used.
    """
    work = Work(study, out, device, progress, say, train)
    _check(work)
    for part in study.parts:
        if _do(work, part):
            _do(work, part)
    work.refresh()  # another process may have added to it
    if names := [step.adapter.name for step in steps(work) if step.state not in OVER]:
        say(f"left, which failed or which another process has: {', '.join(names)}")
    made = (report(work, part) for part in study.parts)
    return [each for each in made if each is not None]


def _do(work: Work, part: Part) -> bool:
    """Do what is left of a part; whether another process has some of it."""
    taken, tried = False, set[tuple[str, str, str]]()

    def key(step: Step) -> tuple[str, str, str]:
        return step.where, step.adapter.plan.task, step.adapter.name

    while todo := [step for step in survey(work, part).steps if step.state in TO_DO]:
        if (step := next((each for each in todo if key(each) not in tried), None)) is None:
            break
        tried.add(key(step))
        with _claim(work.out / part.name, step.adapter.folder) as free:
            taken |= not free
            work.refresh()  # another process may have done it
            if free and work.state(part, step.adapter, step.where)[0] not in OVER:
                work.say(f"{step.adapter.name}: {len(todo)} can be done now")
                work.do(part, step.adapter, step.where)
        work.refresh()
    return taken


def steps(work: Work) -> Iterator[Step]:
    """Every trial and adapter, and what is left of it."""
    for part in work.study.parts:
        yield from survey(work, part).steps


def left(work: Work) -> list[Step]:
    """The same, once data and tasks were checked as before a training."""
    _check(work)
    return list(steps(work))


def _check(work: Work) -> None:
    """Refuse data that cannot be trained on, and tasks that cannot be built, before a training."""
    from aurac.tasks.build import build_tasks

    todo = [step.adapter for step in steps(work) if step.state not in OVER]
    for name in dict.fromkeys(adapter.recipe.base for adapter in todo):
        with refused_at(work.study.path, "base"):
            check_base(name)
    data = ("task", "data", "prompt", "prompt_without", "target")
    for adapter in {tuple(getattr(x.recipe, n) for n in data): x for x in todo}.values():
        if not (work.out / adapter.folder).exists():
            with refused_at(work.study.path, f"{adapter.name} cannot be trained"):
                rows = source_rows(adapter.recipe)
                render(identified(adapter.recipe, rows), rows[0], 1)
    for plan in {x.plan.task: x.plan for x in todo}.values():
        with refused_at(work.study.path, f"tasks.{plan.task}"):
            for asked in plan.asked.values():
                options = replace(asked, apply_chat_template=False)
                built = build_tasks([plan.task], tokenizer=None, options=options)
                if plan.task not in (names := [task.name for task in built]):
                    several = f"this stands for {', '.join(names)}"
                    raise RecipeError(f"{several}: name these, with include_path")


@contextmanager
def _claim(folder: Path, weights: str) -> Iterator[bool]:
    """Whether no other process has an adapter; until the end of the block none takes it."""
    lock = FileLock(folder / "locks" / f"{Path(weights).name}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock.acquire(timeout=0):
            yield True
    except Timeout:
        yield False
