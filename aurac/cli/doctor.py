"""`aurac doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aurac.cli.options import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.runs.doctor import Finding

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "bold red")}


@click.command(
    epilog="Exit codes: 0 everything that is needed is there, 1 something that is needed is "
    "missing or of another version."
)
@click.option("--offline", is_flag=True, help="Do not ask whether the hub answers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(offline: bool, as_json: bool) -> int:
    """Say what this machine can do, what is missing, and how to get it.

    \b
    aurac doctor
    aurac doctor --offline --json
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.runs.doctor import examine

    findings = examine(network=not offline)
    broken = [finding for finding in findings if finding.state == "problem"]
    if as_json:
        content = [finding.to_dict() for finding in findings]
        print_json({"ready": not broken, "log": _log(), "findings": content})
    else:
        _show(findings)
        names = ", ".join(finding.what for finding in broken)
        click.echo(f"not ready: {names}" if broken else "ready: everything that is needed is here")
    return 1 if broken else 0


def _log() -> str:
    from aurac.cli._logging import log_path

    return str(log_path())


def _show(findings: Sequence[Finding]) -> None:
    from aurac.terminal.console import stdout_console

    rows = [(_MARKS[f.state], f.what, f.found, f.advice) for f in findings]
    console = stdout_console()
    if not console.is_terminal:  # one line each, never folded, so that grep finds it whole
        for (mark, _), what, found, advice in rows:
            click.echo(f"{mark:<8} {what:<15} {found}{f' -> {advice}' if advice else ''}")
        click.echo(f"{'':<8} {'log':<15} {_log()}")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for (mark, style), what, found, advice in rows:
        text = Text(found)
        if advice:
            text.append(f"\n→ {advice}", style="dim")
        grid.add_row(Text(mark, style=style), Text(what), text)
    grid.add_row("", Text("log"), Text(_log()))
    console.print(grid)
