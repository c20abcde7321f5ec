"""Rank curves during training: the loss of the evaluation set at every rank, in any HF Trainer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from aurac.adapters.attach import peft_layers, rank_switch
from aurac.adapters.formats.peft import NESTED
from aurac.adapters.nesting import named_ranks


class RankCurve(TrainerCallback):
    """Logs the loss of the evaluation set at every rank after each evaluation.

    The Trainer logs `eval_loss_r4`, … (`eval/loss_r4` in TensorBoard and W&B), which may also be
    its `metric_for_best_model`. The loss is the Trainer's own, of the adapter as `aurac.truncate`
    cuts it by default; at the trained rank it is that of the evaluation.

    Args:
        trainer: The Trainer, to which it is added: `trainer.add_callback(RankCurve(trainer))`.
        ranks: `pow2` (1, 2, 4, … and R), `all`, or the ranks.
        every: Measure at every so-many-th evaluation.
    """

    def __init__(
        self, trainer: Trainer, ranks: str | Sequence[int] = "pow2", every: int = 1
    ) -> None:
        if isinstance(ranks, str):
            named_ranks(ranks, 1)  # refuses other names before the training
        self.trainer, self.ranks, self.every = trainer, ranks, every
        self.losses: dict[int, float] = {}  # rank → loss, of the last measurement
        self._evaluations: Counter[str] = Counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure, and log through the Trainer."""
        model, metrics = given["model"], given["metrics"]
        key = min((k for k in metrics if k.endswith("_loss")), key=len, default="")
        self._evaluations[key] += 1
        trainer, nested = self.trainer, vars(model).get(NESTED)
        if not key or self._evaluations[key] % self.every or (nested and nested.is_cut):
            return
        name = nested.adapter_name if nested else model.active_adapter
        R = max(layer.r[name] for layer in peft_layers(model, name).values())
        ranks = named_ranks(self.ranks, R) if isinstance(self.ranks, str) else self.ranks
        # TRL averages what it measures on the way (`_metrics`) into the log that comes next.
        measured = copy.deepcopy(getattr(trainer, "_metrics", None))
        loop = partial(trainer.evaluation_loop, given["eval_dataloader"], prediction_loss_only=True)
        live = nested.rank_switch() if nested else rank_switch(model, name)
        callbacks = trainer.callback_handler.callbacks
        bars = [each for each in callbacks if hasattr(each, "prediction_bar")]
        with torch.random.fork_rng(devices=[]), live as set_rank:  # a data loader draws a seed
            for r in ranks:
                self.losses[r] = metrics[key]
                if r != R:
                    set_rank(r)
                    for bar in bars:  # that of the loop before would run past its end
                        bar.on_predict(args, state, control, metrics=metrics)
                    self.losses[r] = loop(description=f"Rank {r}").metrics["eval_loss"]
        if measured is not None:
            trainer._metrics = measured
        curve = {f"{key}_r{r}": loss for r, loss in self.losses.items()}
        trainer.log(dict(curve))
        metrics.update(curve)
