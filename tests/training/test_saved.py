"""What is saved, loaded, merged or resumed is the model that was trained, by plain PEFT."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.adapters import logits, random_adapter, tiny_llama
from torch.testing import assert_close

import aurac
from aurac.adapters import Nesting, save_adapter

S = (1, 2, 4, 8)
WAYS = {
    "matryoshka": ("matryoshka", {}),
    "untrained rows": ("matryoshka", {"ranks": (1, 2, 4)}),  # whose p is 0
    "weighted": ("matryoshka", {"ranks": (8,), "weights": (3,)}),  # a constant P that is not s_R
    "dylora": ("dylora", {"update": "frozen"}),
    "dylora below": ("dylora", {"ranks": (1, 2, 4)}),
    "lora": ("lora", {}),
}


def peft_model(name="default", **config):
    """A PEFT model of a tiny Llama with a trained-looking adapter of rank 8."""
    torch.manual_seed(5)
    given = {"r": 8, "lora_alpha": 2, "use_rslora": True, "init_lora_weights": False}
    given |= {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 3}}
    return get_peft_model(tiny_llama(), LoraConfig(**given | config), adapter_name=name).eval()


def plainly(folder, **settings):
    """The logits of what plain PEFT loads."""
    return logits(PeftModel.from_pretrained(tiny_llama(), folder, **settings).eval())


def record(folder):
    return json.loads((folder / "aurac.json").read_text())


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])  # without it PEFT writes its own mapping
@pytest.mark.parametrize("way", WAYS)
def test_whatever_saves_it_peft_and_aurac_load_what_was_trained(way, task, tmp_path, caplog):
    method, how = WAYS[way]
    model = peft_model(task_type=task)
    with aurac.nested(model, method, **how):
        trained = logits(model)
        model.save_pretrained(tmp_path / "inside")
        model.save_pretrained(tmp_path / "given", state_dict=model.state_dict())
        save_adapter(aurac.load_adapter(model), tmp_path / "aurac")
    assert_close(logits(model), trained)
    model.save_pretrained(tmp_path / "after")
    for name in ("inside", "given", "aurac", "after"):
        assert_close(plainly(tmp_path / name), trained)
        said = record(tmp_path / name)
        assert (said["method"], said["folded"]) == (method, method == "matryoshka")
        read = aurac.load_adapter(tmp_path / name)
        assert (read.method, read.alpha, read.rank) == (method, 2, 8)
        whole = save_adapter(aurac.truncate(read, 8), tmp_path / f"{name} 8")
        assert_close(plainly(whole), trained)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "inside").eval()
    loaded.save_pretrained(tmp_path / "by peft")  # which drops aurac.json
    for r in (2, 3) if task else ():
        cut = aurac.truncate(tmp_path / "inside", r)
        for other in (loaded, tmp_path / "by peft"):
            assert aurac.truncate(other, r).sha256 == cut.sha256
    assert not caplog.text
    if method == "matryoshka":  # which is not what the factors of the training are in plain PEFT
        assert not torch.allclose(logits(peft_model()), trained, atol=0.01)


@pytest.mark.parametrize("way", ["matryoshka", "untrained rows", "dylora"])
def test_a_saved_adapter_is_trained_on_as_if_it_had_stayed(way, tmp_path):
    method, how = WAYS[way]

    def losses(model):
        ids = torch.arange(1, 37).reshape(4, 9)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        found = []
        for _ in range(4):
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    model = peft_model()
    handle = aurac.nested(model.train(), method, **how)
    first = losses(model)
    model.save_pretrained(tmp_path / "a")
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "a", is_trainable=True).train()
    again = aurac.nested(loaded, method, **how)
    again.micro_batch = handle.micro_batch
    wanted = losses(model)
    assert abs(wanted[-1] - first[0]) > 1e-3  # it learns
    assert losses(loaded) == pytest.approx(wanted, rel=1e-5)
    again.remove()
    once_more = aurac.nested(loaded, method, **how)
    assert_close(logits(loaded.eval()), logits(model.eval()), atol=1e-4, rtol=1e-4)
    assert once_more.record == handle.record


def test_another_method_on_such_an_adapter_is_said(tmp_path, caplog):
    model = peft_model()
    with aurac.nested(model, "matryoshka"):
        model.save_pretrained(tmp_path)
    for method, ranks in (("dylora", S), ("matryoshka", (2, 8)), ("lora", ())):
        loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True).eval()
        caplog.clear()
        with aurac.nested(loaded, method, ranks=ranks):
            assert f"trained by matryoshka at the ranks {S}, goes on by {method}" in caplog.text
            assert_close(logits(loaded), logits(model))  # it goes on from what it is
        loaded.save_pretrained(tmp_path / method)
        assert record(tmp_path / method)["method"] == method
        assert_close(plainly(tmp_path / method), logits(model))
    caplog.clear()
    aurac.nested(loaded, "lora")
    assert not caplog.text


def test_factors_of_which_nothing_says_that_p_is_folded_in_are_taken_as_they_are(tmp_path):
    """As those of the research code, and of the adapters that lie beside the source."""
    adapter = random_adapter(tiny_llama(), 8, names=["q_proj"], nesting=Nesting("matryoshka", S))
    folded = save_adapter(aurac.truncate(adapter, 8), tmp_path / "folded")  # by `trained`
    folder = save_adapter(adapter, tmp_path / "plain")
    for each in (folder, folded):  # a cut that was exported with P has it folded in, too
        loaded = PeftModel.from_pretrained(tiny_llama(), each, is_trainable=True).eval()
        with aurac.nested(loaded, "matryoshka"):
            assert_close(logits(loaded), plainly(folded))


def test_merging_folds_p_in():
    model = peft_model()
    for inside in (True, False):
        handle = aurac.nested(model, "matryoshka")
        trained = logits(model)
        if not inside:
            handle.remove()
        model.merge_adapter()
        assert_close(logits(model), trained)
        model.unmerge_adapter()
        assert_close(logits(model), trained)
        handle.remove()
    handle = aurac.nested(model, "matryoshka")
    merged = model.merge_and_unload()
    assert_close(logits(merged), trained)
    merged.train()(input_ids=torch.ones(1, 3, dtype=int), labels=torch.ones(1, 3, dtype=int))
    handle.remove()
    assert not merged._forward_hooks
    assert not merged._forward_pre_hooks


def test_an_adapter_of_another_name(tmp_path):
    model = peft_model("second", task_type="CAUSAL_LM")
    model.add_adapter("third", LoraConfig(r=8, target_modules=["q_proj"], init_lora_weights=False))
    third = model.get_base_model().model.layers[0].self_attn.q_proj.lora_A["third"].weight.clone()
    with aurac.nested(model, "matryoshka", adapter_name="second"):
        trained = logits(model)
        cut = aurac.truncate(model, 2)
        model.save_pretrained(tmp_path)
    assert_close(logits(model), trained)
    assert_close(plainly(tmp_path / "second"), trained)
    assert record(tmp_path / "second")["method"] == "matryoshka"
    assert not (tmp_path / "third/aurac.json").exists()
    assert torch.equal(aurac.load_adapter(tmp_path / "third").modules[FIRST].A, third)
    of_file = aurac.truncate(tmp_path / "second", 2)
    assert torch.equal(of_file.modules[FIRST].A, cut.modules[FIRST].A)


FIRST = "model.layers.0.self_attn.q_proj"
