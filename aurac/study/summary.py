"""The results of a study: one analysis over all of its tasks, as tables and a page."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from tabulate import tabulate

from aurac.analysis.analyse import analyse, paired_family
from aurac.analysis.primary import declaration
from aurac.analysis.record import ANALYSIS_FILE
from aurac.analysis.rows import Options, pairings_of
from aurac.analysis.sentences import pairing_note, show_p
from aurac.curves.display import interval, percent
from aurac.errors import RunFolderError
from aurac.files import write_atomic
from aurac.readers import read_curves
from aurac.records.schema import RESULTS_FILE, Results
from aurac.runs.log import duration
from aurac.study.design import points_of
from aurac.study.figure import DIFFERENCES, draw_differences
from aurac.study.plan import declared_in, edges_in, rates_in
from aurac.study.trainings import chosen_adapters, curves_of, searches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import PairRow
    from aurac.curves.curve import Curve
    from aurac.study.design import Study
    from aurac.study.plan import State
    from aurac.study.trainings import PlannedAdapter

    TwoSeeds = Mapping[tuple[str | None, str, str], PairRow]
    Adapters = Mapping[str, Sequence[PlannedAdapter]]

REPORT_FILE = "report.md"
_TERMS = """
Truncation: prefix keeps the first r components, svd the best approximation of rank r. Scale: rule
is the scaling rule at rank r (for MatryoshkaLoRA the published inference, without P), trained has
the trained P, keep is the scale of the trained rank, fit is keep times a factor fitted per rank.

Accuracy and AURAC are in percent. Intervals (95 %) are over documents and, where a method has
several, training seeds; those of one seed say nothing about another training. p values are adjusted
(Holm) for all pairs of methods and all pairs of truncations on all tasks together. Detectable is
the difference that the test, at its adjusted level, finds with a power of 80 %."""


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
    seeds = {m: dict.fromkeys(one.recipe.seed for one in each) for m, each in adapters.items()}
    named = {m: [f"{m}-seed{seed}" for seed in each] for m, each in seeds.items()}
    known = {m: [name for name in names if name in there] for m, names in named.items()}
    groups = {m: names for m, names in known.items() if names}
    declared = declaration((), declared_in(study, state), there, groups, finished=True)
    analysis = analyse(
        curves, Options(margin=study.margin, primary=declared, strict=False), groups=groups
    )
    first = {
        (runs[task].headline.name, f"{method}-seed{seed}")
        for task, method in points_of(study)
        for seed in study.seeds_of(task, method)[:2]
    }
    some, two = [curve for curve in curves if (curve.task, curve.adapter) in first], {}
    if len(some) < len(curves):
        kept = {curve.adapter for curve in some}
        few = {method: [n for n in names if n in kept] for method, names in groups.items()}
        two = {(row.task, row.a, row.b): row for row in paired_family(some, groups=few)}
    draw_differences(analysis, [run.headline.name for run in runs.values()], out)
    write_atomic(out / ANALYSIS_FILE, analysis.to_json())
    page = _Page(study, path, out, state, runs, places, adapters).lines(analysis, two)
    write_atomic(out / REPORT_FILE, "\n".join(page) + "\n")
    return out / REPORT_FILE


def place_of(task: str, state: State, out: Path) -> Path:
    """Folder of the run on test documents, which may lie within that of a larger study."""
    return out / state.get("results", {}).get(task, f"results/{task}")


def finished(study: Study, task: str, adapters: Adapters, folder: Path) -> Results:
    """The results of a task.

    Raises:
        RunFolderError: There are none, or those of other curves, recipes or documents.
    """
    if not (folder / RESULTS_FILE).is_file():
        raise RunFolderError(f"{folder} has no results yet", fix="first run the study to its end")
    run = Results.read(folder)
    here = [one for each in adapters.values() for one in each if one.task == task]
    labels = {curve.label for one in here for curve in curves_of(study, one, final=True)}
    lost = {str(failure.curve) for failure in run.failures}
    if differing := (labels ^ {curve.id for curve in run.curves}) - lost:
        raise RunFolderError(
            f"{folder} and the study's file differ in {len(differing)} curves ({min(differing)})",
            fix="first run the study to its end, or give the file of these results",
        )
    recorded = {one.name: (one.recipe or {}).get("sha256") for one in run.adapters}
    test, split = study.tasks[task].test, run.provenance.settings.split
    hashes = {one.recipe.name: one.trainings[-1].recipe.sha256 for one in here}
    other = [f"the recipe of {name}" for name in hashes if recorded.get(name) != hashes[name]]
    if (run.headline.limit, split) != (test.limit or None, test.split):
        other.append("documents")
    if other:
        raise RunFolderError(
            f"{folder} was made by another study; what differs: {', '.join(other)}",
            expected="the recipes and test documents of its file",
            fix="first run the study to its end, or give the file of these results",
        )
    return run


def _curves(run: Results, adapters: Adapters, folder: Path) -> list[Curve]:
    """The curves of a task; tasks match by seed, so names are without their learning rates.

    Adapters with a rank that failed are left out.
    """
    every = [one for each in adapters.values() for one in each]
    names = {one.recipe.name: f"{one.method}-seed{one.recipe.seed}" for one in every}
    curves = read_curves(folder).curves
    failed = {failure.adapter for failure in run.failures}
    here = [c for c in curves if c.task == run.headline.name and c.adapter not in failed]
    return [replace(curve, adapter=names[str(curve.adapter)]) for curve in here]


class _Page(NamedTuple):
    """What the report is written from, beside the analysis; `runs` are the results by task."""

    study: Study
    path: Path
    out: Path
    state: State
    runs: Mapping[str, Results]
    places: Mapping[str, Path]
    adapters: Adapters

    def lines(self, analysis: Analysis, two: TwoSeeds) -> Iterable[str]:
        yield f"# {self.study.name}\n"
        if self.study.question:
            yield f"{self.study.question}\n"
        yield "## Design\n"
        yield from self.design()
        yield "\nTraining of one seed, with the wall time of its optimizer steps:\n"
        yield from self.cost()
        if analysis.pairs or analysis.variants:
            yield f"\n![Differences of AURAC with their intervals.]({DIFFERENCES}.png)"
        for task, run in self.runs.items():
            yield f"\n## {task}\n"
            yield from self.documents(task, run)
            yield from _task(run.headline.name, analysis, two)
            place = self.places[task].relative_to(self.out).as_posix()
            yield f"\n[Report of this task]({place}/report.md)"
        if len(self.runs) > 1:
            yield "\n## All tasks\n"
            yield "Means over the tasks, all with the same weight, for equal seeds on each task.\n"
            every = [row for row in analysis.aggregates if row.estimate]
            rows = [[f"{r.b} − {r.a}" if r.b else r.a, interval(r.estimate)] for r in every]
            yield _table(["AURAC or b − a", "mean [95 %]"], rows) if rows else "There are none."
            others = Counter(row.reason for row in analysis.aggregates if not row.estimate)
            for reason, count in others.items():
                yield f"\n{count} others have no mean: {reason}."

    def design(self) -> Iterable[str]:
        study, rows = self.study, []
        places, gone = self.state.get("searches", {}), self.state.get("diverged", {})
        folders = {task: self.out / places.get(task, f"search/{task}") for task in study.tasks}
        tried = {(one.task, one.recipe.name): one for one in searches(study, self.path)}
        areas = {
            t: Results.read(f).areas for t, f in folders.items() if (f / RESULTS_FILE).is_file()
        }
        for task, method in points_of(study):
            source, rates = study.rates_from(task, method), study.rates_of(task, method)
            found = areas.get(task, {})
            names = [f"{method}-lr{rate:g}-seed{study.search_seed}" for rate in rates]
            known = [
                "diverged"
                if (one := tried.get((task, name)))
                and any(each.folder.as_posix() in gone for each in one.trainings)
                else percent(found.get(name))
                for name in names
            ]
            shown = [f"{rate:g} ({area})" for rate, area in zip(rates, known, strict=True)]
            grid = ", ".join(shown) if len(rates) > 1 else f"{rates[0]:g}"
            chosen = f"{rates_in(study, self.state)[task][method]:g}"
            seeds = ", ".join(map(str, study.seeds_of(task, method)))
            rows.append([task, method, grid if source == method else f"as {source}", chosen, seeds])
        yield _table(["task", "method", "learning rates", "chosen", "seeds"], rows)
        yield (
            "\nThe learning rate with the highest AURAC on validation documents (in brackets; log2 "
            f"axis, ranks {study.search_ranks}, seed {study.search_seed}) is chosen."
            if any(len(study.rates_of(*point)) > 1 for point in points_of(study))
            else "\nLearning rates are those of the study's file, without a search."
        )
        if edges := edges_in(study, self.state):
            yield f"\nThe best learning rate is at the end of its grid for {', '.join(edges)}."
        yield f"{_TERMS}\n"
        if declared := declared_in(study, self.state):
            yield f"{declared.sentence}\n"
        every = [run.provenance for run in self.runs.values()]
        bases = [f"{p.base.name} (weights SHA-256 {p.base.sha256})" for p in every]
        versions = [", ".join(f"{k} {v}" for k, v in p.versions.items()) for p in every]
        machines = [f"{p.machine.get('cpu')}, {p.device}, {p.dtype}" for p in every]
        for name, each in ("Base model", bases), ("Last run on", machines), ("Versions", versions):
            yield f"- {name}: {'; '.join(dict.fromkeys(each))}"

    def documents(self, task: str, run: Results) -> Iterable[str]:
        record, split = run.headline, self.study.tasks[task].test.split
        base = next((c.baseline for c in run.curves if c.task == record.name), None)
        yield (
            f"{record.n_docs:,} documents{f' of the {split} split' * bool(split)} (SHA-256 "
            f"{record.documents_sha256}), {record.metric}"
            f"{f', {record.num_fewshot}-shot' * (record.num_fewshot is not None)}. "
            f"Accuracy of the base model: {percent(base)}."
        )
        known, every = self.state.get("data", {}), self.adapters.values()
        used = dict.fromkeys(one.recipe.data for each in every for one in each if one.task == task)
        if digests := [known[data] for data in used if data in known]:
            yield f"Training data: SHA-256 {', '.join(digests)}."
        if run.failures:
            out = ", ".join(dict.fromkeys(str(one.adapter or "base") for one in run.failures))
            yield (
                f"{len(run.failures)} evaluations failed ({run.failures[0].reason}); what they are "
                f"of is left out below: {out}."
            )
        yield ""

    def cost(self) -> Iterable[str]:
        rows = [
            [method, *(_trained(every, task, self.state) for task in self.runs)]
            for method, every in self.adapters.items()
        ]
        yield _table(["method", *self.runs], rows)
        if any(plan.family for plan in self.study.methods.values()):
            yield "\nOf a family: all of its adapters, also one that another method has."


def _trained(every: Sequence[PlannedAdapter], task: str, state: State) -> str:
    """What the trainings of one seed took: adapters, steps, mean time over the seeds."""
    seeds = [one for one in every if one.task == task]
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


def _task(task: str, analysis: Analysis, two: TwoSeeds) -> Iterable[str]:
    scores = [row for row in analysis.scores if row.task == task]
    ranks = sorted({rank for row in scores for rank in row.ranks})
    rows = []
    for row in sorted(scores, key=lambda row: -(row.log2.value if row.log2 else -1)):
        known = dict(zip(row.ranks, row.accuracy, strict=True))
        cells = [percent(known.get(rank)) for rank in ranks]
        areas = interval(row.log2), interval(row.linear)
        rows.append([row.adapter, row.truncation, str(row.seeds), *cells, *areas])
    areas = "AURAC, log2 [95 %]", "AURAC, linear [95 %]"
    yield _table(["method", "truncation", "seeds", *map(str, ranks), *areas], rows)
    yield ""
    for row in scores:
        yield from (f"- {row.label}: {note}." for note in row.notes)
    yield from _pairs([row for row in analysis.pairs if row.task == task], two)
    other = [row for row in analysis.variants if row.task == task]
    if other:
        yield "\nThe same adapters, truncated in another way:\n"
        yield from _pairs(other, two)
    yield ""
    for recommended in analysis.recommended:
        if recommended.task == task and not recommended.other:
            yield f"- {recommended.sentence}"


def _pairs(pairs: Sequence[PairRow], two: TwoSeeds) -> Iterable[str]:
    head = ["difference of AURAC (log2), points", "[95 %]", "adjusted p", "detectable"]
    rows = []
    for row in pairs:
        p = "–" if row.p_holm is None else show_p(row.p_holm).removeprefix("= ")
        few = two.get((row.task, row.a, row.b))
        shown = [each.estimate if each else None for each in (row, few)]
        cells = [interval(shown[0]), p, percent(row.detectable)]
        name = f"{row.b} − {row.a}{', exploratory' if row.exploratory else ''}"
        rows.append([name, *cells, *[interval(shown[1])] * bool(two)])
    yield _table([*head, *["first two seeds alone"] * bool(two)], rows)
    if note := pairing_note(pairings_of(pairs)):
        yield f"\n{note}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
