"""What a comparison may be told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypedDict,
    TypeVar,
    cast,
    get_type_hints,
)

from aurac.arguments import check_names, converted, several
from aurac.curves.metrics import metrics_of
from aurac.engine import EngineOptions, parse_batch_size
from aurac.errors import UsageError
from aurac.tasks.options import TaskOptions, number_of_documents, parse_gen_kwargs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from aurac.adapters.nesting import Rule, Update
    from aurac.adapters.truncate import BasisOption, Rescale


T = TypeVar("T")


class NamedCheckpoint(NamedTuple):
    """`PATH` (folder, file or hub id), `NAME=PATH`, or a family: `PATH` with `{1,2,4}` in it."""

    name: str | None
    paths: tuple[str, ...]
    family: bool = False

    @classmethod
    def of(cls, text: str | Path) -> NamedCheckpoint:
        """Read it; something that exists is a path."""
        given = str(text)
        if _exists(given):
            return cls(None, (given,))
        name, sign, path = given.partition("=")
        if not sign or not name or not path or set(name) & set("/:{\\"):
            name, path = "", given
        braces = re.fullmatch(r"([^{}]*)\{([^{}]+)\}([^{}]*)", path)
        if braces is None or _exists(path):
            return cls(name or None, (path,))
        head, inside, tail = braces.groups()
        paths = tuple(f"{head}{word.strip()}{tail}" for word in inside.split(","))
        return cls(name or Path(head + tail).name.rstrip("_-.") or given, paths, family=True)

    @property
    def absolute(self) -> str:
        """The same as another process finds it; a hub id as it is."""
        paths = [str(Path(p).expanduser().resolve()) if _exists(p) else p for p in self.paths]
        if not self.family:
            return f"{self.name}={paths[0]}" if self.name else paths[0]
        return f"{self.name}={{{','.join(paths)}}}"


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))  # noqa: PTH110, PTH111 - pathlib's may raise


@dataclass(frozen=True)
class TruncationOptions:
    """Which curves are drawn of each adapter.

    Attributes:
        ranks: `pow2`, `all`, or explicit ranks.
        basis: One or more of `prefix`, `svd`; the first is compared. `auto`: the prefix
            of an adapter trained nested, SVD of another with its prefix beside it as published.
        rescale: One or more of `rule`, `keep`, `trained`, `fit`; None: each adapter's default.
        published: Draw the published inference, too: of a trained P, and with `auto` the prefix.
    """

    ranks: str | Sequence[int] = "pow2"
    basis: Sequence[BasisOption] = ("auto",)
    rescale: Sequence[Rescale] | None = None
    published: bool = True

    def __post_init__(self) -> None:
        for name, kind in _hints(type(self)).items():  # type: ignore[arg-type]
            object.__setattr__(self, name, _read(name, getattr(self, name), kind))
        if not self.ranks:
            raise UsageError("no ranks", expected="pow2, all, or ranks")


@dataclass(frozen=True)
class ModelOptions:
    """The base model and how it is computed.

    Attributes:
        base: Base model; None: the one the adapters record.
        dtype, device: As `aurac.models.device` picks them; None: automatic.
        device_map: How to spread a base that is larger than one device, see `load_base`.
        trust_remote_code: Let the base run its own code.
        tokenizer: `base`, `adapter`, a folder; None: the adapters' own where they have one.
    """

    base: str | None = None
    dtype: str | None = None
    device: str | None = None
    device_map: str | Mapping[str, Any] | None = None
    trust_remote_code: bool = False
    tokenizer: str | None = None


class Overrides(TypedDict, total=False):
    """What an adapter's file does not say, as `LoadOverrides` describes it."""

    method: str | None
    scaling: Rule | None
    alpha: float | None
    nested_ranks: Sequence[int] | None
    weights: Sequence[float] | None
    mask_type: Literal["diag", "binary"] | None
    update: Update | None
    base: str | None
    enable_lora: Sequence[bool] | None
    keys: Mapping[str, Any] | None


class SettingsOptions(TypedDict, total=False):
    """The fields of `Settings` and of its parts as keywords."""

    num_fewshot: int | None
    fewshot: Literal["stock", "fixed"]
    seed: int
    fewshot_seeds: int
    limit: float | None
    split: Literal["test", "validation"] | None
    metric: str | Mapping[str, str]
    data: str | Mapping[str, Path | str]
    chat_template: bool
    system_instruction: str | None
    fewshot_as_multiturn: bool | None
    gen_kwargs: str | Mapping[str, Any]
    repeats: int | None
    pass_at: int | Sequence[int]
    include_path: Path | str | None
    cluster: Mapping[str, str]
    ranks: str | int | Sequence[int]
    basis: BasisOption | Sequence[BasisOption]
    rescale: Rescale | Sequence[Rescale] | None
    published: bool
    base: str | None
    dtype: str | None
    device: str | None
    device_map: str | Mapping[str, Any] | None
    trust_remote_code: bool
    tokenizer: str | None
    max_length: int | None
    batch_size: int | str | None
    truncations: Mapping[str, TruncationOptions | Mapping[str, Any]]
    overrides: Overrides
    groups: Mapping[str, Sequence[str]]
    primary: str | Sequence[str | tuple[str, str]]


class RequestOptions(SettingsOptions, total=False):
    """The keywords of `aurac.compare`: `SettingsOptions`, and the fields of `Execution`."""

    executor: Literal["local", "ray"]
    address: str | None
    retry_failed: bool


@dataclass(frozen=True)
class Settings:
    """What a comparison may be told.

    Attributes:
        task: Documents, prompts and metrics. A `limit` of 0 takes all documents; None the first
            `aurac.tasks.QUICK_DOCUMENTS` of a bundled task, and all of any other.
        truncation: Which curves.
        truncations: Which curves of single adapters, by name in the run, in place of `truncation`.
        model: The base.
        engine: Budgets of the engine.
        overrides: What the adapters' files do not say.
        groups: Recipe group → names of the adapters that are seeds of one recipe.
        primary: Pairs of names that are the primary comparisons; `*`: each other adapter.
    """

    task: TaskOptions = field(default_factory=TaskOptions)
    truncation: TruncationOptions = field(default_factory=TruncationOptions)
    truncations: Mapping[str, TruncationOptions] = field(default_factory=dict)
    model: ModelOptions = field(default_factory=ModelOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    overrides: Overrides = field(default_factory=Overrides)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    primary: Sequence[tuple[str, str]] = ()

    @property
    def fits(self) -> bool:
        """Whether any curve has rescale `fit`."""
        cuts = (self.truncation, *self.truncations.values())
        return any("fit" in (cut.rescale or ()) for cut in cuts)

    @classmethod
    def of(cls, **fields: Unpack[SettingsOptions]) -> Settings:
        """From flat keywords: one or several of what may be several, numbers also as text.

        Raises:
            UsageError: A value of another kind; an `OptionError` where no field has the name.
        """
        check_names(fields, SettingsOptions.__annotations__, "a comparison")
        check_names(fields.get("overrides") or (), Overrides.__annotations__, "overrides")
        parts: dict[str, Any] = {name: _taken(kind, fields) for name, kind in _PARTS.items()}
        flat = {f.name for part in _PARTS.values() for f in dataclasses.fields(part)}
        own = {name: value for name, value in fields.items() if name not in flat}
        return cls(**parts, **{name: _read(name, value, Any) for name, value in own.items()})


def _pairs(given: object) -> list[tuple[str, str]]:
    from aurac.analysis.primary import pairs_of

    return pairs_of(given)


def _cuts(given: Any) -> Any:
    """Options of single adapters; those of each may be a mapping, too."""
    cuts = dict(given) if isinstance(given, Mapping) else given
    for name, cut in cuts.items() if cuts is not given else ():
        if isinstance(cut, Mapping):
            check_names(cut, TruncationOptions.__annotations__, "a truncation")
            cuts[name] = TruncationOptions(**cut)
    return converted(cuts, Mapping[str, TruncationOptions], "truncations")


_READ: Mapping[str, Callable[[Any], Any]] = {
    "limit": number_of_documents,
    "truncations": _cuts,
    "metric": metrics_of,
    "gen_kwargs": lambda given: parse_gen_kwargs([given]) if isinstance(given, str) else given,
    "batch_size": parse_batch_size,
    "primary": _pairs,
    "groups": lambda given: converted(given, Mapping[str, Sequence[str]], "groups"),
}
"""How options are read that have a notation of their own."""


def _read(name: str, value: object, kind: object) -> Any:
    """A value as its annotation has it, or as its own notation says."""
    return converted(_READ[name](value) if name in _READ else value, kind, name)


_PARTS: Mapping[str, type] = {
    "task": TaskOptions,
    "truncation": TruncationOptions,
    "model": ModelOptions,
    "engine": EngineOptions,
}
_INSTEAD = {  # what compares things that are no checkpoints
    "Run": "run.pairs compares its adapters, aurac.analysis.analyse(curves) those of several runs",
    "Curve": "aurac.analysis.paired_curves(a, b) compares two",
}
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Execution:
    """How and where cells are computed; nothing here changes a number.

    Attributes:
        executor: `local` (this process) or `ray` (a Ray cluster).
        address: Of the Ray cluster; None starts one on this machine.
        retry_failed: Try cells again that failed before.
    """

    executor: str = "local"
    address: str | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UsageError(f"executor {self.executor!r}", expected=" or ".join(EXECUTORS))
        if self.address is not None and self.executor != "ray":
            raise UsageError("an address without --executor ray", fix="give both or neither")


def _taken(kind: type[T], fields: Mapping[str, object]) -> T:
    """An object of the keywords that it has fields for, each as its annotation has it."""
    names, hints = {f.name for f in dataclasses.fields(kind)}, _hints(kind)  # type: ignore[arg-type]
    given = {name: value for name, value in fields.items() if name in names}
    return kind(**{name: _read(name, value, hints[name]) for name, value in given.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The annotations of a record; words of adapters are checked where adapters are known."""
    words = dict.fromkeys(("BasisOption", "Rescale", "Rule", "Update"), str)
    known = {"Mapping": Mapping, "Sequence": Sequence, "Path": Path}
    return get_type_hints(kind, None, {**known, **words})


DEFAULTS: Mapping[str, Any] = {
    f.name: getattr(kind(), f.name)
    for kind in (*_PARTS.values(), Settings, Execution)
    for f in dataclasses.fields(kind)
    if f.name in RequestOptions.__annotations__
}
"""The keywords of `aurac.compare` with their defaults."""


def separated(fields: RequestOptions) -> tuple[Settings, Execution]:
    """Flat keywords of both; a UsageError for values out of range or that do not go together."""
    check_names(fields, RequestOptions.__annotations__, "a comparison")
    execution = _taken(Execution, fields)
    own = {name: value for name, value in fields.items() if not hasattr(execution, name)}
    settings = Settings.of(**cast("SettingsOptions", own))
    return settings, execution


@dataclass(frozen=True)
class Request:
    """A comparison as it was asked for; `out` is the run folder that was named."""

    checkpoints: tuple[str, ...]
    tasks: tuple[str, ...]
    out: str | None
    settings: Settings
    execution: Execution

    @classmethod
    def of(
        cls,
        checkpoints: str | Path | Sequence[str | Path],
        tasks: str | Sequence[str],
        out: str | Path | None = None,
        **options: Unpack[RequestOptions],
    ) -> Request:
        """From the keywords of `aurac.compare`; a UsageError where a value is out of range."""
        given = (checkpoints,) if isinstance(checkpoints, str) else several(checkpoints)
        names = several(tasks)
        if not given or not names:
            raise UsageError("nothing to compare", expected="at least one checkpoint and one task")
        if not all(isinstance(name, (str, PathLike)) for name in names):
            raise UsageError(f"tasks={tasks!r:.80}", expected="names of tasks, or files of them")
        folder = converted(out, Path | None, "out")
        for each in given:
            if not isinstance(each, (str, PathLike)):
                kind = type(each).__name__
                raise UsageError(
                    f"a {kind} as a checkpoint",
                    expected="a folder, a file or a hub id",
                    fix=_INSTEAD.get(kind, "aurac.save_adapter(adapter, folder) writes one"),
                )
        data: Any = options.get("data", {})
        if isinstance(data, PathLike) or (isinstance(data, str) and "=" not in data):
            data = {"": Path(data).expanduser()}
        if isinstance(data, Mapping) and "" in data:
            if len(names) > 1:
                raise UsageError(
                    f"--data {data['']} with {len(names)} tasks",
                    expected="--data TASK=FOLDER, which says whose data these are",
                )
            options["data"] = {names[0]: data[""]}
        settings, execution = separated(options)
        paths = tuple(map(str, given))
        return cls(paths, names, str(folder) if folder else None, settings, execution)


def parse_device_map(text: str) -> str | dict[str, int | str]:
    """`--device-map`: one of accelerate's words, or module → device as JSON; else a UsageError."""
    if text in DEVICE_MAPS:
        return text
    with contextlib.suppress(ValueError):
        devices = json.loads(text)
        if isinstance(devices, dict) and devices:
            return devices
    expected = f'{", ".join(DEVICE_MAPS)}, or JSON such as {{"": "cpu"}}'
    raise UsageError(f"--device-map {text!r}", expected=expected)
