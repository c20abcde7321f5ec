"""The results of a study: one analysis over all of its tasks, as a page, tables and a figure.

The page begins with the answer, one table and one figure; all else is its appendix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aurac.analysis.primary import declaration
from aurac.analysis.record import ANALYSIS_FILE, Analysis
from aurac.analysis.rows import Options, PairRow, fields_of, grouped, pairings_of
from aurac.analysis.sentences import pairing_note
from aurac.analysis.whole import analyse, paired_family
from aurac.curves.curve import Curve
from aurac.curves.display import percent
from aurac.errors import RunFolderError
from aurac.files import write_atomic
from aurac.readers import read_curves
from aurac.records.results_file import RESULTS_FILE, Results
from aurac.runs.log import duration
from aurac.show import escape, figures
from aurac.show.forest import Difference, differences
from aurac.show.names import Names
from aurac.show.table import NONE, Column, Table, as_csv, estimate, noted, text_table
from aurac.show.terminal import aggregate_table, curve_table, pair_table
from aurac.show.write import FIGURES, write_report
from aurac.study.answer import answer, areas, main_pairs
from aurac.study.design import PlannedAdapter, Study, chosen_adapters, curves_of, searches
from aurac.study.plan import State, converged, declared_in, edges_in, rates_in, update_state

TwoSeeds = Mapping[tuple[str | None, str, str], PairRow]
Found = dict[tuple[str, str], float | str]


REPORT_FILE, DIFFERENCES = "report.md", "differences"
_TERMS = """
Truncation: prefix keeps the first r components, SVD is the best approximation of rank r. The scale
at rank r is that of the scaling rule for a prefix, and that of the trained rank for SVD. With P it
is the one that MatryoshkaLoRA was trained with; without P it is the rule, its published inference.
Scale kept is that of the trained rank, fitted is that times a factor for each rank.

Intervals (95 %) are over documents and, where a method has several, training seeds; those of one
seed say nothing about another training. Differences are of AURAC on the log2 axis. Detectable is
the difference that the test, at its adjusted level, finds with a power of 80 %; a dash: it is more
than the scores leave room for."""
_AREAS = (
    "AURAC (log2 axis) in percent with 95 % intervals. Bold: the largest of each task, and others "
    "that no adjusted test shows to be worse, nor, of rows not tested against the largest, a bound "
    "that allows for the rows of this task alone; with few seeds it may be too wide to exclude any."
)
_MEAN = " The mean is over all tasks, of the truncation that a method is compared by."
_FOREST = (
    "Differences of AURAC (log2 axis) in points with 95 % intervals; filled where they are "
    "significant (adjusted p < .05). Each panel has its own scale. Rows: {}, and each truncation "
    f"against the one that its method is compared by; {DIFFERENCES}.svg has all."
)

_PAIRS = "pairs of methods, without those of independent seeds (other data or order)"


@dataclass
class _Page:
    """Markdown with numbered tables and figures."""

    parts: list[str] = field(default_factory=list)
    tables: int = 0
    figures: int = 0

    def add(self, *parts: str) -> None:
        """Append paragraphs."""
        self.parts += [part.strip("\n") for part in parts if part]

    def table(self, caption: str, shown: Table) -> None:
        """Append a table under its caption."""
        self.tables += 1
        self.add(f"**Table {self.tables}.** {escape.markdown(caption)}", shown.markdown())

    def figure(self, caption: str, file: str, alt: str) -> None:
        """Append a figure with its caption below; both are Markdown."""
        self.figures += 1
        self.add(f"![{alt}]({file})", f"**Figure {self.figures}.** {caption}")


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
    names = Names(analysis, study.labels, {name: task for task, name in tasks.items()})
    shown, page = names.analysis(analysis), _Page()
    page.add(f"# {study.name}", study.question)
    page.add(*answer(shown))
    table = areas(shown, study)
    page.table(_AREAS + (_MEAN if len(tasks) > 1 else "") + table.caption, table)
    if draw_differences(shown, out):
        first = "the primary comparisons" if declared else _PAIRS
        alt = "A row for each two curves, a panel for each task."
        page.figure(escape.markdown(_FOREST.format(first)), f"{DIFFERENCES}.png", alt)
    page.add("## Appendix: design")
    _design(page, study, path, out, state)
    _cost(page, study, adapters, state)
    pairs = map(names.pair, _two_seeds(study, adapters, tasks, curves))
    two = {(row.task, row.a, row.b): row for row in pairs}
    write_atomic(out / ANALYSIS_FILE, analysis.to_json())
    update_state(out, {}, study)  # the labels, which task reports read
    for task, run in runs.items():
        write_report(places[task])  # with the names and the p values of the study
        page.add(f"## Appendix: {task}", *_data(task, run, adapters, state))
        _results(page, task, shown, two)
        _report_of(page, task, places[task], out)
    if len(runs) > 1:
        _means(page, shown)
    write_atomic(out / REPORT_FILE, "\n\n".join(page.parts) + "\n")
    return out / REPORT_FILE


def _two_seeds(
    study: Study,
    adapters: Sequence[PlannedAdapter],
    tasks: Mapping[str, str],
    curves: Sequence[Curve],
) -> Sequence[PairRow]:
    """The pairs of the first two seeds of each method alone; none where there are no more."""
    first = {
        (tasks[task], f"{method}-seed{seed}")
        for task, method in study.points
        for seed in study.seeds_of(task, method)[:2]
    }
    some = [curve for curve in curves if (curve.task, curve.adapter) in first]
    if len(some) == len(curves):
        return ()
    return paired_family(some, groups=_groups(adapters, {curve.adapter for curve in some}))


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
    methods = {_seed_name(adapter): adapter.method for adapter in adapters}
    return grouped((name for name in methods if name in there), key=methods.__getitem__)


def _curves(run: Results, adapters: Sequence[PlannedAdapter], folder: Path) -> list[Curve]:
    """The curves of a task; adapters with a rank that failed are left out."""
    names = {adapter.recipe.name: _seed_name(adapter) for adapter in adapters}
    failed = {failure.adapter for failure in run.failures}
    curves = read_curves(folder).curves
    here = [c for c in curves if c.task == run.headline.name and c.adapter not in failed]
    return [replace(curve, adapter=names[str(curve.adapter)]) for curve in here]


def _design(page: _Page, study: Study, path: Path, out: Path, state: State) -> None:
    """What was compared, the search for learning rates, and what the tables mean."""
    known, rates, rows = _searched(study, path, out, state), rates_in(study, state), []
    for task, method in study.points:
        source, grid = study.rates_from(task, method), study.rates_of(task, method)
        names = {rate: f"{method}-lr{rate:g}-seed{study.search_seed}" for rate in grid}
        found = {rate: known.get((task, name), NONE) for rate, name in names.items()}
        tried = [f"{r:g} ({percent(a) if isinstance(a, float) else a})" for r, a in found.items()]
        text = ", ".join(tried) if len(grid) > 1 else f"{grid[0]:g}"
        text = text if source == method else f"as {study.labels[source]}"
        seeds = ", ".join(map(str, study.seeds_of(task, method)))
        chosen = rates[task][method]
        tied = [f"{r:g}" for r, a in found.items() if r > chosen and a == found.get(chosen) != NONE]
        rate = f"{chosen:g} (tied with {', '.join(tied)})" if tied else f"{chosen:g}"
        rows.append([task, study.labels[method], text, rate, seeds])
    caption = "Rates are those of the study's file."
    if any(len(study.rates_of(*point)) > 1 for point in study.points):
        caption = (
            "Chosen is the rate with the highest AURAC, of tied ones the smallest, on validation "
            f"documents (in brackets; log2 axis, ranks {study.search_ranks}, seed "
            f"{study.search_seed})."
        )
    if edges := edges_in(study, state):
        caption += f" The best learning rate is at the end of its grid for {', '.join(edges)}."
    page.add(f"Base model: {escape.markdown(study.base)}.")
    design = text_table(["task", "method", "learning rates", "chosen", "seeds"], rows)
    page.table(f"Learning rates and training seeds. {caption}", design)
    page.add(_TERMS)


def _searched(study: Study, path: Path, out: Path, state: State) -> Found:
    """(task, adapter) of the search → its AURAC, or that it diverged."""
    found = Found()
    for task in study.tasks:
        folder = out / state.get("searches", {}).get(task, f"search/{task}")
        areas = Results.read(folder).areas if (folder / RESULTS_FILE).is_file() else {}
        found |= {(task, name): area for name, area in areas.items()}
    tried = list(searches(study, path))
    fine = converged(tried, state)
    return found | {(a.task, a.recipe.name): "diverged" for a in tried if a not in fine}


def _cost(page: _Page, study: Study, adapters: Sequence[PlannedAdapter], state: State) -> None:
    """What the trainings of one seed took: adapters, steps, shortest and longest time."""
    seconds = state.get("seconds", {})

    def cost(method: str, task: str) -> str:
        seeds = [a.trainings for a in adapters if (a.method, a.task) == (method, task)]
        if not seeds:
            return NONE
        steps = [recipe.steps for recipe in seeds[0].values()]
        text = f"{len(steps)} adapters" if len(steps) > 1 else "1 adapter"
        text += f", {sum(steps):,} steps" if all(steps) else ""
        if not all(seconds.keys() >= trainings.keys() for trainings in seeds):
            return text
        took = sorted(sum(map(seconds.__getitem__, trainings)) for trainings in seeds)
        return f"{text}, {' to '.join(dict.fromkeys(map(duration, (took[0], took[-1]))))}"

    rows = [
        [study.labels[method], *(cost(method, task) for task in study.tasks)]
        for method in study.methods
    ]
    text = "Training of one seed, with the shortest and longest wall time of its optimizer steps"
    if any(plan.family for plan in study.methods.values()):
        text += " (of a family: of all of its adapters, also one that another method has)"
    text += "; machines and their load may have differed."
    page.table(text, text_table(["method", *study.tasks], rows))


def _data(
    task: str, run: Results, adapters: Sequence[PlannedAdapter], state: State
) -> Iterable[str]:
    known = state.get("data", {})
    used = dict.fromkeys(a.recipe.data for a in adapters if a.task == task)
    if digests := [known[data] for data in used if data in known]:
        yield f"Training data: SHA-256 {', '.join(digests)}."
    if run.failures:
        names = ", ".join(dict.fromkeys(str(row.adapter or "base") for row in run.failures))
        yield (
            f"{len(run.failures)} evaluations failed ({run.failures[0].reason}); what they are of "
            f"is left out below: {names}."
        )


def _results(page: _Page, task: str, analysis: Analysis, two: TwoSeeds) -> None:
    """The accuracies and the differences of one task."""
    scores = [replace(row, published=False) for row in analysis.scores if row.task == task]
    shown = curve_table(scores, best=analysis.candidates, linear=True, marked=True)
    caption = f"{task}: accuracy at each rank and AURAC in percent; {shown.caption}."
    page.table(noted(replace(shown, caption=caption)).caption, shown)
    page.add("\n".join(f"- {row.label}: {note}." for row in scores for note in row.notes))
    if pairs := [row for row in (*analysis.pairs, *analysis.variants) if row.task == task]:
        shown = pair_table(pairs, marked=True)
        if two:
            few = [two.get((row.task, row.a, row.b)) for row in pairs]
            last = [estimate(row.estimate if row else None) for row in few]
            rows = tuple((*row, cell) for row, cell in zip(shown.rows, last, strict=True))
            columns = (*shown.columns, Column("first two seeds alone"))
            shown = noted(replace(shown, caption="", columns=columns, rows=rows))
        note = pairing_note(pairings_of(pairs))
        caption = f"{task}: differences of AURAC (log2 axis) in points. {note}".rstrip()
        page.table(caption + shown.caption, shown)
    page.add(*(row.sentence for row in analysis.recommended if row.task == task))


def _report_of(page: _Page, task: str, folder: Path, out: Path) -> None:
    """The figure of one task, as its own report has it, and where that is."""
    where, report = folder.relative_to(out).as_posix(), (folder / REPORT_FILE).read_text("utf-8")
    shown = rf"^!\[(.*)\]\(({FIGURES}/rank-accuracy-.*(?<!-linear)\.svg)\)\n\n(.*)$"
    for alt, file, caption in re.findall(shown, report, re.MULTILINE):
        page.figure(f"{escape.markdown(task)}. {caption}", f"{where}/{file}", alt)
    page.add(f"[The report of this task]({where}/report.md) has its documents and versions.")


def _means(page: _Page, analysis: Analysis) -> None:
    """Means over the tasks; what is not on all of them is left out."""
    page.add("## Appendix: all tasks")
    caption = "Means over the tasks, all with the same weight, for equal seeds on each task."
    rows = [row for row in analysis.aggregates if row.estimate]
    if len(rows) < len(analysis.aggregates):
        caption += " Left out is what has no result on some task."
    shown = aggregate_table(rows or analysis.aggregates, marked=True)
    page.table(caption + shown.caption, shown)


def draw_differences(analysis: Analysis, out: Path) -> bool:
    """Write every difference with its interval, as a figure and numbers, and a few for a column.

    False: no two curves were compared, and nothing is written.
    """
    every = (row for row in (*analysis.pairs, *analysis.variants) if row.estimate)
    pairs = sorted(every, key=lambda row: row.exploratory is not False)
    if not pairs:
        return False
    numbers = [
        fields_of(row, "task b a")
        | fields_of(row.estimate, "value low high")
        | fields_of(row, "p p_holm")
        for row in pairs
    ]
    write_atomic(out / f"{DIFFERENCES}.csv", as_csv(numbers))
    with figures.styled(small=True):
        figures.save(differences(_drawn(pairs)), out / DIFFERENCES, formats=("svg", "pdf"))
        few = differences(_drawn(_main(analysis, pairs)), width=figures.NARROW)
        figures.save(few, out / DIFFERENCES, formats=("png",))
        figures.save(few, out / f"{DIFFERENCES}-column", formats=("pdf",))
    return True


def _drawn(pairs: Iterable[PairRow]) -> list[Difference]:
    return [
        Difference(str(row.task), f"{row.b} − {row.a}", row.estimate, bool(row.verdict))
        for row in pairs
        if row.estimate
    ]


def _main(analysis: Analysis, pairs: Sequence[PairRow]) -> Sequence[PairRow]:
    """The rows that the page shows, as its caption says; all where these would be none."""
    compared = {(row.task, name) for row in analysis.pairs for name in (row.a, row.b)}
    first = main_pairs(analysis)
    own = [r for r in pairs if len(compared & {(r.task, r.a), (r.task, r.b)}) == 1]
    return [row for row in pairs if row in first or row in own] or pairs
