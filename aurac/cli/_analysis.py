"""What `score`, `recommend`, `plan` and `compare` share: options, and an analysis as text."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.cli.options import options, pairs
from aurac.curves.area import BUDGETS, area_name, axis_title
from aurac.curves.display import CurveLine, curve_table, interval, percent, points, show_span
from aurac.curves.metrics import WantedMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import AggregateRow, BestRow, PairRow, ScoreRow
    from aurac.readers import Curves
    from aurac.records.decisions import SequentialRecord

SHOWN = 60  # rows of a table; --json has all of them
FIXED = (
    "p values and intervals of the pairs below are for a number of documents that was fixed "
    "beforehand, and are too optimistic here."
)
_WIDE = 100  # columns from which a table has room for AURAC beside other columns
logger = logging.getLogger(__name__)

analysis_options = options(
    """
    What is read
    --metric
    --group
    --cluster: FIELD or TASK=FIELD of the documents in sample logs: the same value, a cluster.
    --support: 'common' compares unequal grids on the ranks both have.

    Statistics
    --axis
    --level FLOAT [0.95]: Coverage.
    --alpha FLOAT [0.05]: Error rate of non-inferiority and margin tests.
    --seed INTEGER: Accepted and not used: nothing is drawn at random.

    Output
    --json: Print JSON, with fractions.
    --details
    """,
    cluster={"multiple": True},
    seed={"expose_value": False, "hidden": True},
)
"""Options of every command that analyses curves."""


def read_sources(
    paths: Sequence[str],
    metric: Mapping[str, str],
    groups: Mapping[str, Sequence[str]],
    cluster: Sequence[str] = (),
    primary: Sequence[tuple[str, str]] = (),
) -> Curves:
    """Curves of all sources, with the groups and primary comparisons that are recorded or given."""
    from aurac.analysis.primary import declaration
    from aurac.readers import Curves, read_curves
    from aurac.records.reader import regrouped

    fields = pairs([c if "=" in c else f"*={c}" for c in cluster], "--cluster")
    fields = {"" if task == "*" else task: field for task, field in fields.items()}
    wanted = WantedMetrics(metric)
    sources = [read_curves(Path(path).expanduser(), wanted, fields) for path in paths]
    wanted.check()
    recorded: dict[str, list[str]] = {}
    for one in sources:
        for name, members in one.groups.items():
            before = recorded.get(name, [])
            recorded[name] = list(dict.fromkeys([*before, *members]))
            if before and len(recorded[name]) > len(before):
                joined = ", ".join(recorded[name])
                logger.warning(
                    "group %s joins adapters of several sources: %s; name groups apart with "
                    "--group where they are not seeds of one recipe", name, joined,
                )  # fmt: skip
    named = regrouped(recorded, groups)
    curves = [c for one in sources for c in one.curves]
    stored = next((one.primary for one in sources if one.primary), None)
    names = (curve.adapter or "adapter" for curve in curves)
    finished = any(one.kind == "run" for one in sources)
    declared = declaration(primary, stored, names, named, finished=finished)
    stopped = [record for one in sources for record in one.sequential]
    return Curves(curves, sources[0].kind, named, declared, stopped)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> str:
    """A plain table; where a line has too little room, a list of `column: value` for each row.

    A line has `width` characters; by default those of the terminal, or no limit on a pipe.
    """
    from tabulate import tabulate

    body = [list(row) for row in rows]
    plain = tabulate(body, headers=list(head), tablefmt="simple", disable_numparse=True)
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    if width is None or max(map(len, plain.splitlines()), default=0) <= width:
        return plain
    inner: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "    "}
    lines = []
    for row in body:
        lines += textwrap.wrap(f"{head[0]}: {row[0]}", width, subsequent_indent="  ")
        for name, value in zip(head[1:], row[1:], strict=True):
            lines += textwrap.wrap(f"{name}: {value}", width, **inner, break_on_hyphens=False)
    return "\n".join(lines)


def print_curves(
    result: Analysis,
    *,
    title: str = "Accuracy and AURAC in percent, largest AURAC first",
    extra: Callable[[ScoreRow], dict[str, str]] | None = None,
    ranks: bool = True,
) -> None:
    """The table of curves, with the accuracies at the `ranks`, and `extra` columns of a row."""
    from aurac.terminal import one_line, stdout_console

    console, rows = stdout_console(), result.scores
    tasks = list(dict.fromkeys(row.task for row in rows))
    several = any(row.seeds > 1 for row in rows)
    best = result.candidates

    def place(row: ScoreRow) -> tuple[int, float]:
        area = row.headline
        return tasks.index(row.task), -(area.value if area else -1.0)

    lines = []
    for row in sorted(rows, key=place)[:SHOWN]:
        columns = {"seeds": str(row.seeds)} if several else {}
        columns |= _span_column(result.axis, row.span)
        base = {} if row.baseline is None else {0: row.baseline}
        known = dict(zip(row.ranks, row.accuracy, strict=True))
        line = CurveLine(
            task=one_line(row.task) if row.task else None,
            adapter=one_line(row.adapter),
            truncation=row.truncation.replace(" · ", "/") + "*" * row.published,
            accuracy=base | dict.fromkeys(row.missing) | known if ranks else {},
            area=row.headline if ranks or console.width >= _WIDE else None,
            bold=(row.task, row.label) in best,
            extra=columns | (extra(row) if extra else {}),
        )
        lines.append(line)
    notes = {"caption": one_line(_caption(rows)), "axis": result.axis}
    console.print(curve_table(lines, console.width, title=title, level=result.level, **notes))


def _span_column(axis: str, span: Sequence[float] | None) -> dict[str, str]:
    """The amounts that an area is over, of a budget."""
    if axis not in BUDGETS:
        return {}
    return {axis: "–" if span is None else show_span(span, axis)}


def _caption(rows: Sequence[ScoreRow]) -> str:
    metrics = dict.fromkeys(row.metric for row in rows if row.metric)
    counts = sorted({row.n_docs for row in rows if row.n_docs})
    parts = [f"metric {', '.join(metrics)}"] if metrics else []
    if counts:
        parts.append("–".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) + " documents")
    by_svd = {row.adapter for row in rows if not row.other and row.truncation.startswith("svd")}
    kinds = {"prefix" if row.adapter in by_svd else "without P" for row in rows if row.published}
    parts += [f"* as published ({', '.join(sorted(kinds))})"] if kinds else []
    parts += [f"{len(rows) - SHOWN} more rows: see --json"] if len(rows) > SHOWN else []
    return "; ".join(parts)


def score_notes(rows: Sequence[ScoreRow], *, details: bool) -> list[str]:
    """What to know about each score; with details its method, all axes, and where it falls."""
    lines = []
    for row in rows:
        where = f"{row.label} on {row.task}" if row.task else row.label
        if row.reason:
            lines.append(f"{where}: no AURAC, {row.reason}")
        lines += [f"{where}: {note}" for note in row.notes]
        if weak := [rank for rank, shown in (row.above_base or {}).items() if not shown]:
            ranks = "any rank" if row.below_base else f"rank {', '.join(map(str, weak))}"
            lines.append(f"{where}: not shown to be above the base at {ranks}")
        if not details:
            continue
        for name in dict.fromkeys(("log2", "linear", row.axis)):
            area = row.estimate(name)
            if area is not None:
                lines.append(f"{where}: {axis_title(name)} {interval(area)} %; {area.method}")
        if row.mean is not None:
            lines.append(f"{where}: mean over ranks {percent(row.mean)} %")
        lines += [
            f"{where}: falls by {points(size)} from rank {r} to {s}" for r, s, size in row.drops
        ]
    if not details and any(row.headline and row.headline.low is None for row in rows):
        lines.append("No interval: a point value (no per-document outcomes).")
    return lines


def pair_lines(rows: Sequence[PairRow], title: str, *, details: bool = False) -> list[str]:
    """The table of paired differences in points; with details a sentence on each."""
    if not rows:
        return []
    from aurac.analysis.rows import pairings_of
    from aurac.analysis.sentences import pairing_note, show_p

    tasks = len({row.task for row in rows}) > 1
    head = ["b − a", *(["task"] if tasks else []), "points [95 %]", "p (Holm)", "detectable"]
    head += [*_span_column(rows[0].axis, None), "reading"]
    head += ["gained/lost at each rank"] if details else []
    body = []
    for row in rows[:SHOWN]:
        estimate, mde = (row.result.estimate, row.result.mde) if row.result else (None, None)
        cells = [f"{row.b} − {row.a}", *([row.task or "–"] if tasks else [])]
        cells += [
            percent(row.value) if estimate is None else interval(estimate),
            "–" if row.p_holm is None else show_p(row.p_holm).removeprefix("= "),
            percent(mde),
            *_span_column(row.axis, row.span).values(),
            row.reading,
        ]
        gains = zip(row.ranks, row.gained or (), row.lost or (), strict=False)
        cells += [" ".join(f"{r}:+{g}/−{x}" for r, g, x in gains)] if details else []
        body.append(cells)
    lines = ["", title, table(head, body)]
    levels = [row.result.estimate.level for row in rows if row.result]
    if levels and levels[0] != 0.95:
        lines[-1] = lines[-1].replace("[95 %]", f"[{100 * levels[0]:g} %]", 1)
    if any(row.result is not None and row.result.conditional for row in rows):
        lines.append("Adapters with one training run: conditional on these checkpoints.")
    lines += [note] if (note := pairing_note(pairings_of(rows))) else []
    if details:
        lines += ["", *(row.sentence for row in rows[:SHOWN])]
    else:
        lines += [row.sentence for row in rows[:SHOWN] if row.result is None and row.value is None]
    if len(rows) > SHOWN:
        lines.append(f"… and {len(rows) - SHOWN} more pairs: see --json")
    return lines


def aggregate_lines(rows: Sequence[AggregateRow], *, details: bool = False) -> list[str]:
    """The aggregates over tasks."""
    if not rows:
        return []
    body = []
    for row in rows:
        name = row.a if row.b is None else f"{row.b} − {row.a}"
        how = row.estimate.method * details if row.estimate else f"no aggregate: {row.reason}"
        body.append([name, interval(row.estimate), how])
    used = 3 if any(row[2] for row in body) else 2
    level = next((row.estimate.level for row in rows if row.estimate), 0.95)
    head = ["all tasks", f"{area_name(rows[0].axis)} (%) or points [{100 * level:g} %]", "how"]
    return ["", table(head[:used], [r[:used] for r in body])]


def decided_lines(records: Sequence[SequentialRecord], *, alone: bool = True) -> list[str]:
    """What runs that stopped early decided; not `alone`, above tests that do not hold on them."""
    lines = []
    for record in records:
        lines += ["", "Decided from a random sample of the documents", ""]
        lines += [decision.sentence for decision in record.decisions]
        lines += ["", *record.notes] if record.notes else []
    if lines and not alone:
        lines += ["", FIXED]
    return lines


def best_lines(rows: Sequence[BestRow]) -> list[str]:
    """What may be said of the largest AURAC of each task."""
    if not rows:
        return []
    return ["", "The largest AURAC", *(" ".join(row.sentences) for row in rows)]
