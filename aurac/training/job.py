"""`train(recipe, out)`: a recipe becomes an adapter folder that plain PEFT can load."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from aurac.adapters import Adapter, load_adapter, save_adapter
from aurac.adapters.attach import peft_layers
from aurac.adapters.export import check_free
from aurac.adapters.nesting import peft_alpha
from aurac.errors import DivergedError, RecipeError, RunFolderError
from aurac.files import sha256_json
from aurac.models.base import LoadedBase, load_base
from aurac.models.device import peak_memory, pick_device, pick_dtype, reset_peak_memory
from aurac.models.weights import quiet_transformers
from aurac.readers.data_files import Row
from aurac.training.data import collate, identified, source_rows, tokenize
from aurac.training.nested import Nested
from aurac.training.rank_curve import RankCurve
from aurac.training.recipe import Recipe, load_recipe
from aurac.training.trainer import Example, NestedTrainer, StepCallback

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

logger = logging.getLogger(__name__)
CHECKPOINTING: dict[str, Any] = {
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
}


@dataclass(frozen=True)
class TrainingResult:
    """What a training run left behind."""

    adapter: Adapter  # as saved
    losses: tuple[tuple[int, float], ...]  # (optimizer step, mean loss since the entry before)
    curve: dict[int, float]  # rank → loss of the validation examples, if any, after the last step
    seconds: float  # wall time of the optimizer steps, since the last interruption
    tokens: int  # that were trained on, without padding
    memory: int | None  # most bytes in use, of the device or a CPU's process; None if not known


def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    device: str | None = None,
    force: bool = False,
    save_steps: int = 50,
    report_to: str | list[str] = "none",
    progress: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train the adapter of a recipe and save it to the folder `out`.

    An interrupted training goes on from its newest checkpoint, which lies beside `out`, when the
    same recipe, data and base are trained to the same folder again.

    Args:
        recipe: A `Recipe`, the name of a built-in one, or a file.
        out: Folder of the adapter; it appears only when training has ended.
        device: As `aurac.models.device.pick_device`.
        force: Replace the adapter at `out`, and start over.
        save_steps: Write a trainer checkpoint, and measure the loss of the recipe's validation
            examples at every rank, every so many steps (0: at the end alone).
        report_to: Where the losses are logged to, such as `tensorboard`, which writes to the folder
            `OUT.runs`, or `wandb`.
        progress: Show a bar on a terminal.
        callbacks: Further `TrainerCallback`s.

    Raises:
        RecipeError, DataError, BaseModelError: See the parts.
        RunFolderError: `out` exists and `force` is false.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    folder = Path(out).expanduser()
    check_free(folder, force=force, instead="choose another folder or give --force")
    every = source_rows(recipe)
    recipe, rows = identified(recipe, every), every[: recipe.documents or None]
    place = pick_device(_own_device(device))
    dtype = str(pick_dtype(recipe.dtype, place, training=True)).removeprefix("torch.")
    loaded = load_base(recipe.base, dtype=dtype, device=place)
    examples = _examples(recipe, rows, loaded)
    made_by = recipe.sha256, recipe.seed, loaded.sha256
    digest = sha256_json([*made_by, [*examples[0], *examples[1]]])
    scratch = folder.with_name(f"{folder.name}.{digest[:8]}.training")
    if force and is_main_process():
        shutil.rmtree(scratch, ignore_errors=True)
    arguments = _arguments(recipe, loaded, scratch, save_steps, report_to)
    arguments.disable_tqdm = not (progress and sys.stderr.isatty())
    steps = StepCallback()
    # Several processes would stop at different steps.
    with nullcontext() if _distributed() else steps.saving_at_interrupts():
        done = _trained(recipe, loaded, examples, arguments, [steps, *callbacks], folder)
    if is_main_process():
        save_adapter(done.adapter, folder, force=force)
        shutil.rmtree(scratch, ignore_errors=True)
    return done


def _trained(
    recipe: Recipe,
    loaded: LoadedBase,
    examples: tuple[list[Example], list[Example]],  # to train on, held out
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    folder: Path,
) -> TrainingResult:
    scratch = Path(arguments.output_dir)
    reset_peak_memory(loaded.device)
    model, nested = build_model(recipe, loaded)
    pad = loaded.tokenizer.pad_token_id or loaded.tokenizer.eos_token_id or 0  # never attended to
    takes = signature(loaded.model.forward).parameters
    trainer = NestedTrainer(
        nested,
        model,
        arguments,
        partial(collate, pad=pad, all_logits="logits_to_keep" not in takes),
        train_dataset=examples[0],
        eval_dataset=examples[1] or None,
        callbacks=[nested, *callbacks],
    )
    trainer.add_callback(curve := RankCurve(trainer))
    for callback in trainer.callback_handler.callbacks:
        if getattr(callback, "logging_dir", "") is None:  # TensorBoard's, else within `scratch`
            callback.logging_dir = str(folder.with_name(f"{folder.name}.runs"))
    began = perf_counter()
    try:
        trainer.train(resume_from_checkpoint=newest_checkpoint(scratch))
        adapter = dataclasses.replace(load_adapter(model), name=recipe.name)
    except DivergedError:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    finally:
        nested.remove()
        with suppress(OSError):  # unless there are checkpoints in it
            scratch.rmdir()
    log = trainer.state.log_history
    losses = tuple((int(row["step"]), float(row["loss"])) for row in log if "loss" in row)
    return TrainingResult(
        adapter,
        losses,
        curve=curve.losses,
        seconds=perf_counter() - began,
        tokens=int(trainer.state.num_input_tokens_seen),
        memory=peak_memory(loaded.device),
    )


def is_trained(folder: Path, recipe: Recipe) -> bool:
    """Whether the adapter of a recipe and seed is in a folder; one of another is refused."""
    if not folder.exists():
        return False
    made_by = load_adapter(folder).recipe or {}
    if (made_by.get("sha256"), made_by.get("seed")) != (recipe.sha256, recipe.seed):
        raise RunFolderError(f"{folder} was trained by another recipe or seed")
    return True


def _examples(
    recipe: Recipe, rows: list[Row], loaded: LoadedBase
) -> tuple[list[Example], list[Example]]:
    """The examples that are trained on, and those that are held out."""
    if (first := len(rows) - recipe.validation) < 1:
        raise RecipeError(f"validation = {recipe.validation} leaves none of {len(rows)} examples.")
    trained_on = tokenize(recipe, rows[:first], loaded.tokenizer)
    held_out = tokenize(recipe, rows[first:], loaded.tokenizer) if recipe.validation else []
    return trained_on, held_out


def newest_checkpoint(scratch: Path) -> str | None:
    """The newest whole checkpoint in a folder; the Trainer writes its state last."""
    whole = [path.parent for path in scratch.glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def build_model(recipe: Recipe, loaded: LoadedBase) -> tuple[Any, Nested]:
    """Base + fresh adapter in the base's dtype + its P, in train mode."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=peft_alpha(recipe.scaling, recipe.alpha, recipe.rank),
        use_rslora=recipe.scaling == "sqrt",
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with quiet_transformers():
        model = get_peft_model(loaded.model, config, autocast_adapter_dtype=False)
    if recipe.init == "reference":  # as the MatryoshkaLoRA research code draws it
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_A." in name:
                    parameter.uniform_(-1 / math.sqrt(recipe.rank), 1 / math.sqrt(recipe.rank))
    model.train()
    nested = Nested(model, recipe.setup, recipe.scaling, recipe.alpha, recipe.accumulation)
    nested.note(
        base=loaded.name,
        base_sha256=loaded.sha256,
        recipe=recipe.to_dict() | {"sha256": recipe.sha256, "dtype_used": loaded.dtype},
        seed=recipe.seed,
    )
    for module in recipe.target_modules:
        if not any(f".{name}".endswith(f".{module}") for name in peft_layers(model, "default")):
            logger.warning("no layer of the base is named like %s: it gets no adapter", module)
    return model, nested


def _arguments(
    recipe: Recipe,
    loaded: LoadedBase,
    scratch: Path,
    save_steps: int,
    report_to: str | list[str],
) -> TrainingArguments:
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=recipe.steps or -1,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=(size := _per_device(recipe.batch_size // recipe.accumulation)),
        per_device_eval_batch_size=size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch" if loaded.device == "mps" else "adamw_torch_fused",
        seed=recipe.seed,
        data_seed=recipe.seed,
        include_num_input_tokens_seen="non_padding",
        logging_steps=10,  # a loss is the mean over so many optimizer steps
        logging_nan_inf_filter=False,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        save_total_limit=1,
        do_eval=bool(recipe.validation),
        run_name=recipe.name,
        use_cpu=loaded.device == "cpu",
        dataloader_pin_memory=loaded.device.startswith("cuda"),
        ddp_find_unused_parameters=False,
        report_to=report_to,
        **(CHECKPOINTING if recipe.gradient_checkpointing else {}),
    )
    if arguments.n_gpu > 1:  # else the Trainer splits a batch over all devices that it sees
        arguments._n_gpu = 1
    device = torch.device(loaded.device)
    if device.index is not None:  # the Trainer takes the first, whichever has the model
        torch.cuda.set_device(device)
        arguments._setup_devices = arguments.distributed_state.device = device
    return arguments


def _per_device(examples: int) -> int:
    """The examples of a forward pass that each process takes."""
    processes = int(os.environ["WORLD_SIZE"]) if _distributed() else 1
    if examples % processes:
        raise RecipeError(
            f"batch_size / accumulation = {examples} is no multiple of {processes} processes."
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
