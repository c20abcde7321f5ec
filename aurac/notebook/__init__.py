"""A run with its answers, without a model: what notebooks and scripts work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.analysis import Analysis, analyse
from aurac.analysis.frames import answerable, resolved
from aurac.analysis.gather import gather
from aurac.analysis.schema import Frames, Tables
from aurac.curves.curve import Curve
from aurac.curves.metrics import asked_metrics
from aurac.errors import UsageError
from aurac.records.folder import RunFolder
from aurac.records.run import StoredRun, read_run

if TYPE_CHECKING:
    from collections.abc import Collection

    from matplotlib.axes import Axes
    from pandas import DataFrame


def load_run(folder: str | Path) -> Run:
    """Open a run folder, or a report (its folder or page) or study under its question.

    Raises:
        RunFolderError: It is none of these, or a file of it cannot be read.
    """
    return answerable(Run.of(read_run(folder)))


class Curves(tuple[Curve, ...]):  # noqa: SLOT001 - a tuple with a name more
    """Curves in a tuple, and as a table.

    Attributes:
        recipes: Adapter → the recipe that it is a seed of, else itself.
    """

    recipes: Mapping[str | None, str]

    @property
    def frame(self) -> DataFrame:
        """A row for each curve, rank and example, rank 0 the base; `aurac.analyse` takes it."""
        import pandas as pd

        frames = [each.frame.assign(recipe=self.recipes[each.adapter]) for each in self]
        return pd.concat(frames, ignore_index=True)


@dataclass(eq=False, repr=False)
class Run(StoredRun, Frames):
    """A run and what is asked of it; accuracies and differences are fractions.

    Its five frames have the columns of the CSV files of a report (docs/howto/notebook.md).
    """

    @classmethod
    def of(cls, stored: StoredRun) -> Run:
        """A stored run, with what is said of it."""
        return cls(*(getattr(stored, each.name) for each in fields(stored)))

    @property
    def curves(self) -> Curves:
        """A curve for each task, adapter and cut, with the score of every example."""
        curves = Curves(self._curves)
        curves.recipes = self.recipes
        return curves

    @cached_property
    def analysis(self) -> Analysis:
        """All frames at once."""
        return analyse(self)

    @property
    def tables(self) -> Tables:  # type: ignore[override]
        """The rows of the frames."""
        return self.analysis.tables

    def ask(self, **changes: Any) -> Run:
        """The same run under another `aurac.Question`; what is not named stays.

        Pairs take the place of a reference, and a reference that of pairs. Metrics may be given as
        `aurac.compare` takes them: ``"acc_norm"``, or task → name.

        Raises:
            UsageError: A field that a question does not have, a value that it does not take, or a
                reference, pair, group, metric or field of examples that the run does not have.
            RunFolderError: A task that the run does not have.
        """
        if changes.keys() & {"pairs", "reference"}:
            changes = {"pairs": (), "reference": None} | changes
        if isinstance(metrics := changes.get("metrics"), str | Sequence | Mapping):
            changes["metrics"] = self.named(asked_metrics(metrics))
        run = self.under(self.question.but(**changes))
        if not changes.keys() & {"pairs", "reference"}:
            return answerable(run)
        resolved(run.question, gather(run.curves, run.groups))
        return run

    def recommend(self, margin: float | None = None) -> DataFrame:
        """A frame with the rank to ship of each adapter, for a margin chosen before looking.

        It has the columns of `recommended`. None takes the margin of the run.

        Raises:
            UsageError: A margin that is no fraction, or none at all.
        """
        asked = self if margin is None else self.ask(margin=margin)
        if asked.question.margin is None:
            raise UsageError("The run has no margin: give one, such as 0.02 for 2 points.")
        return asked.recommended

    def samples(
        self, task: str | None = None, adapter: str | None = None, rank: int | None = None
    ) -> DataFrame:
        """Every answer, of rank 0 the base's: a row for each example, task, cut and rank.

        Of one task, adapter (or recipe) or rank where they are named; with response, what its
        filter read, question and target. With an adapter, the base's answers need rank 0.

        Raises:
            UsageError: There are none.
            RunFolderError: A cell is damaged.
        """
        import pandas as pd

        frames: list[DataFrame] = []
        based = set[str]()
        for curve in self.curves:
            names = (None, curve.adapter, self.recipes[curve.adapter])
            if task not in (None, curve.task) or adapter not in names:
                continue
            base = (adapter is None or rank == 0) and curve.task not in based
            base = base and curve.baseline is not None
            based.add(str(curve.task))
            ranks = [0, *curve.ranks] if base else curve.ranks
            frames += [self._answers(curve, each) for each in ranks if rank in (None, each)]
        if not frames:
            asked = {"task": task, "adapter": adapter, "rank": rank}
            named = ", ".join(f"{key} {value}" for key, value in asked.items() if value is not None)
            raise UsageError(f"the run has no answers of {named}")
        return pd.concat(frames, ignore_index=True)

    def _answers(self, curve: Curve, rank: int) -> DataFrame:
        task, adapter, nan = str(curve.task), curve.adapter, float("nan")
        answers = self.answers(task, adapter, curve.basis, curve.rescale, rank)
        about: dict[str, Any] = {"recipe": self.recipes[adapter]}
        names = ("adapter", "seed", "basis", "rescale", "cut")
        about |= {name: getattr(curve, name) for name in names}
        columns = ["example", "score", "response", "read", "question", "target"]
        told = answers.assign(task=task, rank=rank, **about if rank else dict.fromkeys(about, nan))
        return told[["task", *about, "rank", *columns]]

    def plot(
        self,
        task: str | None = None,
        ax: Axes | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        adapters: Collection[str] | None = None,
        legend: bool = True,
    ) -> Axes:
        """Draw accuracy against rank, on your axes or a new figure.

        Args:
            task: By default the first.
            ax: Where to draw.
            labels: Adapter → what the legend calls it.
            adapters: Those that are drawn; None: all.
            legend: Whether there is one in the axes.

        Raises:
            UsageError: A task or an adapter of which there is no curve.
        """
        from aurac.show.charts import plot
        from aurac.show.views import View, names_of

        if ax is None:
            from matplotlib import pyplot as plt

            _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        names = names_of(self.analysis, {**self.question.labels, **(labels or {})})
        tasks = list(self.analysis.ranks)
        if not tasks or task not in (None, *tasks):
            there = ", ".join(tasks)
            raise UsageError(f"there is no curve on {task}; there are curves on {there}")
        of = View(self.analysis, task or tasks[0], names)
        keys = [key for key in of.keys if adapters is None or key.adapter in adapters]
        if unknown := {*(adapters or ())} - {key.adapter for key in keys}:
            raise UsageError(f"{of.task} has no curve of {min(unknown)}")
        if len(self.tasks) > 1:
            ax.set_title(of.task)
        return plot(of, ax, keys=keys, legend="inside" if legend else None)

    def report(
        self, out: str | Path | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Path]:
        """Write the report, to the run's folder or another one; labels are names of adapters."""
        from aurac.show import write_report

        run = self if labels is None else self.ask(labels=labels)
        folder = run.folder if out is None else Path(out)
        written = write_report(run, run.analysis, folder)
        if folder.resolve() == run.folder.resolve():
            RunFolder(folder).ask(run.question)
        return written

    def __str__(self) -> str:
        from aurac.show import screen

        return screen(self.analysis, self)

    def __repr__(self) -> str:
        adapters, tasks = (", ".join(x.name for x in each) for each in (self.adapters, self.tasks))
        return f"Run({adapters} on {tasks} in {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """The figure of each task and the tables, as a notebook shows them."""
        from aurac.show.report import fragment

        return fragment(self, self.analysis)
