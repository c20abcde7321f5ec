"""How commands declare and list their options, and the options that several of them share."""

from __future__ import annotations

import functools
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click
from click.core import ParameterSource
from msgspec import to_builtins

from aurac.arguments import as_fraction
from aurac.curves.metrics import parse_metrics
from aurac.errors import UsageError
from aurac.terminal import terminal_width, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from typing_extensions import Unpack

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

NOT_SHOWN = 4  # exit code of a gate: what was asked for is not shown by the data


class Attributes(TypedDict, total=False):
    """What `click.option` takes beside names and help."""

    callback: Callable[[click.Context, click.Parameter, Any], Any]
    default: Any
    expose_value: bool
    flag_value: Any
    hidden: bool
    is_eager: bool
    is_flag: bool
    metavar: str
    multiple: bool
    required: bool
    shell_complete: Callable[[click.Context, click.Parameter, str], list[str]]
    show_default: bool
    type: click.ParamType[Any] | type[int | float | bool] | Callable[[str], Any]


class _Typed:
    """A number; of other text it says what to write."""

    from_on = ("of at least", "above")

    def _describe_range(self) -> str:  # click calls a range without limits x<=None
        text = str(super()._describe_range())  # type: ignore[misc]
        return "" if text.endswith("None") else text

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        try:
            return super().convert(value, param, ctx)  # type: ignore[misc]
        except click.BadParameter:
            if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", str(value)):  # one, but not allowed
                limit = "" if self.min is None else f" {self.from_on[self.min_open]} {self.min}"  # type: ignore[attr-defined]
                self.fail(f"{value}; expected {self.a_number}{limit}", param, ctx)  # type: ignore[attr-defined]
            number = re.fullmatch(r"[^\d.+-]*(\d+(?:\.\d+)?)[^\d.]*", str(value))
            such = number[1] if number else f"one such as {self.such_as}"  # type: ignore[attr-defined]
            fix = (as_fraction(value) if isinstance(self, Number) else None) or f"write {such}"
            self.fail(f"{value!r} is no number: {fix}", param, ctx)  # type: ignore[attr-defined]


class Number(_Typed, click.FloatRange):
    """Such as 0.02."""

    name, such_as, a_number = "float", "0.02", "a number"


class Whole(_Typed, click.IntRange):
    """Such as 2."""

    name, such_as, a_number = "integer", "5", "a whole number"


_KINDS: Mapping[str, Attributes] = {
    "FLAG": {"is_flag": True},
    "INTEGER": {"type": Whole()},
    "INTEGER>=0": {"type": Whole(min=0)},
    "INTEGER>=1": {"type": Whole(min=1)},
    "FLOAT": {"type": Number()},
    "PATH": {"type": click.Path(path_type=Path)},
}


def parsed(parse: Callable[[Any], Any], **attributes: Unpack[Attributes]) -> Attributes:
    """Attributes of an option that a command receives as what `parse` makes of its value."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        return None if value is None else parse(value)

    return {**attributes, "callback": callback}


def repeated(parse: Callable[[Any], Any], **attributes: Unpack[Attributes]) -> Attributes:
    """As `parsed`, of an option that may be given several times: `parse` takes all values."""
    return {**parsed(parse, **attributes), "multiple": True}


def numbers(option: str, such_as: str = "1,2,4") -> Callable[[str], tuple[int, ...]]:
    """How the text of an option becomes whole numbers: `1,2,4` → (1, 2, 4); else a UsageError."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in text.split(","))
        except ValueError as error:
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            expected = f"whole numbers such as {such_as}"
            raise UsageError(f"{option} {shown!r}", expected=expected) from error

    return parse


def names(values: Iterable[str]) -> list[str]:
    """Values of an option that may be repeated and may hold commas, in order, each once."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def small_names(values: Iterable[str]) -> list[str]:
    """As `names`, in small letters."""
    return names(map(str.lower, values))


def task_names(values: Iterable[str]) -> list[str]:
    """As `names`; a task of lm-eval that does not exist is refused, patterns are replaced."""
    from aurac.tasks.listing import expand

    context = click.get_current_context(silent=True)
    return expand(names(values), context and context.params.get("include_path"))


def pairs(values: Iterable[str], option: str, form: str = "NAME=VALUE") -> dict[str, str]:
    """`NAME=VALUE` options → mapping; a UsageError without `=`, or with a name twice."""
    mapping: dict[str, str] = {}
    for value in values:
        name, _, rest = value.partition("=")
        if not name or not rest:
            raise UsageError(f"{option} {value!r}", expected=f"{option} {form}")
        if name in mapping:
            raise UsageError(f"{option} names {name} twice", expected="each name once")
        mapping[name] = rest
    return mapping


def _folders(values: Iterable[str]) -> dict[str, Path]:
    """Task → folder; a folder alone is that of the only task, named by the empty string."""
    given = list(values)
    folders = pairs((value for value in given if "=" in value), "--data", "TASK=FOLDER")
    alone = [value for value in given if "=" not in value]
    if len(given) > 1 and alone:
        raise UsageError(f"--data {alone[0]!r}", expected="--data TASK=FOLDER for each task")
    if alone:
        folders[""] = alone[0]
    return {task: Path(folder).expanduser() for task, folder in folders.items()}


def _groups(values: Iterable[str]) -> dict[str, list[str]]:
    groups = pairs(values, "--group", "NAME=ADAPTER,ADAPTER")
    members = {name: names([adapters]) for name, adapters in groups.items()}
    if empty := [name for name in members if not members[name]]:
        raise UsageError(f"--group {empty[0]!r} without members", expected="NAME=ADAPTER,ADAPTER")
    return members


def complete_tasks(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The bundled tasks; with `a,b` typed, the rest of the last one."""
    from aurac.tasks import BUNDLED

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in BUNDLED if name.startswith(last)]


def _entries(text: str) -> list[tuple[str, str]]:
    """What stands before the help of each option, and the help; a heading has nothing before."""
    entries: list[tuple[str, str]] = []
    for line in inspect.cleandoc(text).splitlines():
        before, _, about = line.partition(": ") if line.startswith("-") else ("", "", line)
        if line.startswith(" "):
            before, about = entries.pop()
            about += f" {line.strip()}"
        if line:
            entries.append((before, about))
    return entries


_SHARED = {
    entry[0].split()[0]: entry
    for entry in _entries("""
        --base: Base model, if another than the adapter records.
        --device [auto]: cpu, cuda, cuda:N, mps.
        --tasks -t: Task names.
        --num-fewshot -f INTEGER>=0: Examples in each prompt. Default: the task's own number.
        --data: TASK=FOLDER with local splits (.jsonl[.gz], .json, .parquet, .csv).
        --include-path: A folder with further tasks, as lm-eval's YAML.
        --metric: [TASK=]NAME[,FILTER]: what accuracy means. Without TASK it is that of all tasks
            that have it.
        --group groups: NAME=ADAPTER,ADAPTER: training seeds of one recipe, compared as one.
        --primary <A,B>: A primary comparison. Holm goes over these alone, and all others are
            exploratory. Default: what the run was declared to ask.
        --reference references <ADAPTER>: The comparisons of this adapter with each other one are
            primary.
        --retry-failed FLAG: Try cells again that failed before.
        --axis <log2|linear|parameters|bytes> [log2]: Rank, by its logarithm or as it is; or the
            truncated adapter's size, compared at the amounts that all were measured at.
        --revision: Revision of a hub id (or OWNER/NAME@REVISION).
        --subfolder: Folder of the adapter below CKPT (or OWNER/NAME:SUBFOLDER).
        --details FLAG: Methods of intervals, gains and losses, reasons, tests.
        --json as_json FLAG: Print JSON.
    """)
}
"""Options that commands name without a help."""

_SHARED_ATTRIBUTES: Mapping[str, Attributes] = {
    "tasks": repeated(task_names, shell_complete=complete_tasks),
    "data": repeated(_folders),
    "include_path": {"type": click.Path(exists=True, file_okay=False), "is_eager": True},
    "metric": repeated(parse_metrics),
    "groups": repeated(_groups),
    "primary": {"multiple": True},
    "references": {"multiple": True},
}
"""Attributes of options, by their names in Python, where a command gives none."""


def _option(before: str, about: str, given: Mapping[str, Attributes]) -> click.Option:
    """An option from its entry in the text, and what is given beside it under its name."""
    spelling, attributes = [], Attributes()
    for word in before.split():
        if word.startswith("-") or (word.isidentifier() and word.islower()):
            spelling.append(word)
        elif word.startswith("["):
            attributes["default"] = word.strip("[]")
        elif word.startswith("<"):
            attributes["metavar"] = word.strip("<>")
        elif "|" in word:
            attributes["type"] = click.Choice(word.split("|"), case_sensitive=False)
        elif word in _KINDS:
            attributes |= _KINDS[word]
        else:
            raise TypeError(f"{before}: {word} is no kind of option")
    name = str(click.Option(spelling).name)
    attributes |= given.get(name, _SHARED_ATTRIBUTES.get(name, {}))
    attributes.setdefault("show_default", "default" in attributes)
    return click.Option(spelling, help=about, **attributes)


def options(text: str, **attributes: Attributes) -> Decorator:
    """The options of a command, as its help lists them.

    Args:
        text: An entry for each option, `--name -n KIND [default]: help`, whose further lines are
            indented, below the headings of the help. KIND is one of `_KINDS`, words `a|b|c` to
            choose from, or `<what the help shows>` for any text. `--name` alone, with a help or
            without, is a shared option.
        attributes: By the option's name in Python what else `click.option` takes.

    Raises:
        TypeError: An entry that cannot be read, or attributes of no option.
    """
    declared: list[click.Option] = []
    title = ""
    for before, words in _entries(text):
        if not before:
            title = words
            continue
        shared, about = _SHARED.get(before, (before, ""))
        if not (words or about):
            raise TypeError(f"{before} is no shared option")
        option = _option(shared, words or about, attributes)
        vars(option)["group"] = title
        declared.append(option)
    if unknown := {*attributes} - {str(option.name) for option in declared}:
        raise TypeError(f"attributes of no option: {', '.join(unknown)}")

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        vars(command).setdefault("__click_params__", []).extend(reversed(declared))
        return command

    return add


ALL = "--help-all"
_EXIT = "Exit codes: 0 done, 2 bad input, 130 interrupted."


def _show_all(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.meta[ALL] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()


class Command(click.Command):
    """A command whose help shows the headings of its `options`.

    Args:
        short: The options that `--help` shows, by their names without hyphens before them;
            `--help-all` shows the rest, too. Without any `--help` shows all.
    """

    def __init__(self, *args: Any, short: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epilog = self.epilog or _EXIT
        self.short = [f"--{name}" for name in short.split()]
        count = sum(isinstance(p, click.Option) and not p.hidden for p in self.params)
        shown: Attributes = {"is_flag": True, "expose_value": False, "hidden": not short}
        about = f"Show all {count} options and exit."
        every = click.Option([ALL], help=about, is_eager=True, callback=_show_all, **shown)
        self.params.append(every)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading; `--help` is among the options that have none."""
        sections: dict[str, list[tuple[str, str]]] = {}
        short = {*self.short, ALL, *ctx.help_option_names} if self.short else set()
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is None or not isinstance(parameter, click.Option):
                continue
            if ALL in ctx.meta or not short:
                sections.setdefault(getattr(parameter, "group", ""), []).append(row)
            elif short.intersection(parameter.opts):
                sections.setdefault("", []).append(row)
        for number, (title, rows) in enumerate(sections.items()):
            with formatter.section(title or ("Other options" if number else "Options")):
                formatter.write_dl(rows)


_ALIASES = {"delta": "margin", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


def hyphens(name: str) -> str:
    """As click's `token_normalize_func`: `--num_fewshot` → `--num-fewshot`; aliases."""
    return _ALIASES.get(name) or name.replace("_", "-")


command = functools.partial(
    click.command, cls=Command, context_settings={"token_normalize_func": hyphens}
)
"""As `click.command`, with headings and either spelling of an option."""


def refuse_given(names: Iterable[str], when: str, fix: str) -> None:
    """Refuse options, by their names in Python, that were typed and would change nothing.

    Raises:
        UsageError: One of them was, `when` and with `fix`.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        typed = context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
        if parameter.name in names and typed:
            raise UsageError(f"{max(parameter.opts, key=len)} {when}", fix=fix)


def print_json(content: Any) -> None:
    """JSON on standard output, of records too; without NaN."""
    plain = to_builtins(content, enc_hook=str, str_keys=True)
    click.echo(json.dumps(plain, indent=2, allow_nan=False))


def print_result(content: Any, text: str, *, as_json: bool) -> None:
    """A result on standard output: its `content` as JSON, or its `text`."""
    if as_json:
        print_json(content)
    else:
        print_text(text)


def print_text(text: str, *, error: bool = False) -> None:
    """Text on standard output, or error; on a terminal long lines are broken between words."""
    click.echo(wrapped(text, terminal_width(error=error)), err=error)


def as_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as text; where the terminal is too narrow, lines of `column: value`."""
    from aurac.show.table import text_table

    return text_table(head, rows).plain()
