"""What a task may be told: which documents, which prompts, which generation, which metric."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import msgspec

from aurac.arguments import as_fraction, converted, suggestion
from aurac.errors import UsageError

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_PART = re.compile(r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^,])+""")  # commas split outside of quotes
T = TypeVar("T")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens", "top_k")
_WHOLE = (Annotated[int, msgspec.Meta(ge=1)] | None, "a whole number from 1")
_NUMBER = (Annotated[float, msgspec.Meta(ge=0)] | None, "a number from 0")
_GENERATION: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(_LENGTHS, _WHOLE),
    **dict.fromkeys(("temperature", "top_p", "min_p"), _NUMBER),
    "do_sample": (bool | None, "true or false"),
    "until": (str | list[str] | None, 'a text or a list of texts, such as ["Q:"]'),
}
"""What settings of generation must be: type and words. No other changes how text is decoded."""


def number_of_documents(limit: Any) -> float | None:
    """`100` → 100, 0 for all, `0.1` → that share of them, None → None; else a UsageError."""
    try:
        number: float | None = converted(limit, float | None, "limit")
    except UsageError:
        number = -1.0
    if number is None or 0 < number < 1:
        return number
    if number < 0 or not float(number).is_integer():
        expected, fix = "a number of documents, or a share below 1", as_fraction(limit)
        raise UsageError(f"--limit {limit!r}", expected=expected, fix=fix if number < 0 else None)
    return int(number)


class Prompting(TypedDict, total=False):
    """Settings that are part of a cell's identity where they are given, and absent otherwise."""

    system_instruction: str
    fewshot_as_multiturn: bool
    gen_kwargs: str
    repeats: int
    max_length: int


@dataclass(frozen=True)
class TaskOptions:
    """How tasks are built; the names are those of the command line.

    Attributes:
        num_fewshot: Examples in each prompt; ``None``: the task's own number. Tasks that fix
            themselves to 0 keep 0, as in lm-eval.
        fewshot: ``stock`` samples examples as the task says; ``fixed`` shows the first
            ``num_fewshot`` of the few-shot split to every document.
        seed: Of the few-shot sampling.
        fewshot_seeds: Draw the examples with so many seeds, from `seed` on: the score of a document
            is the mean over them.
        limit: Only the first so many documents (0: all), or below 1 that share of them, of each
            task or of those that a mapping names.
        split: Evaluate this split of each task; ``None`` takes the one that lm-eval would.
        metric: Task (``*`` or the empty string for all) to the ``name,filter`` that is integrated,
            or its name alone. A task that lacks what was asked of all keeps its default.
        data: Task (or its YAML file) to folder with its splits; for a group with a sub-folder for
            each leaf, named as the leaf or as its data set.
        chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: A text before everything else, with a chat template its system turn.
        fewshot_as_multiturn: With a chat template, whether each example is a turn of the user and
            one of the assistant (``None``, as lm-eval: yes) or all are in one turn of the user.
        gen_kwargs: Settings of generation that replace or extend the task's own, as lm-eval's
            ``--gen_kwargs``.
        repeats: So many sampled answers for each document; its score is their mean.
        max_length: Longest input in tokens; a longer one loses its beginning. ``None``: as the
            model has it.
        pass_at: For each k a further curve: the chance that one of k samples is right.
        include_path: A folder with further tasks as YAML, which come before lm-eval's own.
        cluster: Task or group to the documents' field by which they are clustered; a task's own
            ``metadata: {cluster: FIELD}`` says it, too.
        held_out: Keep a split of local or bundled documents beside the evaluated one, to fit on.
    """

    num_fewshot: int | None = None
    fewshot: Literal["stock", "fixed"] = "stock"
    seed: int = 1234
    fewshot_seeds: int = 1
    limit: float | Mapping[str, float] | None = None
    split: Literal["test", "validation"] | None = None
    metric: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Path] = field(default_factory=dict)
    chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    repeats: int | None = None
    max_length: int | None = None
    pass_at: Sequence[int] = ()
    include_path: str | Path | None = None
    cluster: Mapping[str, str] = field(default_factory=dict)
    held_out: bool = False

    def limit_of(self, task: str) -> float | None:
        """How many documents of a task, or which share of them; ``None`` for all."""
        return self.limit.get(task) if isinstance(self.limit, Mapping) else self.limit

    def prompting(self) -> Prompting:
        """What is not lm-eval's default."""
        settings: Prompting = {}
        if self.system_instruction:
            settings["system_instruction"] = self.system_instruction
        if self.chat_template and self.fewshot_as_multiturn is False:
            settings["fewshot_as_multiturn"] = False
        if self.gen_kwargs:
            settings["gen_kwargs"] = json.dumps(dict(self.gen_kwargs), sort_keys=True)
        if self.repeats and self.repeats > 1:
            settings["repeats"] = self.repeats
        if self.max_length:
            settings["max_length"] = self.max_length
        return settings

    def check(self) -> None:
        """Refuse, as a UsageError, numbers out of range and options that do not go together."""
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
        if self.fewshot_as_multiturn and not self.chat_template:
            raise UsageError(
                "--fewshot-as-multiturn without a chat template", fix="give --chat-template as well"
            )
        _check_generation(self.gen_kwargs)
        self._check_samples()

    def _check_samples(self) -> None:
        if self.fewshot_seeds < 1:
            raise UsageError(f"--fewshot-seeds {self.fewshot_seeds}", expected="1 or more")
        if self.fewshot_seeds > 1 and self.fewshot == "fixed":
            raise UsageError(
                f"--fewshot-seeds {self.fewshot_seeds} with --fewshot fixed",
                expected="examples that are drawn",
                fix="leave one of the two out",
            )
        if self.repeats is not None and self.repeats < 1:
            raise UsageError(f"--repeats {self.repeats}", expected="1 sample or more")
        for k in self.pass_at:
            if not 1 <= k <= (self.repeats or 1):
                raise UsageError(
                    f"--pass-at {k} with {self.repeats or 1} samples of each document",
                    expected="a number from 1 to that of the samples",
                    fix=f"give --repeats {max(k, 2)} or more" if k >= 1 else None,
                )


def parse_gen_kwargs(values: Iterable[str]) -> dict[str, object]:
    """`--gen-kwargs`: ``temperature=0.7,until=["Q:"]`` or a JSON object, as lm-eval reads it."""
    settings = named_values(values, "--gen-kwargs", _value)
    _check_generation(settings)
    return settings


def named_values(texts: Iterable[str], option: str, read: Callable[[str], T]) -> dict[str, T]:
    """``a=1,b=2`` with values as `read` makes them, or a JSON object; else a UsageError."""
    values: dict[str, T] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            try:
                values |= json.loads(text)
            except ValueError as error:
                raise UsageError(f"{option} {text!r}", expected="a JSON object") from error
            continue
        for part in filter(None, map(str.strip, _PART.findall(text))):
            name, sign, value = part.partition("=")
            if not sign or not name.strip():
                raise UsageError(f"{option} {part!r}", expected="NAME=VALUE,NAME=VALUE")
            values[name.strip()] = read(value.strip())
    return values


def parse_pass_at(values: Iterable[str]) -> tuple[int, ...]:
    """`--pass-at 1,4` → (1, 4)."""
    parts = [part.strip() for text in values for part in text.split(",")]
    if not all(map(str.isdecimal, parts)):
        raise UsageError(f"--pass-at {','.join(values)}", expected="whole numbers such as 1,4")
    return tuple(dict.fromkeys(map(int, parts)))


def _value(text: str) -> object:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check_generation(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        if name not in _GENERATION:
            known = f"some of {', '.join(_GENERATION)}"
            fix = suggestion(name, _GENERATION)
            raise UsageError(f"--gen-kwargs {name}={value!r}", expected=known, fix=fix)
        kind, wanted = _GENERATION[name]
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            raise UsageError(
                f"--gen-kwargs {name}={value!r}", expected=f"{name}: {wanted}"
            ) from None
    if settings.get("do_sample") and settings.get("temperature") == 0:
        raise UsageError(
            "--gen-kwargs do_sample=true with temperature=0",
            expected="a temperature above 0 to sample, or do_sample=false",
        )
