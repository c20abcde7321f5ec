"""`aurac tasks`."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
def tasks(name: str | None) -> None:
    """List the bundled tasks, or write the documents of one and print the files.

    Every task that lm-eval knows can be given to `aurac compare` as well.
    """
    from aurac.errors import TaskError
    from aurac.tasks import BUNDLED, documents

    if name is None:
        for known in BUNDLED:
            click.echo(known)
        return
    if name not in BUNDLED:
        raise TaskError(f"no bundled task {name!r}", expected=" or ".join(BUNDLED))
    for split, path in documents(name).items():
        click.echo(f"{split}  {path}")
