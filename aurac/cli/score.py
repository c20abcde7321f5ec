"""`aurac score`: the whole analysis from numbers alone, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.arguments import fraction
from aurac.cli.options import (
    NOT_SHOWN,
    command,
    options,
    pairs,
    print_json,
    print_result,
    print_text,
    refuse_given,
    repeated,
)
from aurac.curves.area import axis_title
from aurac.errors import UsageError
from aurac.terminal import stdout_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.record import Analysis


def _clusters(values: Sequence[str]) -> dict[str, str]:
    """Task ("" for all) → field."""
    fields = pairs(
        [value if "=" in value else f"*={value}" for value in values], "--cluster", "TASK=FIELD"
    )
    return {"" if task == "*" else task: field for task, field in fields.items()}


analysis_options = options(
    """
    What is read
    --metric
    --group
    --cluster: FIELD or TASK=FIELD of the documents in sample logs: the same value, a cluster.
    --support: 'common' compares unequal grids on the ranks both have.

    Statistics
    --axis
    --level FLOAT [0.95]: Coverage of the intervals.
    --alpha FLOAT [0.05]: Error rate of non-inferiority and margin tests.

    Output
    --json: Print JSON, with fractions.
    --details
    """,
    cluster=repeated(_clusters),
    support={"type": click.Choice(["common"])},
)
"""Options of every command that analyses curves."""


@command(
    short="metric group rank-margin non-inferior equivalent to margin axis details json",
    epilog="Exit codes: 0 done, 2 bad input, 4 a margin test does not show it.",
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@options(
    """
    A margin test between two adapters, and nothing else
    --non-inferior <ADAPTER>: Is ADAPTER less than --margin worse than --to?
    --equivalent <ADAPTER>: Do ADAPTER and --to differ by less than --margin?
    --to reference <ADAPTER>: The one that it is compared with.
    --margin FLOAT: Difference in AURAC that does not matter, such as 0.02, chosen before looking.
    """
)
@analysis_options
@options(
    """
    --rank-margin FLOAT: Loss of accuracy against the best rank that a smaller one may have: the
        smallest such rank of each adapter is shown.
    --delta FLOAT: The same.
    --weigh [tasks]: Aggregates by 'tasks' or 'documents'.
    --primary
    --reference
    --paired-seeds/--independent-seeds: Whether equal seeds of two adapters had the same data in the
        same order, so that differences are taken within each. Default: as recorded recipes say; a
        table records none.
    """,
    delta={"hidden": True},
    paired_seeds={"default": None, "show_default": False},
)
def score(
    *,
    sources: tuple[str, ...],
    metric: dict[str, str],
    groups: dict[str, list[str]],
    as_json: bool,
    details: bool,
    non_inferior: str | None,
    equivalent: str | None,
    reference: str | None,
    margin: float | None,
    cluster: dict[str, str],
    primary: tuple[str, ...],
    references: tuple[str, ...],
    rank_margin: float | None,
    delta: float | None,
    axis: str,
    level: float,
    alpha: float,
    support: str | None,
    weigh: str,
    paired_seeds: bool | None,
) -> int | None:
    """AURAC with intervals, paired comparisons and non-inferior ranks, from numbers alone.

    FILE is a table (csv, parquet, jsonl) with columns adapter, task, rank, doc_id, score and
    optionally seed, cluster, stratum, metric, sample; a table with columns rank, accuracy,
    optionally adapter, task, seed, low, high; either with parameters, bytes for --axis; a folder
    with lm-eval's sample logs in a folder per rank; or a run folder. Rank 0 of an adapter is the
    base without it.

    \b
    aurac score outcomes.csv
    aurac score runs/gsm8k --json
    aurac score runs/attention runs/all_linear --axis parameters
    aurac score runs/gate --non-inferior new --to old --margin 0.02

    With --non-inferior or --equivalent the exit code is 0 where that is shown on every task, and 4
    where it is not.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.equivalence import margin_tests
    from aurac.analysis.of_study import within_study
    from aurac.analysis.primary import parse_pairs, read_sources
    from aurac.analysis.rows import Options
    from aurac.analysis.whole import analyse

    question = _question(non_inferior, equivalent, reference, margin)
    if question:
        fix = "leave it out, or ask without the margin test"
        names = ("rank_margin", "delta", "weigh", "level", "details", "primary", "references")
        refuse_given(names, "with a margin test", fix)
    given = parse_pairs(primary, references)
    read = read_sources(sources, metric, groups=groups, clusters=cluster, primary=given)
    margins = {"rank-margin": rank_margin, "delta": delta}
    ranks = [fraction(value, name) for name, value in margins.items() if value is not None]
    settings = Options(
        axis=axis,
        level=level,
        margin=ranks[0] if ranks else None,
        alpha=alpha,
        support=support,
        strict=False,
        weigh=weigh,
        primary=read.primary,
        paired_seeds=paired_seeds,
    )
    if question:
        adapter, other, least, both = question
        rows = margin_tests(
            read.curves, adapter, other, least, settings, groups=read.groups, both_sides=both
        )
        shown = all(row.passed for row in rows)
        content = {"shown": shown, "margin_tests": [row.to_dict() for row in rows]}
        print_result(content, "\n".join(row.sentence for row in rows), as_json=as_json)
        return 0 if shown else NOT_SHOWN
    result = analyse(read.curves, settings, groups=read.groups, choices=False)
    result = within_study(result, map(Path, sources))
    if as_json:
        print_json(result.to_dict(details=details))
    else:
        _print(result, details=details)
    return None


def _print(result: Analysis, *, details: bool) -> None:
    from aurac.show import terminal_text
    from aurac.show.caveats import study_sentences
    from aurac.show.names import Names
    from aurac.show.terminal import TITLE, curve_table

    names, every = Names(result), result.recommended
    ranks = [names.rank(row).sentence for row in every if details or not row.other]
    result = names.analysis(terminal_text.larger_first(result))
    table = curve_table(result.scores, axis=result.axis, level=result.level, best=result.candidates)
    console = stdout_console()
    console.print(table.terminal(console.width, TITLE))
    text = terminal_text.score_lines(result.scores, details=details)
    title = f"Differences of {axis_title(result.axis)}"
    if any(row.estimate for row in (*result.pairs, *result.variants)):
        title = f"Paired d{title[1:]} on the same documents"
    text += terminal_text.pair_lines(result.pairs, result.variants, title, details=details)
    text += terminal_text.zero_lines(result.scores)
    text += study_sentences(result.caveats)
    text += [result.primary.sentence] if result.primary else []
    text += terminal_text.aggregate_lines(result.aggregates, result.pairs, details=details)
    text += terminal_text.shared_lines(result.scores, result.pairs, result.aggregates)
    text += terminal_text.best_lines(result.best, declared=bool(result.primary))
    text += ["", "The smallest rank within the margin", *ranks] if ranks else []
    print_text("\n" + "\n".join(text).strip("\n"))


def _question(
    non_inferior: str | None, equivalent: str | None, reference: str | None, margin: float | None
) -> tuple[str, str, float, bool] | None:
    """Both adapters, the margin, and whether equivalence is asked; None without a margin test."""
    if (non_inferior, equivalent, reference, margin) == (None,) * 4:
        return None
    adapter = non_inferior if equivalent is None else equivalent
    both = non_inferior is not None and equivalent is not None
    if both or adapter is None or reference is None or margin is None:
        asked = {"--to": reference, "--margin": margin, "--non-inferior": adapter}
        lacks = ", ".join(name for name, value in asked.items() if value is None)
        raise UsageError(
            f"a margin test without {lacks}" if lacks else "two margin tests",
            expected="--non-inferior ADAPTER or --equivalent ADAPTER, with --to ADAPTER and "
            "--margin FRACTION",
            fix="for the rank of each adapter give --rank-margin" if adapter is None else None,
        )
    return adapter, reference, margin, equivalent is not None
