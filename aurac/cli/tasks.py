"""`aurac tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.shell_completion import CompletionItem

from aurac.cli import shared
from aurac.cli.shared import command

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


class TaskNames(click.types.StringParamType):
    """Names of tasks, separated by commas; the bundled ones are completed."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """With `a,b` typed, the rest of the last one."""
        from aurac.tasks import BUNDLED

        before, comma, last = incomplete.rpartition(",")
        names = (f"{before}{comma}{name}" for name in BUNDLED if name.startswith(last))
        return [CompletionItem(name) for name in names]

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Where names are found."""
        return "`aurac tasks` lists them."


include_path = click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with more tasks, as YAML files for lm-eval.",
)


@command()
@click.argument("name", required=False, type=TaskNames(), metavar="[NAME|WORD]")
@include_path
@shared.as_json
def tasks(name: str | None, include_path: Path | None, as_json: bool) -> None:
    """List the bundled tasks, search lm-eval's, or show one of them. Nothing is downloaded.

    \b
    aurac tasks
    aurac tasks arc
    aurac tasks gsm8k
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.tasks import BUNDLED, documents
    from aurac.tasks.listing import all_tasks, expand, search

    where = None if include_path is None else str(include_path)
    known = all_tasks(where)
    if name in known:
        members = known[name].members
        rows = {each: known[each] for each in (name, *members) if each in known}
    elif name:
        rows = search(name, where) or {each: known[each] for each in expand([name])}
    else:
        rows = {each: known[each] for each in BUNDLED}
    if as_json:
        shared.print_json([{"name": x, **msgspec.to_builtins(row)} for x, row in rows.items()])
        return
    shared.print_table(_HEAD, [_row(*item) for item in [*rows.items()][:_SHOWN]])
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
