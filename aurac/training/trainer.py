"""The HF Trainer with logits at labels alone, a method's passes, callbacks and checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.progress import Progress, TextColumn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from typing_extensions import Self

from aurac.arguments import several
from aurac.errors import DivergedError, RecipeError, UsageError
from aurac.terminal import drawn, one_line, stderr_console, step_bar
from aurac.training.data import IGNORED
from aurac.training.nesting_hook import NestingHook

LOGGING_STEPS = 10  # a loss is the mean over so many optimizer steps
_PREFIX, _STATE = "checkpoint-", "trainer_state.json"
MADE_BY = "recipe.json"  # beside checkpoints: the recipe, data and base that they are made by


class SelectedLogits:
    """Makes a causal LM's head compute logits only at chosen positions.

    A pre-hook on the output embedding replaces the hidden states (B, T, H) by the (N, H) rows that
    are selected. Logits of masked prompt positions are otherwise the largest cost of a small model.
    """

    def __init__(self, model: Any) -> None:
        self._positions: torch.Tensor | None = None
        self._handle = model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(
        self, _: Any, arguments: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        hidden = arguments[0]
        if self._positions is None or hidden.dim() != 3:
            return None
        return (hidden[self._positions], *arguments[1:])

    def choose(self, positions: torch.Tensor | None) -> None:
        """Positions (B, T), boolean, for the next forward; None lets the head see everything."""
        self._positions = positions

    def remove(self) -> None:
        """Take the pre-hook off."""
        self._handle.remove()


class StepSampler(torch.utils.data.Sampler[int]):
    """Random order, another in each epoch, sorted by length within each step of `step` examples.

    Which examples an optimizer step sees stays random, so that its gradient is as it was; sorting
    them saves padding. (The HF Trainer's own grouping by length visits them from the longest to the
    shortest: a model trained so ends an answer too early.)
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        self.lengths, self.step, self.seed, self.epoch = lengths, step, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of an epoch, also of a resumed one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        for start in range(0, len(order), self.step):
            chunk = order[start : start + self.step]
            yield from sorted(chunk, key=lambda index: -self.lengths[index])


def check_callbacks(given: Any) -> tuple[TrainerCallback, ...]:
    """One or several callbacks as a tuple; a UsageError for anything else."""
    callbacks = several(given)
    for each in callbacks:
        if not issubclass(each if isinstance(each, type) else type(each), TrainerCallback):
            raise UsageError(
                f"{each!r:.80} as a callback", expected="a transformers.TrainerCallback"
            )
    return callbacks


class NestedTrainer(Trainer):
    """Trainer whose loss is the mean cross-entropy of the labelled tokens, in fp32.

    The loss of a pass is the one of the unchanged Trainer (tokens averaged over the whole optimizer
    step and all processes); only the logits that do not enter it are not computed. The loss of a
    step is the weighted sum over the method's passes. Prints and bars of the Trainer are off.
    """

    _weight = 1.0

    def __init__(
        self,
        model: Any,
        examples: Sequence[dict[str, list[int]]],
        *,
        name: str,
        hook: NestingHook,
        arguments: TrainingArguments,
        collator: Callable[..., Any],
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        from datasets import Dataset

        self.hook, self.selected = hook, SelectedLogits(model)
        self.clock = StepCallback(name, hook)
        rows = Dataset.from_list([{**e, "length": len(e["input_ids"])} for e in examples])
        every = [self.clock, *callbacks]
        super().__init__(model, arguments, collator, train_dataset=rows, callbacks=every)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self._dtypes = {
            name: p.dtype for name, p in self.model.named_parameters() if p.requires_grad
        }
        # The Trainer counts the labelled tokens of the whole step only for losses that say so.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        """Replaces the Trainer's choice of samplers (which is given a table without lengths)."""
        processes = self.accelerator.num_processes
        step = self._train_batch_size * self.args.gradient_accumulation_steps * processes
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return StepSampler(list(self.train_dataset["length"]), step, seed)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As the Trainer's; PEFT reloads a bf16 adapter as fp32, so each dtype is put back."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in self.model.named_parameters():
            if name in self._dtypes:
                parameter.data = parameter.data.to(self._dtypes[name])

    def training_step(
        self, model: Any, inputs: dict[str, torch.Tensor], *args: Any
    ) -> torch.Tensor:
        """Every pass of the step, one after another: memory holds the graph of one of them."""
        losses = []
        for each in self.hook.passes:
            self.hook.use(each)
            self._weight = each.weight
            losses.append(super().training_step(model, inputs, *args))
        self._weight = 1.0
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - the Trainer's own signature
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one forward pass; labels (B, T) are shifted here."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        shifted = torch.full_like(labels, IGNORED)
        shifted[:, :-1] = labels[:, 1:]
        wanted = shifted != IGNORED
        self.selected.choose(wanted)
        try:
            outputs = model(**inputs, use_cache=False)
        finally:
            self.selected.choose(None)
        logits = outputs.logits
        if logits.dim() == 3:  # a head that does not take the rows apart
            logits = logits[wanted]
        total = cross_entropy(logits.float(), shifted[wanted], reduction="sum")
        if num_items_in_batch is None:
            loss = total / wanted.sum().clamp(min=1)
        else:
            loss = total / torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        loss = loss * self._weight
        return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss


class StepCallback(TrainerCallback):
    """Sets the passes of each optimizer step, keeps the time, and stops what has diverged.

    A checkpoint's log carries the time of the parts before it. The Trainer is also made to log
    where it saves and at the end, so that no step is forgotten.
    """

    def __init__(self, name: str, hook: NestingHook) -> None:
        self._name, self._hook, self._checked = name, hook, False
        self._before, self._started = 0.0, perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first step, without what lies between an interruption and its resumption."""
        return self._before + perf_counter() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """The log is that of the checkpoint by now."""
        self._before = max((row.get("seconds", 0.0) for row in state.log_history), default=0.0)
        self._started = perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """The Trainer calls this once per optimizer step, before its first forward pass."""
        self._hook.set_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """After the first step every hook must have fired.

        A checkpoint of the last step is left out: resumed, the Trainer would make one step more.
        """
        if not self._checked:
            self._hook.check_fired()
            self._checked = True
        last = state.global_step >= state.max_steps
        control.should_log |= control.should_save or last
        control.should_save &= not last

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: object) -> None:
        """The entry is in the log already; DivergedError where its mean loss is no number."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise DivergedError(
                f"training {self._name!r} diverged: the loss is not finite at step "
                f"{state.global_step}",
                fix="lower learning_rate, or use dtype float32",
            )
        state.log_history[-1]["seconds"] = self.seconds


class StepProgress(TrainerCallback):
    """Draws one bar on standard error for the main process; a context that ends it."""

    def __init__(self, title: str) -> None:
        self._title = one_line(title)
        self._bar: Progress | None = None
        self._drawn = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Open the bar."""
        if not state.is_world_process_zero or not stderr_console().is_terminal:
            return
        self._bar = step_bar(TextColumn("loss {task.fields[loss]}"))
        self._task = self._bar.add_task(self._title, total=state.max_steps, loss="–")
        self._bar.update(self._task, completed=state.global_step)
        self._drawn.enter_context(drawn(self._bar))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Advance."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: object) -> None:
        """Show the newest mean loss."""
        if self._bar is not None and logs and "loss" in logs:
            self._bar.update(self._task, loss=f"{float(logs['loss']):.3f}")


def scratch_folder(folder: Path) -> Path:
    """Where the trainer's checkpoints lie until the adapter in `folder` is whole."""
    return folder.with_name(folder.name + ".training")


def newest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """(optimizer step, checkpoint) of the newest whole one of the adapter that goes to `folder`."""
    whole = [
        (int(step), path)
        for path in scratch_folder(folder).glob(f"{_PREFIX}*")
        if (step := path.name.removeprefix(_PREFIX)).isdigit()
        and _json(path / _STATE) is not None  # the trainer writes it last
    ]
    return max(whole, default=None)


def check_made_by(folder: Path, made_by: Mapping[str, object]) -> None:
    """Refuse checkpoints that were made by another recipe, data or base; names may differ."""
    before = _json(scratch_folder(folder) / MADE_BY) or {}
    changed = [
        f"{key} was {before.get(key)!r}, is {made_by.get(key)!r}"
        for key in {**before, **made_by}
        if key != "name" and before.get(key) != made_by.get(key)
    ]
    if changed:
        raise RecipeError(
            f"the checkpoints in {scratch_folder(folder)} are of another training "
            f"({'; '.join(changed)})",
            expected="the same recipe, data and base as before the interruption",
            fix="give the same ones, or remove that folder to start over",
        )


def discard(folder: Path, *, whole: bool) -> None:
    """Remove the checkpoints of `folder`; unless `whole` only where none could be resumed from."""
    if whole or newest_checkpoint(folder) is None:
        shutil.rmtree(scratch_folder(folder), ignore_errors=True)


def mean_losses(log: Iterable[Mapping[str, float]]) -> tuple[tuple[int, float], ...]:
    """(step, mean loss of the steps since the entry before) at every tenth step and the last.

    What the trainer logs besides, where it saves, is joined to the entry after it.
    """
    means, total, counted, step = [], 0.0, 0, 0
    for row in log:
        if "loss" not in row:
            continue
        steps, step = int(row["step"]) - step, int(row["step"])
        total, counted = total + row["loss"] * steps, counted + steps
        if step % LOGGING_STEPS == 0:
            means.append((step, total / counted))
            total, counted = 0.0, 0
    if counted:
        means.append((step, total / counted))
    return tuple(means)


def _json(path: Path) -> dict[str, object] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
