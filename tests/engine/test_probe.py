"""Which models run packed passes, and up to which length."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest
import torch
from engine_models import CONFIGS, lora, tiny
from transformers import LlamaConfig, LlamaForCausalLM

from aurac.engine.probe import probe


def test_the_probe_rejects_a_model_whose_positions_are_not_the_given_ones() -> None:
    model = copy.deepcopy(tiny("llama"))
    original = model.model.forward

    def ignoring(_self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    model.model.forward = MethodType(ignoring, model.model)
    with torch.inference_mode():
        verdict = probe(model)
    assert not verdict.packed
    assert "differs" in verdict.reason


def test_the_probe_rejects_a_layer_that_mixes_neighbouring_tokens() -> None:
    """What a recurrent or convolutional layer does: packed neighbours are strangers."""
    model = copy.deepcopy(tiny("llama"))
    norm = model.model.layers[1].input_layernorm
    original = norm.forward
    norm.forward = lambda x: original(x) + 0.5 * torch.roll(original(x), 1, dims=1)
    with torch.inference_mode():
        assert not probe(model).packed


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
        assert probe(model).packed
        torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=0, equal_nan=True)


def test_a_window_that_attention_is_not_told_of_limits_the_length() -> None:
    model = copy.deepcopy(tiny("llama"))
    model.config.attention_chunk_size = 64
    with torch.inference_mode():
        verdict = probe(model)
    assert verdict.packed
    assert verdict.serves(64)
    assert not verdict.serves(65)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_depend_on_the_longest_sequence_are_kept_apart(kind: str) -> None:
    """From a length on the model turns all tokens of a pass otherwise: no others share it then."""
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
        rope |= {"original_max_position_embeddings": 32}
    positions = 128 if kind == "longrope" else 32
    config = CONFIGS["llama"] | {"max_position_embeddings": positions, "rope_parameters": rope}
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    with torch.inference_mode():
        verdict = probe(model)
    assert (verdict.packed, verdict.longest) == (True, 32)
    assert "rotary positions change beyond 32 tokens" in verdict.reason
