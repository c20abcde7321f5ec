"""What is here: `aurac base`, `aurac zoo` and `aurac doctor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.cli.options import as_table, command, options, print_result
from aurac.curves.display import decimals

if TYPE_CHECKING:
    from aurac.adapters import Adapter


def _complete_bases(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from aurac.models.packaged import PACKAGED

    return [name for name in PACKAGED if name.startswith(incomplete)]


@command()
@click.argument("name", required=False, shell_complete=_complete_bases)
@options(
    """
    --list listing FLAG: List the packaged models.
    --json
    """
)
def base(name: str | None, listing: bool, as_json: bool) -> None:
    """Bring a base model to this machine and print its folder (so that other tools can use it).

    \b
    aurac base --list
    aurac base smollm2-135m-instruct-q4_1
    """  # noqa: D301
    from aurac.models.base import resolve_base
    from aurac.models.packaged import DEFAULT_BASE, PACKAGED, packaged_folder

    if listing:
        rows = [
            [
                name,
                f"{model.megabytes} MB",
                model.licence,
                "yes" if packaged_folder(name) else "no",
            ]
            for name, model in PACKAGED.items()
        ]
        content = [{"name": n, **dataclasses.asdict(m)} for n, m in PACKAGED.items()]
        text = as_table(["base", "download", "licence", "already here"], rows)
        print_result(content, text, as_json=as_json)
        return
    folder = resolve_base(name or DEFAULT_BASE)
    print_result({**vars(folder), "path": str(folder.path)}, str(folder.path), as_json=as_json)


@command()
@click.argument("folder", type=click.Path(path_type=Path), default="adapters_zoo")
@options("--json")
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
            expected="a folder of adapters, such as adapters_zoo in aurac's sources",
            fix="go to the root of the sources, name another folder (`aurac zoo FOLDER`), or train "
            "one: `aurac train word_problems/lora --out adapters_zoo/lora`",
        )
    rows = [ZooRow.of(path, load_adapter(path)) for path in paths]
    body = []
    for row in rows:
        words = (row.path, row.method, row.rank, row.trained_on, row.base)
        body.append(
            [*(str(word or "not recorded") for word in words), decimals(row.bytes / 1e6, 1)]
        )
    head = ["adapter", "method", "rank", "trained on", "base", "MB"]
    print_result(rows, as_table(head, body), as_json=as_json)


@dataclasses.dataclass(frozen=True)
class ZooRow:
    """What `aurac zoo` says of an adapter."""

    path: Path
    method: str | None
    rank: int
    base: str | None
    trained_on: str | None
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, adapter: Adapter) -> ZooRow:
        """Of an adapter and the recipe that it records."""
        recipe = adapter.recipe or {}
        data, steps = recipe.get("task") or recipe.get("data"), ""
        if recipe.get("steps"):
            steps = f", {recipe['steps']} steps of {recipe['batch_size']} examples"
        trained_on = f"{data}{steps}" if data else None
        size = adapter.bytes(adapter.rank)
        named = adapter.method, adapter.rank, adapter.base, trained_on
        return cls(path, *named, size, adapter.sha256)
