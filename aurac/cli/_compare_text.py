"""What `aurac compare` prints: a dry run, and results."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import table
from aurac.cli.options import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aurac.notebook.run import Run
    from aurac.runs.dryrun import DryRun

_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def show_dry_run(
    checkpoints: Sequence[str], tasks: Sequence[str], *, as_json: bool, **settings: Any
) -> int:
    """Print what `compare` would do with these arguments; nothing is fetched."""
    from aurac.tasks.index import check_names

    check_names(tasks, settings.get("include_path"))
    with _offline():
        from aurac.runs.dryrun import dry_run

        plan = dry_run(checkpoints, tasks, **settings)
    if as_json:
        print_json(plan.to_dict())
    else:
        click.echo("\n".join(_text(plan)))
    return 0


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """No library fetches anything; what the environment said before holds again afterwards."""
    switched = {name: "1" for name in _SWITCHES if name not in os.environ}
    os.environ.update(switched)
    try:
        yield
    finally:
        for name in switched:
            os.environ.pop(name, None)


def _text(plan: DryRun) -> list[str]:
    head = ["task", "curve", "ranks to compute", "already there", "requests each"]
    rows = []
    for line in plan.lines:
        ranks = [",".join(map(str, ranks)) or "–" for ranks in (line.left, line.done)]
        requests = "?" if line.requests is None else str(line.requests)
        rows.append([line.task, line.curve, *ranks, requests])
    left = plan.cells - plan.done - plan.failed
    there = f", {plan.done} already in {plan.folder}" if plan.done else ""
    if plan.failed:
        there += f", {plan.failed} failed before (--retry-failed tries them again)"
    lines = [table(head, rows), "", f"{left} of {plan.cells} cells to compute{there}"]
    if plan.further:
        lines.append(
            f"--ranks auto may add up to {plan.further} more cells; the time does not include them"
        )
    lines.append(f"on {plan.device} in {plan.dtype}, base {plan.base}")
    ends = [_span(end) for end in (plan.seconds_low, plan.seconds_high) if end is not None]
    time = f"{' to '.join(dict.fromkeys(ends))}, " if ends else ""
    lines.append(f"time: {time}{plan.seconds_from}")
    lines.append(_memory(plan))
    lines += [f"download: {what}" for what in plan.downloads] or ["download: nothing"]
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _memory(plan: DryRun) -> str:
    if plan.memory is None:
        return "memory: not known before the base is here"
    part = {name: f"{size / 1e9:.2f} GB" for name, size in plan.memory.items()}
    return (
        f"memory: about {part['total']} (weights {part['weights']}, adapters {part['adapters']}, "
        f"libraries and passes {part['beside']} as measured with the packaged base on a CPU)"
    )


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _show_failures(done: Run) -> None:
    for failure in done.failures:
        label = f"{failure.task} · {failure.curve or 'base'} · rank {failure.rank}"
        click.echo(f"failed: {label}: {failure.reason}", err=True)
    if done.failures:
        click.echo("--retry-failed tries failed cells again", err=True)


def show_comparison(done: Run, *, as_json: bool) -> None:
    """Print what `compare` gave: the table and the pairs, or a share of the cells, or JSON."""
    if done.shard:
        number, of = done.shard
        succeeded = done.cells - len(done.failures)
        click.echo(f"shard {number}/{of}: {succeeded} of {done.cells} cells done in {done.folder}")
        _show_failures(done)
        click.echo("the same command without --shard gathers the results")
        return
    if as_json:
        print_json(done.results.to_dict(), indent=1, ensure_ascii=False)
        _show_besides(done, err=True)
        return
    from aurac.show import terminal_table
    from aurac.terminal import stdout_console

    console, known = stdout_console(), None
    if not done.results.sequential and not done.failures and len(done.results.curves) > 1:
        known = done.analysis
    best = known.candidates if known else ()
    console.print(terminal_table(done.results, width=console.width, best=best))
    if done.results.rank_choice:
        click.echo("\n".join(done.results.rank_choice.sentences))
    if done.results.sequential:
        from aurac.cli._analysis import decided_lines

        click.echo("\n".join(decided_lines([done.results.sequential])))
    elif known is not None:
        from aurac.cli._analysis import best_lines, pair_lines

        pairs = (*known.pairs, *known.variants)
        lines = pair_lines(pairs, "Paired differences on the same documents")
        lines += [known.primary.sentence] if known.primary else []
        click.echo("\n".join([*lines, *best_lines(known.best)]))
    _show_failures(done)
    click.echo(f"report: {done.folder / 'report.html'}")
    _show_besides(done)


def _show_besides(done: Run, *, err: bool = False) -> None:
    if done.besides:
        click.echo(done.besides, err=err)
