"""The results of a study: one analysis over all of its tasks, as tables and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from aurac.curves.display import interval, percent
from aurac.errors import RunFolderError
from aurac.files import write_atomic, write_json
from aurac.readers import read_curves
from aurac.runs.progress import duration
from aurac.stats.analysis import analyse
from aurac.stats.sentences import show_p
from aurac.study.design import chosen_adapters, points_of
from aurac.study.figure import DIFFERENCES, draw_differences

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from aurac.curves.curve import Curve
    from aurac.stats.rows import Analysis, PairRow
    from aurac.study.design import PlannedAdapter, Study

REPORT_FILE, ANALYSIS_FILE = "report.md", "analysis.json"


def summarise(study: Study, path: Path, out: Path, state: Mapping[str, Any]) -> Path:
    """Write `report.md`, `analysis.json` and the figure of a study; no model is loaded.

    p values are adjusted over all pairs and tasks of the study (Holm).

    Args:
        study: The study.
        path: Its file.
        out: Its folder.
        state: The content of its `study.json`.

    Returns:
        The report.

    Raises:
        RunFolderError: A task has no results yet.
    """
    of_task = _curves(study, out)
    curves = [curve for every in of_task.values() for curve in every]
    evaluated = {task: str(every[0].task) if every else task for task, every in of_task.items()}
    adapters = chosen_adapters(study, path, state.get("rates", {}))
    names = {method: [one.recipe.name for one in every] for method, every in adapters.items()}
    groups = {method: list(dict.fromkeys(each)) for method, each in names.items()}
    analysis = analyse(curves, groups=groups, margin=study.margin, strict=False)
    fewer = _of_seeds(curves, groups, 2)
    two = analyse(fewer[0], groups=fewer[1], strict=False) if fewer else None
    draw_differences(analysis, list(evaluated.values()), out)
    write_json(out / ANALYSIS_FILE, analysis.to_dict(details=True))
    page = _page(study, state, adapters, analysis, two, evaluated)
    write_atomic(out / REPORT_FILE, "\n".join(page) + "\n")
    return out / REPORT_FILE


def _curves(study: Study, out: Path) -> dict[str, list[Curve]]:
    """The curves of each task of the study."""
    for task in study.tasks:
        folder = out / "results" / task
        if not (folder / "results.json").is_file():
            raise RunFolderError(
                f"{folder} has no results yet", fix="run the study without --report first"
            )
    return {task: list(read_curves(out / "results" / task).curves) for task in study.tasks}


def _of_seeds(
    curves: Sequence[Curve], groups: Mapping[str, Sequence[str]], count: int
) -> tuple[list[Curve], dict[str, list[str]]] | None:
    """The curves of each method's first seeds; None where no method has more."""
    kept: dict[str, list[str]] = {}
    dropped = False
    for method, names in groups.items():
        seeds = list(dict.fromkeys(name.rpartition("-seed")[2] for name in names))
        dropped |= len(seeds) > count
        kept[method] = [name for name in names if name.rpartition("-seed")[2] in seeds[:count]]
    every = {name for names in kept.values() for name in names}
    return ([c for c in curves if c.adapter in every], kept) if dropped else None


def _page(
    study: Study,
    state: Mapping[str, Any],
    adapters: Mapping[str, Sequence[PlannedAdapter]],
    analysis: Analysis,
    two: Analysis | None,
    evaluated: Mapping[str, str],
) -> Iterable[str]:
    yield f"# {study.name}\n"
    if study.question:
        yield f"{study.question}\n"
    yield "## Design\n"
    yield from _design(study, state)
    yield "\nTraining of one seed:\n"
    yield from _cost(study, state, adapters)
    if analysis.pairs or analysis.variants:
        yield f"\n![Differences of AURAC with their intervals.]({DIFFERENCES}.png)"
    for task in study.tasks:
        yield f"\n## {task}\n"
        yield from _task(evaluated[task], analysis)
        yield f"\n[Report of this task](results/{task}/report.md)"
    if len(study.tasks) > 1:
        yield "\n## All tasks\n"
        rows = [
            [row.a if row.b is None else f"{row.b} − {row.a}", row.weigh, interval(row.estimate)]
            for row in analysis.aggregates
            if row.estimate
        ]
        if rows:
            yield _table(["AURAC or difference", "weights", "mean [95 %]"], rows)
        if len(rows) < len(analysis.aggregates):
            yield "\nA method has a mean over the tasks if it has the same seeds on all of them."
    if two is not None:
        yield "\n## With two seeds\n"
        yield from _two_seeds(analysis, two)


def _design(study: Study, state: Mapping[str, Any]) -> Iterable[str]:
    rows = [
        [
            task,
            method,
            ", ".join(f"{rate:g}" for rate in study.rates_of(task, method)),
            f"{state['rates'][task][method]:g}",
            ", ".join(map(str, study.seeds_of(task, method))),
        ]
        for task, method in points_of(study)
    ]
    yield _table(["task", "method", "learning rates", "chosen", "seeds"], rows)
    searched = any(len(study.rates_of(*point)) > 1 for point in points_of(study))
    chosen = (
        "Of several learning rates one is chosen by AURAC (log2 axis) on validation documents with "
        f"seed {study.search_seed}."
        if searched
        else "Learning rates are those of the study's file, without a search."
    )
    yield (
        f"\nBase model {study.base}. {chosen} Results are on test documents. Accuracy and AURAC "
        "are in percent. p values are adjusted over all pairs and tasks (Holm)."
    )
    for edge in state.get("edges", []):
        yield f"\nThe best learning rate of {edge} is at the end of its grid."


def _cost(
    study: Study, state: Mapping[str, Any], adapters: Mapping[str, Sequence[PlannedAdapter]]
) -> Iterable[str]:
    rows = [
        [
            method,
            *(_trained([one for one in every if one.task == task], state) for task in study.tasks),
        ]
        for method, every in adapters.items()
    ]
    yield _table(["method", *study.tasks], rows)
    families = [method for method, plan in study.methods.items() if plan.family]
    if families:
        yield (
            f"\n{', '.join(families)}: an adapter is trained for each rank, with the same recipe. "
            "The cost is that of all of them, also of one that another method of the study uses."
        )


def _trained(seeds: Sequence[PlannedAdapter], state: Mapping[str, Any]) -> str:
    """What the trainings of one seed took: adapters, steps, mean time over the seeds."""
    if not seeds:
        return "–"
    each = seeds[0].trainings
    text = f"{len(each)} adapters" if len(each) > 1 else "1 adapter"
    if all(one.recipe.steps for one in each):
        text += f", {sum(one.recipe.steps for one in each):,} steps"
    known = state.get("seconds", {})
    times = [known.get(one.folder.as_posix()) for seed in seeds for one in seed.trainings]
    seconds = [time for time in times if time is not None]
    return text if len(seconds) < len(times) else f"{text}, {duration(sum(seconds) / len(seeds))}"


def _task(task: str, analysis: Analysis) -> Iterable[str]:
    scores = [row for row in analysis.scores if row.task == task]
    ranks = sorted({rank for row in scores for rank in row.ranks})
    rows = []
    for row in sorted(scores, key=lambda row: -(row.log2.value if row.log2 else -1)):
        known = dict(zip(row.ranks, row.accuracy, strict=True))
        cells = [percent(known.get(rank)) for rank in ranks]
        areas = interval(row.log2), interval(row.linear)
        rows.append([row.label, row.truncation, str(row.seeds), *cells, *areas])
    areas = "AURAC, log2 [95 %]", "AURAC, linear [95 %]"
    yield _table(["method", "truncation", "seeds", *map(str, ranks), *areas], rows)
    yield ""
    yield from _pairs([row for row in analysis.pairs if row.task == task])
    other = [row for row in analysis.variants if row.task == task]
    if other:
        yield "\nThe same adapters, truncated in another way:\n"
        yield from _pairs(other)
    yield ""
    for recommended in analysis.recommended:
        if recommended.task == task and not recommended.other:
            yield f"- {recommended.sentence}"


def _pairs(pairs: Sequence[PairRow]) -> Iterable[str]:
    rows = [
        [
            f"{row.b} − {row.a}",
            interval(row.result.estimate if row.result else None),
            "–" if row.p_holm is None else show_p(row.p_holm).removeprefix("= "),
            percent(row.result.mde if row.result else None),
        ]
        for row in pairs
    ]
    yield _table(["difference of AURAC, points", "[95 %]", "adjusted p", "detectable"], rows)


def _two_seeds(analysis: Analysis, two: Analysis) -> Iterable[str]:
    few = {(row.a, row.b, row.task): row for row in two.pairs}
    rows = []
    for row in analysis.pairs:
        other = few.get((row.a, row.b, row.task))
        if other is not None:
            rows.append(
                [
                    str(row.task),
                    f"{row.b} − {row.a}",
                    interval(other.result.estimate if other.result else None),
                    interval(row.result.estimate if row.result else None),
                ]
            )
    yield _table(["task", "difference, points", "first two seeds", "all seeds"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
