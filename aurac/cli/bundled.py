"""What is here: `aurac tasks`, `aurac base` and `aurac zoo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import table
from aurac.cli.options import complete_bases, complete_tasks, print_json

if TYPE_CHECKING:
    from aurac.adapters import Adapter
    from aurac.tasks.index import TaskFacts

_SHOWN = 30
_ASKS = {"multiple_choice": "choose", "generate_until": "write", "loglikelihood": "continue"}


@click.command()
@click.argument("name", required=False, metavar="[NAME|WORD]", shell_complete=complete_tasks)
@click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False),
    help="A folder with further tasks, as lm-eval's YAML.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks(name: str | None, include_path: str | None, *, as_json: bool) -> None:
    """List the bundled tasks, search lm-eval's, or show what one needs. Nothing is fetched.

    Of a bundled task the files of its documents are printed. Every task that lm-eval knows can be
    given to `aurac compare`.

    \b
    aurac tasks
    aurac tasks arc
    aurac tasks mmlu_*
    aurac tasks gsm8k
    aurac tasks aurac_word_problems
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.tasks import BUNDLED, documents
    from aurac.tasks.index import check_names, facts_of, search, task_index

    if name in BUNDLED:
        files = {split: str(path) for split, path in documents(name).items()}
        if as_json:
            print_json(files)
        else:
            click.echo("\n".join(f"{split}  {path}" for split, path in files.items()))
        return
    names = search(name, include_path) if name else list(BUNDLED)
    if name in names:
        names = [name, *facts_of(name, include_path).members]
    elif name and not names:
        check_names([name], include_path)
    facts = [facts_of(each, include_path) for each in (names if as_json else names[:_SHOWN])]
    if as_json:
        print_json([row._asdict() for row in facts])
        return
    head = ["task", "asks to", "few-shot", "documents", "data", "cost"]
    click.echo(table(head, map(_task_row, facts)))
    if len(names) > _SHOWN:
        click.echo(f"and {len(names) - _SHOWN} more; --json lists all")
    if name is None:
        click.echo(f"aurac tasks WORD searches the {len(task_index())} names that lm-eval knows")


def _task_row(task: TaskFacts) -> list[str]:
    if task.kind in ("GROUP", "TAG"):
        return [task.name, f"{task.kind.lower()} of {len(task.members)}", "", "", "", ""]
    if task.kind == "PY_TASK":
        return [task.name, "defined in Python", "", "", "", ""]
    if task.refused:
        return [task.name, f"not evaluated: {task.refused}", "", "", task.data or "", ""]
    cost = f"writes up to {task.writes} tokens each" if task.writes else "reads only"
    return [
        task.name,
        _ASKS.get(task.output_type or "", task.output_type or ""),
        str(task.num_fewshot),
        "not known here" if task.documents is None else str(task.documents),
        f"{task.data}, {task.split}" if task.split else task.data or "",
        cost,
    ]


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
