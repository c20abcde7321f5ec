"""Recipes: validated data files that say everything about one training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from aurac.adapters import Nesting
from aurac.adapters.methods import TrainingSetup, method_named
from aurac.adapters.nesting import check_nested_ranks
from aurac.errors import RecipeError
from aurac.files import sha256_json

BUILT_IN = Path(__file__).parent / "recipes"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Count = Annotated[int, Meta(ge=0)]
Number = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Amount = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Recipe:
    """One training run. Every field can be set with `--set name=value`.

    Attributes:
        name: What the adapter is called in tables.
        method: `lora`, `dylora`, `matryoshka` or `nested_loss`.
        rank: The trained rank R.
        alpha: α of the scaling rule.
        scaling: The rule s_r: `none` α, `rank` α/r, `sqrt` α/√r.
        nested_ranks: S, the nested ranks (ignored by `lora`); empty means 1, 2, 4, …, R, and with
            DyLoRA's update `frozen` all.
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
        data_sha256: Hash of all their rows. A training fills it in; where it is given, the rows
            must have it.
        prompt, target: Templates with `{field}` from the data, or Jinja's as in lm-eval where there
            is a `{{`; only the target is learnt.
        prompt_without: A prompt for rows where a field of `prompt` is empty (Open-Platypus' input).
        documents: Use only the first so many examples (0: all).
        validation: Hold out so many examples of the end, and measure their loss at every rank.
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
        method_options: Settings of the method's own, e.g. `{ranks_per_step: 2}` of `nested_loss`.
        folder: Folder of the file that names `data`; no setting, and no part of the recipe's hash.
    """

    name: str
    method: str
    rank: Number
    alpha: Positive = 1.0
    scaling: Literal["none", "rank", "sqrt"] = "sqrt"
    nested_ranks: tuple[Number, ...] = ()
    rank_weights: tuple[Amount, ...] = ()
    dylora_update: Literal["prefix", "frozen"] = "prefix"
    dylora_probabilities: tuple[Amount, ...] = ()
    target_modules: tuple[str, ...] = PROJECTIONS
    init: Literal["peft", "reference"] = "peft"
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    base: str = "smollm2-135m-instruct-q4_1"
    task: str = ""
    data: str = ""
    data_sha256: str = ""
    prompt: str = "Question: {question}\nAnswer:"
    prompt_without: str = ""
    target: str = " {answer}"
    documents: Count = 0
    validation: Count = 0
    max_tokens: Annotated[int, Meta(ge=2)] = 512
    steps: Count = 0
    epochs: Positive = 1.0
    batch_size: Number = 16
    accumulation: Number = 1
    learning_rate: Positive = 1e-3
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: Count = 0
    weight_decay: Amount = 0.0
    max_grad_norm: Amount = 1.0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gradient_checkpointing: bool = False
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 42
    method_options: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        method = method_named(self.method)
        ranks, options = self.nested_ranks, sorted(self.method_options.keys() - method.options)
        for wrong, reason in (
            (max(ranks, default=0) > self.rank, f"nested_ranks = {ranks} are above rank: set both"),
            (options, f"{self.method} has no option {', '.join(options)}"),
            (bool(self.task) == bool(self.data), "give either task or data"),
            (self.steps and self.epochs != 1, "give either steps or epochs"),
            (self.batch_size % self.accumulation, "batch_size is no multiple of accumulation"),
        ):
            if wrong:
                raise RecipeError(f"recipe {self.name!r}: {reason}")
        self.setup.passes(0, 0)  # refuses options out of range

    @property
    def nesting(self) -> Nesting:
        """How the ranks are trained, as the side-car file records it."""
        weights = self.dylora_probabilities if self.method == "dylora" else self.rank_weights
        args = self.method, self.rank, self.nested_ranks, weights, self.dylora_update
        return Nesting.make(*args)

    @property
    def setup(self) -> TrainingSetup:
        """What the method needs to know of the training."""
        return TrainingSetup(self.nesting, self.seed, self.method_options)

    def to_dict(self) -> dict[str, object]:
        """Plain values, as they are written into side-cars and results."""
        values = dataclasses.asdict(self)
        values.pop("folder")
        for newer in ("method_options", "validation", "data_sha256"):  # hashes stay
            if not values[newer]:
                values.pop(newer)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def sha256(self) -> str:
        """Hash of everything but name and seed: runs that agree in it are seeds of one recipe.

        Data of which the rows are known count by these, and not by what they are called.
        """
        values = self.to_dict()
        names = {"name", "seed", *(("task", "data") if self.data_sha256 else ())}
        return sha256_json({key: values[key] for key in values if key not in names})


_HINTS = get_type_hints(Recipe, include_extras=True)
SETTINGS = {name: kind for name, kind in _HINTS.items() if name != "folder"}


def built_in_recipes() -> dict[str, Path]:
    """Name (path below the package's recipes, without .yaml) → file."""
    files = sorted(BUILT_IN.rglob("*.yaml"))
    return {path.relative_to(BUILT_IN).with_suffix("").as_posix(): path for path in files}


def load_recipe(source: str | Path, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a recipe by built-in name or file, with `--set` overrides (texts in YAML syntax).

    Raises:
        RecipeError: No such recipe, not YAML, unknown key, wrong type or value out of range.
    """
    path = built_in_recipes().get(str(source), Path(source))
    if not path.is_file():
        near = get_close_matches(str(source), built_in_recipes(), 1)
        instead = f"did you mean {near[0]}?" if near else "`aurac train --list` names ours"
        raise RecipeError(f"{source} is no recipe file; {instead}")
    values = read_yaml(path)
    given = {key: _override(key, value) for key, value in (overrides or {}).items()}
    for pair in (("task", "data"), ("steps", "epochs")):  # of the two the one that was typed
        if len(typed := [key for key in pair if key in given]) == 1:
            values = {key: v for key, v in values.items() if key not in pair or key in typed}
    recipe = make_recipe(values | given, where=str(source))
    if "data" in given:  # typed in the current folder
        return recipe
    return dataclasses.replace(recipe, folder=path.parent)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a RecipeError where there is none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds no `name: value` lines.")
    return values


def _override(key: str, text: object) -> object:
    """The value of `--set key=text` in YAML; a text or a list need no quotes or brackets."""
    hint = SETTINGS.get(key)
    if not isinstance(text, str) or hint is str:
        return text
    if get_origin(hint) is tuple and not text.lstrip().startswith(("[", "-")):
        text = f"[{text}]"
    return yaml.safe_load(text)


def make_recipe(values: Mapping[str, object], where: str = "recipe") -> Recipe:
    """A Recipe from plain values.

    Raises:
        RecipeError: Unknown or missing key, wrong type, or value out of range.
    """
    for key in values:
        if key not in _HINTS:
            near = get_close_matches(str(key), SETTINGS, 1)
            instead = f"did you mean {near[0]}?" if near else "`aurac train --list` names them"
            raise RecipeError(f"{where}: no setting is called {key}; {instead}")
    try:
        return msgspec.convert(dict(values), Recipe, strict=False)  # YAML reads 1e-3 as a text
    except msgspec.ValidationError as error:
        reason = str(error).replace(" - at `$.", " for ").replace("`int`", "a whole number")
        raise RecipeError(f"{where}: {reason.replace('`', '')}") from error


def family_members(recipe: Recipe, ranks: Sequence[int]) -> dict[str, Recipe]:
    """The folder of each rank, such as `r4`, and its recipe, which has no nested ranks."""
    plain: dict[str, Any] = {"nested_ranks": (), "rank_weights": (), "dylora_probabilities": ()}
    return {
        f"r{rank}": dataclasses.replace(recipe, rank=rank, **plain)
        for rank in check_nested_ranks(sorted(ranks))
    }
