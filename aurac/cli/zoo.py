"""`aurac zoo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(), default="adapters_zoo")
def zoo(folder: str) -> None:
    """List the adapters below FOLDER: method, rank, base, size."""
    from aurac.adapters import load_adapter
    from aurac.errors import CheckpointError

    found = sorted(path.parent for path in Path(folder).rglob("adapter_config.json"))
    if not found:
        raise CheckpointError(
            f"no adapter below {folder!r}",
            expected="a folder such as adapters_zoo of the sources",
            fix="run it in the root of the sources, or name a folder",
        )
    for path in found:
        adapter = load_adapter(path)
        size = adapter.bytes(adapter.rank) / 1e6
        method = adapter.method or "method not recorded"
        click.echo(f"{path}  {method}  rank {adapter.rank}  {size:.1f} MB  on {adapter.base}")
