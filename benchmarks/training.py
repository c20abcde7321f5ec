"""Training speed, side by side in one run on one machine; prints a Markdown table.

    python benchmarks/training.py [--steps 20] [--base NAME] [--out docs/benchmarks-training.md]

Three ways, one after another, on the same examples with the same initial adapter:

- `plain`: PEFT and the HF Trainer with their defaults (adapter autocast to fp32, logits at every
  position, batches in random order).
- `aurac LoRA`: logits at labelled positions only, adapter in the compute dtype, batches of like
  lengths.
- `aurac Matryoshka`: the same with P between the factors.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aurac.models.base import load_base
from aurac.models.device import machine, versions
from aurac.training import Recipe, make_recipe, train
from aurac.training.data import collate, tokenize, training_documents


def recipe(method: str, base: str, steps: int) -> Recipe:
    """R = 32 on all projections, 16 examples a step, as many as the steps need."""
    values = {"name": method, "method": method, "rank": 32, "task": "aurac_word_problems"}
    sizes = {"steps": steps, "batch_size": 16, "documents": 16 * steps}
    return make_recipe(values | {"base": base} | sizes)


class Clock:
    """A TrainerCallback that notes the time after each optimizer step."""

    def __new__(cls) -> Any:
        """Build the callback; transformers is imported late."""
        from transformers import TrainerCallback

        class _Clock(TrainerCallback):
            def __init__(self) -> None:
                self.at: list[float] = []

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.at = [time.perf_counter()]

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.at.append(time.perf_counter())

        return _Clock()


def plain(made: Recipe, examples: list[Any], steps: int) -> tuple[list[float], list[float]]:
    """PEFT + Trainer as their documentation has it; (seconds per step, losses)."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments, set_seed

    loaded = load_base(made.base)
    set_seed(made.seed)
    config = LoraConfig(
        r=made.rank,
        lora_alpha=made.alpha,
        use_rslora=True,
        target_modules=list(made.target_modules),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(loaded.model, config).train()
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=16,
                learning_rate=made.learning_rate,
                seed=made.seed,
                report_to=[],
                save_strategy="no",
                logging_steps=1,
                disable_tqdm=True,
                use_cpu=loaded.device == "cpu",
            ),
            train_dataset=Dataset.from_list(examples),
            data_collator=partial(collate, pad=loaded.tokenizer.pad_token_id),
            callbacks=[clock],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    losses = losses[: len(losses) // 10 * 10]  # ours are means of whole tens
    return [b - a for a, b in zip(clock.at, clock.at[1:], strict=False)], losses


def ours(made: Recipe, _: list[Any], __: int) -> tuple[list[float], list[float]]:
    """The trainer of `aurac train`; (seconds per step, losses)."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trained = train(made, Path(scratch) / "adapter", callbacks=[clock])
    losses = [loss for step, loss in trained.losses if step % 10 == 0]
    return [b - a for a, b in zip(clock.at, clock.at[1:], strict=False)], losses


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--base", default="smollm2-135m-instruct-q4_1")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    ways = {
        "plain": (plain, recipe("lora", args.base, args.steps)),
        "aurac LoRA": (ours, recipe("lora", args.base, args.steps)),
        "aurac Matryoshka": (ours, recipe("matryoshka", args.base, args.steps)),
    }
    loaded = load_base(args.base)
    made = next(iter(ways.values()))[1]
    examples = tokenize(made, training_documents(made), loaded.tokenizer)
    tokens = sum(len(e["input_ids"]) for e in examples) / args.steps
    del loaded
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for name, (way, settings) in ways.items():  # `plain` first: ours keeps freed memory for good
        took, history = way(settings, examples, args.steps)
        seconds[name] += took[3:]  # the first steps compile kernels for new shapes
        losses[name] = statistics.fmean(history)
    text = table(seconds, losses, tokens, args.steps)
    sys.stdout.write(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def table(
    seconds: dict[str, list[float]], losses: dict[str, float], tokens: float, steps: int
) -> str:
    """The Markdown that is printed."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        f"| {name} | {medians[name]:.3f} | {min(values):.3f}–{max(values):.3f} | "
        f"{tokens / medians[name]:.0f} | {medians['plain'] / medians[name]:.2f} × | "
        f"{medians[name] / medians['aurac LoRA']:.3f} | {losses[name]:.4f} |"
        for name, values in seconds.items()
    ]
    described = machine()
    head = (
        "# Training beside the HF Trainer\n\n"
        "Steps of PEFT under the HF Trainer with their defaults (plain) and of `aurac train`, on "
        "the same examples.\n\n"
        f"    python benchmarks/training.py --steps {steps} --out docs/benchmarks-training.md\n\n"
        f"Machine: {described['cpu']}, {described['cores']} cores, {torch.get_num_threads()} "
        f"threads, {platform.system()}. Versions: "
        + ", ".join(f"{k} {v}" for k, v in versions().items())
        + f".\n{steps} steps of 16 examples, {tokens:.0f} tokens a step, R = 32, all projections.\n"
    )
    columns = "way | median s/step | range | tokens/s | against plain | against LoRA | mean loss"
    return "\n".join([head, f"| {columns} |", "|" + "---|" * 7, *rows, ""])


if __name__ == "__main__":
    main()
