"""Packed rows and fused layers against transformers' and PEFT's own, in fp64."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    set_seed,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from aurac.training.data import IGNORED, collate
from aurac.training.nesting_hook import NestingHook, fusible, lora_linears
from aurac.training.packing import collator, packed_attention, packs
from aurac.training.recipe import make_recipe

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SOFTCAP = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2, with biases": Qwen2Config(**SIZES),
    "gemma2, bounded scores": Gemma2Config(**SIZES, **SOFTCAP, sliding_window=64),
    "mistral, a window": MistralConfig(**SIZES, sliding_window=64),
}
EXAMPLES = [
    {
        "input_ids": [3 + (7 * i + 11 * k) % 40 for i in range(length)],
        "labels": [IGNORED, IGNORED, *((5 * i + k) % 50 for i in range(length - 2))],
    }
    for k, length in enumerate((9, 8, 5, 3))
]


def made(config, **options):
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    options = {"r": 4, "lora_alpha": 3, "init_lora_weights": False} | options
    names = ["c_attn"] if config.model_type == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(target_modules=names, **options))


def gradients(model):
    taken = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return taken


def loss_of(model, batch):
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_and_fused_gives_the_padded_loss_and_gradients_of_peft(name):
    limit = 1e-6 if "gemma2" in name else 1e-10  # Gemma takes its softmax in fp32
    model = made(CONFIGS[name])
    wanted_loss = loss_of(model, collate(EXAMPLES, 0))
    wanted_loss.backward()
    wanted = gradients(model)
    assert packs(model, EXAMPLES, 0)
    values = {"name": "t", "method": "lora", "rank": 4, "alpha": 3, "data": "x", "scaling": "rank"}
    hook = NestingHook(model, make_recipe(values))
    assert len(hook._fused) == 6
    with packed_attention(model):
        loss = loss_of(model, collator()(EXAMPLES))
        loss.backward()
    assert torch.allclose(loss, wanted_loss, rtol=0, atol=limit)
    got = gradients(model)
    assert got.keys() == wanted.keys()
    for key, gradient in got.items():
        assert torch.allclose(gradient, wanted[key], rtol=0, atol=limit), key
    hook.remove()
    assert torch.allclose(loss_of(model, collate(EXAMPLES, 0)), wanted_loss, rtol=0, atol=1e-12)


def test_a_model_whose_answers_packing_would_change_is_padded(caplog):
    caplog.set_level("INFO")
    short = MistralConfig(**SIZES, sliding_window=4)
    assert not packs(made(short), EXAMPLES, 0)
    assert "a window of 4 tokens" in caplog.text
    model = made(CONFIGS["llama"])
    for layer in model.base_model.model.model.layers:  # positions that the packed row does not have
        layer.self_attn.register_forward_hook(lambda _, __, out: (out[0].roll(1, dims=1), *out[1:]))
    assert not packs(model, EXAMPLES, 0)
    assert "packed logits differ" in caplog.text


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}]
)
def test_layers_of_another_kind_are_not_fused(options):
    layers = [layer for _, layer in lora_linears(made(CONFIGS["llama"], **options))]
    assert len(layers) == 6
    assert not any(fusible(layer, "default") for layer in layers)


def test_a_transposed_linear_layer_is_not_fused():
    model = made(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4), fan_in_fan_out=True)
    layers = [layer for _, layer in lora_linears(model)]
    assert len(layers) == 2
    assert not any(fusible(layer, "default") for layer in layers)
