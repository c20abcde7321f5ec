"""What comes with aurac: `aurac base` and `aurac zoo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import table
from aurac.cli.options import complete_bases, print_json

if TYPE_CHECKING:
    from aurac.adapters import Adapter


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
    from aurac.models.packaged import DEFAULT_BASE, PACKAGED, packaged_folder

    if listing and as_json:
        print_json([{"name": n, **dataclasses.asdict(m)} for n, m in PACKAGED.items()])
        return
    if listing:
        rows = [
            [name, f"{model.megabytes} MB", model.licence, "yes" if packaged_folder(name) else "no"]
            for name, model in PACKAGED.items()
        ]
        click.echo(table(["base", "download", "licence", "already here"], rows))
        return
    folder = resolve_base(name or DEFAULT_BASE)
    if as_json:
        print_json({**vars(folder), "path": str(folder.path)})
    else:
        click.echo(folder.path)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="adapters_zoo")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def zoo(folder: Path, as_json: bool) -> None:
    """List the adapters below FOLDER: method, ranks, base, what they were trained on, size.

    \b
    aurac zoo
    aurac zoo search --json
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters import load_adapter
    from aurac.errors import CheckpointError

    paths = sorted(path.parent for path in folder.rglob("adapter_config.json"))
    if not paths:
        raise CheckpointError(
            f"no adapter below {str(folder)!r}",
            expected="a folder such as adapters_zoo of the sources",
            fix="run it in the root of the sources, or name a folder",
        )
    rows = [_adapter_row(path, load_adapter(path)) for path in paths]
    if as_json:
        print_json(rows)
        return
    names = ("path", "method", "rank", "trained_on", "base")
    body = [
        [*(str(row[name] or "not recorded") for name in names), f"{row['bytes'] / 1e6:.1f}"]
        for row in rows
    ]
    click.echo(table(["adapter", "method", "rank", "trained on", "base", "MB"], body))


def _adapter_row(path: Path, adapter: Adapter) -> dict[str, Any]:
    recipe = adapter.recipe or {}
    data = recipe.get("task") or recipe.get("data")
    steps = ""
    if recipe.get("steps"):
        steps = f", {recipe['steps']} steps of {recipe['batch_size']} examples"
    return {
        "path": str(path),
        "method": adapter.method,
        "rank": adapter.rank,
        "base": adapter.base,
        "trained_on": f"{data}{steps}" if data else None,
        "bytes": adapter.bytes(adapter.rank),
        "sha256": adapter.sha256,
    }
