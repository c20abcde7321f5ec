"""What a task may be told: which documents, which prompts, which metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aurac.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class TaskOptions:
    """How tasks are built; the names are those of the command line.

    Attributes:
        num_fewshot: Examples in each prompt. ``None`` takes the task's own number. Tasks that fix
            themselves to 0 keep 0, as in lm-eval.
        fewshot: ``stock`` samples examples as the task says; ``fixed`` shows the first
            ``num_fewshot`` examples of the few-shot split to every document: another prompt.
        seed: Of the few-shot sampling.
        limit: Only the first so many documents of each task; below 1, that share of them. A
            mapping gives it for the names in it, and leaves the others whole.
        split: Evaluate this split of each task; ``None`` takes the one that lm-eval would.
        metric: Task (``*`` or the empty string for all) to the ``name,filter`` that is integrated.
        data: Task to folder with its splits, instead of the hub; for a group one sub-folder for
            each leaf, named as the leaf or as its data set.
        chat_template: Whether prompts go through the tokenizer's chat template.
        cluster: Task or group to the documents' field by which they are clustered; a task's own
            ``metadata: {cluster: FIELD}`` says it, too.
        held_out: Keep a split of local or bundled documents beside the evaluated one, to fit on.
    """

    num_fewshot: int | None = None
    fewshot: Literal["stock", "fixed"] = "stock"
    seed: int = 1234
    limit: float | Mapping[str, float] | None = None
    split: Literal["test", "validation"] | None = None
    metric: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Path] = field(default_factory=dict)
    chat_template: bool = False
    cluster: Mapping[str, str] = field(default_factory=dict)
    held_out: bool = False

    def limit_of(self, task: str) -> float | None:
        """How many documents of a task, or which share of them; ``None`` for all."""
        return self.limit.get(task) if isinstance(self.limit, Mapping) else self.limit

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            UsageError: A negative number of examples, a limit that leaves no document, or another
                few-shot mode.
        """
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UsageError(f"num_fewshot {self.num_fewshot} is negative", expected="0 or more")
        limits = self.limit.values() if isinstance(self.limit, Mapping) else [self.limit]
        for value in limits:
            if value is not None and value <= 0:
                raise UsageError(
                    f"limit {value} leaves no document", expected="1 or more, or a share"
                )
        if self.fewshot not in ("stock", "fixed"):
            raise UsageError(
                f"few-shot mode {self.fewshot!r} is unknown", expected="stock or fixed"
            )
