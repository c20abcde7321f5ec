"""`aurac base`."""

from __future__ import annotations

import dataclasses

import click

from aurac.cli import _complete
from aurac.cli.options import print_json


@click.command()
@click.argument("name", required=False, shell_complete=_complete.bases)
@click.option("--list", "listing", is_flag=True, help="List the packaged models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def base(name: str | None, listing: bool, as_json: bool) -> None:
    """Bring a base model to this machine and print its folder (so that other tools can use it).

    \b
    aurac base --list
    aurac base smollm2-135m-instruct-q4_1
    """  # noqa: D301
    from aurac.models.base import resolve_base
    from aurac.models.packaged import DEFAULT_BASE, PACKAGED

    if listing and as_json:
        print_json([{"name": n, **dataclasses.asdict(m)} for n, m in PACKAGED.items()])
        return
    if listing:
        for known, model in PACKAGED.items():
            click.echo(f"{known}  {model.megabytes} MB  {model.licence}")
        return
    found = resolve_base(name or DEFAULT_BASE)
    if as_json:
        print_json({**vars(found), "path": str(found.path)})
    else:
        click.echo(found.path)
