"""What a task may be told: which examples, which prompts, which generation, which metric."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aurac.errors import UsageError
from aurac.tasks.bundled import BUNDLED

QUICK_EXAMPLES = 100.0  # of a bundled task without a limit: a minute or two on a CPU

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_PART = re.compile(r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^,])+""")  # commas split outside of quotes


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How tasks are built.

    Attributes:
        limit: Only the first so many examples of each task, or below 1 that share of them; 0 takes
            all. None: 100 of a bundled task, all of any other.
        metric: Task or group (``*`` for all) → the ``name,filter`` that is compared, or its name
            alone. A task that lacks what was asked of all keeps its default.
        split: Evaluate on this split of the data, such as ``validation``; None: what lm-eval takes,
            the test split where there is one.
        data: Task (or its YAML file) → folder with its splits; for a group with a sub-folder for
            each task, named as the task or as its data set.
        include_path: A folder with further tasks as YAML, which come before lm-eval's own.
        cluster: Task or group → field of its examples: those with the same value are no
            independent ones. A task's own ``metadata: {cluster: FIELD}`` says it, too.
        num_fewshot: Few-shot examples in each prompt; None: the task's own number. Tasks that fix
            themselves to 0 keep 0, as in lm-eval.
        fewshot: ``stock`` samples them as the task says; ``fixed`` shows the first ones of the
            few-shot split in every prompt.
        seed: Of the few-shot sampling.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: A text before everything else, with a chat template its system turn.
        fewshot_as_multiturn: With a chat template, whether each few-shot example is a turn of the
            user and one of the assistant (None, as lm-eval: yes).
        gen_kwargs: Settings of generation that replace or extend the task's own.
    """

    limit: Annotated[float, Meta(ge=0)] | None = None
    metric: dict[str, str] = {}
    split: str | None = None
    data: dict[str, str] = {}
    include_path: str | None = None
    cluster: dict[str, str] = {}
    num_fewshot: Annotated[int, Meta(ge=0)] | None = None
    fewshot: Literal["stock", "fixed"] = "stock"
    seed: int = 1234
    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: dict[str, Any] = {}

    def limit_of(self, task: str) -> float | None:
        """How many examples of a task, or which share of them; None for all."""
        if self.limit is None and task in BUNDLED and task not in self.data:
            return QUICK_EXAMPLES
        return self.limit or None

    def count(self, task: str, split: int) -> int:
        """How many of the examples of a task's split are evaluated; a share is rounded up."""
        limit = self.limit_of(task)
        if limit is None:
            return split
        return min(split, math.ceil(limit * split) if limit < 1 else int(limit))


def parse_pairs(option: str, given: Mapping[str, Any] | str | Iterable[str]) -> dict[str, Any]:
    """``temperature=0.7,until=["Q:"]`` or a JSON object, as lm-eval reads it, or several."""
    if isinstance(given, Mapping):
        return dict(given)
    values: dict[str, Any] = {}
    for text in [given] if isinstance(given, str) else given:
        if text.lstrip().startswith("{"):
            try:
                values |= json.loads(text)
            except ValueError as error:
                raise UsageError(f"{option} {text!r} is no JSON object.") from error
            continue
        for part in filter(None, map(str.strip, _PART.findall(text))):
            name, sign, value = part.partition("=")
            if not sign or not name.strip():
                raise UsageError(f"{option} {part!r} is not NAME=VALUE,NAME=VALUE.")
            values[name.strip()] = _value(value.strip())
    return values


def _value(text: str) -> object:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
