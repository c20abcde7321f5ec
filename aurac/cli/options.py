"""How commands parse and list their options, and the options that several of them share."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aurac.adapters import Adapter

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_OTHER = "Other options"


def hyphens(name: str) -> str:
    """`--num_fewshot` → `--num-fewshot`: click's `token_normalize_func` of every command."""
    return name.replace("_", "-")


def options(text: str, **attributes: Mapping[str, Any]) -> Decorator:
    """The options of a command, as its help lists them.

    Args:
        text: An entry for each option, `--name -n: help`, whose further lines are indented, below
            the headings that a `GroupedCommand` shows.
        attributes: By the option's name in Python what `click.option` takes. A default is shown.
    """
    entries = re.findall(r"^(?:(-.*?): )?(\S.*(?:\n +.*)*)", inspect.cleandoc(text), re.MULTILINE)
    rows: list[tuple[str, Decorator]] = []
    title = _OTHER
    for names, words in entries:
        if not names:
            title = words
            continue
        given = attributes.pop(str(click.Option(names.split()).name), {})
        shown = {"help": " ".join(words.split()), "show_default": "default" in given}
        rows.append((title, click.option(*names.split(), **{**shown, **given})))
    if attributes:
        raise TypeError(f"attributes of no option: {', '.join(attributes)}")

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for heading, option in reversed(rows):
            command = option(command)
            vars(command)["__click_params__"][-1].group = heading
        return command

    return add


FLAG: Mapping[str, Any] = {"is_flag": True}
COUNT: Mapping[str, Any] = {"type": click.IntRange(min=1)}
FROM_0: Mapping[str, Any] = {"type": click.IntRange(min=0)}
INTEGER: Mapping[str, Any] = {"type": int}
NUMBER: Mapping[str, Any] = {"type": float}


def choice(*words: str, **attributes: Any) -> dict[str, Any]:
    """Attributes of an option that is one of these words."""
    return {"type": click.Choice(words), **attributes}


def parsed(parse: Callable[[Any], Any]) -> dict[str, Any]:
    """Attributes of an option that a command receives as what `parse` makes of its value."""
    return {"callback": lambda _context, _parameter, value: parse(value)}


def repeated(parse: Callable[[Any], Any], **attributes: Any) -> dict[str, Any]:
    """As `parsed`, of an option that may be given several times."""
    return {"multiple": True, **parsed(parse), **attributes}


class GroupedCommand(click.Command):
    """A command whose help shows the headings of its `options`."""

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


_CHECKPOINT = options(
    """
    Checkpoints that do not describe themselves
    --method: How it was trained: lora, dylora, matryoshka, nested_loss, …
    --scaling: Scaling rule: alpha, alpha/r or alpha/sqrt(r).
    --alpha: Alpha of the scaling rule.
    --nested-ranks: Nested ranks of the training, such as 1,2,4,8.
    --mask-type: MatryoshkaLoRA's research code: its --matryoshka_mask_type, diag unless given.
    --enable-lora: Groups of loralib's MergedLinear that are on, such as 1,0,1 for GPT-2's q and v.
    --a-key: Names of the A's in a file of its own, such as {module}.lora_down.weight.
    --b-key: Names of the B's, such as {module}.lora_up.weight.
    --alpha-key: Names of an alpha per module, such as {module}.alpha.
    --key-map: The same one by one, as a JSON or YAML file of module: {A: key, B: key}.
    """,
    scaling=choice("none", "rank", "sqrt"),
    mask_type=choice("diag", "binary"),
    alpha=NUMBER,
    key_map={"type": click.Path(path_type=Path)},
)


def checkpoint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a checkpoint's file may not say; gathered into the keyword `checkpoint`."""

    @_CHECKPOINT
    @functools.wraps(command)
    def wrapped(**options: Any) -> Any:
        take = options.pop
        overrides = {name: take(name) for name in ("method", "scaling", "alpha", "mask_type")}
        overrides["nested_ranks"] = whole_numbers(take("nested_ranks"), "--nested-ranks")
        switches = whole_numbers(take("enable_lora"), "--enable-lora")
        if not set(switches or ()) <= {0, 1}:
            expected = "one 0 or 1 for each group"
            raise UsageError("--enable-lora with other numbers", expected=expected)
        overrides["enable_lora"] = None if switches is None else tuple(map(bool, switches))
        patterns = {"A": take("a_key"), "B": take("b_key"), "alpha": take("alpha_key")}
        overrides["keys"] = _keys(patterns, take("key_map"))
        return command(checkpoint=overrides, **options)

    return wrapped


def print_json(content: Any, indent: int | None = 2, **options: Any) -> None:
    """JSON on standard output, without NaN."""
    click.echo(json.dumps(content, indent=indent, allow_nan=False, **options))


def hub_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where in a hub repository one checkpoint lies; gathered into the keyword `place`."""

    @options(
        """
        --revision: Revision of a hub id (or OWNER/NAME@REVISION).
        --subfolder: Folder of the adapter below CKPT (or OWNER/NAME:SUBFOLDER).
        """,
    )
    @functools.wraps(command)
    def wrapped(revision: str | None, subfolder: str | None, **rest: Any) -> Any:
        return command(place={"revision": revision, "subfolder": subfolder}, **rest)

    return wrapped


def open_checkpoint(path: str, base: str | None, **options: Any) -> Adapter:
    """An adapter whose weights are read when they are needed; see `load_adapter`."""
    from aurac.adapters import load_adapter
    from aurac.models.base import KnownBase
    from aurac.models.device import return_freed_memory

    return_freed_memory()
    return load_adapter(path, base=base, bases=KnownBase, lazy=True, **options)


def _keys(patterns: dict[str, str | None], path: Path | None) -> dict[str, Any] | None:
    keys = {side: pattern for side, pattern in patterns.items() if pattern is not None}
    if path is not None:
        if keys:
            raise UsageError("--key-map beside --a-key, --b-key or --alpha-key", expected="one way")
        from aurac.adapters.formats.key_map import read_key_map

        return read_key_map(path)
    if keys and not {"A", "B"} <= set(keys):
        raise UsageError("one of --a-key and --b-key alone", expected="both")
    return keys or None


def whole_numbers(text: str | None, option: str, such_as: str = "1,2,4") -> tuple[int, ...] | None:
    """`1,2,4` → (1, 2, 4); else a UsageError."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise UsageError(
            f"{option} {shown!r}", expected=f"whole numbers such as {such_as}"
        ) from error


def names(values: Sequence[str]) -> list[str]:
    """Values of an option that may be repeated and may hold commas, in order, each once."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def task_names(values: Sequence[str]) -> list[str]:
    """As `names`, with patterns such as `mmlu_*` replaced by the tasks that they match."""
    tasks: list[str] = []
    for name in names(values):
        if not set("*?[") & set(name):
            tasks.append(name)
            continue
        from aurac.tasks import BUNDLED
        from aurac.tasks.index import task_index

        matching = fnmatch.filter(sorted([*BUNDLED, *task_index()]), name)
        if not matching:
            raise UsageError(f"--tasks {name} matches no task", fix="`aurac tasks` lists them")
        tasks += matching
    return list(dict.fromkeys(tasks))


def pairs(values: Sequence[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` options → mapping; a UsageError without `=`, or with a key twice."""
    mapping: dict[str, str] = {}
    for value in values:
        key, sign, rest = value.partition("=")
        if not sign or not key or not rest:
            raise UsageError(f"{option} {value!r}", expected=f"{option} NAME=VALUE")
        if key in mapping:
            raise UsageError(f"{option} names {key} twice", expected="each name once")
        mapping[key] = rest
    return mapping


def folders(values: Sequence[str]) -> dict[str, Path]:
    """`TASK=FOLDER` options → mapping to paths."""
    return {task: Path(folder).expanduser() for task, folder in pairs(values, "--data").items()}


def complete_tasks(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The bundled tasks; with `a,b` typed, the rest of the last one."""
    from aurac.tasks import BUNDLED

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in BUNDLED if name.startswith(last)]


def complete_recipes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The built-in recipes."""
    root = Path(__file__).parents[1] / "training" / "recipes"
    names = sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


def complete_bases(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The packaged models."""
    from aurac.models.packaged import PACKAGED

    return [name for name in PACKAGED if name.startswith(incomplete)]
