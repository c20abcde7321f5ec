"""Kinds of adapters that PEFT itself writes: a model, what of it is adapted, ranks and alphas."""

from __future__ import annotations

import random
import re
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.adapters import randomise, tiny_gpt2, tiny_llama
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

IDS = torch.tensor([[5, 9, 3, 7, 2, 11, 60], [1, 4, 4, 63, 8, 2, 7]])
LM = {"task_type": "CAUSAL_LM"}
CONV1D = {"fan_in_fan_out": True}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
QV = ["q_proj", "v_proj"]


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


class Nested(nn.Module):
    """The name of one module is the end of another's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(64, 16)
        self.head = nn.Linear(16, 16)
        self.block = nn.ModuleDict({"head": nn.Linear(16, 16), "tail": nn.Linear(16, 16)})

    def forward(self, input_ids):
        x = torch.tanh(self.head(self.embed(input_ids)))
        x = torch.tanh(self.block["head"](x))
        return type("Out", (), {"logits": self.block["tail"](x)})


def kind_of(build, targets, *parameters, **fields):
    """A model and the fields of its LoraConfig."""
    named = {"target_parameters": [*parameters]} if parameters else {}
    return build, {"target_modules": targets, **named, **fields}


KINDS = {
    "linear": kind_of(tiny_llama, "all-linear"),
    "linear by regex": kind_of(tiny_llama, r"model\.layers\.\d\.mlp\.(up|down)_proj"),
    "layers_to_transform": kind_of(
        tiny_llama, ["q_proj", "down_proj"], layers_to_transform=[1], layers_pattern="layers"
    ),
    "exclude_modules": kind_of(tiny_llama, "all-linear", exclude_modules=r".*layers\.0\.mlp\..*"),
    "lora_dropout": kind_of(tiny_llama, ["q_proj"], lora_dropout=0.3),
    "use_dora": kind_of(tiny_llama, "all-linear", use_dora=True),
    "use_dora, Conv1D": kind_of(tiny_gpt2, ["c_attn", "c_fc"], use_dora=True, **CONV1D),
    "use_dora, embeddings": kind_of(tiny_llama, ["embed_tokens", "q_proj"], use_dora=True),
    "embeddings": kind_of(tiny_llama, ["embed_tokens", "q_proj"]),
    "embeddings, tied": kind_of(tied_llama, ["embed_tokens", "q_proj"]),
    "modules_to_save": kind_of(tiny_llama, ["q_proj"], modules_to_save=["lm_head", "norm"]),
    "modules_to_save, tied": kind_of(tied_llama, ["q_proj"], modules_to_save=["lm_head"]),
    "Conv1D": kind_of(tiny_gpt2, ["c_attn", "c_proj", "c_fc"], **CONV1D),
    "bias all": kind_of(tiny_gpt2, ["c_attn"], bias="all", **CONV1D),
    "bias lora_only": kind_of(tiny_gpt2, ["c_attn"], bias="lora_only", **CONV1D),
    "token rows": kind_of(tiny_llama, ["q_proj"], trainable_token_indices=[3, 60]),
    "token rows, tied": kind_of(
        tied_llama, ["q_proj"], trainable_token_indices={"embed_tokens": [3, 60]}
    ),
    "names that end in names": kind_of(Nested, ["head", "tail"]),
    "a name that ends another": kind_of(Nested, r"head|block\.tail"),
    "parameters, dense": kind_of(tiny_llama, [], "self_attn.q_proj.weight", "mlp.down_proj.weight"),
    "parameters, short": kind_of(tiny_llama, ["v_proj"], "q_proj.weight"),
    "parameters, Conv1D": kind_of(tiny_gpt2, [], "attn.c_attn.weight", "wte.weight"),
    "experts": kind_of(tiny_mixtral, ["q_proj"], *EXPERTS),
    "one of the experts": kind_of(tiny_mixtral, [], "experts.down_proj"),
    "experts, short": kind_of(tiny_mixtral, ["v_proj"], "gate_up_proj", "down_proj"),
    "router": kind_of(tiny_mixtral, ["k_proj"], "gate.weight", EXPERTS[1]),
    "experts, some layers": kind_of(
        *(tiny_mixtral, ["q_proj"], *(f"model.layers.0.{name}" for name in EXPERTS)),
        layers_to_transform=[1],
    ),
    # PEFT turns these names of transformers 4 into parameters, with a pattern of its own
    "experts, older names": kind_of(tiny_mixtral, ["w1", "w2", "w3", "q_proj"]),
    **{
        f"init {name}": kind_of(tiny_llama, ["q_proj"], r=4, init_lora_weights=name)
        for name in ("gaussian", "orthogonal", "eva")
    },
}


def spelled(draw, name):
    """A key for ``name``, in one of the ways in which people write it."""
    parts = name.split(".")
    ways = [
        *(name, re.escape(name), ".".join(parts[-2:]), parts[-1], rf".*\.{parts[-1]}"),
        *(re.sub(r"\d+", r"\\d+", name), f"({parts[-1]}|nothing)"),
        ".".join(parts[:-1]),  # of a parameter the module, which PEFT does not match
    ]
    return draw.choice([way for way in ways if way])


def drawn(kind, seed):
    """A model, a config of this kind with drawn ranks and alphas, from seed 1 on by patterns."""
    build, fields = KINDS[kind]
    draw = random.Random(f"{kind} {seed}")
    base = build()
    names = [n for n, _ in base.named_modules()] + [n for n, _ in base.named_parameters()]
    targets = [*fields.get("target_parameters", ()), "gate_up_proj", "q_proj", "head", "tail"]
    if isinstance(fields["target_modules"], list):
        targets += fields["target_modules"]
    named = [n for n in names if any(f".{n}".endswith(f".{target}") for target in targets)]
    config = {
        "r": draw.choice([3, 4]),
        "lora_alpha": draw.choice([1, 3, 6]),
        "use_rslora": draw.random() < 0.5,
        **fields,
        **(LM if build is not Nested else {}),
    }
    which = draw.choice(["alpha", "rank", "both", "both"]) if seed else "none"
    if "init_lora_weights" in fields:  # of which one needs an even rank
        which = "alpha"
    for name, values in (("alpha", [0.5, 2, 10, 40]), ("rank", [1, 2, 5])):
        if which in (name, "both"):
            keys = {spelled(draw, draw.choice(named)) for _ in range(draw.choice([1, 2, 3]))}
            config[f"{name}_pattern"] = {key: draw.choice(values) for key in sorted(keys)}
    return build, config, draw


def written(build, config, folder):
    """A checkpoint of random factors, and of random tensors beside them, that PEFT saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = randomise(get_peft_model(build(), LoraConfig(**config)))
        generator = torch.Generator().manual_seed(12)
        for name, parameter in model.named_parameters():
            beside = any(word in name for word in ("modules_to_save", "trainable_tokens_delta"))
            if beside or (name.endswith("bias") and parameter.requires_grad):
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder)
    return folder
