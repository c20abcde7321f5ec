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
    from aurac.cli._logging import log_path
    from aurac.runs.doctor import examine

    findings, log = examine(network=not offline), str(log_path())
    broken = [finding for finding in findings if finding.state == "problem"]
    if as_json:
        content = [finding.to_dict() for finding in findings]
        print_json({"ready": not broken, "log": log, "findings": content})
    else:
        _show(findings, log)
        names = ", ".join(finding.what for finding in broken)
        click.echo(f"not ready: {names}" if broken else "ready: everything that is needed is here")
    return 1 if broken else 0


def _show(findings: Sequence[Finding], log: str) -> None:
    from aurac.terminal import stdout_console

    console = stdout_console()
    if not console.is_terminal:  # one line each, never folded, so that grep finds it whole
        for one in findings:
            advice = f" -> {one.advice}" if one.advice else ""
            click.echo(f"{_MARKS[one.state][0]:<8} {one.what:<15} {one.found}{advice}")
        click.echo(f"{'':<8} {'log':<15} {log}")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for one in findings:
        text, (mark, style) = Text(one.found), _MARKS[one.state]
        if one.advice:
            text.append(f"\n→ {one.advice}", style="dim")
        grid.add_row(Text(mark, style=style), Text(one.what), text)
    grid.add_row("", Text("log"), Text(log))
    console.print(grid)
