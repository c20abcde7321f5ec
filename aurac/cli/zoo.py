"""`aurac zoo`."""

from __future__ import annotations

from pathlib import Path

import click

from aurac.cli.options import print_json


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
