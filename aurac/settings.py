"""What a comparison may be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from aurac.adapters.truncate import Basis, Rescale


@dataclass(frozen=True)
class Settings:
    """What a comparison may be told; the names are those of the command line.

    Attributes:
        ranks: `pow2`, `all` or explicit ranks.
        basis: One or more of `prefix`, `svd`; the first is the one compared.
        rescale: One or more of `rule`, `keep`, `trained`, `fit`; None: each adapter's default.
        num_fewshot: Examples in each prompt; None: the task's own number.
        fewshot: `stock` (lm-eval's sampling) or `fixed` (one header for all documents).
        limit: Only the first so many documents of each task (0: all). None: the first
            `aurac.tasks.QUICK_DOCUMENTS` of a bundled task, all of any other.
        split: `test` or `validation`; None: the split that lm-eval evaluates.
        metric: task → `name,filter`; the key "" holds for every task.
        data: task → folder with local splits.
        chat_template: Put prompts through the tokenizer's chat template.
        base: Base model; None: the one the adapters record.
        dtype, device: As `aurac.bases` picks them; None: automatic.
        batch_size, batch_tokens: Budgets of the engine.
        seed: Of the few-shot sampling.
        checkpoint: What the files do not say: method, scaling, alpha, nested_ranks.
        trust_remote_code: Let the base run its own code.
        groups: arm → names of the adapters that are seeds of one recipe.
    """

    ranks: str | Sequence[int] = "pow2"
    basis: Sequence[Basis] = ("prefix",)
    rescale: Sequence[Rescale] | None = None
    num_fewshot: int | None = None
    fewshot: Literal["stock", "fixed"] = "stock"
    limit: int | None = None
    split: Literal["test", "validation"] | None = None
    metric: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Path] = field(default_factory=dict)
    chat_template: bool = False
    base: str | None = None
    dtype: str | None = None
    device: str | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    seed: int = 1234
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
