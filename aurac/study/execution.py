"""Does a study: trains what is missing, evaluates it, and writes the report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import DataError
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
    whose cells are there is not trained again, nor are its weights needed. Each adapter is
    evaluated before the next is trained, and the same call goes on after an interruption.

    Raises:
        AuracError: Data, a task or an adapter that cannot be used.
    """
    from aurac.training.job import is_trained, train

    for adapter in missing(study, path, out):
        for folder, recipe in adapter.trainings(out):
            if not is_trained(folder, recipe):
                say(f"training {folder.relative_to(out)}")
                train(recipe, folder, device=device, progress=progress)
        _evaluate(study, path, out, adapter, device=device, progress=progress)
    return write_study(study, path, out)


def missing(study: Study, path: Path, out: Path) -> list[Planned]:
    """The adapters that lack cells.

    Raises:
        DataError: Data of one of them are not there.
    """
    run = stored_run(out)
    left = [
        adapter
        for adapter in planned(study, path)
        if run is None or not adapter.stored(run, _limit(study, adapter.task))
    ]
    for adapter in left:
        options, data = _options(study, path, adapter), adapter.recipe.data
        places = [*options.get("data", {}).values(), options.get("include_path")]
        if data and not data.startswith("hub:"):
            places.append(located_data(data, path.parent))
        for place in filter(None, places):
            if not Path(place).exists():
                raise DataError(f"{path}: {adapter.name} needs {place}, which is not there")
    return left


def stored_run(out: Path) -> StoredRun | None:
    """The run in a study's folder, if there is one."""
    from aurac.records.run import read_run

    return read_run(out / RUN) if (out / RUN / "run.json").is_file() else None


def _limit(study: Study, task: str) -> int | None:
    """The number of examples that are asked for; None for all, or a share."""
    limit = {**study.options, **study.tasks[task].options}.get("limit")
    return limit if limit and limit >= 1 else None


def _options(study: Study, path: Path, adapter: Planned) -> dict[str, Any]:
    """Those of `aurac.compare` for an adapter, folders as they are found beside the study."""
    options: dict[str, Any] = {**study.options, **study.tasks[adapter.task].options, **adapter.cuts}
    beside = path.parent
    if "data" in options:
        options["data"] = {name: located_data(at, beside) for name, at in options["data"].items()}
    if "include_path" in options:
        options["include_path"] = located_data(options["include_path"], beside)
    return options


def _evaluate(
    study: Study, path: Path, out: Path, adapter: Planned, *, device: str | None, progress: bool
) -> None:
    from aurac.runs.compare import run
    from aurac.runs.progress import Bar, Progress
    from aurac.runs.settings import Settings

    settings = Settings.of(
        f"{adapter.name}={out / ADAPTERS / adapter.name}",
        adapter.task,
        ranks=adapter.ranks,
        base=study.base,
        device=device,
        out=out / RUN,
        **_options(study, path, adapter),
    )
    run(settings, Bar() if progress else Progress(), report=False)


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
    write_report(run, analysis, out, study.labels, study.question)
    return run, analysis
