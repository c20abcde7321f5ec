"""What is written from a stored run: `aurac report` and `aurac export`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from aurac.cli.options import print_json


@click.command("report")
@click.argument("runs", metavar="RUN [RUN...]", nargs=-1, required=True, type=Path)
@click.option(
    "--out",
    type=Path,
    help="Folder for the report; a single run is reported in its own folder by default.",
)
@click.option(
    "--delta",
    "--margin",
    "delta",
    type=float,
    help="Loss of accuracy against the best configuration that a smaller one may have, chosen "
    "before looking; without it the report recommends nothing and shows the trade-off.",
)
@click.option("--group", "groups", multiple=True, help="NAME=ADAPTER,ADAPTER: seeds of one recipe.")
@click.option(
    "--axis",
    "axes",
    multiple=True,
    help="parameters or bytes: AURAC over these as well, at the amounts that adapters share, in a "
    "section and files of its own. May be given twice.",
)
@click.option(
    "--primary",
    multiple=True,
    metavar="A,B",
    help="A primary comparison: Holm goes over these alone, and all others are exploratory. "
    "Default: what the runs were declared to ask.",
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="ADAPTER",
    help="The comparisons of this adapter with each other one are primary.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the written paths as JSON.")
def report(
    runs: tuple[Path, ...],
    out: Path | None,
    delta: float | None,
    groups: tuple[str, ...],
    axes: tuple[str, ...],
    primary: tuple[str, ...],
    references: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the report of stored runs again, without a model.

    RUN is a folder that `aurac compare` wrote. Several runs are reported together when they
    measured the same documents with the same prompts on the same base, and refused otherwise.
    Adapters whose recorded recipes differ in the seed only are shown as one curve, their mean;
    --group says so for others.

    \b
    aurac report runs/first
    aurac report runs/first --delta 0.01 --group lora=lora-a,lora-b
    aurac report runs/lora runs/matryoshka --out runs/both
    aurac report runs/first --axis parameters
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.primary import parse_pairs
    from aurac.cli._analysis import parse_groups
    from aurac.show import write_report

    named = parse_groups(groups)
    declared = parse_pairs(primary, references)
    written = write_report(*runs, out=out, groups=named, delta=delta, axes=axes, primary=declared)
    if as_json:
        print_json({"files": list(map(str, written))}, indent=None)
        return
    folders = Counter(path.parent for path in written)
    main = written[0].parent
    lines = [str(path) for path in written if path.parent == main]
    lines += [f"{inner}: {folders[inner]} files" for inner in sorted({*folders} - {main})]
    click.echo("\n".join(lines))


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
        print_json({"files": list(map(str, written))}, indent=None)
        return
    click.echo(f"{len(written)} results and their samples in {out}")
