"""What commands share: their help, options with one meaning everywhere, and output."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.analysis import Analysis

EXIT_CODES = "Exit codes: 0 done, 2 bad input, 130 interrupted."
FRAMES = ("scores", "points", "pairs", "rank_pairs", "recommended")


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


class Pairs(click.ParamType):  # type: ignore[type-arg]
    """`NAME=VALUE` as a pair; with `several`, VALUE is `A,B` and becomes a tuple."""

    name = "name=value"

    def __init__(self, *, several: bool = False) -> None:
        self.several = several

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The pair."""
        if isinstance(value, tuple):
            return value
        name, sign, text = str(value).partition("=")
        if not name or not sign or not text:
            self.fail(f"{value!r} is not {param.metavar if param else self.name}", param, ctx)
        return name, tuple(text.split(",")) if self.several else text


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """`1,2,4` as a tuple of whole numbers."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not whole numbers such as 1,2,4", param, ctx)


class Fraction(type(click.FLOAT)):  # type: ignore[misc]
    """A number between 0 and 1."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not 0 < number < 1:
            points = f": {value} points are {number / 100:g}" if 1 <= number < 100 else ""
            self.fail(f"{value} is not between 0 and 1{points}", param, ctx)
        return number


FRACTION = Fraction()
FOLDER = click.Path(path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
details = click.option(
    "--details",
    is_flag=True,
    help="Also print wins and losses, AURAC on a linear axis, and what each rank weighs.",
)
margin = functools.partial(
    click.option,
    "--margin",
    type=FRACTION,
    metavar="FRACTION",
    help="Accuracy that a smaller rank may lose against the trained one; 0.02 is 2 points.",
)
reference = click.option(
    "--reference",
    metavar="ADAPTER",
    help="Compare all with this adapter; all: compare every pair. Default: every pair; with more "
    "than six adapters on a task, all with the first one.",
)
group = click.option(
    "--group",
    type=Pairs(several=True),
    multiple=True,
    metavar="RECIPE=A,B",
    help="Treat adapters as training seeds of one recipe.",
)
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
        print_json({name: analysis.records(name) for name in FRAMES})
    else:
        from aurac.show import screen
        from aurac.terminal import output_width

        click.echo(screen(analysis, run, output_width(), details=details))
    if run:
        print_failures(run)


def print_failures(run: Any) -> None:
    """A line for each cell that failed."""
    for failure in run.failures:
        place = "the base"
        if failure.adapter:
            place = f"{failure.adapter} ({failure.basis}, {failure.rescale}, rank {failure.rank})"
        click.echo(one_line(f"failed: {place} on {failure.task}: {failure.reason}"), err=True)


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table of texts."""
    from tabulate import tabulate

    click.echo(tabulate([*rows], [*head], disable_numparse=True))
