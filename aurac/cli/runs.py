"""`aurac runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.cli.options import print_json
from aurac.runs.progress import duration

if TYPE_CHECKING:
    from aurac.runs.status import Status


_TO_DO = {
    "no results": "the same command (without --shard) gathers the cells and writes the report",
    "no report": "`aurac report` on the folder, or the same command, writes the report",
}


@click.command()
@click.argument("arguments", nargs=-1, metavar="[ROOT] | status FOLDER")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(arguments: tuple[str, ...], as_json: bool) -> int:
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
        return show_status(arguments[1], as_json)
    if len(arguments) > 1:
        raise click.UsageError("runs takes one folder")
    root = Path(arguments[0]) if arguments else Path("runs" if Path("runs").is_dir() else ".")
    return _list(root, as_json)


def show_status(folder: str, as_json: bool) -> int:
    """Print how a run stands."""
    from aurac.runs.status import read_status

    status = read_status(Path(folder))
    if as_json:
        print_json(status.to_dict(), indent=1, ensure_ascii=False)
    else:
        click.echo("\n".join(_lines(status)))
    return 0


def _lines(status: Status) -> list[str]:
    total = "?" if status.total is None else str(status.total)
    left = "?" if status.left is None else str(status.left)
    counts = f"running {status.running}, failed {status.failed}, left {left}"
    lines = [f"{status.folder}: {status.state}", f"  done {status.done} of {total}, {counts}"]
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
    lines += [f"  {advice}" for state, advice in _TO_DO.items() if state == status.state]
    return lines + [f"  {note}" for note in status.notes]


def _list(root: Path, as_json: bool) -> int:
    from aurac.cli._analysis import table
    from aurac.errors import RunFolderError
    from aurac.runs.status import find_runs, read_status

    if not root.is_dir():
        raise RunFolderError(f"{root} is no folder", expected="a folder with run folders in it")
    statuses = [read_status(folder) for folder in find_runs(root)]
    if as_json:
        print_json([status.to_dict() for status in statuses], indent=1, ensure_ascii=False)
    elif statuses:
        head = ["run", "state", "done", "running", "failed", "left", "time left", "tasks"]
        click.echo(table(head, map(_row, statuses)))
    else:
        click.echo(f"no run folders at or below {root}")
    return 0


def _row(status: Status) -> list[str]:
    return [
        str(status.folder),
        status.state,
        f"{status.done}/{'?' if status.total is None else status.total}",
        str(status.running),
        str(status.failed),
        "?" if status.left is None else str(status.left),
        duration(status.seconds_left) if status.seconds_left else "",
        ", ".join(status.tasks),
    ]
