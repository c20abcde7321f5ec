"""Tiny random models and a tiny tokenizer for the engine's tests; nothing is fetched."""

from __future__ import annotations

import copy
import functools
import random
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

Request = tuple[str, dict[str, Any]]
TEXT = "the quick brown fox jumps over a lazy dog . Question: what is Answer: 42 \n \n\n é € 中 b"
WORDS = TEXT.split(" ")
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": 300}
BASE = {
    **ENDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = {**BASE, "num_key_value_heads": 2}
LOCAL = {**GROUPED, "head_dim": 8, "sliding_window": 9}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "mistral": {**GROUPED, "sliding_window": 9},
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma2": {**LOCAL, "query_pre_attn_scalar": 8},
    "gemma3_text": {**LOCAL, "query_pre_attn_scalar": 8},
    "gpt2": {**ENDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "gpt_neox": BASE,
    "phi": BASE,
    "opt": {**BASE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "cohere": GROUPED,
    "granite": {**GROUPED, "logits_scaling": 3.0},
    # what no packed pass answers
    "bloom": {**ENDS, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "gpt_neo": {
        **ENDS,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "max_position_embeddings": 256,
    },
    "mamba": {**ENDS, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention", "conv"]},
    "llama4_text": {
        **GROUPED,
        "head_dim": 8,
        "attention_chunk_size": 9,
        "num_local_experts": 2,
        "intermediate_size_mlp": 48,
    },
    "gpt_oss": {**LOCAL, "num_local_experts": 4, "num_experts_per_tok": 2},
}
PACKED, PLAIN = [*CONFIGS][:14], [*CONFIGS][14:]

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


@functools.cache
def tiny(kind: str, seed: int = 0, **fields: Any) -> Any:
    """A model with weights large enough that attention decides its answers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**CONFIGS[kind], **fields}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval()


def words(rng: random.Random, count: int) -> str:
    """A text of random words."""
    return " ".join(rng.choice(WORDS) for _ in range(count))


def make_requests(
    seed: int, *, header: bool, limits: tuple[int, ...] = (1, 7, 30)
) -> list[Request]:
    """Prompts of many lengths, stop strings of one and several tokens, several limits."""
    rng = random.Random(seed)
    common = words(rng, 40) + " " if header else ""
    stops = [["the"], [".", "\n\n"], ["Answer:"], [], "fox", ["\n"]]
    requests = [
        (
            common + "x" + words(rng, rng.randint(1, 12)),
            {"until": rng.choice(stops), "max_gen_toks": rng.choice(limits)},
        )
        for _ in range(9)
    ]
    return [*requests, requests[0]]


def asked(kind: str, requests: list[tuple[str, Any]]) -> list[Any]:
    """Requests of a task "t", one for each of its documents."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, r, 0, ("t", i, 1)) for i, r in enumerate(requests)]


def scores(lm: Any, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    """The log-likelihoods of an lm-eval model."""
    return lm.loglikelihood(asked("loglikelihood", pairs))


def token_by_token(model: Any, ids: list[int], counted: Any) -> tuple[float, float, float]:
    """A plain loop over the places that count: share of argmax, whether all are, mean loss."""
    hits, losses = [], []
    with torch.no_grad():
        for place in counted:
            logits = model(torch.tensor([ids[:place]])).logits[0, -1].float()
            hits.append(int(logits.argmax()) == ids[place])
            losses.append(-float(logits.log_softmax(-1)[ids[place]]))
    return sum(hits) / len(hits), float(all(hits)), sum(losses) / len(losses)


def texts(lm: Any, requests: list[Request]) -> list[str]:
    """The texts of an lm-eval model."""
    return lm.generate_until(asked("generate_until", requests))


def reference(model: Any, tokens: str = "bytes", **kwargs: Any) -> Any:
    """lm-eval's own model around ours: the oracle."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer(tokens), batch_size=1, **kwargs)


def reference_scores(model: Any, pairs: list[tuple[str, str]], **kwargs: Any) -> Any:
    """HFLM's log-likelihoods, without its logits cache (which misplaces unequal splits)."""
    return scores(reference(model, logits_cache=False, **kwargs), pairs)


def reference_texts(model: Any, requests: list[Request], **kwargs: Any) -> Any:
    """HFLM's generations."""
    return texts(reference(model, **kwargs), requests)


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


def assert_same(
    mine: list[tuple[float, bool]], theirs: list[tuple[float, bool]], rtol: float = 0.0
) -> None:
    """Log-likelihoods are alike, and the same are greedy."""
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in theirs]
    np.testing.assert_allclose([v for v, _ in mine], [v for v, _ in theirs], atol=1e-4, rtol=rtol)


def lora(model: Any, rank: int, dtype: Any = torch.float32, seed: int = 1, **config: Any) -> Any:
    """A copy of the model in a dtype, with LoRA in float32 in every attention and MLP layer."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = {"r": rank, "lora_alpha": 8, "target_modules": names, "init_lora_weights": False}
    copied = copy.deepcopy(model).to(dtype)
    inject_adapter_in_model(LoraConfig(**{**settings, **config}), copied, adapter_name="a")
    for name, parameter in copied.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
        if "magnitude" in name:  # as after training; PEFT starts at the norms of the base
            parameter.data *= 1 + 0.3 * torch.randn_like(parameter)
    return copied.eval()


def length_dependent(kind: str, family: str = "llama") -> Any:
    """A model whose rotary positions change where a pass has a sequence of over 32 tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
        rope |= {"original_max_position_embeddings": 32}
    fields = {"max_position_embeddings": 128 if kind == "longrope" else 32}
    if family == "phi3":
        fields |= {"original_max_position_embeddings": 32}
    settings = {**GROUPED, **fields, "rope_parameters": rope}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval()
