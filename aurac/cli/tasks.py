"""`aurac tasks`."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from aurac.cli import shared
from aurac.cli.shared import command


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
        return "`aurac tasks` and `lm-eval ls tasks` list them."


include_path = click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with more tasks, as YAML files for lm-eval.",
)


@command()
@shared.as_json
def tasks(as_json: bool) -> None:
    """List the bundled tasks and their files; `lm-eval ls tasks` lists those of lm-eval.

    \b
    aurac tasks
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.tasks import BUNDLED, documents

    rows = [{"task": name, **documents(name)} for name in BUNDLED]
    shared.print_rows(rows, as_json=as_json)
    if not as_json:
        click.echo("`lm-eval ls tasks` lists the tasks of lm-eval.")
