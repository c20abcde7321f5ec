"""`aurac report`: make the report of stored runs again."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("report")
@click.argument("runs", metavar="RUN [RUN...]", nargs=-1, required=True, type=Path)
@click.option(
    "--out",
    type=Path,
    help="Folder for the report; a single run is reported in its own folder by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the written paths as JSON.")
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Make the report of stored runs again, without a model.

    RUN is a folder that `aurac compare` wrote. Several runs are reported together when they
    measured the same documents with the same prompts on the same base, and refused otherwise.

    \b
    aurac report runs/first
    aurac report runs/lora runs/matryoshka --out runs/both
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.report import write_report

    written = write_report(runs[0], *runs[1:], out=out)
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in written]}))
        return
    pages = [path for path in written if path.suffix in {".md", ".html", ".csv", ".tex"}]
    for path in pages:
        click.echo(str(path))
    click.echo(f"and {len(written) - len(pages)} figure files in {written[0].parent / 'figures'}")
