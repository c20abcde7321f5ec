"""How commands parse and list their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


_OTHER = "Other options"


def hyphens(name: str) -> str:
    """`--num_fewshot` → `--num-fewshot`: click's `token_normalize_func` of every command."""
    return name.replace("_", "-")


def option_group(title: str, *options: Decorator) -> Decorator:
    """Several `click.option` decorators under one heading of the help."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
            vars(command)["__click_params__"][-1].group = title
        return command

    return add


def parsed(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A click callback that hands the command what `parse` makes of the option's value."""
    return lambda _context, _parameter, value: parse(value)


class GroupedCommand(click.Command):
    """A command whose help shows its options under the headings of `option_group`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings.setdefault("token_normalize_func", hyphens)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading; options without one come last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "group", _OTHER), []).append(row)
        for title, rows in sorted(sections.items(), key=lambda section: section[0] == _OTHER):
            with formatter.section(title):
                formatter.write_dl(rows)
