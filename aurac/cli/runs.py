"""Stored runs: `aurac runs`, `aurac report` and `aurac export`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.cli.options import (
    as_table,
    command,
    options,
    pairs,
    print_json,
    print_result,
    print_text,
    repeated,
)
from aurac.errors import RunFolderError
from aurac.records.results_file import RESULTS_FILE, Results
from aurac.runs.log import duration

if TYPE_CHECKING:
    from aurac.runs.status import Status


_PAGES = {".md", ".html", ".json"}
_TO_DO = {
    "no results": "the same command (without --shard) gathers the cells and writes the report",
    "no report": "`aurac report` on the folder, or the same command, writes the report",
}


@command()
@click.argument("arguments", nargs=-1, metavar="[ROOT] | status FOLDER")
@options("--json")
def runs(arguments: tuple[str, ...], *, as_json: bool) -> int:
    """List the run folders below ROOT (default: runs, else here), or say how one stands.

    \b
    aurac runs
    aurac runs /shared/experiments --json
    aurac runs status runs/gsm8k-1a2b3c4d

    Neither loads a model; both work while a run goes on, and on a read-only folder.
    """  # noqa: D301
    if arguments[:1] == ("status",):
        if len(arguments) != 2:
            raise click.UsageError("runs status takes one run folder")
        return show_status(arguments[1], as_json=as_json)
    if len(arguments) > 1:
        raise click.UsageError("runs takes one folder")
    root = Path(arguments[0]) if arguments else Path("runs" if Path("runs").is_dir() else ".")
    return _list(root, as_json=as_json)


def show_status(folder: str, *, as_json: bool) -> int:
    """Print how a run stands."""
    from aurac.runs.status import read_status

    status = read_status(Path(folder))
    print_result(status.to_dict(), "\n".join(_lines(status)), as_json=as_json)
    return 0


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _lines(status: Status) -> list[str]:
    counts = f"running {status.running}, failed {status.failed}, left {_number(status.left)}"
    done = f"  done {status.done} of {_number(status.total)}, {counts}"
    lines = [f"{status.folder}: {status.state}", done]
    if status.seconds_left is not None and status.seconds_left > 0:
        pace = "at the pace so far" if status.processes else "of computing, once it is started"
        lines.append(f"  about {duration(status.seconds_left)} {pace}")
    if status.further:
        lines.append(f"  up to {status.further} more cells may follow: --ranks auto")
    if status.processes:
        lines.append(f"  {status.processes} process{'es' * (status.processes > 1)} at work")
    lines += [f"  running: {cell}" for cell in status.running_cells]
    lines += [f"  failed: {failure['cell']}: {failure['reason']}" for failure in status.failures]
    if status.failed:
        lines.append("  --retry-failed tries failed cells again")
    if status.state in _TO_DO:
        lines.append(f"  {_TO_DO[status.state]}")
    return lines + [f"  {note}" for note in status.notes]


def _list(root: Path, *, as_json: bool) -> int:
    from aurac.runs.status import find_runs, read_status

    if not root.is_dir():
        raise RunFolderError(f"{root} is no folder", expected="a folder with run folders in it")
    statuses = [read_status(folder) for folder in find_runs(root)]
    if as_json:
        print_json([status.to_dict() for status in statuses])
    elif statuses:
        head = ["run", "state", "done", "running", "failed", "left", "time left", "tasks"]
        rows = [
            [
                str(status.folder),
                status.state,
                f"{status.done}/{_number(status.total)}",
                str(status.running),
                str(status.failed),
                _number(status.left),
                duration(status.seconds_left) if status.seconds_left else "",
                ", ".join(status.tasks),
            ]
            for status in statuses
        ]
        click.echo(as_table(head, rows))
    elif (root / RESULTS_FILE).is_file():
        Results.read(root)  # or says what is wrong with it
        print_text(f"{root} has results, and no record of a run: `aurac score {root}` shows them")
    else:
        click.echo(f"no run folders at or below {root}")
    return 0


@command(short="out margin group label json")
@click.argument("runs", metavar="RUN [RUN...]", nargs=-1, required=True, type=Path)
@options(
    """
    --out PATH: Folder for the report; a single run is reported in its own folder by default.
    --margin FLOAT: Loss of accuracy against the best configuration that a smaller one may have,
        chosen before looking; without it the report and the model cards recommend nothing.
    --group
    --axis axes: parameters or bytes: AURAC over these as well, at the amounts that adapters share,
        in a section and files of its own. May be given twice.
    --label labels: NAME=TEXT: what figures, tables and sentences call an adapter, a group, or a
        curve as the report names it. Files of numbers keep the name, except changes.
    --seeds FLAG: Draw each training seed, thin, beneath the mean.
    --primary
    --reference
    --json: Print the written paths as JSON.
    """,
    axes={"multiple": True},
    labels=repeated(lambda values: pairs(values, "--label", "NAME=TEXT")),
)
def report(
    runs: tuple[Path, ...],
    *,
    out: Path | None,
    margin: float | None,
    groups: dict[str, list[str]],
    axes: tuple[str, ...],
    labels: dict[str, str],
    seeds: bool,
    primary: tuple[str, ...],
    references: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the report of stored runs again, without a model.

    It is report.md, report.html, figures/, tables (CSV, Parquet, LaTeX) and in cards/ a model card
    of each adapter, with the hub's .eval_results of a whole benchmark. RUN is a folder of `aurac
    compare`. Several runs are reported together when they measured the same documents with the same
    prompts on the same base, else refused. Adapters whose recorded recipes differ in the seed only
    are shown as one curve, their mean; --group says so for others.

    \b
    aurac report runs/first
    aurac report runs/first --margin 0.01 --group lora=lora-a,lora-b
    aurac report runs/lora runs/matryoshka --out runs/both
    aurac report runs/first --axis parameters
    aurac report runs/first --label lora=LoRA --label "dylora (prefix)=DyLoRA"
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.primary import parse_pairs
    from aurac.show import write_report

    written = write_report(
        *runs,
        out=out,
        groups=groups,
        margin=margin,
        axes=axes,
        primary=parse_pairs(primary, references),
        labels=labels,
        seeds=seeds,
    )
    folders = Counter(path.parent for path in written)
    main = written[0].parent
    pages = [path for path in written if path.parent == main and path.suffix in _PAGES]
    lines = [str(path) for path in pages]
    numbers = folders[main] - len(pages)
    lines += [f"{main}: {numbers} files of numbers (CSV, Parquet, LaTeX)"] if numbers else []
    lines += [f"{inner}: {folders[inner]} files" for inner in sorted({*folders} - {main})]
    print_result({"files": list(map(str, written))}, "\n".join(lines), as_json=as_json)


@command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@options(
    """
    --format [lm-eval]: Whose layout.
    --out PATH: A new folder.
    --json: Print the results files as JSON.
    """,
    format={"type": click.Choice(["lm-eval"]), "expose_value": False},
    out={"required": True},
)
def export(run: Path, *, out: Path, as_json: bool) -> None:
    """Write a run's cells as lm-eval's own results and sample logs.

    One folder for each adapter and rank, as `lm_eval --output_path OUT/ADAPTER/rank_R
    --log_samples` would have made them; no model is loaded. `aurac score OUT` scores
    them, each truncation as an adapter.

    \b
    aurac export runs/gsm8k --out exported
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.exports import export_lm_eval

    written = export_lm_eval(run, out)
    text = f"{len(written)} results and their samples in {out}"
    print_result({"files": list(map(str, written))}, text, as_json=as_json)
