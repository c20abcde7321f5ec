"""What a comparison may be told: one record for the command line, Python and files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aurac.backends.keys import secrets
from aurac.curves.metrics import asked_metrics
from aurac.errors import UsageError

_HF = {
    "pretrained": "base",
    **{name: name for name in ("dtype", "max_length", "trust_remote_code", "tokenizer")},
}
BASES = ("auto", "prefix", "svd")
RESCALES = ("rule", "keep", "trained", "fit")


@dataclass(frozen=True)
class Settings:
    """What `aurac compare` may be told; `Settings.of` reads and checks it.

    Attributes:
        checkpoints: Folder, file or hub id of each adapter; `NAME=PATH`; or a family, a path with
            `{1,2,4}` in it.
        tasks: Bundled tasks, names that lm-eval knows, or YAML files.
        limit: The first so many examples of each task, or below 1 that share; 0 takes all. None:
            100 of a bundled task, all of any other.
        metric: Task (`*`: all) → the metric that is integrated.
        data: Task → folder with its splits.
        include_path: Folder with further tasks.
        base: Base model; None: the one that the adapters record.
        group: Recipe → adapters that are its seeds.
        cluster: Task → field of its examples: those with the same value are no independent ones.
        reference, margin: What is asked of the results: all against one adapter, and the loss that
            is tolerable, a fraction. They change no cell.
        num_fewshot, fewshot, seed: Examples in each prompt: how many, drawn as lm-eval does
            (`stock`) or the first ones (`fixed`), and the seed of drawing.
        apply_chat_template, system_instruction, fewshot_as_multiturn: Of a chat's prompts.
        tokenizer: `base`, `adapter` or a folder; None: the adapters' own where they have one.
        gen_kwargs: Settings of generation beside the task's own.
        ranks: `pow2`, `all`, or whole numbers; an adapter's trained rank is always evaluated.
        basis, rescale: Further truncations of each adapter; empty: the best one of its method.
        device, dtype, device_map, trust_remote_code: Of the base; None: automatic.
        batch_size: Most sequences in a forward pass; None: automatic.
        max_length: Longest input in tokens; None: the model's.
        out: Run folder; None: `runs/<tasks>-<hash>`.
        ray: `local` or the address of a Ray cluster; None: this process.
        model: Who answers, as lm-eval names it; `hf` is aurac's engine, `hflm` lm-eval's own HFLM.
        model_args: lm-eval's, of that model. Those of `hf`, and `pretrained` of
            any, are other words for the above.
    """

    checkpoints: tuple[str, ...]
    tasks: tuple[str, ...]
    limit: float | None = None
    metric: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    include_path: str | None = None
    base: str | None = None
    group: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cluster: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    margin: float | None = None
    num_fewshot: int | None = None
    fewshot: str = "stock"
    apply_chat_template: bool = False
    tokenizer: str | None = None
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1234
    ranks: str | tuple[int, ...] = "pow2"
    basis: tuple[str, ...] = ()
    rescale: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    device_map: str | Mapping[str, Any] | None = None
    trust_remote_code: bool = False
    out: str | None = None
    ray: str | None = None
    model: str = "hf"
    model_args: Mapping[str, Any] = field(default_factory=dict)

    def redacted(self, text: str) -> str:
        """A text without the keys in `model_args`."""
        for secret in secrets(self.model_args):
            text = text.replace(secret, "…")
        return text

    @classmethod
    def of(
        cls,
        checkpoints: str | Path | Sequence[str | Path],
        tasks: str | Sequence[str],
        **words: Any,
    ) -> Settings:
        """From the words of the command line, values as there or as Python has them.

        Raises:
            UsageError: A word or a value that is none of the above.
        """
        words |= _of_model(words.get("model", "hf"), words.pop("model_args", None))
        known = {each.name for each in dataclasses.fields(cls)}
        for name in words.keys() - known:
            raise UsageError(f"compare has no option {name!r}")
        given = (checkpoints,) if isinstance(checkpoints, (str, Path)) else tuple(checkpoints)
        if not all(isinstance(each, (str, os.PathLike)) for each in given):
            raise UsageError("a checkpoint is a folder, a file or a hub id")
        named = tuple(map(str, given))
        names = _several(tasks)
        if not named or not names:
            raise UsageError("compare needs at least one checkpoint and one task")
        if isinstance(data := words.get("data"), (str, Path)) and "=" not in str(data):
            words["data"] = {"": data}
        read = {
            name: _READ[name](name, value) if name in _READ else value
            for name, value in words.items()
        }
        if "" in (folders := read.get("data", {})):
            if len(names) > 1:
                raise UsageError("data of one folder for several tasks: give TASK=FOLDER")
            read["data"] = {names[0]: folders[""]}
        return cls(named, names, **read)


def _of_model(model: str, given: Any) -> dict[str, Any]:
    """lm-eval's arguments of a model as words of `compare`; of others than `hf` some stay."""
    pairs = given if isinstance(given, Mapping) else _several(given or ())
    stay = {name: _plain(value) for name, value in mapping("model_args", pairs).items()}
    served = model == "local-completions"  # its `pretrained` is a name on the server
    known = _HF if model in ("hf", "hflm") else {} if served else {"pretrained": "base"}
    if model == "hf" and (unknown := stay.keys() - known):
        raise UsageError(f"model_args has {min(unknown)!r}, and compare knows {', '.join(known)}")
    words = {known[name]: stay.pop(name) for name in known if name in stay}
    return words if model == "hf" else {**words, "model_args": stay}


def _plain(value: Any) -> Any:
    """A value as lm-eval reads it from a command line."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _several(given: Any) -> tuple[str, ...]:
    """`a,b`, or a sequence of such."""
    parts = given.split(",") if isinstance(given, str) else given
    words = (word for part in parts for word in str(part).split(","))
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def _number(name: str, value: Any, kind: type, low: float, high: float | None = None) -> Any:
    if value is None:
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = None
    if number is None or number != float(value) or number < low or (high and number > high):
        limits = f"from {low} to {high}" if high else f"of at least {low}"
        raise UsageError(f"{name} {value!r} is no {'whole ' * (kind is int)}number {limits}")
    return number


def _word(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise UsageError(f"{name} {value!r} is none of {', '.join(known)}")
    return value


def _limit(name: str, value: Any) -> float | None:
    number = _number(name, value, float, 0)
    if number is not None and number >= 1 and number != int(number):
        raise UsageError(f"limit {value!r} is neither a whole number nor a share below 1")
    return int(number) if number is not None and (number >= 1 or number == 0) else number


def _margin(name: str, value: Any) -> float | None:
    number: float | None = _number(name, value, float, 0, 1)
    if number in (0, 1):
        raise UsageError(f"margin {value!r} is no fraction such as 0.02")
    return number


def _ranks(name: str, value: Any) -> str | tuple[int, ...]:
    if value in ("pow2", "all"):
        return str(value)
    parts = _several([value] if isinstance(value, int) else value)
    return tuple(sorted({_number(name, part, int, 1) for part in parts}))


def _words(known: Sequence[str]) -> Callable[[str, Any], tuple[str, ...]]:
    def read(name: str, value: Any) -> tuple[str, ...]:
        words = tuple(_word(name, word, known) for word in _several(value or ()))
        return () if words == ("auto",) else words

    return read


def mapping(name: str, value: Any) -> dict[str, Any]:
    """`{"a": 1}`, `a=1`, or several of these."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs: dict[str, Any] = {}
    for text in [value] if isinstance(value, str) else value or ():
        key, sign, item = str(text).partition("=")
        if not sign:
            raise UsageError(f"{name} {text!r} is not NAME=VALUE")
        pairs[key] = item
    return pairs


def _groups(name: str, value: Any) -> dict[str, tuple[str, ...]]:
    return {recipe: _several(members) for recipe, members in mapping(name, value).items()}


def _paths(name: str, value: Any) -> dict[str, str]:
    return {task: str(Path(folder).expanduser()) for task, folder in mapping(name, value).items()}


def _generation(_name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    from aurac.tasks.options import parse_gen_kwargs

    return dict(parse_gen_kwargs([value] if isinstance(value, str) else value or ()))


def _device_map(name: str, value: Any) -> Any:
    if not isinstance(value, str) or value in ("auto", "balanced", "balanced_low_0", "sequential"):
        return value
    try:
        return dict(json.loads(value))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name} {value!r} is neither auto, balanced, … nor JSON") from error


def _batch(name: str, value: Any) -> int | None:
    automatic = value is None or str(value).partition(":")[0] == "auto"
    return None if automatic else _number(name, value, int, 1)


def _path(_name: str, value: Any) -> str | None:
    return str(value) if value else None


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "limit": _limit,
    "metric": lambda _name, value: asked_metrics(value),
    "data": _paths,
    "include_path": _path,
    "group": _groups,
    "cluster": mapping,
    "margin": _margin,
    "num_fewshot": lambda name, value: _number(name, value, int, 0),
    "fewshot": lambda name, value: _word(name, value, ("stock", "fixed")),
    "gen_kwargs": _generation,
    "ranks": _ranks,
    "basis": _words(BASES),
    "rescale": _words(RESCALES),
    "batch_size": _batch,
    "max_length": lambda name, value: _number(name, value, int, 1),
    "device_map": _device_map,
    "out": _path,
}
