"""`aurac.nested` and `aurac.RankCurve` in TRL, the HF Trainer and a loop with accelerate."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from functools import partial

import pytest
import torch
from datasets import Dataset
from document_blocks import PAGES, blocks
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from support.gloo import run_processes
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import aurac
from aurac.errors import UsageError
from aurac.models.base import load_base
from aurac.training.data import collate, tokenize, training_documents
from aurac.training.job import build_model, train
from aurac.training.trainer import StepSampler

WORDS = {"task": "aurac_word_problems", "data": "", "documents": 80, "accumulation": 2}
METHODS = {
    "lora": {},
    "matryoshka": {"rank_weights": [1.0, 0.5, 2.0]},
    "dylora": {"dylora_probabilities": [1.0, 2.0, 1.0]},
}


def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl")


class EveryStep(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_log = True


PADDED = partial(collate, pad=0)


def told(folder, **settings):
    """What a trainer is told: six steps of two passes over four examples."""
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 6}
    how = {"output_dir": str(folder), "learning_rate": 1e-2, "logging_steps": 1, "bf16": False}
    return {**quiet, **sizes, **how, **settings}


def arguments(folder, **settings):
    return TrainingArguments(**told(folder, **settings))


def base_of(made):
    """The base of a recipe, fresh, and the examples of the recipe."""
    loaded = load_base(made.base, dtype="float32", device="cpu")
    return loaded, tokenize(made, training_documents(made), loaded.tokenizer)


@pytest.mark.parametrize("method", METHODS)
def test_sft_trainer_reaches_the_losses_of_aurac_train(recipe, method, tmp_path):
    made = recipe(method, steps=20, **WORDS, **METHODS[method])
    losses = [loss for _, loss in train(made, tmp_path / "a", callbacks=[EveryStep()]).losses]
    loaded, examples = base_of(made)
    sampler = StepSampler([len(e["input_ids"]) for e in examples], made.batch_size, made.seed)
    rows = [examples[index] for index in sampler]
    sampler.set_epoch(1)
    rows += (again := [examples[index] for index in sampler])
    assert again != rows[:80]
    model, handle = build_model(made, loaded)
    handle.remove()
    how = {"scaling": "sqrt", "alpha": 1.0, "seed": made.seed}
    how |= {"ranks": made.nesting.ranks, "weights": made.nesting.weights}
    with aurac.nested(model, method, **how) as handle:
        settings = {"max_steps": 20, "seed": made.seed, "gradient_checkpointing": False}
        settings |= {"optim": "adamw_torch_fused", "train_sampling_strategy": "sequential"}
        trainer = trl().SFTTrainer(
            model,
            trl().SFTConfig(**told(tmp_path / "sft", max_length=None, **settings)),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(made.base),
            callbacks=[handle],
        )
        trainer.train()
        trainer.save_model(tmp_path / "b")
    theirs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(theirs) == 20
    assert theirs == pytest.approx(losses, rel=1e-5)
    ours, saved = (aurac.load_adapter(tmp_path / name) for name in "ab")
    assert (saved.nesting, saved.rule, saved.alpha) == (ours.nesting, ours.rule, ours.alpha)
    assert ours.nesting.weights == made.nesting.weights


PAIRS = [
    {"prompt": f"Mia has {a} + {b}", "chosen": f" = {a}", "rejected": f" = {b} {a}"}
    for a in range(8)
    for b in range(8)
]


def start(base, folder, method="matryoshka"):
    """A trained adapter of rank 4, saved with how it was trained, and loaded to go on."""
    torch.manual_seed(0)
    config = {"r": 4, "lora_alpha": 1, "use_rslora": True, "task_type": "CAUSAL_LM"}
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(init_lora_weights=False, **config)
    )
    with aurac.nested(model, method):
        model.save_pretrained(folder)
    return AutoPeftModelForCausalLM.from_pretrained(folder, is_trainable=True)


@pytest.mark.parametrize(("method", "checkpointing"), [("matryoshka", False), ("dylora", True)])
def test_dpo_goes_on_from_a_trained_adapter(method, checkpointing, tiny_base_folder, tmp_path):
    model = start(tiny_base_folder, tmp_path / "start", method)
    weights = (0, 0, 1) if method == "dylora" else ()  # at rank 4, as the reference
    handle = aurac.nested(model, method, weights=weights)
    settings = {"max_steps": 20, "gradient_accumulation_steps": 1, "eval_strategy": "steps"}
    settings |= {"eval_steps": 10, "gradient_checkpointing": checkpointing}
    trainer = trl().DPOTrainer(
        model,
        args=trl().DPOConfig(**told(tmp_path / "dpo", **settings)),
        train_dataset=Dataset.from_list(PAIRS),
        eval_dataset=Dataset.from_list(PAIRS[:8]),
        processing_class=AutoTokenizer.from_pretrained(tiny_base_folder),
        callbacks=[handle],
    )
    trainer.add_callback(aurac.RankCurve(trainer, ranks=[1, 2, 4]))
    trainer.train()
    log = trainer.state.log_history
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # the reference is the same function
    assert losses[-1] < losses[0] - 0.02
    curves = [row for row in log if "eval_loss_r1" in row]
    assert [row["step"] for row in curves] == [10, 20]
    whole = [row for row in log if "eval_loss" in row]
    assert curves[-1]["eval_loss_r4"] == whole[-1]["eval_loss"]
    assert len({curves[-1][f"eval_loss_r{r}"] for r in (1, 2, 4)}) == 3
    # What the ranks were measured with on the way is in no later average of TRL's.
    assert {key for row in curves for key in row} == {"epoch", "step", *curves[0]}
    with handle.rank(2):
        assert trainer.evaluate()["eval_loss"] == pytest.approx(curves[-1]["eval_loss_r2"])
    trainer.save_model(tmp_path / "dpo/adapter")
    before = aurac.load_adapter(tmp_path / "start")
    for folder in ("adapter", "adapter/ref"):
        saved = aurac.load_adapter(tmp_path / "dpo" / folder)
        assert saved.nesting.ranks == before.nesting.ranks
        same = all(torch.equal(f.B, before.modules[n].B) for n, f in saved.modules.items())
        assert same == folder.endswith("ref")


class Watch(TrainerCallback):
    """Keeps the drawn ranks, and stops after step 3."""

    def __init__(self, handle, *, stops):
        self.handle, self.stops, self.drawn = handle, stops, []

    def on_substep_end(self, args, state, control, **_):
        self.drawn.append(self.handle._drawn.ranks)

    def on_step_end(self, args, state, control, **_):
        self.drawn.append(self.handle._drawn.ranks)
        control.should_training_stop |= self.stops and state.global_step == 3


@pytest.mark.parametrize(
    ("method", "update", "dtype"),
    [
        ("matryoshka", "prefix", "float32"),
        ("matryoshka", "prefix", "bfloat16"),
        ("dylora", "prefix", "float32"),
        ("dylora", "frozen", "float32"),
    ],
)
def test_checkpoints_are_the_model_and_resume_bit_for_bit(recipe, method, update, dtype, tmp_path):
    """In the HF Trainer, with the draws that were due; each is what plain PEFT loads."""
    made = recipe(method, dylora_update=update, nested_ranks=[1, 2, 4])
    losses, ends, drawn = {}, {}, {}
    ids = torch.arange(3, 21).reshape(2, 9)
    for run in ("whole", "cut", "resumed"):
        loaded = load_base(made.base, dtype=dtype, device="cpu")
        rows = tokenize(made, training_documents(made), loaded.tokenizer)
        model, handle = build_model(made, loaded)
        folder = tmp_path / run.replace("resumed", "cut")
        how = arguments(folder, save_strategy="steps", save_steps=3)
        callbacks = [handle, watch := Watch(handle, stops=run == "cut")]
        trainer = Trainer(model, how, PADDED, train_dataset=rows, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=run == "resumed")
        losses[run] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        drawn[run], ends[run] = watch.drawn, model.eval()(ids).logits
        last = folder / f"checkpoint-{trainer.state.global_step}"
        base = load_base(made.base, dtype=dtype, device="cpu").model
        plain = PeftModel.from_pretrained(base, last, autocast_adapter_dtype=False).eval()
        near = 1e-5 if dtype == "float32" else 0.05
        torch.testing.assert_close(plain(ids).logits, ends[run], atol=near, rtol=10 * near)
        handle.remove()
    assert drawn["cut"] + drawn["resumed"] == drawn["whole"]
    if method == "dylora":
        wanted = [made.setup.passes(n // 2, n)[0].ranks for n in range(12)]
        assert drawn["whole"] == wanted
        differ = any(a != b for a, b in zip(wanted[::2], wanted[1::2], strict=True))
        assert differ == (update == "prefix")
    if dtype == "float32":  # the Trainer leaves factors in bfloat16 in float32 when it resumes
        assert losses["resumed"] == losses["whole"]
        assert torch.equal(ends["resumed"], ends["whole"])


@pytest.mark.parametrize("ranks", ["pow2", "all", [2, 3]])
def test_a_rank_curve_of_plain_lora_is_the_losses_of_its_cuts(ranks, recipe, tmp_path):
    made = recipe("lora", steps=2)
    _, rows = base_of(made)
    model = start(made.base, tmp_path / "start", "lora")
    how = arguments(tmp_path / "out")
    sets = {"first": rows[:8], "second": rows[8:24]}
    trainer = Trainer(model, how, PADDED, eval_dataset=sets)
    with pytest.raises(UsageError, match="'pow3' is neither pow2 nor all"):
        aurac.RankCurve(trainer, ranks="pow3")
    trainer.add_callback(aurac.RankCurve(trainer, ranks=ranks, every=2))
    assert not any("_r2" in key for key in trainer.evaluate())
    found = trainer.evaluate()
    for r in {"pow2": (1, 2, 4), "all": (1, 2, 3, 4)}.get(str(ranks), ranks):
        folder = tmp_path / f"r{r}"
        aurac.save_adapter(aurac.truncate(tmp_path / "start", r), folder)
        cut = AutoPeftModelForCausalLM.from_pretrained(folder)
        trainer = Trainer(cut, how, PADDED, eval_dataset=sets)
        for key, loss in trainer.evaluate().items():
            if key.endswith("_loss"):
                assert found[f"{key}_r{r}"] == pytest.approx(loss, rel=1e-6), (key, r)


LOOP = """
import json, sys, torch, aurac
from accelerate import Accelerator
from aurac.training import make_recipe
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
world, rank = accelerator.num_processes, accelerator.process_index
found = {}
for method, sharded in [("matryoshka", 0), ("dylora", 0), ("matryoshka", 1), ("dylora", 1)]:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=1, use_rslora=True, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(sys.argv[1]), config)
    nested = aurac.nested(model, method, seed=1, accumulation=2)
    if sharded and world > 1:  # FSDP2
        mesh = init_device_mesh("cpu", (world,))
        for layer in model.get_base_model().model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    # Plain gradient descent: Adam would divide a gradient near 0 by its own size, so that the
    # rounding of another order of summation moves that entry as far as any other.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    if not sharded:
        model, optimizer = accelerator.prepare(model, optimizer)
    losses = found[f"{method}{sharded}"] = []
    for number in range(12):
        ids = torch.randint(3, 40, (8, 9), generator=torch.Generator().manual_seed(number))
        mine = ids[rank * 8 // world : (rank + 1) * 8 // world]
        with accelerator.accumulate(model):
            loss = model(input_ids=mine, labels=mine, use_cache=False).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(accelerator.gather(loss.detach()).mean().item())
    if not sharded:
        with nested.rank(2), torch.no_grad():
            loss = model(input_ids=mine, labels=mine).loss
        losses.append(accelerator.gather(loss).mean().item())
    adapter = aurac.load_adapter(accelerator.unwrap_model(model))
    if accelerator.is_main_process:
        aurac.save_adapter(adapter, f"{sys.argv[2]}{method}{sharded}")
    nested.remove()
done = aurac.train(make_recipe(json.loads(sys.argv[3])), sys.argv[2] + "train", device="cpu")
found["train"] = [loss for _, loss in done.losses] + list(done.curve.values())
if accelerator.is_main_process:
    open(sys.argv[2] + "losses.json", "w").write(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_two_processes_have_the_losses_of_one(recipe, tiny_base_folder, tmp_path):
    """A loop with accelerate, with sharded parameters, and `aurac train`, in gloo."""
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    made = recipe("dylora", validation=8, learning_rate=1e-3, **WORDS, **METHODS["dylora"])
    found = []
    for number in (1, 2):
        values = [tiny_base_folder, f"{tmp_path}/{number}", json.dumps(made.to_dict())]
        run_processes(script, values, number)
        found.append(json.loads((tmp_path / f"{number}losses.json").read_text()))
    for name, losses in found[0].items():
        assert found[1][name] == pytest.approx(losses, rel=1e-5), name
        one, two = (aurac.load_adapter(tmp_path / f"{number}{name}") for number in (1, 2))
        assert (one.nesting, two.nesting.ranks) == (two.nesting, (1, 2, 4))
        for module, f in one.modules.items():
            assert torch.allclose(f.B, two.modules[module].B, rtol=0, atol=1e-5), name
        if name != "train":
            assert losses[11] < losses[0] - 0.1


def test_the_lines_of_the_page_run(tiny_base_folder, tmp_path, monkeypatch):
    """Those for TRL, for a loop and for one rank, in this order, on a tiny base."""
    from torch.utils.data import DataLoader

    monkeypatch.chdir(tmp_path)
    [page] = [page for page in PAGES if page.name == "trainers.md"]
    in_trl, loop, at_rank = (block.text for block in blocks(page) if block.language == "python")
    rows = Dataset.from_list([{"text": "Mia has 1 + 2 = 3"}, {"text": "how many apples"}] * 4)
    names = {"torch": torch, "train": rows, "test": rows}
    names |= {"base": AutoModelForCausalLM.from_pretrained(tiny_base_folder)}
    monkeypatch.setattr(trl(), "SFTConfig", partial(trl().SFTConfig, use_cpu=True))
    exec(in_trl, names)
    saved = aurac.load_adapter("my_adapter")
    assert (saved.method, saved.nesting.ranks) == ("matryoshka", (1, 2, 4, 8, 16))

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base_folder), LoraConfig(r=8))
    ids = torch.randint(3, 40, (8, 7))
    examples = [{"input_ids": row, "labels": row} for row in ids]
    names |= {"model": model, "loader": DataLoader(examples, batch_size=4)}
    names["optimizer"] = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    shutil.rmtree("my_adapter")
    exec(loop, names)
    assert aurac.load_adapter("my_adapter").nesting.ranks == (1, 2, 4, 8)
    exec(at_rank, names)
    base = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    with torch.no_grad():
        cut = PeftModel.from_pretrained(base, "my_adapter_r4")(**names["batch"])
    assert names["loss"].item() == pytest.approx(cut.loss.item(), rel=1e-5)


@pytest.mark.parametrize("method", ["matryoshka", "dylora"])
def test_the_ways_of_the_hf_trainer_give_the_same_losses(method, tiny_base_folder, tmp_path):
    """Gradient checkpointing of both kinds, bfloat16; the best at a small rank."""
    best = {"metric_for_best_model": "eval_loss_r2", "greater_is_better": False}
    ways = {
        "plain": {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 3} | best,
        "recomputed": {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        "reentrant": {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
        "bf16": {"bf16": True},
    }
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(3, 40, (48, 7)).tolist()]
    found = {}
    for way, settings in ways.items():
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
        config = LoraConfig(r=4, lora_alpha=1, use_rslora=True, target_modules="all-linear")
        model = get_peft_model(base, config)
        with aurac.nested(model, method, seed=2) as handle:
            settings |= {"gradient_checkpointing": "gradient_checkpointing_kwargs" in settings}
            how = arguments(tmp_path / way, eval_strategy="steps", eval_steps=3, **settings)
            data = {"train_dataset": rows, "eval_dataset": rows[:8]}
            trainer = Trainer(model, how, PADDED, callbacks=[handle], **data)
            trainer.add_callback(aurac.RankCurve(trainer))
            trainer.train()
        kept = ("loss", "eval_loss_r1", "eval_loss_r2", "eval_loss_r4")
        log = trainer.state.log_history
        found[way] = [value for row in log for key, value in row.items() if key in kept]
        if way == "plain":
            at_two = [row["eval_loss_r2"] for row in log if "eval_loss_r2" in row]
            assert trainer.state.best_metric == min(at_two)
    assert len(found["plain"]) == 12
    for way, losses in found.items():
        tolerance = 1e-2 if way == "bf16" else 0
        assert losses == pytest.approx(found["plain"], rel=tolerance, abs=0), way
