"""The exact rows of docs/adapters.md: a model and a config for each, written by PEFT itself."""

from __future__ import annotations

import copy
import warnings

import torch
from peft import LoraConfig, get_peft_model
from support.adapters import randomise, tiny_gpt2, tiny_llama
from transformers import MixtralConfig, MixtralForCausalLM


def tied_llama():
    torch.manual_seed(4)
    base = tiny_llama()
    config = copy.deepcopy(base.config)
    config.tie_word_embeddings = True
    torch.manual_seed(4)
    return type(base)(config).eval()


def tiny_mixtral():
    torch.manual_seed(6)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
        num_experts_per_tok=2,
    )
    return MixtralForCausalLM(config).eval()


LM = {"task_type": "CAUSAL_LM"}
# row of the table: (model, LoraConfig fields)
EXACT = {
    "plain LoRA": (tiny_llama, {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **LM}),
    "use_rslora": (
        tiny_llama,
        {
            "r": 4,
            "lora_alpha": 6,
            "use_rslora": True,
            "target_modules": ["q_proj", "down_proj"],
            **LM,
        },
    ),
    "rank_pattern": (
        tiny_llama,
        {"r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}, **LM},
    ),
    "alpha_pattern": (
        tiny_llama,
        {
            "r": 4,
            "target_modules": ["q_proj", "v_proj"],
            "alpha_pattern": {r"layers\.1\..*q_proj": 3},
            "rank_pattern": {"layers.0.self_attn.q_proj": 2},
            "use_rslora": True,
            **LM,
        },
    ),
    "use_dora": (
        tiny_llama,
        {
            "r": 4,
            "lora_alpha": 6,
            "use_dora": True,
            "target_modules": "all-linear",
            "rank_pattern": {"v_proj": 2},
            **LM,
        },
    ),
    "use_dora, Conv1D": (
        tiny_gpt2,
        {
            "r": 4,
            "use_dora": True,
            "target_modules": ["c_attn", "c_fc"],
            "fan_in_fan_out": True,
            **LM,
        },
    ),
    "use_dora, embeddings": (
        tiny_llama,
        {"r": 4, "use_dora": True, "target_modules": ["embed_tokens", "q_proj"], **LM},
    ),
    "Conv1D (fan_in_fan_out)": (
        tiny_gpt2,
        {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True, **LM},
    ),
    "embeddings": (tiny_llama, {"r": 4, "target_modules": ["embed_tokens", "q_proj"], **LM}),
    "embeddings, tied": (tied_llama, {"r": 4, "target_modules": ["embed_tokens", "q_proj"], **LM}),
    "modules_to_save": (
        tiny_llama,
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"], **LM},
    ),
    "modules_to_save, tied": (
        tied_llama,
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], **LM},
    ),
    "bias all": (
        tiny_gpt2,
        {"r": 4, "target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True, **LM},
    ),
    "bias lora_only": (
        tiny_gpt2,
        {"r": 4, "target_modules": ["c_attn"], "bias": "lora_only", "fan_in_fan_out": True, **LM},
    ),
    "trainable_token_indices": (
        tiny_llama,
        {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [3, 60], **LM},
    ),
    "trainable_token_indices, tied": (
        tied_llama,
        {
            "r": 4,
            "target_modules": ["q_proj"],
            "trainable_token_indices": {"embed_tokens": [3, 60]},
            **LM,
        },
    ),
    "target_parameters (experts)": (
        tiny_mixtral,
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            **LM,
        },
    ),
    "target_parameters (one matrix)": (
        tiny_mixtral,
        {"r": 4, "target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"], **LM},
    ),
    "layers_to_transform": (
        tiny_llama,
        {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1], **LM},
    ),
    "exclude_modules": (
        tiny_llama,
        {
            "r": 4,
            "target_modules": ["q_proj", "v_proj"],
            "exclude_modules": ["model.layers.0.self_attn.v_proj"],
            **LM,
        },
    ),
    "lora_dropout": (tiny_llama, {"r": 4, "target_modules": ["q_proj"], "lora_dropout": 0.3, **LM}),
    "init gaussian": (
        tiny_llama,
        {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "gaussian", **LM},
    ),
    "init orthogonal": (
        tiny_llama,
        {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "orthogonal", **LM},
    ),
    "init eva": (
        tiny_llama,
        {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "eva", **LM},
    ),
}


def make(row, folder):
    build, config = EXACT[row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = randomise(get_peft_model(build(), LoraConfig(**config)))
        generator = torch.Generator().manual_seed(12)
        for name, parameter in model.named_parameters():
            trained = any(word in name for word in ("modules_to_save", "trainable_tokens_delta"))
            if trained or (
                config.get("bias") and name.endswith("bias") and parameter.requires_grad
            ):
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder)
    return build
