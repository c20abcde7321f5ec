"""Options for what a checkpoint's file may not say, and the adapter that they describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.cli.options import numbers, options, parsed

if TYPE_CHECKING:
    from aurac.adapters import Adapter

checkpoint_options = options(
    """
    --base: Base model, where the checkpoint does not name it or leaves its shapes open.
    Checkpoints that do not describe themselves
    --method lora|dylora|matryoshka|nested_loss: How it was trained.
    --scaling none|rank|sqrt: Scaling rule: alpha, alpha/r or alpha/sqrt(r).
    --alpha FLOAT: Alpha of the scaling rule.
    --nested-ranks: Nested ranks of the training, such as 1,2,4,8.
    """,
    nested_ranks=parsed(numbers("--nested-ranks")),
)


def open_checkpoint(path: str, stated: dict[str, Any]) -> Adapter:
    """An adapter with what the options of `checkpoint_options` state; see `load_adapter`."""
    from aurac.adapters import load_adapter

    return load_adapter(path, **stated)
