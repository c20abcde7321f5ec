"""`aurac tasks`."""

from __future__ import annotations

import click

from aurac.cli.options import complete_tasks, print_json


@click.command()
@click.argument("name", required=False, shell_complete=complete_tasks)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks(name: str | None, as_json: bool) -> None:
    """List the bundled tasks, or print the files of the documents of one.

    Every task that lm-eval knows can be given to `aurac compare` as well.

    \b
    aurac tasks
    aurac tasks aurac_word_problems
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.errors import TaskError
    from aurac.tasks import BUNDLED, documents

    if name is None:
        if as_json:
            print_json(list(BUNDLED))
        else:
            click.echo("\n".join(BUNDLED))
        return
    if name not in BUNDLED:
        raise TaskError(f"no bundled task {name!r}", expected=" or ".join(BUNDLED))
    files = documents(name)
    if as_json:
        print_json({split: str(path) for split, path in files.items()})
        return
    for split, path in files.items():
        click.echo(f"{split}  {path}")
