"""The exact rows of docs/adapters.md: a model and a config for each, written by PEFT itself."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.adapters import randomise, tiny_gpt2, tiny_llama
from transformers import MixtralConfig, MixtralForCausalLM


@torch.no_grad()
def out(model):
    return model(input_ids=IDS).logits


def loaded_by_peft(base, folder):
    """What plain PEFT makes of a checkpoint, whatever it warns of."""
    return PeftModel.from_pretrained(base, str(folder)).eval()


def tied_llama():
    return tiny_llama(tie_word_embeddings=True)


def tiny_mixtral():
    torch.manual_seed(6)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads, **experts)).eval()


IDS = torch.tensor([[5, 9, 3, 7, 2, 11, 60], [1, 4, 4, 63, 8, 2, 7]])
LM = {"task_type": "CAUSAL_LM"}


def row(build, targets, **fields):
    """A model and the fields of its LoraConfig."""
    return build, {"r": 4, "target_modules": targets, **LM, **fields}


CONV1D = {"fan_in_fan_out": True}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
QV = ["q_proj", "v_proj"]
EXACT = {
    "plain LoRA": row(tiny_llama, "all-linear", lora_alpha=6),
    "use_rslora": row(tiny_llama, ["q_proj", "down_proj"], lora_alpha=6, use_rslora=True),
    "rank_pattern": row(tiny_llama, QV, rank_pattern={"v_proj": 2}),
    "alpha_pattern": row(
        *(tiny_llama, QV),
        alpha_pattern={r"layers\.1\..*q_proj": 3},
        use_rslora=True,
        rank_pattern={"layers.0.self_attn.q_proj": 2},
    ),
    "use_dora": row(
        tiny_llama, "all-linear", lora_alpha=6, use_dora=True, rank_pattern={"v_proj": 2}
    ),
    "use_dora, Conv1D": row(tiny_gpt2, ["c_attn", "c_fc"], use_dora=True, **CONV1D),
    "use_dora, embeddings": row(tiny_llama, ["embed_tokens", "q_proj"], use_dora=True),
    "Conv1D (fan_in_fan_out)": row(tiny_gpt2, ["c_attn", "c_proj", "c_fc"], **CONV1D),
    "embeddings": row(tiny_llama, ["embed_tokens", "q_proj"]),
    "embeddings, tied": row(tied_llama, ["embed_tokens", "q_proj"]),
    "modules_to_save": row(tiny_llama, ["q_proj"], modules_to_save=["lm_head", "norm"]),
    "modules_to_save, tied": row(tied_llama, ["q_proj"], modules_to_save=["lm_head"]),
    "bias all": row(tiny_gpt2, ["c_attn"], bias="all", **CONV1D),
    "bias lora_only": row(tiny_gpt2, ["c_attn"], bias="lora_only", **CONV1D),
    "trainable_token_indices": row(tiny_llama, ["q_proj"], trainable_token_indices=[3, 60]),
    "trainable_token_indices, tied": row(
        tied_llama, ["q_proj"], trainable_token_indices={"embed_tokens": [3, 60]}
    ),
    "target_parameters (experts)": row(
        tiny_mixtral, ["q_proj"], lora_alpha=6, target_parameters=EXPERTS
    ),
    "target_parameters (one matrix)": row(
        tiny_mixtral, ["q_proj"], target_parameters=["mlp.gate.weight"]
    ),
    "layers_to_transform": row(tiny_llama, ["q_proj"], layers_to_transform=[1]),
    "exclude_modules": row(tiny_llama, QV, exclude_modules=["model.layers.0.self_attn.v_proj"]),
    "lora_dropout": row(tiny_llama, ["q_proj"], lora_dropout=0.3),
    **{
        f"init {name}": row(tiny_llama, ["q_proj"], init_lora_weights=name)
        for name in ("gaussian", "orthogonal", "eva")
    },
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
