"""What adapters cost to serve: what is timed is greedy decoding in PEFT's layers, in rounds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from adapters import load_with_peft, random_adapter, tiny_llama, token_ids

from aurac.adapters import attach, prepare, save_adapter
from aurac.engine import serving
from aurac.engine.serving import BASE, Workload, time_ranks
from aurac.errors import UsageError

SMALL = Workload(prompt_tokens=6, new_tokens=2, batch=3, repeats=2)


def two():
    """Two adapters of one base, and the base."""
    model = tiny_llama()
    adapters = {name: random_adapter(model, rank=4, seed=at) for at, name in enumerate("ab")}
    return model, {"a": (prepare(adapters["a"]), [1, 4]), "b": (prepare(adapters["b"]), [2])}


def test_each_round_times_everything_once_and_every_other_one_backward(monkeypatch):
    model, adapters = two()
    clean, seen, ticks = set(dict(model.named_modules())), [], []

    def once(model, ids, new_tokens):
        if ids.shape == (3, 1):
            return 0.0, 0.0  # the touch after something was put in place
        assert (ids.shape, new_tokens) == ((3, 6), 2)
        q = model.model.layers[0].self_attn.q_proj
        seen.append(q.lora_A["aurac"].weight.shape[0] if hasattr(q, "lora_A") else 0)
        if not seen[-1]:
            assert set(dict(model.named_modules())) == clean  # no layer of PEFT's around the base
        return float(len(seen)), 100.0 * len(seen)

    monkeypatch.setattr(serving, "_once", once)
    times = time_ranks(model, adapters, SMALL, progress=lambda: ticks.append(1))
    assert seen == [0, 1, 4, 2, 2, 4, 1, 0, 0, 1, 4, 2]
    assert len(ticks) == 12
    assert list(times) == [BASE, ("a", 1), ("a", 4), ("b", 2)]
    # the first round is not counted: the base was 8th and 9th
    assert times[BASE].prefill == [8, 9]
    assert times["a", 4].prefill == [6, 11]
    assert times["b", 2].decode == [500, 1200]
    assert set(dict(model.named_modules())) == clean


@pytest.mark.parametrize("merged", [False, True])
def test_it_computes_what_generate_computes_in_plain_peft(merged, tmp_path):
    """As many passes over as many tokens, the same tokens, in the same kinds of layers."""
    base = tiny_llama()
    adapter = random_adapter(base, rank=4)
    ids, fed, passed = token_ids(shape=(2, 5)), [], []

    def watched(model):
        fed.append([])
        passed.append(Counter())
        model.register_forward_pre_hook(
            lambda _m, _a, kwargs: fed[-1].append(kwargs["input_ids"]), with_kwargs=True
        )
        for module in model.modules():
            module.register_forward_hook(lambda m, *_: passed[-1].update([type(m).__name__]))

    plain = load_with_peft(tiny_llama(), save_adapter(adapter, tmp_path / "adapter"))
    plain = plain.merge_and_unload() if merged else plain
    inner = plain if merged else plain.get_base_model()
    watched(inner)
    plain.generate(
        input_ids=ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    if merged:
        base.load_state_dict(plain.state_dict())
        watched(base)
        serving._once(base, ids, 3)
    else:
        with attach(base, prepare(adapter), half=True):
            watched(base)
            serving._once(base, ids, 3)
    assert len(fed[0]) == len(fed[1]) == 4
    assert all(torch.equal(a, b) for a, b in zip(*fed, strict=True))
    assert passed[0] == passed[1]
    assert passed[0]["Linear"] > 0


def test_factors_have_the_type_of_the_base(monkeypatch):
    model = tiny_llama(torch.bfloat16)
    adapter = random_adapter(model, rank=4)
    seen = []

    def once(model, *_):
        q = model.model.layers[0].self_attn.q_proj
        seen.extend([q.lora_A["aurac"].weight.dtype] if hasattr(q, "lora_A") else [])
        return 1.0, 1.0

    monkeypatch.setattr(serving, "_once", once)
    time_ranks(model, {"a": (prepare(adapter), [2])}, SMALL)
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("name", ["prompt_tokens", "new_tokens", "batch", "repeats"])
def test_numbers_below_one_are_refused(name):
    option = "batch_size" if name == "batch" else name
    with pytest.raises(UsageError, match=f"{option}=0; .*at least 1"):
        Workload(**{name: 0})
