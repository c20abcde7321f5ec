"""`aurac export`: a run in the layout of another tool."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["lm-eval"]),
    default="lm-eval",
    show_default=True,
    help="Whose layout.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the results files as JSON.")
def export(run: Path, layout: str, out: Path, as_json: bool) -> None:
    """Write a run's cells as lm-eval's own results and sample logs.

    One folder for each adapter and rank, as `lm_eval --output_path OUT/ADAPTER/rank_R
    --log_samples` would have made them; no model is loaded. `aurac score OUT` reads them back.

    \b
    aurac export runs/gsm8k --format lm-eval --out exported
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.exports import export_lm_eval

    written = {"lm-eval": export_lm_eval}[layout](run, out)
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in written]}))
        return
    click.echo(f"{len(written)} results and their samples in {out}")
