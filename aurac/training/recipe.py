"""Recipes: validated data files that say everything about one training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from aurac.adapters import Nesting
from aurac.adapters.methods import Pass, TrainingSetup, method_named, methods
from aurac.adapters.nesting import check_nested_ranks, default_nested_ranks
from aurac.arguments import alike, suggestion
from aurac.errors import RecipeError
from aurac.files import did_you_mean, sha256_json

Scaling = Literal["none", "rank", "sqrt"]

BUILT_IN = Path(__file__).parent / "recipes"
_MOST = 1 << 16  # no layer has more components
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """One training run. Every field can be set with `--set name=value`.

    Attributes:
        name: What the adapter is called in tables.
        method: `lora`, `dylora`, `matryoshka`, `nested_loss`, or the method of another package.
        method_options: Settings of the method's own, e.g. `{ranks_per_step: 2}` of `nested_loss`.
        rank: The trained rank R.
        alpha: α of the scaling rule.
        scaling: The rule s_r: `none` α, `rank` α/r, `sqrt` α/√r.
        nested_ranks: S, the nested ranks (ignored by `lora`); empty means 1, 2, 4, …, R.
        rank_weights: w_r, one per nested rank (not `dylora`); empty means all 1.
        dylora_update: `prefix` (rows 1..b get a gradient) or `frozen` (row b alone does).
        dylora_probabilities: Chances of each nested rank; empty means uniform.
        target_modules: Names of the layers that get an adapter.
        init: `peft` (A uniform within 1/√in) or `reference` (A uniform within 1/√R).
        dropout: Dropout on the adapter's input.
        base: Base model: packaged name, hub id or folder.
        task: Bundled task whose training split is used, or
        data: a .jsonl/.jsonl.gz/.json/.csv/.parquet file, a folder with a `train` split, or
            `hub:ID[:CONFIG]`. A relative path is looked for beside the recipe's file first.
        prompt, target: Templates with `{field}` from the data, or Jinja's as in lm-eval where there
            is a `{{`; only the target is learnt.
        prompt_without: A prompt for rows where a field of `prompt` is empty (Open-Platypus' input).
        documents: Use only the first so many documents (0: all).
        max_tokens: Longer examples are cut at the end.
        steps: Optimizer steps; 0 means `epochs` decide.
        epochs: Passes over the data, without `steps`.
        batch_size: Examples per optimizer step on all devices together, per forward pass times
            `accumulation`.
        accumulation: Forward passes per optimizer step.
        learning_rate, schedule, warmup_steps, weight_decay, max_grad_norm: As in the HF Trainer.
        dtype: `auto`, `float32`, `bfloat16`, `float16` for base and adapter.
        gradient_checkpointing: Recompute activations in the backward pass.
        seed: Of the initialisation, the order of the data and DyLoRA's draws.
        folder: Folder of the file that names `data`; no setting, and no part of the recipe's hash.
    """

    name: str
    method: str
    rank: int
    alpha: float = 1.0
    scaling: Scaling = "sqrt"
    nested_ranks: tuple[int, ...] = ()
    rank_weights: tuple[float, ...] = ()
    dylora_update: Literal["prefix", "frozen"] = "prefix"
    dylora_probabilities: tuple[float, ...] = ()
    target_modules: tuple[str, ...] = PROJECTIONS
    init: Literal["peft", "reference"] = "peft"
    dropout: float = 0.0
    base: str = "smollm2-135m-instruct-q4_1"
    task: str = ""
    data: str = ""
    prompt: str = "Question: {question}\nAnswer:"
    prompt_without: str = ""
    target: str = " {answer}"
    documents: int = 0
    max_tokens: int = 512
    steps: int = 0
    epochs: float = 1.0
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gradient_checkpointing: bool = False
    seed: int = 42
    method_options: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Raise RecipeError on the first value out of range."""
        self._require("rank", 1 <= self.rank <= _MOST, f"1 to {_MOST:,}")  # the others need it
        self._require("method", self.method in methods(), ", ".join(methods()))
        method = method_named(self.method)
        ranks, chances = self.nested_ranks, self.dylora_probabilities
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float):
                self._require(each.name, math.isfinite(value), "a finite number")
        share = f"of at least 0 for each of the {len(self.ranks)} nested ranks"
        checks = {
            "name": (bool(self.name), "a word"),
            "base": (bool(self.base), "a packaged name, a hub id or a folder"),
            "seed": (0 <= self.seed < 2**32, "0 to 4294967295"),
            "alpha": (self.alpha > 0, "a positive number"),
            "nested_ranks": (
                all(1 <= r <= self.rank for r in ranks) and list(ranks) == sorted(set(ranks)),
                f"increasing ranks between 1 and rank = {self.rank}",
            ),
            "rank_weights": (self._for_ranks(self.rank_weights), f"one weight {share}"),
            "dylora_probabilities": (
                self._for_ranks(chances) and sum(chances or (1,)) > 0,
                f"one chance {share}",
            ),
            "target_modules": (bool(self.target_modules), "at least one layer name"),
            "dropout": (0 <= self.dropout < 1, "a number in [0, 1)"),
            "task": (not (self.task and self.data), "`task` or `data`, not both"),
            "max_tokens": (self.max_tokens >= 2, "at least 2"),
            "steps": (self.steps >= 0, "0 (let epochs decide) or more"),
            "epochs": (
                self.epochs > 0 and (not self.steps or self.epochs == 1),
                f"no epochs beside steps = {self.steps}" if self.steps else "a positive number",
            ),
            "batch_size": (
                self.batch_size >= 1 and self.batch_size % max(self.accumulation, 1) == 0,
                f"a positive multiple of accumulation = {self.accumulation}",
            ),
            "accumulation": (self.accumulation >= 1, "at least 1"),
            "learning_rate": (self.learning_rate > 0, "a positive number"),
            "warmup_steps": (
                self.warmup_steps >= 0 and not (self.schedule == "constant" and self.warmup_steps),
                "0 or more, and 0 with the schedule constant (constant_with_warmup has some)",
            ),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "max_grad_norm": (self.max_grad_norm >= 0, "0 or more"),
            "documents": (self.documents >= 0, "0 (all) or more"),
            "method_options": (
                self.method_options.keys() <= method.options.keys(),
                f"the options of {self.method}: {', '.join(method.options) or 'it has none'}",
            ),
        }
        if not (self.task or self.data):
            raise RecipeError(
                f"recipe {self.name!r} has no task and no data",
                fix="add a line `task: …` or `data: …`, or give --set task=NAME",
            )
        for name, (fine, expected) in checks.items():
            self._require(name, fine, expected)
        method.check(self._setup)

    def __repr__(self) -> str:
        length = f"{self.steps} steps" if self.steps else f"{self.epochs:g} epochs"
        what = f"{self.method}, rank {self.rank}, {self.base} on {self.task or self.data}"
        return f"Recipe({self.name!r}: {what}, {length}, seed {self.seed})"

    def _require(self, name: str, fine: bool, expected: str) -> None:  # noqa: FBT001
        if not fine:
            ranks = map(str, default_nested_ranks(self.rank) if name == "nested_ranks" else "…")
            raise RecipeError(
                f"recipe {self.name!r} has {name} = {getattr(self, name)!r}",
                expected=expected,
                fix=f"correct it in the file or with --set {name}={','.join(ranks)}",
            )

    def _for_ranks(self, values: Sequence[float]) -> bool:
        return len(values) in (0, len(self.ranks)) and min(values, default=1) >= 0

    @property
    def ranks(self) -> tuple[int, ...]:
        """S: {R} without nested training, else the nested ranks, by default 1, 2, 4, … and R."""
        if not method_named(self.method).nested:
            return (self.rank,)
        return self.nested_ranks or default_nested_ranks(self.rank)

    @property
    def nesting(self) -> Nesting:
        """How the ranks are trained, as the side-car file records it."""
        weights = self.dylora_probabilities if self.method == "dylora" else self.rank_weights
        if not method_named(self.method).nested:
            weights = ()
        update = self.dylora_update if self.method == "dylora" else None
        return Nesting(self.method, self.ranks, weights, update)

    def passes(self, step: int) -> Sequence[Pass]:
        """The passes of an optimizer step, counted from 0."""
        return method_named(self.method).passes(self._setup, step)

    @property
    def _setup(self) -> TrainingSetup:
        return self.nesting.setup(
            self.rank, self.scaling, self.alpha, self.seed, self.method_options
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values, as they are written into side-cars and results."""
        values = dataclasses.asdict(self)
        values.pop("folder")
        if not self.method_options:  # so that recipes without any keep their hash
            values.pop("method_options")
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def sha256(self) -> str:
        """Hash of everything but name and seed: runs that agree in it are seeds of one recipe."""
        values = self.to_dict()
        return sha256_json({key: values[key] for key in values if key not in ("name", "seed")})


def built_in_recipes() -> dict[str, Path]:
    """Name (path below the package's recipes, without .yaml) → file."""
    files = sorted(BUILT_IN.rglob("*.yaml"))
    return {path.relative_to(BUILT_IN).with_suffix("").as_posix(): path for path in files}


def load_recipe(source: str | Path, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a recipe by built-in name or file, with `--set` overrides (texts in YAML syntax).

    Raises:
        RecipeError: No such recipe, not YAML, unknown key, wrong type or value out of range.
    """
    if not isinstance(source, (str, Path)):
        raise RecipeError(
            f"{source!r:.80} is no recipe", expected="a name or file; make_recipe takes a mapping"
        )
    known = built_in_recipes()
    path = known.get(str(source), Path(source))
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            fix = did_you_mean(path, Path.is_file) or "`aurac train --list` shows those built in"
            raise RecipeError(f"recipe file {path} does not exist", fix=fix)
        beside = [f"{source}{end}" for end in (".yaml", ".yml") if Path(f"{source}{end}").is_file()]
        near = beside or alike(str(source), known, 0.4) or sorted(known)
        raise RecipeError(
            f"no recipe {str(source)!r}",
            expected="a .yaml file or a built-in recipe",
            fix=f"try {', '.join(near)}",
        )
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds no mapping", expected="`name: value` lines")
    for key, text in (overrides or {}).items():
        typed = f"--set {key}={text}"
        values[key] = _typed(key, _override(key, text) if isinstance(text, str) else text, typed)
    for one, other in (("task", "data"), ("steps", "epochs")):  # of the two the one that was typed
        if (one in (overrides or {})) != (other in (overrides or {})):
            values.pop(other if one in (overrides or {}) else one, None)
    recipe = make_recipe(values, where=str(path))
    if "data" in (overrides or {}):  # typed in the current folder
        return recipe
    return dataclasses.replace(recipe, folder=path.parent)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        RecipeError: It cannot be read, is no YAML, or has a key twice.
    """
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
            keys = [str(key.value) for key, _ in node.value]
            for at, (key, _) in enumerate(node.value):
                if keys[at] in keys[:at]:
                    raise yaml.YAMLError(f"the key {key.value!r} twice{key.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)  # noqa: S506 - it is safe
    except OSError as error:
        fix = did_you_mean(path, Path.is_file) or "check the path"
        raise RecipeError(f"{path} cannot be read ({error.strerror})", fix=fix) from error
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not valid YAML ({error})", fix="correct the file") from error


def _override(key: str, text: str) -> Any:
    """The value of `--set key=text` in YAML; a text or a list need no quotes or brackets."""
    import yaml

    hint = _hints().get(key)
    if get_origin(hint) is tuple and not text.lstrip().startswith(("[", "-")):
        text = f"[{text}]"
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        if hint is not str:
            raise RecipeError(f"--set {key}={text} is not a YAML value") from error
        return text
    return text if hint is str and not isinstance(value, str) else value


@cache
def _hints() -> dict[str, Any]:
    """The type of each setting."""
    return {name: hint for name, hint in get_type_hints(Recipe).items() if name != "folder"}


def make_recipe(values: Mapping[str, object], where: str = "recipe") -> Recipe:
    """A Recipe from plain values, each checked for its type.

    Raises:
        RecipeError: Unknown or missing key, wrong type, or value out of range.
    """
    given = {key: f"{where} has {key} = {value!r:.80}" for key, value in values.items()}
    typed = {key: _typed(key, value, given[key]) for key, value in values.items()}
    for key in ("name", "method", "rank"):
        if key not in values:
            raise RecipeError(f"{where} has no {key!r}", fix=f"add a line `{key}: …`")
    return Recipe(**typed)


def _typed(key: str, value: Any, given: str) -> Any:
    """`value` as the type of the setting, or RecipeError, which says what was `given`."""
    hints = _hints()
    if key not in hints:
        expected, fix = f"one of {', '.join(hints)}", suggestion(str(key), hints)
        given = f"{given} (unknown key {key!r})"
        raise RecipeError(given, expected=None if fix else expected, fix=fix)
    hint = hints[key]
    several = get_origin(hint) is tuple
    kind = get_args(hint)[0] if several else hint
    try:
        # YAML reads 1e-3 as a text
        return msgspec.convert(
            [value] if several and not isinstance(value, (list, tuple)) else value,
            hint,
            strict=kind is not float,
        )
    except msgspec.ValidationError:
        options = " or ".join(map(str, get_args(hint))) if get_origin(hint) is Literal else None
        name = f"a list of {kind.__name__}" if several else getattr(kind, "__name__", str(kind))
        given = f"{given} ({type(value).__name__})"
        raise RecipeError(given, expected=options or name) from None


def family_members(recipe: Recipe, ranks: Sequence[int]) -> list[tuple[str, Recipe]]:
    """The recipe once for each rank as (label such as `r4`, recipe), nested ranks left out."""
    fresh: dict[str, Any] = {"nested_ranks": (), "rank_weights": (), "dylora_probabilities": ()}
    return [
        (f"r{rank}", dataclasses.replace(recipe, rank=rank, **fresh))
        for rank in check_nested_ranks(sorted(ranks))
    ]
