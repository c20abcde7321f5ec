"""What commands share: their help, options with one meaning everywhere, and output."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import to_builtins

from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aurac.analysis import Analysis
    from aurac.records.manifest import TaskInfo
    from aurac.records.run import StoredRun

F = TypeVar("F")
EXIT_CODES = "Exit codes: 0 done, 2 bad input, 130 interrupted."


class Command(click.Command):
    """A command whose `--help` lists the `common` options; `--help-all` lists all of them."""

    def __init__(self, *args: Any, common: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("epilog", EXIT_CODES)
        super().__init__(*args, **kwargs)
        self.common = {f"--{name}" for name in common.split()}
        if common:
            count = sum(isinstance(parameter, click.Option) for parameter in self.params)
            about = f"Show all {count} options and exit."
            show: Any = {"is_flag": True, "is_eager": True, "expose_value": False, "help": about}
            self.params.append(click.Option(["--help-all"], callback=_show_all, **show))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The common options, or all."""
        every = not self.common or ctx.meta.get("aurac.every")
        shown = {*self.common, "--help-all", "--help"}
        rows = [
            row
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            if every or shown.intersection(parameter.opts)
            if (row := parameter.get_help_record(ctx)) is not None
        ]
        with formatter.section("Options"):
            formatter.write_dl(rows)


def _show_all(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.meta["aurac.every"] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()


command = functools.partial(click.command, cls=Command)


def pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE` as a pair."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def members(text: str) -> tuple[str, tuple[str, ...]]:
    """`RECIPE=A,B` as a recipe and its adapters."""
    name, names = pair(text)
    return name, tuple(names.split(","))


def whole_numbers(text: str) -> tuple[int, ...]:
    """`1,2,4` as whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not whole numbers such as 1,2,4") from None


def fraction(text: str | float) -> float:
    """A number between 0 and 1."""
    number = float(click.FLOAT(text))
    if not 0 < number < 1:
        meant = f": {text} % is {number / 100:g}" if 1 <= number < 100 else ""
        raise click.BadParameter(f"{text} is not between 0 and 1{meant}")
    return number


FOLDER = click.Path(path_type=Path)


def options(*each: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in their order."""
    return lambda function: functools.reduce(lambda made, one: one(made), reversed(each), function)


as_json = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
details = click.option(
    "--details", is_flag=True,
    help="Also print wins and losses of each difference, and the mean loss of a token.",
)  # fmt: skip
margin = functools.partial(
    click.option,
    "--margin",
    type=fraction,
    help="Accuracy that a smaller rank may lose against the trained one; 0.02 is 2 points.",
)
reference = click.option(
    "--reference", metavar="ADAPTER",
    help="Compare all with this adapter; all: compare every pair. Default: every pair; with more "
    "than six adapters on a task, all with the first one.",
)  # fmt: skip
group = click.option(
    "--group", "groups", type=members, multiple=True, metavar="RECIPE=A,B",
    help="Treat adapters as training seeds of one recipe.",
)  # fmt: skip
metric = click.option(
    "--metric", multiple=True, metavar="[TASK=]NAME[,FILTER]",
    help="Metric of the task to use as accuracy.",
)  # fmt: skip
cluster = click.option(
    "--cluster", type=pair, multiple=True, metavar="TASK=FIELD",
    help="Examples with the same value of this field belong together, such as those of a passage.",
)  # fmt: skip
limit = click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Read the first N examples of each task."
)
question = options(margin(), reference, group, metric, cluster, limit)
device = click.option(
    "--device", metavar="DEVICE", help="cpu, cuda, cuda:N or mps. Default: the best one there is."
)


def print_json(content: Any) -> None:
    """JSON on standard output, of records too; without NaN."""
    plain = to_builtins(content, enc_hook=str, str_keys=True)
    click.echo(json.dumps(plain, indent=2, allow_nan=False))


def print_analysis(analysis: Analysis, run: Any, *, as_json: bool, details: bool) -> None:
    """The screen of an analysis, or its five frames as JSON; then the cells that failed."""
    if as_json:
        from aurac.analysis.schema import FRAMES

        told = {"overlaps": run.overlaps} if run and run.overlaps else {}
        print_json({name: analysis.records(name) for name in FRAMES} | told)
    else:
        from aurac.show import screen
        from aurac.terminal import output_width

        shown = screen(analysis, run, output_width(), details=details)
        click.echo(shown or "No adapter has a result.")
    if run:
        print_failures(run)


def print_failures(run: StoredRun) -> None:
    """A line for each cell that failed, and for each task without a result."""
    for failure in run.failures:
        place = "the base"
        if failure.adapter:
            place = f"{failure.adapter} ({failure.basis}, {failure.rescale}, rank {failure.rank})"
        click.echo(one_line(f"failed: {place} on {failure.task}: {failure.reason}"), err=True)
    for task in absent(run):
        click.echo(one_line(f"{task.name}: no adapter has a result on these examples"), err=True)


def absent(run: StoredRun) -> list[TaskInfo]:
    """The tasks of which no adapter has a result."""
    known = {curve.task for curve in run.curves if curve.ranks}
    return [task for task in run.tasks if task.name not in known]


def print_rows(rows: Sequence[Mapping[str, object]], *, as_json: bool = False) -> None:
    """Rows that have the same keys, as JSON or as a table with these as its head."""
    if as_json:
        print_json(rows)
    elif rows:
        print_table(rows[0], (row.values() for row in rows))


def print_table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table, in which a dash is what is not known."""
    from tabulate import tabulate

    words = {"None": "–", "True": "yes", "False": "no"}
    cells = [[words.get(str(cell), str(cell)) for cell in row] for row in rows]
    click.echo(tabulate(cells, [*head], disable_numparse=True))
