"""Does a study: trains what is missing, evaluates it, and writes the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.study.design import ADAPTERS, Planned, Study, planned
from aurac.training.data import located_data

if TYPE_CHECKING:
    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun

logger = logging.getLogger(__name__)

RUN = "run"  # below the study's folder


def run_study(
    study: Study,
    path: Path,
    out: Path,
    *,
    device: str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = logger.info,
) -> tuple[StoredRun, Analysis]:
    """Train and evaluate what `out` lacks of a study, and write its report.

    The adapters are in `out/adapters`, and their evaluation in the run folder `out/run`. An adapter
    whose cells are there is not trained again, nor are its weights needed. The same call goes on
    after an interruption.

    Raises:
        AuracError: Data, a task or an adapter that cannot be used.
    """
    for adapters in missing(study, path, out):
        _train(adapters, out, device=device, progress=progress, say=say)
        _evaluate(study, path, out, adapters, device=device, progress=progress)
    return write_study(study, path, out)


def missing(study: Study, path: Path, out: Path) -> list[list[Planned]]:
    """The adapters that lack cells, those of one task and the same cuts together."""
    run = stored_run(out)
    left = [
        adapter
        for adapter in planned(study, path)
        if run is None or not adapter.stored(run, _limit(study, adapter.task))
    ]
    together = groupby(left, key=lambda adapter: (adapter.task, dict(adapter.cuts)))
    return [list(adapters) for _, adapters in together]


def stored_run(out: Path) -> StoredRun | None:
    """The run in a study's folder, if there is one."""
    from aurac.records.run import read_run

    return read_run(out / RUN) if (out / RUN / "run.json").is_file() else None


def _limit(study: Study, task: str) -> int | None:
    """The number of examples that are asked for; None for all, or a share."""
    limit = {**study.options, **study.tasks[task].options}.get("limit")
    return limit if limit and limit >= 1 else None


def _train(
    adapters: Sequence[Planned],
    out: Path,
    *,
    device: str | None,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    from aurac.training.job import is_trained, train

    for adapter in adapters:
        for folder, recipe in adapter.trainings(out):
            if not is_trained(folder, recipe):
                say(f"training {folder.relative_to(out)}")
                train(recipe, folder, device=device, progress=progress)


def _evaluate(
    study: Study,
    path: Path,
    out: Path,
    adapters: Sequence[Planned],
    *,
    device: str | None,
    progress: bool,
) -> None:
    from aurac.runs.compare import compare

    first = adapters[0]
    options: dict[str, Any] = {**study.options, **study.tasks[first.task].options, **first.cuts}
    beside = path.parent
    if "data" in options:
        options["data"] = {name: located_data(at, beside) for name, at in options["data"].items()}
    if "include_path" in options:
        options["include_path"] = located_data(options["include_path"], beside)
    compare(
        [f"{adapter.name}={out / ADAPTERS / adapter.name}" for adapter in adapters],
        first.task,
        ranks=first.ranks,
        base=study.base,
        device=device,
        out=out / RUN,
        progress=progress,
        **options,
    )


def write_study(study: Study, path: Path, out: Path) -> tuple[StoredRun, Analysis]:
    """Analyse what `out` holds of a study, with the seeds of each recipe as one row; its report."""
    from aurac.analysis import Question, analyse
    from aurac.records.run import read_run
    from aurac.show import write_report

    run, groups = read_run(out / RUN), dict[str, list[str]]()
    for adapter in planned(study, path):
        if name := adapter.stored(run, _limit(study, adapter.task)):
            groups.setdefault(adapter.group, []).append(name)
    names = {name for members in groups.values() for name in members}
    question = Question(margin=study.margin, reference=study.reference, groups=groups)
    analysis = analyse([curve for curve in run.curves if curve.adapter in names], question)
    write_report(run, analysis, out, labels=study.labels)
    return run, analysis
