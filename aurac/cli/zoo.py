"""`aurac zoo`: adapters that come with the sources, and their base model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aurac.cli import shared
from aurac.cli.shared import FOLDER, command

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.adapters import Adapter


@command()
@click.argument("folder", type=FOLDER, default="adapters_zoo")
@click.option(
    "--base", metavar="NAME",
    help="Download this base model if it is not here, and print its folder.",
)  # fmt: skip
@shared.as_json
def zoo(folder: Path, base: str | None, as_json: bool) -> None:
    """List the adapters below FOLDER, and the base model that can be had through pip.

    \b
    aurac zoo
    aurac zoo --base smollm2-135m-instruct-q4_1
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.models.base import resolve_base
    from aurac.models.packaged import PACKAGED, packaged_folder

    if base:
        click.echo(resolve_base(base).path)
        return
    from aurac.adapters import load_adapter

    paths = sorted(path.parent for path in folder.rglob("adapter_config.json"))
    adapters = [row(path, load_adapter(path)) for path in paths]
    bases = []
    for name, model in PACKAGED.items():
        about = {"base": name, "megabytes": model.megabytes, "licence": model.licence}
        bases.append(about | {"here": packaged_folder(name).is_dir()})
    if as_json:
        shared.print_json({"adapters": adapters, "bases": bases})
        return
    for rows in (adapters, bases):
        shared.print_rows(rows)
        click.echo()


def row(path: Path, adapter: Adapter) -> dict[str, Any]:
    """What is said of an adapter, and of the recipe that it records."""
    recipe = adapter.recipe or {}
    return {
        "adapter": path,
        "method": adapter.method,
        "rank": adapter.rank,
        "trained on": recipe.get("task") or recipe.get("data"),
        "base": adapter.base,
        "megabytes": round(adapter.bytes(adapter.rank) / 1e6, 1),
    }
