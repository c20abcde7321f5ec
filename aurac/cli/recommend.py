"""`aurac recommend`: the smallest non-inferior rank, and which truncation to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import analyse_sources, analysis_options, best_lines, pair_lines, table
from aurac.cli.options import print_json

if TYPE_CHECKING:
    from aurac.stats.rows import RecommendRow


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option(
    "--delta",
    "--margin",
    "margin",
    type=float,
    required=True,
    help="Loss of accuracy that is tolerable, such as 0.02.",
)
@click.option("--reference", type=int, help="Rank to compare with; the largest by default.")
@analysis_options
def recommend(
    *,
    sources: tuple[str, ...],
    metric: str | None,
    groups: tuple[str, ...],
    as_json: bool,
    details: bool,
    **options: Any,
) -> None:
    """The smallest rank that is non-inferior to the full one at the margin DELTA.

    A fixed sequence of one-sided paired tests from the rank below the reference downward. Choose
    DELTA before looking: the test's error rate holds for one that was.

    \b
    aurac recommend runs/gsm8k --delta 0.02
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.stats.comparisons import truncation_advice

    found = analyse_sources(sources, metric, groups, **options)
    if as_json:
        content = found.to_dict(details=details)
        kept = ["recommended", *(["variants", "pairs"] if details else [])]
        shown = {name: content[name] for name in kept}
        if details:
            shown["best"] = content["best"]
            shown["truncations"] = [one.to_dict() for one in truncation_advice(found)]
        print_json(shown)
        return
    lines: list[str] = []
    for row in found.recommended:
        lines += [row.sentence, *_steps(row), ""]
    lines += [*best_lines(found.best)[1:], ""] if found.best else []
    lines += pair_lines(found.variants, "Which truncation to use for this adapter, paired")
    advice = truncation_advice(found)
    lines += ["", *(one.sentence for one in advice)] if advice else []
    settled = [row for row in found.pairs if row.survives is not None]
    lines += ["", *(row.sentence for row in settled)] if settled else []
    click.echo("\n".join(lines).rstrip())


def _steps(row: RecommendRow) -> list[str]:
    if row.result is None:
        return []
    head = ["rank", "loss", "upper bound", "within delta", "documents that change", "delta needed"]
    body = [
        [
            str(step.rank),
            f"{step.loss:+.4f}",
            f"{step.upper:.4f}",
            ("yes" if step.passed else "no") if step.tested else "not tested",
            f"{step.flip_rate:.1%}",
            f"{step.margin_needed:.4f}",
        ]
        for step in row.result.tests
    ]
    steps = row.result.tests
    methods = dict.fromkeys(step.method for step in steps)
    each, joint = 1.0 - row.alpha, max(0.0, 1.0 - row.alpha * len(steps))
    note = f"(each upper bound holds by itself at {each:.3g}, all {len(steps)} at {joint:.3g})"
    together = [note] if len(steps) > 1 else []
    return [table(head, body), *together, *(f"({method})" for method in methods)]
