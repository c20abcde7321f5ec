"""Whole training runs on a tiny random Llama: loss, saving, resuming, two processes."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from aurac.adapters import load_adapter
from aurac.cli import cli
from aurac.errors import DataError, DivergedError, RecipeError, RunFolderError, UsageError
from aurac.models.base import load_base
from aurac.training.data import collate, tokenize, training_documents
from aurac.training.job import train

if TYPE_CHECKING:
    from pathlib import Path


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def assert_bit_equal(a: Path, b: Path) -> None:
    assert_close(tensors(a), tensors(b), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["lora", "dylora", "matryoshka", "nested_loss"])
def test_training_lowers_the_loss_and_saves_plain_peft(
    recipe, tmp_path, method, tiny_base_folder, monkeypatch
):
    monkeypatch.setenv("RANK", "16")  # not that of another process
    out = tmp_path / "adapter"
    done = train(made := recipe(method, steps=35, learning_rate=0.1, validation=8), out)
    losses = [loss for _, loss in done.losses]
    rows = tokenize(made, training_documents(made), AutoTokenizer.from_pretrained(made.base))
    tokens = 5 * sum(len(row["input_ids"]) for row in rows[:-8])  # 52 rows, 7 steps of 8
    assert done.tokens == tokens
    assert losses[-1] < 0.9 * losses[0]
    adapter = load_adapter(out)
    assert adapter.sha256 == done.adapter.sha256
    assert adapter.recipe["base"] == str(tiny_base_folder)
    assert (adapter.method, adapter.rank, adapter.seed) == (method, 4, 3)
    assert adapter.nesting.ranks == ((4,) if method == "lora" else (1, 2, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "train.jsonl"]
    base = AutoModelForCausalLM.from_pretrained(made.base)
    plain = PeftModel.from_pretrained(base, out).eval()  # is the model that was trained
    with torch.no_grad():
        loss = plain(**collate(rows[-8:], 0, all_logits=True)).loss
    assert loss.item() == pytest.approx(done.curve[4], rel=1e-5)


class StopAt(TrainerCallback):
    """Ends a training at the end of a step, or presses Ctrl-C within it."""

    def __init__(self, step, *, pressed=False):
        self.step, self.pressed = step, pressed

    def on_step_begin(self, args, state, control, **_):
        if self.pressed and state.global_step == self.step - 1:
            signal.raise_signal(signal.SIGINT)

    def on_step_end(self, args, state, control, **_):
        if not self.pressed and state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("pressed", [False, True])
@pytest.mark.parametrize(
    ("method", "dtype"), [("dylora", "float32"), ("matryoshka", "bfloat16"), ("lora", "float32")]
)
def test_an_interrupted_run_goes_on_and_ends_bit_equal(recipe, tmp_path, method, dtype, pressed):
    """From the last checkpoint, after Ctrl-C from the step that was being done."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    made = recipe(method, dropout=0.1, dtype=dtype, accumulation=2, validation=4)
    whole = train(made, tmp_path / "whole", save_steps=3)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "cut", save_steps=3, callbacks=[StopAt(5, pressed=pressed)])
    assert signal.signal(signal.SIGINT, usual) is signal.default_int_handler
    kept = f"checkpoint-{5 if pressed else 3}"
    assert [path.name for path in tmp_path.glob("cut.*.training/*")] == [kept]
    done = train(made, tmp_path / "cut", save_steps=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "train.jsonl", "whole"]
    assert_bit_equal(tmp_path / "whole", tmp_path / "cut")
    assert done.curve == whole.curve


def test_tensorboard_shows_a_curve_for_each_rank(recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "adapter"
    made = recipe(validation=16, steps=9)
    done = train(made, out, save_steps=4, report_to="tensorboard")
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"adapter", "adapter.runs"}
    events = EventAccumulator(str(tmp_path / "adapter.runs")).Reload()
    for r in (1, 2, 4):
        scalars = events.Scalars(f"eval/loss_r{r}")
        assert [each.step for each in scalars] == [4, 8, 9]
        assert scalars[-1].value == pytest.approx(done.curve[r])
    assert "train/loss" in events.Tags()["scalars"]
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "again", save_steps=3, callbacks=[StopAt(5)])
    again = train(made, tmp_path / "again")  # measuring, logging and stopping change nothing
    assert again.adapter.sha256 == done.adapter.sha256
    assert again.curve == done.curve


def test_another_recipe_or_other_data_do_not_go_on_from_a_checkpoint(recipe, tmp_path, documents):
    made, other = recipe(), recipe(learning_rate=0.5)
    for each in (made, other):
        with pytest.raises(KeyboardInterrupt):
            train(each, tmp_path / "cut", save_steps=2, callbacks=[StopAt(3)])
    assert len(list(tmp_path.glob("cut.*.training"))) == 2
    documents.write_text(documents.read_text().replace("Mia", "Ann"))
    train(other, tmp_path / "cut", save_steps=2)
    train(other, tmp_path / "whole")
    assert_bit_equal(tmp_path / "cut", tmp_path / "whole")


def test_what_is_there_is_replaced_only_by_force(recipe, tmp_path):
    first = train(recipe(steps=1), tmp_path / "adapter")
    with pytest.raises(RunFolderError, match=r"already there: .* --force"):
        train(recipe(steps=1, seed=4), tmp_path / "adapter", callbacks=[StopAt(1)])
    second = train(recipe(steps=1, seed=4), tmp_path / "adapter", force=True)
    assert second.losses != first.losses  # of other examples, since B is 0 in the first step
    other, before = load_adapter(tmp_path / "adapter"), first.adapter.modules
    assert other.seed == 4
    assert not any(torch.equal(f.A, other.modules[name].A) for name, f in before.items())


def test_gradient_checkpointing_and_accumulation_train_the_same_adapter(recipe, tmp_path):
    made = {"method": "dylora", "dylora_update": "frozen"}  # one rank for each optimizer step
    train(recipe(**made), tmp_path / "plain")
    train(recipe(**made, gradient_checkpointing=True), tmp_path / "checkpointed")
    train(recipe(**made, accumulation=2), tmp_path / "accumulated")
    plain = tensors(tmp_path / "plain")
    for other in ("checkpointed", "accumulated"):
        assert_close(tensors(tmp_path / other), plain, rtol=0, atol=2e-5)


def test_logits_that_no_label_needs_are_left_out_and_change_nothing(recipe, tmp_path, monkeypatch):
    made, kept = recipe(steps=3), []
    kind = type(load_base(made.base, dtype="float32").model)
    forward = kind.forward

    def few(self, input_ids=None, labels=None, *, logits_to_keep=0, **more):
        kept.append(input_ids.shape[1] - logits_to_keep)
        return forward(self, input_ids, labels=labels, logits_to_keep=logits_to_keep, **more)

    def every(self, input_ids=None, labels=None, **more):
        assert "logits_to_keep" not in more
        return forward(self, input_ids, labels=labels, **more)

    for function in (few, every):
        monkeypatch.setattr(kind, "forward", function)
        train(made, tmp_path / function.__name__)
    assert min(kept) > 5
    assert_close(tensors(tmp_path / "few"), tensors(tmp_path / "every"), rtol=0, atol=1e-6)


def test_a_training_that_diverges_stops_and_leaves_nothing(recipe, tmp_path):
    made = recipe(steps=40, learning_rate=1e30)
    with pytest.raises(DivergedError, match="at step 4"):
        train(made, tmp_path / "adapter", save_steps=4)  # where the first checkpoint would be
    assert not list(tmp_path.glob("*.training"))


def as_typed(made, folder):
    """The words that train a recipe from its file."""
    file = folder / "recipe.yaml"
    values = {k: v for k, v in made.to_dict().items() if v not in ("", [])}
    file.write_text(yaml.safe_dump(values))
    return ["train", str(file), "--out", str(folder / "out")]


def test_a_family_is_never_mixed(recipe, tmp_path):
    command = [*as_typed(recipe(method="lora", steps=1), tmp_path), "--ranks"]
    assert CliRunner().invoke(cli, [*command, "1,2"]).exit_code == 0
    done = CliRunner().invoke(cli, [*command, "1,2,4"])
    assert done.exit_code == 0, done.output
    assert done.output.count("already there") == 2
    done = CliRunner().invoke(cli, [*command, "1,2,3", "--seed", "9"])
    assert isinstance(done.exception, RunFolderError)
    assert not (tmp_path / "out/r3").exists()


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"data": "none.jsonl"}, DataError, "none.jsonl cannot be read"),
        ({"target_modules": ["nothing_like_it"]}, ValueError, "nothing_like_it"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, UsageError, r"\(embedding\) takes no P"),
        ({"validation": 60}, RecipeError, "validation = 60 leaves none of 60"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(values, error, said, recipe, tmp_path):
    with pytest.raises(error, match=said):
        train(recipe(**values), tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.jsonl"]


def test_the_command_prints_the_validation_loss_at_every_rank(recipe, tmp_path):
    command = [*as_typed(recipe(steps=4, validation=8), tmp_path), "--save-steps", "2"]
    done = CliRunner().invoke(cli, command, standalone_mode=False)
    assert [f"validation loss at rank {r}:" in done.output for r in (1, 2, 4)] == [True] * 3
    done = CliRunner().invoke(cli, [*command, "--force", "--json"], standalone_mode=False)
    [row] = json.loads(done.stdout)
    assert [*row["validation_loss_by_rank"]] == ["1", "2", "4"]
