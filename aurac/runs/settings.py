"""What a comparison may be told: one record for the command line, Python and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aurac.curves.checks import as_json, refused
from aurac.curves.metrics import asked_metrics
from aurac.errors import UsageError
from aurac.tasks.options import TaskOptions, parse_pairs

# lm-eval's arguments of a model that have an option of their own
_OWN = {"tokenizer", "dtype", "max_length", "trust_remote_code", "pretrained", "max_gen_toks"}
_OTHER_NAMES = {"pretrained": "--base", "max_gen_toks": "--gen-kwargs max_gen_toks=N"}
_TAKES = {  # in words, for who gave something else
    "limit": "a number of examples, a share below 1, or 0 for all",
    "margin": "a fraction above 0 and below 1: 5 points are 0.05",
    "ranks": "pow2, all, or whole numbers from 1 such as 1,2,4",
    "basis": "prefix or svd",
    "rescale": "rule, keep, trained or fit",
    "fewshot": "stock or fixed",
    "batch_size": "a whole number from 1, or auto",
}


class Settings(TaskOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `aurac compare` may be told, beside the options of tasks (`TaskOptions`).

    Attributes:
        checkpoints: Folder, file or hub id of each adapter; `NAME=PATH`; or a family, a path with
            `{1,2,4}` in it.
        tasks: Bundled tasks, names that lm-eval knows, YAML files, or files of examples.
        base: Base model; None: the one that the adapters record.
        trained_on: Files that the adapters were trained on, in the formats of examples of one's
            own: examples of the tasks that are in them are counted. They change no cell.
        groups: Recipe → adapters that are its seeds.
        reference, margin: What is asked of the results: all against one adapter, and the loss that
            is tolerable, a fraction. They change no cell.
        tokenizer: `base`, `adapter` or a folder; None: the adapters' own where they have one.
        ranks: `pow2`, `all`, or whole numbers; an adapter's trained rank is always evaluated.
        basis, rescale: Truncations instead of the default one, that of the adapter's method.
        device, dtype, device_map, trust_remote_code: Of the base; None: automatic. A run folder
            that is there keeps its dtype.
        batch_size: Most sequences in a forward pass; None: automatic.
        max_length: Longest input in tokens; None: the model's.
        out: Run folder; None: `runs/<tasks>-<hash>`.
        ray: `local` or the address of a Ray cluster; None: this process.
        model: Who answers, as lm-eval names it; `hf` is aurac's engine, `hflm` lm-eval's own HFLM.
        model_args: lm-eval's, of that model; none for which there is an option above.
        check: Hold a server's or vLLM's answers against the engine's before the first cell.
    """

    checkpoints: tuple[str, ...]
    tasks: tuple[str, ...]
    base: str | None = None
    trained_on: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    reference: str | None = None
    margin: Annotated[float, Meta(gt=0, lt=1)] | None = None
    tokenizer: str | None = None
    ranks: Literal["pow2", "all"] | tuple[Annotated[int, Meta(ge=1)], ...] = "pow2"
    basis: tuple[Literal["prefix", "svd"], ...] = ()
    rescale: tuple[Literal["rule", "keep", "trained", "fit"], ...] = ()
    device: str | None = None
    dtype: str | None = None
    batch_size: Annotated[int, Meta(ge=1)] | None = None
    max_length: Annotated[int, Meta(ge=1)] | None = None
    device_map: str | dict[str, Any] | None = None
    trust_remote_code: bool = False
    out: str | None = None
    ray: str | None = None
    model: str = "hf"
    model_args: dict[str, Any] = {}
    check: bool = True

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
        given = (checkpoints,) if isinstance(checkpoints, (str, Path)) else tuple(checkpoints)
        names = several(tasks)
        if not given or not names:
            raise UsageError("compare needs at least one checkpoint and one task")
        words |= {"checkpoints": given, "tasks": names}
        words = as_json(words)
        if isinstance(data := words.get("data"), str):
            if len(names) > 1:
                raise UsageError("data of one folder for several tasks: give TASK=FOLDER")
            words["data"] = {names[0]: data}
        for name in words.keys() - set(cls.__struct_fields__):
            raise UsageError(f"compare has no option {name!r}")
        there = {name: value for name, value in words.items() if value is not None}
        read = there | {name: _READ[name](there[name]) for name in there.keys() & _READ.keys()}
        try:
            settings: Settings = msgspec.convert(read, cls, strict=False)
        except msgspec.ValidationError as error:
            raise refused(error, words, _TAKES) from error
        if (limit := settings.limit) and limit >= 1 and limit % 1:
            raise UsageError(f"limit takes {_TAKES['limit']}, not {limit:g}")
        settings._check_model()
        ranks = tuple(sorted(set(r))) if isinstance(r := settings.ranks, tuple) else r
        return msgspec.structs.replace(settings, ranks=ranks)

    def _check_model(self) -> None:
        """Refuse what the model does not take."""
        model, args = self.model, self.model_args
        for name in sorted(args.keys() & _OWN):
            option = _OTHER_NAMES.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{name} goes by {option}, not by --model-args")
        if model == "hf" and args:
            raise UsageError(f"the model hf takes no --model-args, such as {min(args)}")
        if self.ray and model != "hf":
            raise UsageError(f"--ray computes with the engine, and not with --model {model}")
        if "fit" in self.rescale and model != "hf":
            raise UsageError(f"rescale fit needs the model hf, and not {model}")


def several(given: Any) -> tuple[str, ...]:
    """`a,b`, or a sequence of such; a path is one word, and so is the name of a file."""
    parts = [given] if isinstance(given, (str, Path, int)) else given
    whole = ((part, isinstance(part, Path) or Path(str(part)).is_file()) for part in parts)
    words = (word for part, one in whole for word in ([str(part)] if one else str(part).split(",")))
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


_READ: Mapping[str, Callable[[Any], Any]] = {
    "metric": asked_metrics,
    "data": lambda value: {task: str(Path(at).expanduser()) for task, at in value.items()},
    "gen_kwargs": partial(parse_pairs, "--gen-kwargs"),
    "model_args": partial(parse_pairs, "--model-args"),
    "ranks": lambda value: value if value in ("pow2", "all") else several(value),
    "trained_on": several,
    "basis": several,
    "rescale": several,
    "batch_size": lambda value: None if str(value).partition(":")[0] == "auto" else value,
    "device_map": lambda value: (
        parse_pairs("--device-map", value) if str(value).startswith("{") else value
    ),
}
"""A word as msgspec converts it; others as they are."""
