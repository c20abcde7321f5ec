"""Packed rows against the model's own attention over padded ones."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config, set_seed
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from aurac.training import job, make_recipe, train
from aurac.training.data import IGNORED, collate
from aurac.training.packing import packed_rows, packs, row_collator

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
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


def made(config):
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    names = ["q_proj", "v_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=4, target_modules=names, init_lora_weights=False))


def loss_and_gradients(model, batch):
    labels = batch.pop("labels")[:, 1:].flatten()
    logits = model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    taken = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"loss": loss.detach(), **taken}


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_rows_give_the_padded_loss_and_gradients(name):
    limit = 1e-6 if "gemma2" in name else 1e-10  # Gemma takes its softmax in fp32
    model = made(CONFIGS[name])
    wanted = loss_and_gradients(model, collate(EXAMPLES, 0))
    assert packs(model, EXAMPLES, 0)
    with packed_rows(model):
        got = loss_and_gradients(model, row_collator()(EXAMPLES))
    assert len(got) == 13  # A and B of six layers
    for key, value in got.items():
        assert torch.allclose(value, wanted[key], rtol=0, atol=limit), key


def test_a_model_whose_answers_packing_would_change_is_padded(caplog):
    caplog.set_level("INFO")
    assert not packs(made(MistralConfig(**SIZES, sliding_window=4)), EXAMPLES, 0)
    assert "a window of 4 tokens" in caplog.text
    model = made(CONFIGS["llama"])
    for layer in model.base_model.model.model.layers:  # positions that the packed row does not have
        layer.self_attn.register_forward_hook(lambda _, __, out: (out[0].roll(1, dims=1), *out[1:]))
    assert not packs(model, EXAMPLES, 0)
    assert "logits differ" in caplog.text


def test_a_packed_training_has_the_losses_of_a_padded_one(tiny_base_folder, tmp_path, monkeypatch):
    data, row = tmp_path / "train.jsonl", '{{"question": "{}", "answer": "{}"}}\n'
    data.write_text("".join(row.format("how many " * (i % 5), i) for i in range(24)))
    values = {"name": "t", "method": "nested_loss", "rank": 4, "steps": 8, "batch_size": 8}
    values |= {"base": str(tiny_base_folder), "dtype": "float32", "learning_rate": 1e-2}
    recipe = make_recipe(values | {"data": str(data), "accumulation": 2})
    losses = []
    for packed in (True, False):
        monkeypatch.setattr(job, "packs", lambda *_, packed=packed: packed)
        losses.append([loss for _, loss in train(recipe, tmp_path / f"{packed}").losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
