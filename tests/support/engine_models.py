"""Tiny random models and a tiny tokenizer for the engine's tests; nothing is fetched."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st

if TYPE_CHECKING:
    import random

TEXT = "the quick brown fox jumps over a lazy dog . Question: what is Answer: 42 \n \n\n é € 中 b"
WORDS = TEXT.split(" ")
PACKED = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox",
          "phi", "opt", "mixtral", "cohere", "granite"]  # fmt: skip
PLAIN = ["bloom", "gpt_neo", "mamba", "lfm2", "llama4_text", "gpt_oss"]


TOKENIZERS = ("bytes", "bos", "metaspace")
ANY_MODEL = {
    "kind": st.sampled_from(PACKED),
    "weights": st.integers(0, 1),
    "tokens": st.sampled_from(TOKENIZERS),
}


@functools.cache
def tokenizer(kind: str = "bytes") -> Any:
    """A BPE of 300 tokens, so that words are cut and every text has tokens.

    Args:
        kind: ``bytes`` as GPT-2 has it; ``bos`` the same with a first token added to every text, as
            Llama 3 has it; ``metaspace`` with that, spaces that belong to the next word, and bytes
            for what is unknown, as Llama 2, Mistral and Gemma have it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>"]
    if kind == "metaspace":
        bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        bpe.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
        )
        special += ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
        alphabet: list[str] = []
    else:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    if kind != "bytes":
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def _config(kind: str) -> Any:
    import transformers as hf

    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": 300}
    base = {
        **ends,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    grouped = {**base, "num_key_value_heads": 2}
    local = {**grouped, "head_dim": 8, "sliding_window": 9}
    small = {**ends, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
    makers = {
        "llama": lambda: hf.LlamaConfig(**grouped),
        "qwen2": lambda: hf.Qwen2Config(**grouped),
        "qwen3": lambda: hf.Qwen3Config(**grouped, head_dim=8),
        "mistral": lambda: hf.MistralConfig(**grouped, sliding_window=9),
        "gemma": lambda: hf.GemmaConfig(**grouped, head_dim=8),
        "gemma2": lambda: hf.Gemma2Config(**local, query_pre_attn_scalar=8),
        "gemma3": lambda: hf.Gemma3TextConfig(**local, query_pre_attn_scalar=8),
        "gpt2": lambda: hf.GPT2Config(**ends, n_embd=32, n_layer=3, n_head=4, n_positions=256),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**base),
        "phi": lambda: hf.PhiConfig(**base),
        "opt": lambda: hf.OPTConfig(
            **{k: v for k, v in base.items() if k != "intermediate_size"},
            ffn_dim=48,
            word_embed_proj_dim=32,
        ),
        "mixtral": lambda: hf.MixtralConfig(**grouped, num_local_experts=4),
        "cohere": lambda: hf.CohereConfig(**grouped),
        "granite": lambda: hf.GraniteConfig(**grouped, logits_scaling=3.0),
        "bloom": lambda: hf.BloomConfig(**ends, hidden_size=32, n_layer=3, n_head=4),
        "gpt_neo": lambda: hf.GPTNeoConfig(
            **small,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
            max_position_embeddings=256,
        ),
        "mamba": lambda: hf.MambaConfig(**ends, hidden_size=32, num_hidden_layers=3, state_size=8),
        "lfm2": lambda: hf.Lfm2Config(**grouped, layer_types=["conv", "full_attention", "conv"]),
        "llama4_text": lambda: hf.Llama4TextConfig(
            **grouped,
            head_dim=8,
            attention_chunk_size=9,
            num_local_experts=2,
            intermediate_size_mlp=48,
        ),
        "gpt_oss": lambda: hf.GptOssConfig(**local, num_local_experts=4, num_experts_per_tok=2),
    }
    return makers[kind]()


@functools.cache
def tiny(kind: str, seed: int = 0) -> Any:
    """A model with weights large enough that attention decides its answers."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval()


def words(rng: random.Random, count: int) -> str:
    """A text of random words."""
    return " ".join(rng.choice(WORDS) for _ in range(count))


def reference(model: Any, tokens: str = "bytes", **kwargs: Any) -> Any:
    """lm-eval's own model around ours: the oracle."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer(tokens), batch_size=1, **kwargs)


def reference_scores(
    model: Any, pairs: list[tuple[str, str]], **kwargs: Any
) -> list[tuple[float, bool]]:
    """HFLM's log-likelihoods, without its logits cache (which misplaces unequal splits)."""
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, p, i) for i, p in enumerate(pairs)]
    return reference(model, logits_cache=False, **kwargs).loglikelihood(requests, disable_tqdm=True)


def reference_texts(
    model: Any, requests: list[tuple[str, dict[str, Any]]], **kwargs: Any
) -> list[str]:
    """HFLM's generations."""
    from lm_eval.api.instance import Instance

    instances = [Instance("generate_until", {}, r, i) for i, r in enumerate(requests)]
    return reference(model, **kwargs).generate_until(instances, disable_tqdm=True)


def budgeted(
    model: Any, tokenizer_kind: str = "bytes", max_length: int | None = None, **budgets: int
) -> Any:
    """The engine around a model, with these of its `Budgets`."""
    from aurac.engine.lm import EngineLM

    lm = EngineLM(model, tokenizer(tokenizer_kind), max_length=max_length)
    for name, value in budgets.items():
        setattr(lm.budgets, name, value)
    return lm


def packed_alone(lm: Any) -> Any:
    """The same engine, in which whatever ``HFLM`` would compute fails."""

    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("no packed pass")

    lm._model_call = lm._model_generate = fail
    return lm


def scores(lm: Any, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    """The log-likelihoods of an lm-eval model."""
    from lm_eval.api.instance import Instance

    return lm.loglikelihood([Instance("loglikelihood", {}, p, i) for i, p in enumerate(pairs)])


def texts(
    lm: Any, requests: list[tuple[str, dict[str, Any]]], numbers: list[int] | None = None
) -> list[str]:
    """The texts of an lm-eval model, for documents of these numbers."""
    from lm_eval.api.instance import Instance

    asked = enumerate(requests)
    instances = [
        Instance("generate_until", {}, r, 0, ("t", numbers[i] if numbers else i, 1))
        for i, r in asked
    ]
    return lm.generate_until(instances)


def lora(model: Any, rank: int, **config: Any) -> Any:
    """A copy of the model with PEFT's LoRA in every attention and MLP layer."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(1)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings_ = {"r": rank, "lora_alpha": 8, "target_modules": names, "init_lora_weights": False}
    copied = copy.deepcopy(model)
    inject_adapter_in_model(LoraConfig(**{**settings_, **config}), copied, adapter_name="a")
    for name, parameter in copied.named_parameters():
        if "magnitude" in name:  # as after training; PEFT starts at the norms of the base
            parameter.data *= 1 + 0.3 * torch.randn_like(parameter)
    return copied.eval()
