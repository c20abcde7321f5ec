"""`aurac tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from aurac.cli.options import as_table, command, complete_tasks, options, print_json

if TYPE_CHECKING:
    from aurac.tasks.listing import ListedTask

_SHOWN = 30
_HEAD = ("task", "asks to", "few-shot", "data", "split")
_ASKS = {
    "multiple_choice": "choose",
    "generate_until": "write",
    "loglikelihood": "continue",
    "loglikelihood_rolling": "predict (perplexity)",
}


@command()
@click.argument("name", required=False, metavar="[NAME|WORD]", shell_complete=complete_tasks)
@options(
    """
    --include-path
    --json
    """
)
def tasks(name: str | None, include_path: str | None, *, as_json: bool) -> None:
    """List the bundled tasks, search lm-eval's, or show what one asks for. Nothing is fetched.

    \b
    aurac tasks
    aurac tasks arc
    aurac tasks mmlu_*
    aurac tasks gsm8k
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.tasks import BUNDLED, documents
    from aurac.tasks.listing import all_tasks, expand, search

    known = all_tasks(include_path)
    if name in known:
        members = known[name].members
        rows = {each: known[each] for each in (name, *members) if each in known}
    elif name:
        rows = search(name, include_path) or {each: known[each] for each in expand([name])}
    else:
        rows = {each: known[each] for each in BUNDLED}
    if as_json:
        print_json([{"name": each, **msgspec.to_builtins(row)} for each, row in rows.items()])
        return
    click.echo(as_table(_HEAD, [_row(*item) for item in [*rows.items()][:_SHOWN]]))
    if len(rows) > _SHOWN:
        click.echo(f"and {len(rows) - _SHOWN} more; --json lists all")
    if name in known and known[name].metrics:
        click.echo(f"metrics  {' '.join(known[name].metrics)}")
    for split, path in (documents(name) if name in BUNDLED else {}).items():
        click.echo(f"{split}  {path}")
    if name is None:
        click.echo(f"aurac tasks WORD searches the {len(known)} names that lm-eval knows")


def _row(name: str, task: ListedTask) -> list[str]:
    if task.kind in ("GROUP", "TAG"):
        return [name, f"{task.kind.lower()} of {len(task.members)}", "", "", ""]
    if task.kind == "PY_TASK":
        return [name, "defined in Python", "", "", ""]
    asks = _ASKS.get(task.output_type or "", task.output_type or "")
    return [name, asks, str(task.num_fewshot or 0), task.data or "aurac", task.split or ""]
