"""What `score`, `recommend` and `plan` share: options, and an analysis as text."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import pairs
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aurac.readers import Curves
    from aurac.stats.mean import Estimate
    from aurac.stats.rows import AggregateRow, Analysis, BestRow, PairRow, ScoreRow

SHOWN_PAIRS = 60


def analysis_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that analyses curves."""
    options = [
        click.option("--metric", help="NAME,FILTER where the source holds several metrics."),
        click.option("--axis", default="log2", show_default=True, help="log2 or linear."),
        click.option("--level", type=float, default=0.95, show_default=True, help="Coverage."),
        click.option(
            "--alpha",
            type=float,
            default=0.05,
            show_default=True,
            help="Error rate of non-inferiority and margin tests.",
        ),
        click.option("--support", help="'common' compares unequal grids on the ranks both have."),
        click.option(
            "--group", "groups", multiple=True, help="NAME=ADAPTER,ADAPTER: seeds of one recipe."
        ),
        click.option(
            "--cluster",
            multiple=True,
            help="FIELD or TASK=FIELD of the documents in sample logs: the same value, a cluster.",
        ),
        click.option(
            "--seed",
            type=int,
            default=0,
            expose_value=False,
            help="Accepted and not used: nothing is drawn at random.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--details", is_flag=True, help="With --json: methods, gains and losses, reasons."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_sources(
    paths: Sequence[str],
    metric: str | None,
    said: Sequence[str],
    cluster: Sequence[str] = (),
) -> Curves:
    """Curves of all sources, with the arms that they record and that the user names.

    Raises:
        AuracError: A source or a `--group` that cannot be used.
    """
    from aurac.readers import Curves, read_curves
    from aurac.readers.run import regrouped

    fields = pairs([c if "=" in c else f"*={c}" for c in cluster], "--cluster")
    fields = {"" if task == "*" else task: field for task, field in fields.items()}
    found = [read_curves(Path(path).expanduser(), metric, fields) for path in paths]
    recorded = {name: members for one in found for name, members in one.groups.items()}
    groups = regrouped(recorded, parse_groups(said))
    return Curves([c for one in found for c in one.curves], found[0].kind, groups)


def parse_groups(said: Sequence[str]) -> dict[str, list[str]]:
    """``NAME=a,b`` options.

    Raises:
        UsageError: One without a name or members, or a name given twice.
    """
    groups: dict[str, list[str]] = {}
    for text in said:
        name, _, rest = text.partition("=")
        members = [part.strip() for part in rest.split(",") if part.strip()]
        if not name or not members or name in groups:
            raise UsageError(f"--group {text!r}", expected="NAME=ADAPTER,ADAPTER, each name once")
        groups[name] = members
    return groups


def analyse_sources(
    paths: Sequence[str],
    metric: str | None,
    groups: Sequence[str],
    cluster: Sequence[str] = (),
    **options: Any,
) -> Analysis:
    """Read and analyse."""
    from aurac.stats.analysis import analyse

    found = read_sources(paths, metric, groups, cluster)
    return analyse(found.curves, groups=found.groups, **options)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> str:
    """A plain table; on a terminal too narrow for it, one whose cells are folded.

    Args:
        head: Names of the columns.
        rows: Cells.
        width: Characters in a line; by default those of the terminal, or no limit on a pipe.
    """
    from tabulate import tabulate

    body = [list(row) for row in rows]
    plain = tabulate(body, headers=list(head), tablefmt="simple", disable_numparse=True)
    room = width if width is not None else _room()
    if room is None or max(map(len, plain.splitlines()), default=0) <= room:
        return plain
    return _folded(head, body, room)


def _room() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _folded(head: Sequence[str], body: Sequence[Sequence[str]], width: int) -> str:
    """Each row as a small list of `column: value`, the first one as its heading."""
    lines = []
    for row in body:
        lines += textwrap.wrap(f"{head[0]}: {row[0]}", width, subsequent_indent="  ")
        for name, value in zip(head[1:], row[1:], strict=True):
            lines += textwrap.wrap(
                f"{name}: {value}",
                width,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def interval(found: Estimate | None) -> str:
    """``0.345 [0.330, 0.360]``, or the value alone."""
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.value:.4f}"
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def score_lines(rows: Sequence[ScoreRow], level: float) -> list[str]:
    """The table of scores, what to know about each, and the interval's method."""
    head = ["adapter", "task", "ranks", "documents", "seeds", "AURAC log2", "AURAC linear", "mean"]
    body = [
        [
            row.label,
            row.task or "–",
            ",".join(map(str, row.ranks)),
            "–" if row.n_docs is None else str(row.n_docs),
            str(row.seeds),
            interval(row.log2),
            interval(row.linear),
            "–" if row.mean is None else f"{row.mean:.4f}",
        ]
        for row in rows
    ]
    lines = [table(head, body), ""]
    methods = dict.fromkeys(row.log2.method for row in rows if row.log2)
    lines += [f"{level:.0%} intervals on log2: {method}" for method in methods]
    for row in rows:
        where = f"{row.label} on {row.task}" if row.task else row.label
        if row.reason:
            lines.append(f"{where}: no AURAC, {row.reason}")
        lines += [f"{where}: {note}" for note in row.notes]
        lines += [f"{where}: falls by {size:.4f} from rank {r} to {s}" for r, s, size in row.drops]
    return lines


def pair_lines(rows: Sequence[PairRow], title: str) -> list[str]:
    """The table of paired differences with a sentence on each."""
    if not rows:
        return []
    head = [
        "b - a",
        "task",
        "difference",
        "p",
        "p (Holm)",
        "detectable",
        "gained/lost at each rank",
    ]
    body = []
    for row in rows[:SHOWN_PAIRS]:
        found = row.result
        single = row.value is not None
        body.append(
            [
                f"{row.b} - {row.a}",
                row.task or "–",
                f"{row.value:+.4f}" if single else interval(found.estimate if found else None),
                "–" if row.p is None else f"{row.p:.4f}",
                "–" if row.p_holm is None else f"{row.p_holm:.4f}",
                "–" if found is None or found.mde is None else f"{found.mde:.4f}",
                " ".join(
                    f"{r}:+{g}/-{x}"
                    for r, g, x in zip(row.ranks, row.gained or (), row.lost or (), strict=False)
                ),
            ]
        )
    lines = ["", title, table(head, body), "", *(row.sentence for row in rows[:SHOWN_PAIRS])]
    if len(rows) > SHOWN_PAIRS:
        lines.append(f"… and {len(rows) - SHOWN_PAIRS} more pairs: see --json")
    return lines


def aggregate_lines(rows: Sequence[AggregateRow]) -> list[str]:
    """The aggregates over tasks."""
    if not rows:
        return []
    head = ["all tasks", "AURAC or difference", "how"]
    body = [
        [
            row.a if row.b is None else f"{row.b} - {row.a}",
            interval(row.estimate),
            row.estimate.method if row.estimate else f"no aggregate: {row.reason}",
        ]
        for row in rows
    ]
    return ["", table(head, body)]


def best_lines(rows: Sequence[BestRow]) -> list[str]:
    """What may be said of the leading adapter of each task."""
    if not rows:
        return []
    return ["", "The leading adapter", *(" ".join(row.sentences) for row in rows)]
