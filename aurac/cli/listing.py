"""`aurac list`: bundled tasks, adapters of the sources, base models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aurac.cli import shared
from aurac.cli.shared import FOLDER, command
from aurac.errors import CheckpointError
from aurac.terminal import one_line

if TYPE_CHECKING:
    from pathlib import Path


@command("list")
@click.argument("folder", type=FOLDER, default="adapters_zoo")
@click.option(
    "--base", metavar="NAME",
    help="Download this base model if it is not here, and print its folder.",
)  # fmt: skip
@shared.as_json
def list_all(folder: Path, base: str | None, as_json: bool) -> None:
    """List bundled tasks, adapters and base models.

    The adapters are those below FOLDER, the base models those that can be had through pip.

    \b
    aurac list
    aurac list --base smollm2-135m-instruct-q4_1
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.models.base import resolve_base
    from aurac.models.packaged import PACKAGED, packaged_folder

    if base:
        click.echo(resolve_base(base).path)
        return
    from aurac.adapters import load_adapter
    from aurac.tasks import BUNDLED, documents

    adapters, bases = [], []
    for path in sorted(path.parent for path in folder.rglob("adapter_config.json")):
        try:
            adapter = load_adapter(path)
        except CheckpointError as error:
            click.echo(one_line(f"left out: {error}"), err=True)
            continue
        recipe, size = adapter.recipe or {}, round(adapter.bytes(adapter.rank) / 1e6, 1)
        row: dict[str, object] = {"adapter": path, "method": adapter.method, "rank": adapter.rank}
        row |= {"trained on": recipe.get("task") or recipe.get("data"), "base": adapter.base}
        adapters.append(row | {"megabytes": size, "dtype": adapter.dtype})
    for name, model in PACKAGED.items():
        place = packaged_folder(name)
        about = {"base": name, "megabytes": model.megabytes, "licence": model.licence}
        bases.append(about | {"folder": place if place.is_dir() else None})
    tasks = [{"task": name, "files": documents(name)["test"].parent} for name in BUNDLED]
    tables = {"tasks": tasks, "adapters": adapters, "bases": bases}
    if as_json:
        shared.print_json(tables)
        return
    for rows in tables.values():
        shared.print_rows(rows)
        click.echo()
    click.echo("`lm-eval ls tasks` lists the tasks of lm-eval.")
