"""What comes with aurac: `aurac base` and `aurac zoo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from aurac.cli.options import complete_bases, print_json


@click.command()
@click.argument("name", required=False, shell_complete=complete_bases)
@click.option("--list", "listing", is_flag=True, help="List the packaged models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def base(name: str | None, listing: bool, as_json: bool) -> None:
    """Bring a base model to this machine and print its folder (so that other tools can use it).

    \b
    aurac base --list
    aurac base smollm2-135m-instruct-q4_1
    """  # noqa: D301
    from aurac.models.base import resolve_base
    from aurac.models.packaged import DEFAULT_BASE, PACKAGED

    if listing and as_json:
        print_json([{"name": n, **dataclasses.asdict(m)} for n, m in PACKAGED.items()])
        return
    if listing:
        for known, model in PACKAGED.items():
            click.echo(f"{known}  {model.megabytes} MB  {model.licence}")
        return
    found = resolve_base(name or DEFAULT_BASE)
    if as_json:
        print_json({**vars(found), "path": str(found.path)})
    else:
        click.echo(found.path)


@click.command()
@click.argument("folder", type=click.Path(), default="adapters_zoo")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def zoo(folder: str, as_json: bool) -> None:
    """List the adapters below FOLDER: method, rank, base, size.

    \b
    aurac zoo
    aurac zoo search --json
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters import load_adapter
    from aurac.errors import CheckpointError

    found = sorted(path.parent for path in Path(folder).rglob("adapter_config.json"))
    if not found:
        raise CheckpointError(
            f"no adapter below {folder!r}",
            expected="a folder such as adapters_zoo of the sources",
            fix="run it in the root of the sources, or name a folder",
        )
    rows = []
    for path in found:
        adapter = load_adapter(path)
        size = adapter.bytes(adapter.rank)
        facts = {"method": adapter.method, "rank": adapter.rank, "base": adapter.base}
        rows.append({"path": str(path), **facts, "bytes": size, "sha256": adapter.sha256})
        if not as_json:
            method = adapter.method or "method not recorded"
            said = f"{method}  rank {adapter.rank}  {size / 1e6:.1f} MB  on {adapter.base}"
            click.echo(f"{path}  {said}")
    if as_json:
        print_json(rows)
