"""The results of a study: one analysis over all of its tasks, as tables, a figure and a page."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import cycle
from statistics import fmean
from typing import TYPE_CHECKING

from aurac.analysis.primary import declaration
from aurac.analysis.record import ANALYSIS_FILE
from aurac.analysis.rows import Options, pairings_of
from aurac.analysis.sentences import pairing_note
from aurac.analysis.whole import analyse, paired_family
from aurac.curves.display import interval, percent
from aurac.errors import RunFolderError
from aurac.files import write_atomic
from aurac.readers import read_curves
from aurac.records.schema import RESULTS_FILE, Results
from aurac.runs.log import duration
from aurac.show import escape, figures
from aurac.show.appearance import AXIS, PAPER, SERIES
from aurac.show.table import Column, estimate, text_table
from aurac.show.terminal import aggregate_table, curve_table, pair_table
from aurac.study.design import chosen_adapters, curves_of, searches
from aurac.study.plan import converged, declared_in, edges_in, rates_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import PairRow
    from aurac.curves.curve import Curve
    from aurac.stats.mean import Estimate
    from aurac.study.design import PlannedAdapter, Study
    from aurac.study.plan import State

    TwoSeeds = Mapping[tuple[str | None, str, str], PairRow]

REPORT_FILE, DIFFERENCES = "report.md", "differences"
_ROW = 0.21  # inches of the figure
_TERMS = """
Truncation: prefix keeps the first r components, svd the best approximation of rank r. Scale: rule
is the scaling rule at rank r (for MatryoshkaLoRA the published inference, without P), trained has
the trained P, keep is the scale of the trained rank, fit is keep times a factor fitted per rank.

Accuracy and AURAC are in percent, differences b − a are of AURAC (log2 axis), in points. Intervals
(95 %) are over documents and, where a method has several, training seeds; those of one seed say
nothing about another training. p values are adjusted (Holm) for all pairs of methods and all pairs
of truncations on all tasks together. Detectable is the difference that the test, at its adjusted
level, finds with a power of 80 %."""
_MEANS = """
## All tasks

Means over the tasks, all with the same weight, for equal seeds on each task.
"""


def summarise(study: Study, path: Path, out: Path, state: State) -> Path:
    """Write `report.md` (returned), `analysis.json` and the figure of a study, without a model.

    A seed with a cell that failed is left out of its method, and the page says so.

    Args:
        study: The study.
        path: Its file.
        out: Its folder.
        state: The content of its `study.json`.

    Raises:
        RunFolderError: A task has no results yet, or those of another design.
    """
    adapters = chosen_adapters(study, path, rates_in(study, state))
    places = {task: place_of(task, state, out) for task in study.tasks}
    runs = {task: finished(study, task, adapters, places[task]) for task in study.tasks}
    curves = [curve for task in runs for curve in _curves(runs[task], adapters, places[task])]
    there = {curve.adapter for curve in curves}
    groups = _groups(adapters, there)
    declared = declaration((), declared_in(study, state), there, groups, finished=True)
    options = Options(margin=study.margin, primary=declared, strict=False)
    analysis = analyse(curves, options, groups=groups)
    tasks = {task: run.headline.name for task, run in runs.items()}
    two = _two_seeds(study, adapters, tasks, curves)
    page = [f"# {study.name}\n", *([f"{study.question}\n"] if study.question else [])]
    page += [*_design(study, path, out, state), _cost(study, adapters, state)]
    if draw_differences(analysis, list(tasks.values()), out):
        page.append(f"\n![Differences of AURAC with their intervals.]({DIFFERENCES}.png)")
    for task, run in runs.items():
        page += [f"\n## {task}\n", *_data(task, run, adapters, state)]
        page += _results(tasks[task], analysis, two)
        where = f"{places[task].relative_to(out).as_posix()}/report.md"
        page.append(f"\n[The report of this task]({where}) has its documents, hashes and versions.")
    if len(runs) > 1:
        means = aggregate_table(analysis.aggregates).markdown()
        page.append(f"{_MEANS}\n{means}")
    write_atomic(out / ANALYSIS_FILE, analysis.to_json())
    write_atomic(out / REPORT_FILE, "\n".join(page) + "\n")
    return out / REPORT_FILE


def _two_seeds(
    study: Study,
    adapters: Sequence[PlannedAdapter],
    tasks: Mapping[str, str],
    curves: Sequence[Curve],
) -> TwoSeeds:
    """The pairs of the first two seeds of each method alone; none where there are no more."""
    first = {
        (tasks[task], f"{method}-seed{seed}")
        for task, method in study.points
        for seed in study.seeds_of(task, method)[:2]
    }
    some = [curve for curve in curves if (curve.task, curve.adapter) in first]
    if len(some) == len(curves):
        return {}
    pairs = paired_family(some, groups=_groups(adapters, {curve.adapter for curve in some}))
    return {(row.task, row.a, row.b): row for row in pairs}


def place_of(task: str, state: State, out: Path) -> Path:
    """Folder of the run on test documents, which may lie within that of a larger study."""
    return out / state.get("results", {}).get(task, f"results/{task}")


def finished(study: Study, task: str, adapters: Sequence[PlannedAdapter], folder: Path) -> Results:
    """The results of a task.

    Raises:
        RunFolderError: There are none, or those of other curves, recipes or documents.
    """
    if not (folder / RESULTS_FILE).is_file():
        raise RunFolderError(f"{folder} has no results yet", fix="first run the study to its end")
    run = Results.read(folder)
    here = [adapter for adapter in adapters if adapter.task == task]
    labels = {curve.label for adapter in here for curve in curves_of(study, adapter, final=True)}
    differing = labels ^ {curve.id for curve in run.curves}
    differing -= {str(failure.curve) for failure in run.failures}
    recorded = {adapter.name: (adapter.recipe or {}).get("sha256") for adapter in run.adapters}
    hashes = {a.recipe.name: list(a.trainings.values())[-1].sha256 for a in here}
    other = [f"the recipe of {name}" for name in hashes if recorded.get(name) != hashes[name]]
    test, split = study.tasks[task].test, run.provenance.settings.split
    if (run.headline.limit, split) != (test.limit or None, test.split):
        other.append("documents")
    if differing:
        other = [f"{len(differing)} curves ({min(differing)})"]
    if other:
        raise RunFolderError(
            f"{folder} was made by another study; what differs: {', '.join(other)}",
            expected="the curves, recipes and test documents of its file",
            fix="first run the study to its end, or give the file of these results",
        )
    return run


def _seed_name(adapter: PlannedAdapter) -> str:
    """Tasks match by seed, so names are without their learning rates."""
    return f"{adapter.method}-seed{adapter.recipe.seed}"


def _groups(adapters: Sequence[PlannedAdapter], there: set[str | None]) -> dict[str, list[str]]:
    """Method → the names of its seeds that are there."""
    groups: dict[str, list[str]] = {}
    for name, adapter in {_seed_name(adapter): adapter for adapter in adapters}.items():
        if name in there:
            groups.setdefault(adapter.method, []).append(name)
    return groups


def _curves(run: Results, adapters: Sequence[PlannedAdapter], folder: Path) -> list[Curve]:
    """The curves of a task; adapters with a rank that failed are left out."""
    names = {adapter.recipe.name: _seed_name(adapter) for adapter in adapters}
    failed = {failure.adapter for failure in run.failures}
    curves = read_curves(folder).curves
    here = [c for c in curves if c.task == run.headline.name and c.adapter not in failed]
    return [replace(curve, adapter=names[str(curve.adapter)]) for curve in here]


def _design(study: Study, path: Path, out: Path, state: State) -> Iterable[str]:
    """What was compared, the search for learning rates, and what the tables below mean."""
    known, rates, rows = _searched(study, path, out, state), rates_in(study, state), []
    for task, method in study.points:
        source, grid = study.rates_from(task, method), study.rates_of(task, method)
        names = {rate: f"{method}-lr{rate:g}-seed{study.search_seed}" for rate in grid}
        shown = [f"{rate:g} ({known.get((task, name), '–')})" for rate, name in names.items()]
        text = ", ".join(shown) if len(grid) > 1 else f"{grid[0]:g}"
        text = text if source == method else f"as {source}"
        seeds = ", ".join(map(str, study.seeds_of(task, method)))
        rows.append([task, method, text, f"{rates[task][method]:g}", seeds])
    head = ["task", "method", "learning rates", "chosen", "seeds"]
    yield f"## Design\n\n{text_table(head, rows).markdown()}"
    yield (
        "\nThe learning rate with the highest AURAC on validation documents (in brackets; log2 "
        f"axis, ranks {study.search_ranks}, seed {study.search_seed}) is chosen."
        if any(len(study.rates_of(*point)) > 1 for point in study.points)
        else "\nLearning rates are those of the study's file, without a search."
    )
    if edges := edges_in(study, state):
        yield f"\nThe best learning rate is at the end of its grid for {', '.join(edges)}."
    yield _TERMS
    if declared := declared_in(study, state):
        yield f"\n{declared.sentence}"


def _searched(study: Study, path: Path, out: Path, state: State) -> dict[tuple[str, str], str]:
    """(task, adapter) of the search → its AURAC, or that it diverged."""
    shown: dict[tuple[str, str], str] = {}
    for task in study.tasks:
        folder = out / state.get("searches", {}).get(task, f"search/{task}")
        areas = Results.read(folder).areas if (folder / RESULTS_FILE).is_file() else {}
        shown |= {(task, name): percent(area) for name, area in areas.items()}
    tried = list(searches(study, path))
    fine = converged(tried, state)
    return shown | {(a.task, a.recipe.name): "diverged" for a in tried if a not in fine}


def _cost(study: Study, adapters: Sequence[PlannedAdapter], state: State) -> str:
    """What the trainings of one seed took: adapters, steps, mean time over the seeds."""
    seconds = state.get("seconds", {})

    def cost(method: str, task: str) -> str:
        seeds = [a.trainings for a in adapters if (a.method, a.task) == (method, task)]
        if not seeds:
            return "–"
        steps = [recipe.steps for recipe in seeds[0].values()]
        text = f"{len(steps)} adapters" if len(steps) > 1 else "1 adapter"
        text += f", {sum(steps):,} steps" if all(steps) else ""
        if not all(seconds.keys() >= trainings.keys() for trainings in seeds):
            return text
        return f"{text}, {duration(fmean(sum(map(seconds.__getitem__, s)) for s in seeds))}"

    rows = [[method, *(cost(method, task) for task in study.tasks)] for method in study.methods]
    text = "\nTraining of one seed, with the wall time of its optimizer steps"
    if any(plan.family for plan in study.methods.values()):
        text += " (of a family: of all of its adapters, also one that another method has)"
    return f"{text}:\n\n{text_table(['method', *study.tasks], rows).markdown()}"


def _data(
    task: str, run: Results, adapters: Sequence[PlannedAdapter], state: State
) -> Iterable[str]:
    known = state.get("data", {})
    used = dict.fromkeys(a.recipe.data for a in adapters if a.task == task)
    if digests := [known[data] for data in used if data in known]:
        yield f"Training data: SHA-256 {', '.join(digests)}.\n"
    if run.failures:
        names = ", ".join(dict.fromkeys(str(row.adapter or "base") for row in run.failures))
        yield (
            f"{len(run.failures)} evaluations failed ({run.failures[0].reason}); what they are of "
            f"is left out below: {names}.\n"
        )


def _results(task: str, analysis: Analysis, two: TwoSeeds) -> Iterable[str]:
    scores = [row for row in analysis.scores if row.task == task]
    shown = curve_table(scores, extra=lambda row: {"AURAC linear [95 %]": interval(row.linear)})
    yield f"{shown.markdown()}\n\n{escape.markdown(shown.caption)}"
    for row in scores:
        yield from (f"\n- {row.label}: {note}." for note in row.notes)
    if pairs := [row for row in (*analysis.pairs, *analysis.variants) if row.task == task]:
        shown = pair_table(pairs)
        if two:
            few = [two.get((row.task, row.a, row.b)) for row in pairs]
            last = [estimate(row.estimate if row else None) for row in few]
            rows = tuple((*row, cell) for row, cell in zip(shown.rows, last, strict=True))
            columns = (*shown.columns, Column("first two seeds alone"))
            shown = replace(shown, columns=columns, rows=rows)
        yield f"\n{shown.markdown()}\n\n{pairing_note(pairings_of(pairs))}"
    for recommended in analysis.recommended:
        if recommended.task == task and not recommended.other:
            yield f"\n{recommended.sentence}"


def draw_differences(analysis: Analysis, tasks: Sequence[str], out: Path) -> bool:
    """Write `differences.svg` and `.png`: every difference with its interval, task by task.

    False: no two curves were compared, and nothing is written.
    """
    rows: dict[str, list[tuple[str, Estimate, float | None]]] = {task: [] for task in tasks}
    for row in (*analysis.pairs, *analysis.variants):
        if row.estimate and row.task in rows:
            rows[row.task].append((_difference(row), row.estimate, row.p_holm))
    names = [name for each in rows.values() for name, _, _ in each]
    if not names:
        return False
    with figures.styled():
        figure = figures.single(
            partial(_draw, rows=rows),
            title="AURAC, log2 axis: difference in points (filled: adjusted p < .05)",
            left=names,
            height=_ROW * (len(names) + len(tasks)) + 1.0,
        )
        figures.save(figure, out / DIFFERENCES)
    return True


def _difference(row: PairRow) -> str:
    """`b − a`; two truncations of one adapter without naming it twice."""
    (a, _, first), (b, _, second) = (side.partition(" · ") for side in (row.a, row.b))
    return f"{a}: {second} − {first}" if a == b else f"{row.b} − {row.a}"


def _draw(ax: Axes, *, rows: Mapping[str, Sequence[tuple[str, Estimate, float | None]]]) -> Axes:
    """A line with the name of each task, and below it a line for each difference."""
    labels: list[str] = []
    for colour, (task, differences) in zip(cycle(SERIES), rows.items(), strict=False):
        labels += [task] if differences else []
        for name, shown, p in differences:
            at, value = len(labels), 100 * shown.value
            labels.append(name)
            face = colour if p is not None and p < 1 - shown.level else PAPER
            if shown.low is not None and shown.high is not None:
                ax.hlines(at, 100 * shown.low, 100 * shown.high, color=colour, linewidth=1.2)
            ax.plot(value, at, marker="o", color=colour, markerfacecolor=face)
    ax.axvline(0, color=AXIS, linewidth=0.8)
    ax.set_yticks(range(len(labels)), labels)
    for label in ax.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in rows else "normal")
    ax.set_ylim(len(labels) - 0.5, -0.6)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return ax
