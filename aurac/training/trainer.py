"""The HF Trainer with a method's passes and steps of random examples."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from aurac.errors import DivergedError
from aurac.training.nested import Nested

logger = logging.getLogger(__name__)
Example = dict[str, list[int]]


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


class NestedTrainer(Trainer):
    """The Trainer with a method's passes: the loss of a step is the weighted sum over them.

    Losses are the Trainer's own: tokens are averaged over the optimizer step and all processes.
    """

    def __init__(self, nested: Nested, *args: Any, **kwargs: Any) -> None:
        self.nested = nested
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
        self._dtypes = {
            name: p.dtype for name, p in self.model.named_parameters() if p.requires_grad
        }

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        processes = self.accelerator.num_processes
        step = self._train_batch_size * self.args.gradient_accumulation_steps * processes
        lengths = [len(example["input_ids"]) for example in self.train_dataset]
        return StepSampler(lengths, step, self.args.data_seed)

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
        for each in self.nested.passes():
            self.nested.forced = each
            losses.append(super().training_step(model, inputs, *args))
        self.nested.forced = None
        self.nested.micro_batch += 1
        return torch.stack(losses).sum()

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The Trainer's loss times the share of the pass."""
        loss, each = super().compute_loss(*args, **kwargs), self.nested.forced
        return loss if each is None else each.share * loss


class StepCallback(TrainerCallback):
    """Logs, evaluates and saves together, and stops a training that diverges or is interrupted."""

    interrupted = False

    @contextmanager
    def saving_at_interrupts(self) -> Iterator[None]:
        """Ctrl-C saves after the step that is being done, and a second one stops at once.

        Where Ctrl-C does not do what is usual in Python, it is left as it is.
        """
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if not usual or current_thread() is not main_thread():
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.interrupted = True
        logger.warning("stopping after this step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Log the last step; no checkpoint of it, for resumed the Trainer would make one more."""
        last = state.global_step >= state.max_steps
        control.should_evaluate |= args.do_eval and (control.should_save or last)
        control.should_save = (control.should_save or self.interrupted) and not last
        control.should_log |= control.should_save or last

    def on_save(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """A checkpoint is whole."""
        if self.interrupted:
            raise KeyboardInterrupt

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: object) -> None:
        """DivergedError where a mean loss is no number; nothing of it is saved."""
        if not math.isfinite(loss := logs.get("loss", 0.0)):
            raise DivergedError(
                f"The training diverged: its loss is {loss} at step {state.global_step}; "
                "lower learning_rate, or use dtype float32."
            )
