"""Stored runs: `aurac runs`, `aurac report` and `aurac export`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from aurac.cli.options import (
    command,
    options,
    pairs,
    print_result,
    repeated,
)

_PAGES = {".md", ".html", ".json"}


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
    from aurac.exports import export as write_export

    written = write_export(run, out)
    text = f"{len(written)} results and their samples in {out}"
    print_result({"files": list(map(str, written))}, text, as_json=as_json)
