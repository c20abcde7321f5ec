"""Options for what a checkpoint's file may not say, and the adapter that they describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from aurac.cli.options import Attributes, numbers, options
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aurac.adapters import Adapter
    from aurac.runs.settings import Overrides

_STATED = "aurac.checkpoint"  # where a context keeps what is stated of a checkpoint


def _stated(parse: Callable[[Any], Any] = lambda value: value) -> Attributes:
    """Attributes of an option that `checkpoint_overrides` reads, not the command."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        stated = context.meta.setdefault(_STATED, {})
        stated[parameter.name] = None if value is None else parse(value)

    return {"callback": callback, "expose_value": False}


def _switches(text: str) -> tuple[bool, ...]:
    switches = numbers("--enable-lora", "1,0,1")(text)
    if not set(switches) <= {0, 1}:
        expected = "one 0 or 1 for each group"
        raise UsageError("--enable-lora with other numbers", expected=expected)
    return tuple(map(bool, switches))


checkpoint_options = options(
    """
    Checkpoints that do not describe themselves
    --method: How it was trained: lora, dylora, matryoshka, nested_loss, …
    --scaling none|rank|sqrt: Scaling rule: alpha, alpha/r or alpha/sqrt(r).
    --alpha FLOAT: Alpha of the scaling rule.
    --nested-ranks: Nested ranks of the training, such as 1,2,4,8.
    --mask-type diag|binary: MatryoshkaLoRA's research code: its --matryoshka_mask_type, diag unless
        given.
    --enable-lora: Groups of loralib's MergedLinear that are on, such as 1,0,1 for GPT-2's q and v.
    --a-key: Names of the A's in a file of its own, such as {module}.lora_down.weight.
    --b-key: Names of the B's, such as {module}.lora_up.weight.
    --alpha-key: Names of an alpha per module, such as {module}.alpha.
    --key-map PATH: The same one by one, as a JSON or YAML file of module: {A: key, B: key}.
    """,
    **dict.fromkeys(("method", "scaling", "alpha", "mask_type"), _stated()),
    **dict.fromkeys(("a_key", "b_key", "alpha_key", "key_map"), _stated()),
    nested_ranks=_stated(numbers("--nested-ranks")),
    enable_lora=_stated(_switches),
)
"""What a checkpoint's file may not say; a command asks `checkpoint_overrides` for it."""


def checkpoint_overrides() -> Overrides:
    """What the options of `checkpoint_options` state in this command."""
    given = dict(click.get_current_context().meta[_STATED])
    path: Path | None = given.pop("key_map")
    keys = {side: given.pop(f"{side.lower()}_key") for side in ("A", "B", "alpha")}
    patterns = {side: pattern for side, pattern in keys.items() if pattern is not None}
    if path is not None:
        if patterns:
            raise UsageError("--key-map beside --a-key, --b-key or --alpha-key", expected="one way")
        from aurac.adapters.formats.state_dict import read_key_map

        return cast("Overrides", {**given, "keys": read_key_map(path)})
    if patterns and not {"A", "B"} <= set(patterns):
        raise UsageError("one of --a-key and --b-key alone", expected="both")
    return cast("Overrides", {**given, "keys": patterns or None})


def open_checkpoint(
    path: str, base: str | None, revision: str | None, subfolder: str | None
) -> Adapter:
    """An adapter whose weights are read when they are needed; see `load_adapter`."""
    from aurac.adapters import load_adapter
    from aurac.models.base import KnownBase
    from aurac.models.device import return_freed_memory

    return_freed_memory()
    stated: Overrides = {**checkpoint_overrides(), "base": base}
    return load_adapter(
        path, bases=KnownBase, revision=revision, subfolder=subfolder, lazy=True, **stated
    )
