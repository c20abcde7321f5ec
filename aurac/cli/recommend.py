"""`aurac recommend`: the smallest non-inferior rank, and which truncation to use."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import analyse_sources, analysis_options, best_lines, pair_lines, table
from aurac.cli._command import GroupedCommand, option_group, parsed
from aurac.cli.options import folders, print_json, task_names
from aurac.errors import UsageError

if TYPE_CHECKING:
    from aurac.stats.rows import RecommendRow


@click.command(cls=GroupedCommand)
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
@option_group(
    "Evaluate an adapter until the rank is decided",
    click.option(
        "--tasks", "-t", multiple=True, callback=parsed(task_names), help="RUN is an adapter then."
    ),
    click.option("--until", type=click.Choice(["decided"]), help="Goes with --tasks."),
    click.option("--budget", help="Most documents of each task, or a time such as 30min."),
    click.option("--out", "-o", type=click.Path(), help="Run folder."),
    click.option("--ranks", default="pow2", show_default=True, help="pow2, all, or 1,2,4."),
    click.option("--num-fewshot", "-f", type=click.IntRange(min=0), help="Examples in a prompt."),
    click.option("--base", help="Base model. Default: what the adapter records."),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps."),
    click.option(
        "--data",
        multiple=True,
        callback=parsed(folders),
        help="TASK=FOLDER with local splits.",
    ),
)
@analysis_options
def recommend(
    *,
    sources: tuple[str, ...],
    metric: str | None,
    groups: tuple[str, ...],
    as_json: bool,
    details: bool,
    tasks: list[str],
    until: str | None,
    **options: Any,
) -> int:
    """The smallest rank that is non-inferior to the full one at the margin DELTA.

    A fixed sequence of one-sided paired tests from the rank below the reference downward. Choose
    DELTA before looking: the test's error rate holds for one that was.

    \b
    aurac recommend runs/gsm8k --delta 0.02
    aurac recommend my_adapter --tasks gsm8k --margin 0.02 --until decided
    """  # noqa: D301 - click's mark for lines that stay as they are
    run = {name: options.pop(name) for name in _OF_RUNS}
    if tasks or until:
        return _evaluate(sources, tasks, until, run, options, as_json=as_json)
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
        return 0
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
    return 0


_OF_RUNS = ("budget", "out", "ranks", "num_fewshot", "base", "device", "data")


def _evaluate(
    checkpoints: tuple[str, ...],
    tasks: list[str],
    until: str | None,
    run: dict[str, Any],
    options: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """Evaluate adapters rank by rank until the smallest non-inferior rank is known."""
    from aurac.cli._compare_text import show_comparison
    from aurac.cli.compare import decided
    from aurac.runs.finished import Request

    if not tasks or until is None:
        raise UsageError(
            "--tasks or --until alone",
            expected="aurac recommend ADAPTER --tasks TASK --margin 0.02 --until decided",
        )
    if options["reference"] is not None:
        raise UsageError("--reference with --until", fix="end --ranks at the rank to compare with")
    budget, out = run.pop("budget"), run.pop("out")
    request = Request.of(checkpoints, tasks, out, **run)
    command = shlex.join(["aurac", *sys.argv[1:]])
    asked = {"until": until, "margin": options["margin"], "budget": budget}
    done = decided(request, command, ranks=True, alpha=options["alpha"], **asked)
    show_comparison(done, as_json=as_json)
    return 3 if done.failures else 0


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
