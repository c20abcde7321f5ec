"""What `score` and `recommend` share: options, and the sources that they read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.cli.options import options, pairs
from aurac.curves.metrics import WantedMetrics
from aurac.terminal import stdout_console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.analysis.record import Analysis
    from aurac.readers import Curves
    from aurac.show.terminal import Extra

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

    fields = pairs([field if "=" in field else f"*={field}" for field in cluster], "--cluster")
    fields = {"" if task == "*" else task: field for task, field in fields.items()}
    wanted = WantedMetrics(metric)
    sources = [read_curves(Path(path).expanduser(), wanted, fields) for path in paths]
    wanted.check()
    recorded: dict[str, list[str]] = {}
    for source in sources:
        for name, members in source.groups.items():
            before = recorded.get(name, [])
            recorded[name] = list(dict.fromkeys([*before, *members]))
            if before and len(recorded[name]) > len(before):
                joined = ", ".join(recorded[name])
                logger.warning(
                    "group %s joins adapters of several sources: %s; name groups apart with "
                    "--group where they are not seeds of one recipe", name, joined,
                )  # fmt: skip
    named = regrouped(recorded, groups)
    curves = [curve for source in sources for curve in source.curves]
    stored = next((source.primary for source in sources if source.primary), None)
    names = (curve.adapter or "adapter" for curve in curves)
    finished = any(source.kind == "run" for source in sources)
    declared = declaration(primary, stored, names, named, finished=finished)
    stopped = [record for source in sources for record in source.sequential]
    return Curves(curves, sources[0].kind, named, declared, stopped)


def print_curves(result: Analysis, title: str | None = None, extra: Extra | None = None) -> None:
    """The table of curves, with the accuracies at the ranks or `extra` columns in their place."""
    from aurac.show.terminal import TITLE, curve_table

    console = stdout_console()
    table = curve_table(
        result.scores,
        axis=result.axis,
        level=result.level,
        best=result.candidates,
        extra=extra,
        ranks=extra is None,
        areas=extra is None or console.width >= _WIDE,
    )
    console.print(table.terminal(console.width, title or TITLE))
