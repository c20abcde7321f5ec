"""`train(recipe, out)`: a recipe becomes an adapter folder that plain PEFT can load."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aurac.adapters import Adapter, adapter_from_peft, save_adapter
from aurac.adapters.export import check_free
from aurac.adapters.methods import method_named
from aurac.adapters.truncate import default_rescale
from aurac.arguments import converted, keywords
from aurac.errors import DivergedError, RecipeError, RunFolderError, UsageError
from aurac.files import write_atomic, write_json
from aurac.models.base import LoadedBase, load_base
from aurac.models.device import keep_freed_memory, versions
from aurac.models.weights import quiet_transformers
from aurac.records import hub
from aurac.records.cut import Derived
from aurac.training.data import collate, tokenize, training_documents
from aurac.training.nesting_hook import NestingHook
from aurac.training.recipe import Recipe, load_recipe
from aurac.training.trainer import (
    LOGGING_STEPS,
    MADE_BY,
    NestedTrainer,
    StepProgress,
    check_callbacks,
    check_made_by,
    discard,
    mean_losses,
    newest_checkpoint,
    scratch_folder,
)

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments


logger = logging.getLogger(__name__)
_OF_RECIPE = "set it in the recipe: aurac.training.load_recipe(recipe, {name: value})"


@dataclass(frozen=True)
class TrainingResult:
    """What a training run left behind."""

    adapter: Adapter  # as saved
    folder: Path  # where it was saved
    losses: tuple[tuple[int, float], ...]  # (optimizer step, mean loss since the entry before)
    seconds: float  # wall time of the optimizer steps
    tokens: int  # of the examples seen, padding not counted

    def __repr__(self) -> str:
        last = f", last loss {self.losses[-1][1]:.3g}" if self.losses else ""
        return f"TrainingResult({self.adapter!r} in {str(self.folder)!r}{last})"


@keywords(also=dict.fromkeys(Recipe.__annotations__, _OF_RECIPE))
def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    device: str | None = None,
    force: bool = False,
    resume: bool = False,
    save_steps: int = 0,
    progress: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train the adapter of a recipe and save it to the folder `out`.

    Args:
        recipe: A `Recipe`, the name of a built-in one, or a file.
        out: Folder of the adapter; it appears only when training has ended.
        base: Base model, if another than the recipe's.
        device: As `aurac.models.device.pick_device`.
        force: Replace what is at `out`; without `resume` also checkpoints beside it.
        resume: Go on from the newest trainer checkpoint beside `out`, if there is one. Losses,
            seconds and tokens are then those of the whole training.
        save_steps: Write a trainer checkpoint every so many steps (0: never).
        progress: Show a progress bar with the time left.
        callbacks: Further `TrainerCallback`s.

    Raises:
        RecipeError, DataError, BaseModelError, UsageError: See the parts.
        RunFolderError: `out` exists and `force` is false, or a checkpoint beside it would be lost.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if base:
        recipe = dataclasses.replace(recipe, base=base)
    folder, callbacks = converted(out, Path, "out"), check_callbacks(callbacks)
    if (save_steps := converted(save_steps, int, "save_steps")) < 0:
        raise UsageError(f"{save_steps=}", expected="a whole number of at least 0")
    _check_folder(folder, force=force, resume=resume)
    documents = training_documents(recipe)
    loaded = load_base(recipe.base, dtype=recipe.dtype, device=_own_device(device))
    training = _Training(recipe, loaded, tokenize(recipe, documents, loaded.tokenizer), folder)
    training.check_lengths()
    model, hook = build_model(recipe, loaded)
    try:
        arguments = _arguments(recipe, loaded, scratch_folder(folder), save_steps)
        checkpoint = training.checkpoint(resume=resume, save=save_steps > 0)
        bar = StepProgress(recipe.name) if progress else None
        losses, seconds, tokens = training.run(model, hook, arguments, checkpoint, bar, callbacks)
        adapter = training.adapter(model)
    except DivergedError:
        if is_main_process():
            discard(folder, whole=True)
        raise
    finally:
        hook.remove()
        if is_main_process():
            discard(folder, whole=False)
    if is_main_process():
        save_adapter(adapter, folder, force=force)
        write_atomic(folder / "README.md", _card(adapter, losses))
        discard(folder, whole=True)
    return TrainingResult(adapter, folder, losses, seconds, tokens)


def _check_folder(folder: Path, *, force: bool, resume: bool) -> None:
    """Refuse, before anything is trained, a folder that the adapter could not be saved to."""
    check_free(folder, force=force)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written ({error})", fix="choose another --out"
        ) from error
    if not (resume or force) and (newest := newest_checkpoint(folder)):
        raise RunFolderError(
            f"{newest[1]} is the checkpoint of an interrupted training, at step {newest[0]}",
            expected="a training that goes on there",
            fix="add --resume to go on, or --force to start over without it",
        )


@dataclass(frozen=True)
class _Training:
    """A recipe whose base and examples are in memory."""

    recipe: Recipe
    loaded: LoadedBase
    examples: list[dict[str, list[int]]]
    folder: Path  # of the adapter

    def check_lengths(self) -> None:
        """Refuse examples that are longer than the base's positions."""
        longest = max(len(example["input_ids"]) for example in self.examples)
        config = self.loaded.model.config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and longest > positions:
            raise RecipeError(
                f"a training example of {longest} tokens for a base of {positions} positions",
                fix=f"set max_tokens to {positions} at most",
            )

    def checkpoint(self, *, resume: bool, save: bool) -> str | None:
        """The checkpoint to go on from, after a check that it belongs to this training."""
        seen, folder = hashlib.sha256(), self.folder
        for example in self.examples:
            seen.update(np.array([*example["input_ids"], *example["labels"]]).tobytes())
        base = {"base_sha256": self.loaded.sha256, "data_sha256": seen.hexdigest()}
        made_by = self.recipe.to_dict() | base
        newest = newest_checkpoint(folder) if resume else None
        if newest:
            check_made_by(folder, made_by)
        elif is_main_process():
            discard(folder, whole=True)
        if resume and not newest:
            logger.warning("no checkpoint in %s: training begins at step 0", scratch_folder(folder))
        if save and is_main_process():
            write_json(scratch_folder(folder) / MADE_BY, made_by)
        return str(newest[1]) if newest else None

    def run(
        self,
        model: Any,
        hook: NestingHook,
        arguments: TrainingArguments,
        checkpoint: str | None,
        bar: StepProgress | None,
        callbacks: Sequence[TrainerCallback],
    ) -> tuple[tuple[tuple[int, float], ...], float, int]:
        """Train, and return losses, seconds and tokens as of `TrainingResult`."""
        from aurac.training.packing import collator, packed_attention, packs

        tokenizer, cpu = self.loaded.tokenizer, self.loaded.device == "cpu"
        pad = tokenizer.pad_token_id or tokenizer.eos_token_id or 0  # never attended to
        packed = cpu and packs(model, self.examples, pad)  # packing was measured on CPUs only
        trainer = NestedTrainer(
            model,
            self.examples,
            name=self.recipe.name,
            hook=hook,
            arguments=arguments,
            collator=collator() if packed else partial(collate, pad=pad),
            callbacks=[*callbacks, bar] if bar else callbacks,
        )
        if cpu:
            keep_freed_memory()
        try:
            with bar or nullcontext(), packed_attention(model) if packed else nullcontext():
                trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            trainer.selected.remove()
        state = trainer.state
        seconds = trainer.clock.seconds
        return mean_losses(state.log_history), seconds, self.tokens(state.global_step)

    def adapter(self, model: Any) -> Adapter:
        """The adapter that is in the model now, with where it comes from."""
        recipe, loaded = self.recipe, self.loaded
        adapter = adapter_from_peft(
            model,
            nesting=recipe.nesting,
            rule=recipe.scaling,
            alpha=recipe.alpha,
            base=loaded.name,
            base_sha256=loaded.sha256,
            recipe=recipe.to_dict() | {"sha256": recipe.sha256, "dtype_used": loaded.dtype},
            seed=recipe.seed,
            name=recipe.name,
        )
        return method_named(recipe.method).finish(adapter)

    def tokens(self, steps: int) -> int:
        """Tokens of the examples seen, as many as examples of mean length have."""
        count, batch = len(self.examples), self.recipe.batch_size
        mean_length = sum(len(example["input_ids"]) for example in self.examples) / count
        # the last step of an epoch may have fewer examples than the others
        epochs, rest = divmod(steps, math.ceil(count / batch))
        return round(mean_length * (epochs * count + rest * batch))


def build_model(recipe: Recipe, loaded: LoadedBase) -> tuple[Any, NestingHook]:
    """Base + freshly initialised adapter (in the base's dtype) + nesting hook, in train mode.

    Raises:
        RecipeError: `target_modules` names no layer of the base.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank,
        # PEFT has α/r and α/√r; the rule `none` is α·R/R.
        lora_alpha=recipe.alpha * recipe.rank if recipe.scaling == "none" else recipe.alpha,
        use_rslora=recipe.scaling == "sqrt",
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with quiet_transformers():
            model = get_peft_model(loaded.model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise RecipeError(
            f"target_modules = {list(recipe.target_modules)} do not fit the base ({error})",
            fix="name linear layers of the base",
        ) from error
    if recipe.init == "reference":  # as the MatryoshkaLoRA research code draws it
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_A." in name:
                    parameter.uniform_(-1 / math.sqrt(recipe.rank), 1 / math.sqrt(recipe.rank))
    if recipe.gradient_checkpointing:
        # transformers 5.2x renamed the method; older releases of the range have the old name alone.
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    return model, NestingHook(model, recipe)


def _arguments(
    recipe: Recipe, loaded: LoadedBase, scratch: Path, save_steps: int
) -> TrainingArguments:
    from transformers import TrainingArguments

    if 0 < recipe.steps <= recipe.warmup_steps:
        logger.warning(
            "warmup_steps = %d is not below steps = %d: no step has the full learning rate",
            recipe.warmup_steps,
            recipe.steps,
        )
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=recipe.steps or -1,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=_per_device(recipe.batch_size // recipe.accumulation),
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch" if loaded.device == "mps" else "adamw_torch_fused",
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=LOGGING_STEPS,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        save_total_limit=1,
        report_to=[],
        use_cpu=loaded.device == "cpu",
        dataloader_pin_memory=loaded.device.startswith("cuda"),
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:  # else the Trainer splits a batch over all devices that it sees
        arguments._n_gpu = 1
    return arguments


def _per_device(examples: int) -> int:
    """The examples of a forward pass that each process takes."""
    processes = int(os.environ["WORLD_SIZE"]) if _distributed() else 1
    if examples % processes:
        raise RecipeError(
            f"batch_size / accumulation = {examples} cannot be shared by {processes} processes",
            expected="a multiple of the number of processes",
        )
    return examples // processes


def _distributed() -> bool:
    """Whether torchrun or accelerate started this process; a RANK alone may be anybody's."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"))


def is_main_process() -> bool:
    """Whether this process writes and prints: of several the first."""
    return not _distributed() or os.environ["RANK"] == "0"


def _own_device(device: str | None) -> str | None:
    """Of several processes each takes the CUDA device of its number, as the Trainer does."""
    if _distributed() and torch.cuda.is_available() and device in (None, "auto", "cuda"):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device


def _card(adapter: Adapter, losses: Sequence[tuple[int, float]]) -> str:
    """The adapter's `README.md`, with the front matter that the hub reads."""
    recipe: dict[str, Any] = dict(adapter.recipe or {})
    digest, dtype = recipe.pop("sha256", None), recipe.pop("dtype_used", None)
    method = hub.linked(method_named(str(recipe["method"])).title)
    data = recipe["task"] or recipe["data"]
    ranks = adapter.nesting.ranks if adapter.nesting else ()
    nested = f" Nested ranks: {', '.join(map(str, ranks))}." if len(ranks) > 1 else ""
    text = hub.to_yaml(recipe)
    fence = "`" * (1 + max(2, *map(len, re.findall("`+", text)), 0))
    cut = Derived(basis="prefix", rescale="trained", rank=adapter.rank)
    with_p = cut if default_rescale(adapter) == "trained" else None
    kind = "plain PEFT" if with_p is None else "PEFT"
    last = f"{losses[-1][1]:.4f} at step {losses[-1][0]}" if losses else "not logged"
    return f"""{hub.front_matter(adapter.name, adapter.base, recipe.get("method"))}

# {adapter.name}

A {method} adapter of rank {adapter.rank} for `{hub.base_name(adapter.base)}` (weights SHA-256
`{adapter.base_sha256}`), trained on `{data}`.{nested} Scaling rule: `{adapter.rule}`
with α = {adapter.alpha:g}. Trained in {dtype}; mean training loss {last}.

It is a {kind} adapter; `aurac.json` beside it records what PEFT's config cannot say.

{hub.loading_snippet(adapter.base, with_p=with_p)}

{hub.base_note(adapter.base)}

{hub.ABOUT}
`aurac inspect` describes the adapter, `aurac truncate --rank r` cuts it to a smaller rank.

To make it again, save this as `recipe.yaml` (hash without name and seed: `{digest}`) and run
`aurac train recipe.yaml --out FOLDER`:

{fence}yaml
{text}{fence}

Versions: {", ".join(f"{name} {version}" for name, version in versions().items())}.
"""
