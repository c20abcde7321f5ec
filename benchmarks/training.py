"""Training speed, side by side in one run on one machine; prints a Markdown table.

    python benchmarks/training.py [--steps 20] [--base NAME]

Three ways, one after another, on the same examples with the same initial adapter:

- `plain`: PEFT and the HF Trainer with their defaults (adapter in fp32, padded batches in random
  order).
- `aurac LoRA`: adapter in the compute dtype, examples sorted by length within a step.
- `aurac Matryoshka`: the same with P between the factors.

Below them, on the model of the last, what P between the factors costs in a step (steps with and
without it in turns), and what a rank curve costs beside one evaluation.
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
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

import aurac
from aurac.models.base import load_base
from aurac.models.device import machine, versions
from aurac.training import Recipe, make_recipe
from aurac.training.data import collate, tokenize, training_documents
from aurac.training.job import build_model, train

SKIPPED = 3  # the first steps compile kernels for new shapes


def recipe(method: str, base: str, steps: int) -> Recipe:
    """R = 32 on all projections, 16 examples a step, as many as the steps need."""
    values = {"name": method, "method": method, "rank": 32, "task": "aurac_word_problems"}
    sizes = {"steps": steps, "batch_size": 16, "documents": 16 * steps}
    return make_recipe(values | {"base": base} | sizes)


class Clock(TrainerCallback):
    """Notes the time after each optimizer step."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.at = [time.perf_counter()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """One step more."""
        self.at.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of each step but the first ones."""
        return [b - a for a, b in zip(self.at, self.at[1:], strict=False)][SKIPPED:]


def plain(made: Recipe) -> list[float]:
    """Seconds of each step of PEFT + Trainer as their documentation has it."""
    from peft import LoraConfig, get_peft_model

    loaded, clock = load_base(made.base), Clock()
    set_seed(made.seed)
    config = LoraConfig(
        r=made.rank,
        lora_alpha=made.alpha,
        use_rslora=True,
        target_modules=list(made.target_modules),
        task_type="CAUSAL_LM",
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=get_peft_model(loaded.model, config).train(),
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=made.steps,
                per_device_train_batch_size=made.batch_size,
                learning_rate=made.learning_rate,
                seed=made.seed,
                report_to=[],
                save_strategy="no",
                logging_steps=10,
                disable_tqdm=True,
                use_cpu=loaded.device == "cpu",
            ),
            train_dataset=tokenize(made, training_documents(made), loaded.tokenizer),
            data_collator=partial(collate, pad=loaded.tokenizer.pad_token_id),
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds


def ours(made: Recipe) -> list[float]:
    """Seconds of each step of `aurac train`."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        train(made, Path(scratch) / "adapter", callbacks=[clock])
    return clock.seconds


def of_p(made: Recipe, steps: int) -> tuple[float, float]:
    """Median seconds of a forward and backward pass without P and with it, taken in turns."""
    loaded = load_base(made.base)
    model, nested = build_model(made, loaded)
    nested.remove()
    examples = tokenize(made, training_documents(made), loaded.tokenizer)[: made.batch_size]
    batch = collate(examples, loaded.tokenizer.pad_token_id)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * (steps + SKIPPED)):
        ours = number % 2 == 1
        if ours:
            nested = aurac.nested(model, made.method)
        began = time.perf_counter()
        model(**batch).loss.backward()
        seconds[ours].append(time.perf_counter() - began)
        if ours:
            nested.remove()
    without, with_p = (statistics.median(found[SKIPPED:]) for found in seconds.values())
    return without, with_p


def of_a_curve(made: Recipe) -> tuple[float, float]:
    """Seconds of one evaluation, and of one with a rank curve."""
    loaded = load_base(made.base)
    model, nested = build_model(made, loaded)
    examples = tokenize(made, training_documents(made), loaded.tokenizer)[: 4 * made.batch_size]
    seconds = []
    for curve in (False, True):
        trainer = Trainer(
            model,
            TrainingArguments(report_to=[], disable_tqdm=True, use_cpu=loaded.device == "cpu"),
            partial(collate, pad=loaded.tokenizer.pad_token_id),
            eval_dataset=examples,
        )
        if curve:
            trainer.add_callback(aurac.RankCurve(trainer))
        trainer.remove_callback(PrinterCallback)
        trainer.evaluate()  # the first compiles kernels for new shapes
        began = time.perf_counter()
        trainer.evaluate()
        seconds.append(time.perf_counter() - began)
    nested.remove()
    return seconds[0], seconds[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--base", default="smollm2-135m-instruct-q4_1")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lora, nested = (recipe(m, args.base, args.steps) for m in ("lora", "matryoshka"))
    ways = {
        "plain": plain(lora),
        "aurac LoRA": ours(lora),
        "aurac Matryoshka": ours(nested),
    }
    without, with_p = of_p(nested, args.steps)
    one, curve = of_a_curve(nested)
    tokenizer = load_base(args.base).tokenizer
    examples = tokenize(lora, training_documents(lora), tokenizer)
    tokens = sum(len(example["input_ids"]) for example in examples) / args.steps
    medians = {name: statistics.median(seconds) for name, seconds in ways.items()}
    rows = [
        f"| {name} | {medians[name]:.3f} | {min(seconds):.3f}–{max(seconds):.3f} | "
        f"{tokens / medians[name]:.0f} | {medians['plain'] / medians[name]:.2f} × |"
        for name, seconds in ways.items()
    ]
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    text = f"""# Training beside the HF Trainer

Steps of PEFT under the HF Trainer with their defaults (plain) and of `aurac train`, on the same
examples.

    python benchmarks/training.py --steps {args.steps}

Machine: {machine()["cpu"]}, {machine()["cores"]} cores, {torch.get_num_threads()} threads,
{platform.system()}.
Versions: {installed}.
{args.steps} steps of 16 examples, {tokens:.0f} tokens a step, R = 32, all projections.

| way | median s/step | range | tokens/s | against plain |
|---|---|---|---|---|
""" + "\n".join([*rows, ""])
    text += f"""
P between the factors: {with_p:.3f} s a pass instead of {without:.3f} s
({with_p / without - 1:+.1%}). A rank curve at {len(nested.nesting.ranks)} ranks: {curve / one:.1f}
times one evaluation.
"""
    sys.stdout.write(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
