"""What a task may be told: which examples, which prompts, which generation, which metric."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aurac.errors import UsageError

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_PART = re.compile(r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^,])+""")  # commas split outside of quotes


@dataclass(frozen=True)
class TaskOptions:
    """How tasks are built.

    Attributes:
        num_fewshot: Few-shot examples in each prompt; None: the task's own number. Tasks that fix
            themselves to 0 keep 0, as in lm-eval.
        fewshot: ``stock`` samples them as the task says; ``fixed`` shows the first ones of the
            few-shot split in every prompt.
        seed: Of the few-shot sampling.
        limit: Only the first so many examples of each task, or below 1 that share of them, or of
            the tasks that a mapping names.
        metric: Task or group (``*`` for all) to the ``name,filter`` that is compared, or its name
            alone. A task that lacks what was asked of all keeps its default.
        data: Task (or its YAML file) to folder with its splits; for a group with a sub-folder for
            each task, named as the task or as its data set.
        chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: A text before everything else, with a chat template its system turn.
        fewshot_as_multiturn: With a chat template, whether each few-shot example is a turn of the
            user and one of the assistant (None, as lm-eval: yes).
        gen_kwargs: Settings of generation that replace or extend the task's own.
        include_path: A folder with further tasks as YAML, which come before lm-eval's own.
        cluster: Task or group to the field by which its examples are clustered; a task's own
            ``metadata: {cluster: FIELD}`` says it, too.
    """

    num_fewshot: int | None = None
    fewshot: Literal["stock", "fixed"] = "stock"
    seed: int = 1234
    limit: float | Mapping[str, float] | None = None
    metric: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Path] = field(default_factory=dict)
    chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    include_path: str | Path | None = None
    cluster: Mapping[str, str] = field(default_factory=dict)

    def limit_of(self, task: str) -> float | None:
        """How many examples of a task, or which share of them; None for all."""
        return self.limit.get(task) if isinstance(self.limit, Mapping) else self.limit


def parse_gen_kwargs(texts: Iterable[str]) -> dict[str, object]:
    """`--gen-kwargs`: ``temperature=0.7,until=["Q:"]`` or a JSON object, as lm-eval reads it."""
    values: dict[str, object] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            try:
                values |= json.loads(text)
            except ValueError as error:
                raise UsageError(f"--gen-kwargs {text!r} is no JSON object.") from error
            continue
        for part in filter(None, map(str.strip, _PART.findall(text))):
            name, sign, value = part.partition("=")
            if not sign or not name.strip():
                raise UsageError(f"--gen-kwargs {part!r} is not NAME=VALUE,NAME=VALUE.")
            values[name.strip()] = _value(value.strip())
    return values


def _value(text: str) -> object:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
