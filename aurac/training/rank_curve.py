"""Rank curves during training: the loss of the evaluation set at every rank, in any HF Trainer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback

from aurac.adapters.attach import cuts, peft_layers
from aurac.adapters.formats.peft import NESTED
from aurac.adapters.nesting import default_nested_ranks
from aurac.adapters.truncate import BasisOption, Rescale


class RankCurve(TrainerCallback):
    """Logs the loss of the evaluation set at every rank after each evaluation.

    The Trainer logs `eval_loss_r4`, … (`eval/loss_r4` in TensorBoard and W&B), which may also be
    its `metric_for_best_model`. The loss is the Trainer's own, of the adapter as `aurac.truncate`
    would cut it; at the trained rank it is the evaluation's.

    Args:
        ranks: `pow2` (1, 2, 4, … and R), `all`, or the ranks.
        every: Measure at every so-many-th evaluation.
        basis: As in `aurac.truncate`.
        rescale: As in `aurac.truncate`.
    """

    def __init__(
        self,
        ranks: str | Sequence[int] = "pow2",
        every: int = 1,
        basis: BasisOption = "auto",
        rescale: Rescale | None = None,
    ) -> None:
        self.ranks, self.every, self.basis, self.rescale = ranks, every, basis, rescale
        self._evaluations: dict[str, int] = {}

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        *,
        metrics: dict[str, float],
        model: Any,
        eval_dataloader: Any,
        **_: object,
    ) -> None:
        """Measure, and log through the Trainer."""
        key = next(name for name in metrics if name.endswith("_loss"))  # one for each data set
        self._evaluations[key] = number = self._evaluations.get(key, 0) + 1
        if number % self.every:
            return
        trainer, nested = _trainer(), vars(model).get(NESTED)
        name = nested.adapter_name if nested else model.active_adapter
        R = max(layer.r[name] for layer in peft_layers(model, name).values())
        way = self.basis, self.rescale
        curve = {}
        # TRL averages what it measures on the way (`_metrics`) into the log that comes next.
        measured = copy.deepcopy(getattr(trainer, "_metrics", None))
        with nested.cuts(*way) if nested else cuts(model, *way, name) as switch:
            for r in _ranks(self.ranks, R):
                if r == R and way == ("auto", None):
                    curve[f"{key}_r{r}"] = metrics[key]
                    continue
                switch.set_rank(r)
                loss_only = {"prediction_loss_only": True}
                found = trainer.evaluation_loop(eval_dataloader, f"Rank {r}", **loss_only)
                curve[f"{key}_r{r}"] = found.metrics["eval_loss"]
        if measured is not None:
            trainer._metrics = measured
        trainer.log(dict(curve))
        metrics.update(curve)


def _ranks(ranks: str | Sequence[int], R: int) -> Iterable[int]:
    if ranks == "pow2":
        return default_nested_ranks(R)
    return range(1, R + 1) if ranks == "all" else sorted(map(int, ranks))


def _trainer() -> Trainer:
    """The Trainer whose method calls the callback, which is not told."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(owner := frame.f_locals.get("self"), Trainer):
            return owner
        frame = frame.f_back
    raise RuntimeError("a RankCurve is a callback of a Trainer")


def curve_in(log: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """Rank → loss of the last curve in a Trainer's `log_history`."""
    start = "eval_loss_r"
    last = next((row for row in reversed(log) if any(k.startswith(start) for k in row)), {})
    return {int(k.removeprefix(start)): v for k, v in last.items() if k.startswith(start)}
