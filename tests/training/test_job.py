"""Whole training runs on a tiny random Llama: loss, saving, resuming, two processes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from support.adapters import edit
from support.gloo import run_processes
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import aurac
from aurac.adapters import load_adapter, save_adapter
from aurac.adapters.attach import attach
from aurac.adapters.checkpoints import load_adapters
from aurac.adapters.truncate import prepare
from aurac.cli import cli
from aurac.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    RecipeError,
    RunFolderError,
    UsageError,
)
from aurac.models.base import load_base
from aurac.training import make_recipe
from aurac.training.data import IGNORED, identified, render, tokenize, training_documents
from aurac.training.job import build_model, is_trained, train
from aurac.training.recipe import tails
from aurac.training.trainer import StepSampler

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def documents(tmp_path) -> Path:
    rows = [
        {"question": f"how many apples has Mia {a} + {b}", "answer": f"{a} + {b} = #### {b}"}
        for a in range(10)
        for b in range(6)
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def recipe(tiny_base_folder, documents):
    def make(**values):
        return make_recipe(
            {
                "name": "tiny",
                "method": "matryoshka",
                "rank": 4,
                "base": str(tiny_base_folder),
                "data": str(documents),
                "steps": 6,
                "batch_size": 8,
                "learning_rate": 1e-2,
                "dtype": "float32",
                "seed": 3,
            }
            | values
        )

    return make


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def assert_bit_equal(a: Path, b: Path) -> None:
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("method", ["lora", "dylora", "matryoshka", "nested_loss"])
def test_training_lowers_the_loss_and_saves_plain_peft(recipe, tmp_path, method):
    out = tmp_path / "adapter"
    done = train(recipe(method=method, steps=40, learning_rate=0.1), out)
    losses = [loss for _, loss in done.losses]
    assert losses[-1] < 0.9 * losses[0]
    adapter = load_adapter(out)
    assert (adapter.method, adapter.rank, adapter.seed) == (method, 4, 3)
    assert adapter.nesting.ranks == ((4,) if method == "lora" else (1, 2, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "train.jsonl"]
    base = AutoModelForCausalLM.from_pretrained(recipe().base)
    PeftModel.from_pretrained(base, out)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["dylora", "matryoshka"])
def test_a_resumed_run_ends_bit_equal(recipe, tmp_path, method, dtype):
    made = recipe(method=method, dropout=0.1, dtype=dtype, accumulation=2, validation=4)
    train(made, tmp_path / "whole", save_steps=3)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "cut", save_steps=3, callbacks=[StopAt(4)])
    assert not (tmp_path / "cut").exists()
    train(made, tmp_path / "cut", save_steps=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "train.jsonl", "whole"]
    assert_bit_equal(tmp_path / "whole", tmp_path / "cut")


class Interrupt(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_goes_on_where_it_stopped(recipe, tmp_path):
    made = recipe(method="dylora", dropout=0.1, accumulation=2, validation=4)
    train(made, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "cut", callbacks=[Interrupt()])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [path.name for path in tmp_path.glob("cut.*.training/*")] == ["checkpoint-3"]
    done = train(made, tmp_path / "cut")
    assert [step for step, _ in done.losses] == [3, 6]
    assert_bit_equal(tmp_path / "whole", tmp_path / "cut")


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
    first = train(recipe(steps=1), tmp_path / "adapter").adapter
    with pytest.raises(RunFolderError, match=r"already there: .* --force"):
        train(recipe(steps=1, seed=4), tmp_path / "adapter", callbacks=[StopAt(1)])
    train(recipe(steps=1, seed=4), tmp_path / "adapter", force=True)
    other = load_adapter(tmp_path / "adapter")
    assert other.seed == 4
    assert not any(torch.equal(f.A, other.modules[name].A) for name, f in first.modules.items())


def test_gradient_checkpointing_and_accumulation_train_the_same_adapter(recipe, tmp_path):
    made = {"method": "dylora", "dylora_update": "frozen"}  # one rank for each optimizer step
    train(recipe(**made), tmp_path / "plain")
    train(recipe(**made, gradient_checkpointing=True), tmp_path / "checkpointed")
    train(recipe(**made, accumulation=2), tmp_path / "accumulated")
    plain = tensors(tmp_path / "plain")
    for other in ("checkpointed", "accumulated"):
        for name, tensor in tensors(tmp_path / other).items():
            assert torch.allclose(tensor, plain[name], rtol=0, atol=2e-5), (other, name)


def test_logits_that_no_label_needs_are_left_out_and_change_nothing(recipe, tmp_path, monkeypatch):
    made, seen = recipe(steps=3), []
    loaded = load_base(made.base, dtype="float32").model
    kind, forward = type(loaded), type(loaded).forward

    def watched(self, input_ids=None, attention_mask=None, labels=None, **more):
        output = forward(self, input_ids, attention_mask, labels=labels, **more)
        seen.append((input_ids.shape[1], output.logits.shape[1]))
        return output

    def limited(self, input_ids=None, labels=None, *, logits_to_keep=0, **more):
        return watched(self, input_ids, labels=labels, logits_to_keep=logits_to_keep, **more)

    for name, function in (("all", watched), ("few", limited)):
        monkeypatch.setattr(kind, "forward", function)
        train(made, tmp_path / name)
    width, kept = zip(*seen, strict=True)
    assert kept[:3] == width[:3]
    assert all(0 < few < all_ - 5 for few, all_ in zip(kept[3:], width[3:], strict=True))
    few, every = tensors(tmp_path / "few"), tensors(tmp_path / "all")
    for name, tensor in every.items():
        assert torch.allclose(tensor, few[name], rtol=0, atol=1e-6), name


class Logits(TrainerCallback):
    """Those of the model in memory at the end, with and without P."""

    def __init__(self, ids):
        self.ids = ids

    def on_train_end(self, args, state, control, **given):
        model = given["model"].eval()
        with torch.no_grad():
            self.trained = model(self.ids).logits
            for module in model.modules():
                if hasattr(module, "lora_A"):
                    module.lora_A["default"]._forward_hooks.clear()
            self.published = model(self.ids).logits


def test_the_saved_adapter_is_the_model_that_was_trained(recipe, tmp_path):
    """It, and `trained` at r = R, in plain PEFT; `rule` is the published inference, without P."""
    ids = torch.randint(3, 40, (2, 12))
    made, seen = recipe(steps=10), Logits(ids)
    adapter = train(made, tmp_path / "adapter", callbacks=[seen]).adapter
    assert not torch.allclose(seen.trained, seen.published, atol=1e-3)
    for rescale in ("trained", "rule"):
        save_adapter(aurac.truncate(adapter, 4, rescale=rescale), tmp_path / rescale)
    for name in ("adapter", "trained", "rule"):
        base = AutoModelForCausalLM.from_pretrained(made.base)
        got = PeftModel.from_pretrained(base, tmp_path / name).eval()(ids).logits
        wanted = seen.published if name == "rule" else seen.trained
        assert torch.allclose(got, wanted, rtol=0, atol=2e-5), name


def test_reference_initialisation_draws_within_one_over_root_r(recipe):
    loaded = load_base(recipe().base, dtype="float32")
    model, nested = build_model(recipe(init="reference"), loaded)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            assert 0.9 * 0.5 < parameter.abs().max() <= 0.5  # 1/√4
    nested.remove()


def test_prompt_is_masked_and_the_end_is_learnt(recipe, tiny_base_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    made = recipe()
    [example] = tokenize(made, [{"question": "Mia 1", "answer": "2"}], tokenizer)
    words = tokenizer.convert_ids_to_tokens(example["input_ids"])
    assert words == ["Question:", "Mia", "1", "\n", "Answer:", "2", "<eos>"]
    assert example["labels"] == [IGNORED] * 5 + example["input_ids"][5:]


SHARDED = """
import json, sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from aurac import load_adapter, save_adapter
from aurac.models.base import load_base
from aurac.training import make_recipe
from aurac.training.job import build_model

rank, world = 0, 1
if sys.argv[2] == "sharded":
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
for recipe in map(make_recipe, json.loads(sys.argv[1])):
    loaded = load_base(recipe.base, dtype="float32", device="cpu")
    torch.manual_seed(0)
    model, nested = build_model(recipe, loaded)
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for layer in model.get_base_model().model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    # Plain gradient descent: Adam would divide a gradient near 0 by its own size, so that the
    # rounding of another order of summation moves that entry as far as any other.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    ids = torch.randint(3, 20, (4, 9), generator=torch.Generator().manual_seed(5))
    for step in range(4):
        mine = ids[rank * 4 // world : (rank + 1) * 4 // world]
        model(input_ids=mine, labels=mine, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapter = load_adapter(model)
    if rank == 0:
        save_adapter(adapter, f"{recipe.method}-{sys.argv[2]}")
    nested.remove()
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_two_processes_that_shard_the_model_train_the_adapter_of_one(recipe, tmp_path, monkeypatch):
    """FSDP2 over gloo: hooks and the saved adapter survive sharded parameters."""
    monkeypatch.chdir(tmp_path)
    methods = ("matryoshka", "dylora")
    script = tmp_path / "worker.py"
    script.write_text(SHARDED)
    values = json.dumps([recipe(method=method).to_dict() for method in methods])
    run_processes(script, [values, "whole"], 1)
    run_processes(script, [values, "sharded"])
    for method in methods:
        one, two = (tensors(tmp_path / f"{method}-{how}") for how in ("whole", "sharded"))
        moved = 0.0
        for name, tensor in one.items():
            assert torch.allclose(tensor, two[name], rtol=0, atol=1e-5), name
            moved = max(moved, float(tensor.abs().max()) if "lora_B" in name else 0.0)
        assert moved > 1e-3  # B starts at 0: it was trained


def test_an_optimizer_step_sees_random_examples_sorted_only_within():
    lengths = [k % 17 for k in range(70)]
    sampler = StepSampler(lengths, 16, seed=5)
    order = list(sampler)
    assert sorted(order) == list(range(70))
    chunks = [order[k : k + 16] for k in range(0, 70, 16)]
    for chunk in chunks:
        found = [lengths[i] for i in chunk]
        assert found == sorted(found, reverse=True)
    # Random steps: the mean length of 16 of these has a spread of 1.2 around 8; grouped by length
    # they would lie between 1.9 and 14.
    means = [sum(lengths[i] for i in chunk) / len(chunk) for chunk in chunks[:4]]
    assert all(abs(mean - 8) < 5 for mean in means)
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_the_base_that_was_used_is_recorded_and_a_variable_rank_is_none_of_ours(
    recipe, tmp_path, tiny_base_folder, monkeypatch
):
    monkeypatch.setenv("RANK", "16")  # not that of another process
    done = train(recipe(base=str(tiny_base_folder), steps=1), tmp_path / "a")
    assert load_adapter(tmp_path / "a").sha256 == done.adapter.sha256
    assert done.adapter.recipe["base"] == str(tiny_base_folder)
    assert not list(tmp_path.glob("*.training"))


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


@pytest.mark.parametrize(("method", "basis"), [("matryoshka", "svd"), ("lora", "prefix")])
def test_a_cut_is_trained_on_from_where_it_is(recipe, tmp_path, method, basis):
    whole = train(recipe(method=method, learning_rate=0.1), tmp_path / "whole")
    loaded = load_base(whole.adapter.base, dtype="float32", device="cpu")
    ids = torch.arange(40).reshape(4, 10)
    for _, tail in tails(recipe(method=method), basis, [1, 2], {"steps": "9"}):
        cut = aurac.truncate(whole.adapter, tail.rank, basis=basis)
        with attach(loaded.model, prepare(cut)) as _, torch.no_grad():
            wanted = loaded.model(ids).logits
        model, nested = build_model(tail, loaded, cut)
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, wanted, atol=1e-5, rtol=1e-4)
        nested.remove()
        loaded = load_base(whole.adapter.base, dtype="float32", device="cpu")
        with pytest.raises(RecipeError, match="goes on from an adapter"):
            train(tail, tmp_path / "nothing")
    other = dataclasses.replace(cut, base_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        train(tail, tmp_path / "nothing", start=other)
    more = dataclasses.replace(cut, extras={"lm_head.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="which a recipe does not go on from"):
        build_model(tail, loaded, more)


def test_the_tails_of_an_adapter_are_a_family(recipe, tmp_path):
    done = train(made := identified(recipe(method="dylora", steps=0)), tmp_path / "whole")
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    examples = tokenize(made, training_documents(made), tokenizer)
    assert done.tokens == sum(len(example["input_ids"]) for example in examples)
    command = ["train", "--from", str(tmp_path / "whole"), "--out", str(tmp_path / "tails")]
    shown = CliRunner().invoke(cli, [*command, "--ranks", "1,2", "--steps", "3"])
    assert shown.exit_code == 0, shown.output
    (_, family), *_ = load_adapters([tmp_path / "tails"])
    assert family.ranks == (1, 2)
    assert (family.method, family.seed) == ("lora", 3)
    assert family.recipe["start"] == f"svd:{made.sha256}"
    assert family.recipe["steps"] == 3
    _, tail = tails(made, "svd", [1], {"steps": "3"})[0]
    for basis in ("svd", "prefix"):
        cut = aurac.truncate(load_adapter(tmp_path / "whole"), 1, basis=basis)
        if basis == "svd":
            assert is_trained(tmp_path / "tails/r1", tail, cut)
            continue
        with pytest.raises(RunFolderError, match="or from another cut"):
            is_trained(tmp_path / "tails/r1", tail, cut)
    for refused in (["--ranks", "1,2"], ["--steps", "3"]):
        assert CliRunner().invoke(cli, [*command, *refused]).exit_code == 2


ROW = {"question": "1 + 1?", "choices": {"text": ["two {x}", "three"]}, "answer": "b"}


@pytest.mark.parametrize(
    ("prompt", "row", "shown"),
    [
        ("Q: {question} ", ROW, "Q: 1 + 1? "),
        ("{{question}}\n", ROW, "1 + 1?\n"),
        ("{{choices.text[0]}}", ROW, "two {x}"),
        ("{{question | regex_replace('[0-9]', 'n')}}", ROW, "n + n?"),
        ("{% if x %}{{x}}{% else %}none{% endif %}", {**ROW, "x": None}, "none"),
    ],
)
def test_templates_are_python_s_or_those_of_lm_eval(recipe, prompt, row, shown):
    assert render(recipe(prompt=prompt), row, 1) == (shown, " b")
    made = recipe(prompt="{question} {input}", prompt_without=prompt)
    assert render(made, {**row, "input": "x"}, 1)[0] == "1 + 1? x"
    assert render(made, {**row, "input": ""}, 1)[0] == shown


@pytest.mark.parametrize(
    ("prompt", "row"),
    [
        ("{nothing}", ROW),
        ("{question", ROW),
        ("{{choices.text[9]}}", ROW),
        ("{question}", {**ROW, "question": None}),  # would be trained on as a word
        ("{{question}}", {**ROW, "question": float("nan")}),
    ],
)
def test_a_row_that_does_not_fit_is_refused(recipe, prompt, row):
    with pytest.raises(DataError, match="does not fit the templates"):
        render(recipe(prompt=prompt), row, 3)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"data": "none.jsonl"}, DataError, "no training data at"),
        ({"target_modules": ["nothing_like_it"]}, RecipeError, "target_modules"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, UsageError, r"\(embedding\) takes no P"),
        ({"validation": 60}, RecipeError, "validation = 60 leaves none of 60"),
        ({"base": "short"}, RecipeError, "but the base 8 positions: set max_tokens to 8"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(
    values, error, said, recipe, tiny_base_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_base_folder, "short")
    edit(tmp_path / "short" / "config.json", max_position_embeddings=8)
    with pytest.raises(error, match=said):
        train(recipe(**values), tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["short", "train.jsonl"]


def test_the_command_prints_the_validation_loss_at_every_rank(recipe, tmp_path):
    command = [*as_typed(recipe(steps=4, validation=8), tmp_path), "--save-steps", "2"]
    done = CliRunner().invoke(cli, command, standalone_mode=False)
    assert [f"validation loss at rank {r}:" in done.output for r in (1, 2, 4)] == [True] * 3
    done = CliRunner().invoke(cli, [*command, "--force", "--json"], standalone_mode=False)
    [row] = json.loads(done.stdout)
    assert [*row["validation_loss_by_rank"]] == ["1", "2", "4"]
