"""Which models run packed passes, and up to which length."""

from __future__ import annotations

import copy
import math
import random
from types import MethodType
from typing import Any

import pytest
import torch
from engine_models import length_dependent, lora, scores, texts, tiny, tokenizer, words

from aurac.engine.lm import EngineLM
from aurac.engine.probe import probe


def test_the_probe_rejects_positions_of_its_own_and_layers_that_mix_neighbouring_tokens() -> None:
    """As a recurrent or convolutional layer does: packed neighbours are strangers."""
    own, mixing = copy.deepcopy(tiny("llama")), copy.deepcopy(tiny("llama"))
    whole, norm = own.model.forward, mixing.model.layers[1].input_layernorm
    usual = norm.forward

    def ignoring(_self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return whole(*args, **kwargs)

    own.model.forward = MethodType(ignoring, own.model)
    norm.forward = lambda x: usual(x) + 0.5 * torch.roll(usual(x), 1, dims=1)
    for model in (own, mixing):
        with torch.inference_mode():
            result = probe(model)
        assert (result.longest, "differs" in result.reason) == (0, True)


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_the_probe_examines_the_base_whatever_adapter_is_attached(scale: float) -> None:
    """An adapter's rounding, or its overflow, says nothing about the model's attention."""
    model = lora(tiny("llama"), 16, torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(scale)
    tokens = torch.arange(12)[None]
    with torch.inference_mode():
        before = model(tokens).logits
        assert probe(model).longest == math.inf
        torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=0, equal_nan=True)


def test_a_window_that_attention_is_not_told_of_limits_the_length() -> None:
    model = copy.deepcopy(tiny("llama"))
    model.config.attention_chunk_size = 64
    with torch.inference_mode():
        assert probe(model).longest == 64


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_depend_on_the_longest_sequence_are_kept_apart(kind: str) -> None:
    """From a length on the model turns all tokens of a pass otherwise: no others share it then."""
    with torch.inference_mode():
        result = probe(length_dependent(kind))
    assert result.longest == 32
    assert "rotary positions change beyond 32 tokens" in result.reason


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_inputs_beyond_the_limit_of_longrope_are_computed_one_by_one(family: str) -> None:
    """The reference is transformers on one row alone, which no other row can change."""
    model, tk, rng = length_dependent("longrope", family), tokenizer(), random.Random(3)
    contexts = [words(rng, count) for count in (2, 20, 3, 18, 4, 5, 16)]
    lm, choice = EngineLM(model, tk, batch_size=4), tk(" the fox").input_ids
    scored = scores(lm, [(context, " the fox") for context in contexts])
    written = texts(lm, [(context, {"until": [], "max_gen_toks": 6}) for context in contexts])
    for context, (value, _), text in zip(contexts, scored, written, strict=True):
        prompt = tk(context, return_tensors="pt").input_ids
        with torch.no_grad():
            table = model(torch.cat([prompt, torch.tensor([choice])], dim=1)).logits
            out = model.generate(prompt, max_new_tokens=6, do_sample=False)
        table = table[0, -len(choice) - 1 : -1].log_softmax(-1)
        assert value == pytest.approx(float(table[range(len(choice)), choice].sum()), abs=1e-4)
        assert text == tk.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
