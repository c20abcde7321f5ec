"""A finished run as tables, pictures and answers, without a model: what a notebook works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from aurac.analysis.rows import Options
from aurac.arguments import converted, keywords, path_of, several, suggestion
from aurac.curves.display import counted, interval, picture, table, text
from aurac.curves.names import label_names
from aurac.errors import UsageError
from aurac.records.results_file import Results, run_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from aurac.analysis.record import Analysis
    from aurac.curves.area import Axis
    from aurac.curves.curve import Curve
    from aurac.readers import Curves
    from aurac.records.reader import Groups
    from aurac.records.results_file import FailedCell


def load_run(path: str | Path) -> Run:
    """Open the results of `aurac compare`; nothing heavy is loaded.

    Args:
        path: The run folder, or its `results.json`.

    Raises:
        RunFolderError: There are no results, or they cannot be read.
        UsageError: Something else than a path.
    """
    folder = run_folder(path_of(path, "a run folder"))
    results = Results.read(folder)
    ranks = [(curve, rank) for curve in results.curves for rank in (0, *curve.ranks)]
    return Run(folder, results, cells=len({file for c, rank in ranks for file in c.files(rank)}))


@dataclass(frozen=True, repr=False)
class Run:
    """The results of a run; accuracies, areas and differences are fractions.

    Attributes:
        folder: The run folder; where that holds more than was asked for, a folder in it.
        results: The content of `results.json`; of a shard nothing but its failures.
        files: What was written.
        cells: How many cells were planned; of a shard, in its share.
        shard: (number, of) where `compare(shard=…)` computed only that share of the cells, and
            there are no curves yet; None otherwise.
        besides: A sentence on the adapters, ranks and documents that the folder holds from other
            requests and that this run leaves out; empty where there are none.
    """

    folder: Path
    results: Results
    files: tuple[Path, ...] = ()
    cells: int = 0
    besides: str = ""

    @property
    def failures(self) -> list[FailedCell]:
        """Cells that could not be evaluated; the command line exits with 3 if there are any."""
        return list(self.results.failures)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have curves."""
        return list(dict.fromkeys(curve.task for curve in self.results.curves))

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The curves with their documents, an adapter's default truncation first.

        Raises:
            RunFolderError: A cell is missing or damaged.
        """
        return tuple(self._read.curves)

    @cached_property
    def _read(self) -> Curves:
        from aurac.analysis.primary import read_sources

        return read_sources([self.folder], groups={})

    def _analysis(self, asked: Options) -> Analysis:
        from aurac.analysis.of_study import within_study
        from aurac.analysis.whole import analyse

        read = self._read
        settings = replace(asked, strict=False, primary=read.primary)
        return within_study(analyse(read.curves, settings, groups=read.groups), [self.folder])

    @cached_property
    def analysis(self) -> Analysis:
        """The whole analysis on the log2 axis: rows, pairs, the candidates for the best."""
        return self._analysis(Options())

    @property
    def scores(self) -> DataFrame:
        """A row for each adapter (or recipe group), truncation and task, the default ones first.

        Columns: adapter, task, metric, truncation, basis, rescale, default, aurac (log2 axis) with
        low and high (95 % interval), linear with linear_low and linear_high, mean, baseline (the
        base), n_docs, seeds, reason (why there is no score), label (the name in `pairs.direction`),
        candidate (no other row is shown to be better). Areas and accuracies are fractions.
        """
        from aurac.notebook.frames import frame
        from aurac.show.names import Names

        rows, best, names = self.analysis.scores, self.analysis.candidates, Names(self.analysis)
        table = frame(
            "adapter task metric truncation basis=truncation rescale=truncation default=other "
            "aurac=log2.value low=log2.low "
            "high=log2.high linear=linear.value linear_low=linear.low linear_high=linear.high "
            "mean baseline n_docs seeds reason",
            rows,
        )
        return table.assign(
            label=[names.of(row) for row in rows],
            basis=[row.truncation.partition(" · ")[0] for row in rows],
            rescale=[row.truncation.partition(" · ")[2] for row in rows],
            default=[not row.other for row in rows],
            candidate=[(row.task, row.label) in best for row in rows],
        )

    @property
    def points(self) -> DataFrame:
        """A row for each curve and rank.

        Columns: adapter, task, metric, truncation, basis, rescale, role, rank, accuracy with low
        and high (pointwise 95 % interval), baseline, parameters, bytes, n_docs, label, reason.
        """
        from aurac.notebook.frames import points

        return points(self.results)

    @property
    def pairs(self) -> DataFrame:
        """A row for each pair of adapters on a task, and of truncations of one adapter.

        Columns: a and b with a_truncation and b_truncation, task, direction ("b − a", named as in
        the terminal), difference (AURAC of b minus a on the same documents, a fraction) with low
        and high (95 % interval), interval (its method), p (of this pair alone), p_holm (adjusted
        for all `tests` of its family), exploratory (its family, where some pairs are declared to be
        primary), verdict (in words, by p_holm), detectable (the smallest true difference that the
        test finds with 80 % power), n_docs, reason (why they are not compared).
        """
        from aurac.notebook.frames import frame
        from aurac.show.names import Names

        known, names = self.analysis, Names(self.analysis)
        rows = (*known.pairs, *known.variants)
        table = frame(
            "a b a_truncation=a b_truncation=b task direction=task difference=value "
            "low=estimate.low high=estimate.high interval=estimate.method p p_holm tests "
            "exploratory verdict=reading detectable n_docs reason",
            rows,
        )
        shown = [names.pair(row) for row in rows]
        for side in ("a", "b"):
            sides = [names.way(row.task, getattr(row, side)) for row in rows]
            table[side] = [adapter for adapter, _ in sides]
            table[f"{side}_truncation"] = [truncation for _, truncation in sides]
        return table.assign(
            direction=[f"{row.b} − {row.a}" for row in shown],
            verdict=[row.reading for row in shown],
        ).astype({"tests": "Int64"})

    @property
    def serving(self) -> DataFrame:
        """A row for each rank that `aurac cost --save` timed, the base (and any merged rank) first.

        Columns: adapter (missing: the base), rank, parameters, bytes, and of prompt (a forward pass
        over the prompts) and token (one further token for each) the median seconds with low and
        high (95 % interval). Empty where nothing was measured.

        Raises:
            RunFolderError: The measurement is of another base or of other adapters.
        """
        from aurac.curves.frames import Table
        from aurac.records.serving import read_serving

        record = read_serving(self.folder, self.results)
        times = "{0}_seconds {0}_low {0}_high"
        names = f"adapter rank parameters bytes {times.format('prompt')} {times.format('token')}"
        return Table(record.rows() if record else [], columns=names.split())

    @cached_property
    def samples(self) -> DataFrame:
        """A row for each curve, rank (0: the base) and document.

        Columns: adapter, task, metric, truncation, basis, rescale, rank, doc_id, score, response,
        question, target.

        Raises:
            RunFolderError: A cell is missing or damaged.
        """
        import pandas as pd

        from aurac.curves.frames import Table
        from aurac.notebook.frames import samples
        from aurac.records.reader import StoredCells

        cells = StoredCells(self.folder, self.results)
        frames = [
            frame
            for curve in self.results.curves
            for rank in (0, *curve.ranks)
            for frame in samples(curve, rank, cells)
        ]
        return pd.concat(frames, ignore_index=True) if frames else Table()

    @keywords()
    def recommend(
        self,
        margin: float | None = None,
        *,
        min_accuracy: float | None = None,
        reference: int | str | None = None,
        adapter: str | None = None,
        alpha: float = 0.05,
    ) -> DataFrame:
        """What to ship on each task, as `aurac recommend` answers: an adapter, truncation and rank.

        It is the smallest configuration of all that is shown to lose less than the margin against
        the best one, and to be above the base. Columns: task, adapter, truncation, rank, accuracy
        with low and high (95 %, of all configurations together), bytes, needed (the smallest margin
        at which it would be named), margin, alpha, sentence. Adapter and rank are missing where
        nothing is shown to be good enough, or nothing was demanded; the sentence says why.
        `configurations` has all that were tested, `smallest_ranks` each adapter by itself.

        Args:
            margin: Loss of accuracy that is tolerable, a fraction, chosen before looking.
            min_accuracy: Accuracy that it must be shown to have, a fraction.
            reference: A rank, ``ADAPTER`` or ``ADAPTER@RANK`` to compare with; None: the best.
            adapter: Whose configurations these are: an adapter, in its default truncation, or
                one truncation, such as ``lora (prefix)``; None: all.
            alpha: Error rate of naming a configuration that falls short, the choice included.

        Raises:
            UsageError: A number out of range; or the run stopped early, when its own question was
                decided.
            CurveError: A reference or an adapter that is not there.
        """
        from aurac.notebook.frames import frame

        asked = Options(
            margin=margin,
            min_accuracy=min_accuracy,
            reference=reference,
            adapter=adapter,
            alpha=alpha,
        )
        choices = self._analysis(asked).choices
        names = "adapter truncation rank accuracy low high bytes needed"
        columns = " ".join(f"{name}=chosen.{name}" for name in names.split())
        table = frame(f"task {columns} margin alpha sentence=task", choices)
        numbers = dict.fromkeys(("accuracy", "low", "high", "needed"), "float64")
        table = table.astype({"rank": "Int64", "bytes": "Int64", **numbers})
        return table.assign(sentence=[" ".join(choice.sentences) for choice in choices])

    @keywords()
    def configurations(
        self,
        margin: float | None = None,
        *,
        min_accuracy: float | None = None,
        reference: int | str | None = None,
        adapter: str | None = None,
        alpha: float = 0.05,
    ) -> DataFrame:
        """Every configuration (adapter, truncation, rank) of a task, the smallest first.

        Columns: adapter, task, truncation, rank, accuracy with low and high (95 %, all together),
        bytes, above_base, needed (the margin at which it is shown to be within it of the best),
        chosen (the one that `recommend` names).

        Arguments and errors as of `recommend`; without a demand nothing is chosen.
        """
        from aurac.notebook.frames import frame

        asked = Options(
            margin=margin,
            min_accuracy=min_accuracy,
            reference=reference,
            adapter=adapter,
            alpha=alpha,
        )
        choices = self._analysis(asked).choices
        rows = [row for choice in choices for row in choice.configurations]
        names = "adapter task truncation rank accuracy low high bytes above_base needed"
        chosen = [row is choice.chosen for choice in choices for row in choice.configurations]
        return frame(names, rows).assign(chosen=chosen)

    @keywords()
    def smallest_ranks(
        self, margin: float, *, reference: int | str | None = None, alpha: float = 0.05
    ) -> DataFrame:
        """The smallest rank within the margin of each adapter and truncation, by itself.

        Each is compared with its own best rank, not with other adapters: for what to ship see
        `recommend`. Columns: adapter, task, truncation, default, rank, saved (share of the
        largest size compared), alpha, sentence. The rank is missing where none is shown to be
        within the margin.

        `margin`, `reference`, `alpha` and errors as of `recommend`.
        """
        from aurac.notebook.frames import frame
        from aurac.show.names import Names

        known = self._analysis(Options(margin=margin, reference=reference, alpha=alpha))
        rows, names = known.recommended, Names(known)
        columns = "adapter task truncation default=other rank saved alpha=choice.alpha sentence"
        table = frame(columns, rows).astype({"rank": "Int64"})
        said = [names.rank(row).sentence for row in rows]
        return table.assign(default=[not row.other for row in rows], sentence=said)

    @keywords()
    def plot(
        self,
        task: str | None = None,
        *,
        axis: Axis = "log2",
        ax: Axes | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Axes:
        """Draw accuracy against rank or size as the report does: bands, legend, a base line.

        Args:
            task: Which; may be left out where there is one.
            axis: "log2" or "linear" of the rank, "parameters" or "bytes".
            ax: Where to draw; a figure of its own by default.
            labels: An adapter or a curve as a report names it → what to call it instead.

        Raises:
            UsageError: No such task, several and none was named, no curve with such an area, or
                labels that name no curve or two alike.
            CurveError: Another axis.
        """
        from aurac.analysis.combine import pooled
        from aurac.analysis.whole import budget_areas
        from aurac.curves.area import BUDGETS, axis_title, check_axis
        from aurac.records.run import renamed, stored_run
        from aurac.show.appearance import BASE_LABEL, area_labels
        from aurac.show.figures import styled
        from aurac.show.plots import rank_accuracy

        check_axis(axis)
        if not (ax is None or hasattr(ax, "legend")):
            raise UsageError(f"ax={ax!r:.80}", expected="one Axes of matplotlib")
        task, areas = self._task(task), None
        labels = converted(labels or {}, Mapping[str, str], "labels")
        run = pooled(stored_run(self.results, self.folder))  # one curve for the seeds of a recipe
        curves = renamed(run.curves, labels)
        curves = tuple(curve for curve in curves if curve.task == task)
        if axis in BUDGETS:
            areas, reasons = budget_areas(curves, axis)
            if not areas:
                why = " ".join(reasons[:1])
                raise UsageError(f"no curve on {task} has an area over {axis}. {why}".rstrip())
            curves = tuple(curve for curve in curves if curve.id in areas)
        with styled():
            own = ax is None
            if ax is None:
                from matplotlib import pyplot as plt

                _, ax = plt.subplots(figsize=(6.75, 3.7), layout="constrained")
            rank_accuracy(ax, curves, axis=axis, areas=areas, labels=False)
            called = area_labels([curve for curve in curves if curve.ranks], areas, axis)
            for line in ax.lines:
                name = called.get(str(line.get_label()), "_")
                line.set_label(BASE_LABEL if line.get_gid() == "base" else name)
            ax.set_title(task.replace("$", r"\$"))
            key = ax.legend(loc="upper left", bbox_to_anchor=(1, 1)) if own else ax.legend()
            key.set_title(f"{axis_title(axis)} (%)")
        return ax

    def _task(self, name: str | None) -> str:
        """The task of this name, or the only one."""
        if name is None and len(self.tasks) == 1:
            return self.tasks[0]
        if name is None or name not in self.tasks:
            given = "no task" if name is None else f"task={name!r}, which the run does not have"
            raise UsageError(given, expected=f"one of {', '.join(self.tasks)}")
        return name

    @keywords()
    def report(
        self,
        out: str | Path | None = None,
        *,
        groups: Groups | None = None,
        margin: float | None = None,
        axes: str | Sequence[str] = (),
        primary: str | Sequence[str | tuple[str, str]] = (),
        labels: Mapping[str, str] | None = None,
    ) -> list[Path]:
        """Write the report again, as `aurac report` does.

        Args:
            out: Where; the run folder by default.
            groups: Name → adapters that are training seeds of one recipe.
            margin: The loss of accuracy, a fraction, that a smaller configuration may have.
            axes: "parameters", "bytes" or both: AURAC over these as well.
            primary: The primary comparisons, ``"a,b"`` or several; `*` is each other adapter.
            labels: As of `plot`.

        Returns:
            The files written, the pages first.

        Raises:
            AuracError: As of `aurac.show.write_report`.
        """
        from aurac.analysis.primary import pairs_of
        from aurac.show import write_report

        return write_report(
            self.folder,
            out=converted(out, Path | None, "out"),
            groups=converted(groups or {}, Mapping[str, Sequence[str]], "groups"),
            margin=margin,
            axes=several(axes),
            primary=pairs_of(primary),
            labels=converted(labels or {}, Mapping[str, str], "labels"),
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            fix = None if name.startswith("_") else suggestion(name, dir(type(self)))
            raise AttributeError(f"a Run has no attribute {name!r}; {fix or 'dir(run) lists all'}")

    def __repr__(self) -> str:
        from aurac.analysis.of_study import copied_from

        curves = self.results.curves
        adapters = counted(len({curve.adapter for curve in curves}), "adapter")
        lost = f"; {counted(len(self.failures), 'cell')} failed" if self.failures else ""
        for study in copied_from(self.folder):
            lost += f"; one task of the study {study.note}, p values adjusted for this task alone"
        return f"Run({str(self.folder)!r}: {adapters} on {', '.join(self.tasks)}{lost})"

    def _repr_html_(self) -> str:
        """What a notebook shows: for each task a picture and the AURAC of every curve."""
        parts = []
        for task in self.tasks:
            curves = [curve for curve in self.results.curves if curve.task == task]
            curves.sort(key=lambda curve: -(curve.score.log2.value if curve.score else -1.0))
            names = label_names(curve.id for curve in curves)
            points = [(names[curve.id], curve.ranks, curve.accuracy) for curve in curves]
            rows = []
            for curve in curves:
                name = f"{names[curve.id]}{' (as published)' if curve.role == 'published' else ''}"
                area = interval(curve.score.log2) if curve.score else curve.score_reason or "–"
                rows.append([name, area, curve.n_docs])
            parts.append(f"<p><strong>{text(task)}</strong> · {text(curves[0].metric)}</p>")
            parts.append(picture(points, curves[0].baseline))
            parts.append(table(["curve", "AURAC, log2 (%) [95 %]", "documents"], rows))
        lost = f" · {counted(len(self.failures), 'cell')} failed" if self.failures else ""
        return f"<div>{''.join(parts)}<p>{text(self.folder)}{lost}</p></div>"
