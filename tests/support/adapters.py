"""Tiny random models and adapters for the adapter tests."""

from __future__ import annotations

import json
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from aurac.adapters import Adapter, Factors

LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(dtype=torch.float32, seed=1, **fields):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **fields})).to(dtype).eval()


def tiny_gpt2(dtype=torch.float32):
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    config.pad_token_id = 0
    return GPT2LMHeadModel(config).to(dtype).eval()


def randomise(model, seed=3, std=0.2):
    """Random values for every LoRA tensor of a PeftModel, so that no update is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator) * std
            parameter.data = noise.to(parameter)
    return model


def save_with_peft(base, folder, *, seed=3, **config):
    """A checkpoint that PEFT itself writes, of random factors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = randomise(get_peft_model(base, LoraConfig(**config)), seed)
        model.save_pretrained(folder)
    return model


def load_with_peft(base, folder):
    """What plain PEFT makes of a checkpoint; a warning about the checkpoint is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        return PeftModel.from_pretrained(base, str(folder)).eval()


def token_ids(seed=5, shape=(2, 9), vocabulary=64):
    return torch.randint(1, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids=None):
    return model(input_ids=token_ids() if ids is None else ids).logits


def random_adapter(
    model, rank, *, rule="sqrt", alpha=1.0, seed=7, names=None, dtype=torch.float32, **fields
):
    """Random factors for the linear layers of ``model`` whose last name is in ``names``."""
    generator = torch.Generator().manual_seed(seed)
    names = names or LLAMA_TARGETS
    modules = {}
    for path, module in model.named_modules():
        if path.rpartition(".")[2] not in names:
            continue
        weight = module.weight
        out, inside = weight.shape if isinstance(module, torch.nn.Linear) else weight.shape[::-1]
        A = torch.randn(rank, inside, generator=generator) * 0.2
        B = torch.randn(out, rank, generator=generator) * 0.2
        modules[path] = Factors(A.to(dtype), B.to(dtype), alpha, rule)
    return Adapter(name="random", modules=modules, **fields)


def dense(base, updates):
    """``base`` in fp64 with each update (out, in) added to its weight; none of aurac's code."""
    oracle = base.double()
    for path, update in updates.items():
        module = oracle.get_submodule(path)
        delta = update.double()
        module.weight.data += delta if isinstance(module, torch.nn.Linear) else delta.T
    return oracle


def edit(path, **fields):
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_tensors(path, change):
    """Give the tensors of a file to ``change``, and write them again."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
