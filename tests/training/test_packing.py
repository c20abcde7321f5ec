"""Packed rows against padded ones, in fp64."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    set_seed,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from aurac.training.data import IGNORED, collate
from aurac.training.nesting_hook import NestingHook
from aurac.training.recipe import make_recipe
from aurac.training.trainer import packing_collator, packs

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
    names = ["q_proj", "v_proj", "down_proj"]
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
def test_packed_rows_give_the_padded_loss_and_gradients(name):
    limit = 1e-6 if "gemma2" in name else 1e-10  # Gemma takes its softmax in fp32
    model = made(CONFIGS[name])
    values = {"name": "t", "method": "lora", "rank": 4, "alpha": 3, "data": "x", "scaling": "rank"}
    hook = NestingHook(model, make_recipe(values))
    wanted_loss = loss_of(model, collate(EXAMPLES, 0))
    wanted_loss.backward()
    wanted = gradients(model)
    assert packs(model, EXAMPLES, 0)
    loss = loss_of(model, packing_collator()(EXAMPLES))
    loss.backward()
    assert torch.allclose(loss, wanted_loss, rtol=0, atol=limit)
    for key, gradient in gradients(model).items():
        assert torch.allclose(gradient, wanted[key], rtol=0, atol=limit), key
    hook.remove()


def test_a_model_whose_answers_packing_would_change_is_padded():
    model = made(CONFIGS["llama"])
    for layer in model.base_model.model.model.layers:  # positions that the packed row does not have
        layer.self_attn.register_forward_hook(lambda _, __, out: (out[0].roll(1, dims=1), *out[1:]))
    assert not packs(model, EXAMPLES, 0)
