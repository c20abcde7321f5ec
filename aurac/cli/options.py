"""Options that several commands share, and how their values are taken apart."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def checkpoint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a checkpoint's file may not say; gathered into the keyword `checkpoint`."""

    @click.option(
        "--method", type=click.Choice(["lora", "dylora", "matryoshka"]), help="How it was trained."
    )
    @click.option(
        "--scaling",
        type=click.Choice(["none", "rank", "sqrt"]),
        help="Scaling rule: alpha, alpha/r or alpha/sqrt(r).",
    )
    @click.option("--alpha", type=float, help="Alpha of the scaling rule.")
    @click.option("--nested-ranks", help="Nested ranks of the training, such as 1,2,4,8.")
    @functools.wraps(command)
    def wrapped(
        method: str | None,
        scaling: str | None,
        alpha: float | None,
        nested_ranks: str | None,
        **rest: Any,
    ) -> Any:
        said = {
            "method": method,
            "scaling": scaling,
            "alpha": alpha,
            "nested_ranks": whole_numbers(nested_ranks, "--nested-ranks"),
        }
        return command(checkpoint=said, **rest)

    return wrapped


def print_json(content: Any) -> None:
    """JSON on standard output, without NaN."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def whole_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """`1,2,4` → (1, 2, 4).

    Raises:
        UsageError: Something that is no whole number.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}", expected="whole numbers such as 1,2,4") from error


def names(values: Sequence[str]) -> list[str]:
    """Values of an option that may be repeated and may hold commas, in order, each once."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def pairs(values: Sequence[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` options → mapping.

    Raises:
        UsageError: No `=`, or a key given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        key, sign, rest = value.partition("=")
        if not sign or not key or not rest:
            raise UsageError(f"{option} {value!r}", expected=f"{option} NAME=VALUE")
        if key in found:
            raise UsageError(f"{option} names {key} twice", expected="each name once")
        found[key] = rest
    return found


def folders(values: Sequence[str]) -> dict[str, Path]:
    """`TASK=FOLDER` options → mapping to paths."""
    return {task: Path(folder).expanduser() for task, folder in pairs(values, "--data").items()}
