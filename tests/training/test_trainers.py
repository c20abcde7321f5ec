"""`aurac.nested` and `aurac.RankCurve` in TRL, the HF Trainer and a loop with accelerate."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import aurac
from aurac.models.base import load_base
from aurac.training import make_recipe, train
from aurac.training.data import tokenize, training_documents
from aurac.training.job import build_model
from aurac.training.trainer import StepSampler

METHODS = {
    "lora": {},
    "matryoshka": {"rank_weights": [1.0, 0.5, 2.0]},
    "dylora": {"dylora_probabilities": [1.0, 2.0, 1.0]},
}


@pytest.fixture
def recipe(tiny_base_folder):
    def make(method, **values):
        settings = {
            "name": "tiny",
            "method": method,
            "rank": 4,
            "base": str(tiny_base_folder),
            "task": "aurac_word_problems",
            "documents": 160,
            "steps": 20,
            "batch_size": 8,
            "accumulation": 2,
            "learning_rate": 1e-2,
            "dtype": "float32",
            "seed": 3,
        }
        return make_recipe(settings | METHODS[method] | values)

    return make


class EveryStep(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_log = True


def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl")


def sft(made, model, rows, folder, callbacks, **settings):
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    given = {
        "output_dir": str(folder),
        "max_steps": made.steps,
        "per_device_train_batch_size": made.batch_size // made.accumulation,
        "gradient_accumulation_steps": made.accumulation,
        "learning_rate": made.learning_rate,
        "optim": "adamw_torch_fused",
        "max_length": None,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": made.seed,
    }
    return trl().SFTTrainer(
        model,
        trl().SFTConfig(**{**given, **settings}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("method", METHODS)
def test_sft_trainer_reaches_the_losses_of_aurac_train(recipe, method, tmp_path):
    made = recipe(method)
    losses = [loss for _, loss in train(made, tmp_path / "a", callbacks=[EveryStep()]).losses]
    loaded = load_base(made.base, dtype="float32", device="cpu")
    examples = tokenize(made, training_documents(made), loaded.tokenizer)
    sampler = StepSampler([len(e["input_ids"]) for e in examples], made.batch_size, made.seed)
    rows = [examples[index] for index in sampler]
    model, handle = build_model(made, loaded)
    handle.remove()
    how = {"scaling": "sqrt", "alpha": 1.0, "seed": made.seed}
    if method != "lora":
        how |= {"ranks": made.ranks, "weights": made.nesting.weights}
    with aurac.nested(model, method, **how) as handle:
        trainer = sft(made, model, rows, tmp_path / "sft", [handle])
        trainer.train()
        trainer.save_model(tmp_path / "b")
    theirs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(theirs) == 20
    assert theirs == pytest.approx(losses, rel=1e-5)
    ours, saved = (aurac.load_adapter(tmp_path / name) for name in "ab")
    assert (saved.nesting, saved.rule, saved.alpha) == (ours.nesting, ours.rule, ours.alpha)
