"""`aurac score`: the whole analysis from numbers alone, without torch."""

from __future__ import annotations

from typing import Any

import click

from aurac.cli._analysis import (
    aggregate_lines,
    analyse_sources,
    analysis_options,
    pair_lines,
    score_lines,
)
from aurac.cli.options import print_json


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@analysis_options
@click.option(
    "--delta", type=float, default=0.02, show_default=True, help="Loss a smaller rank may have."
)
@click.option(
    "--weigh", default="tasks", show_default=True, help="Aggregates by 'tasks' or 'documents'."
)
def score(
    *,
    sources: tuple[str, ...],
    metric: str | None,
    groups: tuple[str, ...],
    seed: int,
    as_json: bool,
    details: bool,
    **options: Any,
) -> None:
    """AURAC with intervals, paired comparisons and non-inferior ranks, from numbers alone.

    FILE is a table (csv, parquet, jsonl) with columns adapter, task, rank, doc_id, score and
    optionally seed, cluster, stratum, metric, sample; a table with columns rank, accuracy; a folder
    with lm-eval's sample logs in a folder per rank; or a run folder.

    \b
    aurac score outcomes.csv
    aurac score runs/gsm8k --json
    """  # noqa: D301 - click's mark for lines that stay as they are
    found = analyse_sources(sources, metric, groups, seed, **options)
    if as_json:
        print_json(found.to_dict(details=details))
        return
    lines = score_lines(found.scores, found.level)
    lines += pair_lines(
        found.pairs, f"Paired differences of AURAC {found.axis} on the same documents"
    )
    lines += aggregate_lines(found.aggregates)
    lines += ["", "Smallest non-inferior rank", *(row.sentence for row in found.recommended)]
    click.echo("\n".join(lines))
