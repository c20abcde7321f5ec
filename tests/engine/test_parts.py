"""The engine's parts: the prefix tree, the plan, the fused LoRA layers, the probe."""

from __future__ import annotations

import copy
import os
import random
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import reference_scores, reference_texts, tiny, tokenizer, words
from hypothesis import given, settings
from hypothesis import strategies as st

from aurac.engine import EngineOptions, UnsupportedRequestError, running
from aurac.engine.counts import counted_pass, recording
from aurac.engine.generate import generate
from aurac.engine.loglikelihood import loglikelihoods
from aurac.engine.passes import make_subtree, plan_scoring
from aurac.engine.prefix_tree import PrefixTree, ScoringLayout
from aurac.engine.probe import Verdict, probe
from aurac.engine.running import cached_tokens, evaluating, fused_adapters, score_logits
from aurac.engine.tokens import GenerationRequest
from aurac.errors import UsageError
from aurac.models import device
from aurac.tasks.requests import Requests

sequences = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), min_size=1, max_size=12
)


def prefixes(rows: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {row[:n] for row in rows for n in range(1, len(row) + 1)}


@given(sequences)
def test_tree_has_one_node_for_each_distinct_prefix(rows: list[tuple[int, ...]]) -> None:
    tree, row_of = PrefixTree.build(rows)
    assert tree.n_nodes == len(prefixes(rows))
    seen: dict[int, tuple[int, ...]] = {}
    for row, sequence in zip(row_of.tolist(), rows, strict=True):
        assert tuple(tree.rows[row].tolist()) == sequence
        for position in range(len(sequence)):
            node, prefix = tree.node(row, position), sequence[: position + 1]
            assert seen.setdefault(node, prefix) == prefix


@given(sequences)
def test_a_unit_sees_exactly_the_ancestors(rows: list[tuple[int, ...]]) -> None:
    tree, _ = PrefixTree.build(rows)
    subtree = make_subtree(tree, 0, len(tree.rows), 0)
    assert sorted(subtree.nodes.tolist()) == list(range(tree.n_nodes))
    prefix_of = {
        tree.node(i, p): tuple(row[: p + 1].tolist())
        for i, row in enumerate(tree.rows)
        for p in range(len(row))
    }
    own = [prefix_of[n] for n in subtree.nodes.tolist()]
    for i, prefix in enumerate(own):
        assert subtree.positions[i] == len(prefix) - 1
        assert subtree.tokens[i] == prefix[-1]
        visible = [j <= i < subtree.end[j] for j in range(len(own))]
        assert visible == [prefix[: len(other)] == other for other in own]


def long_layout(*, fixed: bool) -> ScoringLayout:
    """Thirty documents of four choices behind a header of 300 tokens, its own or a common one."""
    rng = np.random.default_rng(0)
    common = rng.integers(5, 99, 300).tolist()
    encoded = []
    for _ in range(30):
        header = common if fixed else rng.integers(5, 99, 300).tolist()
        context = header + rng.integers(5, 99, 20).tolist()
        encoded += [(context, rng.integers(5, 99, 4).tolist()) for _ in range(4)]
    return ScoringLayout.from_tokens(encoded, 4096)


@pytest.mark.parametrize("fixed", [True, False])
def test_every_distinct_token_is_computed_once(fixed: bool) -> None:
    """A header of 300, 30 contexts of 20, 4 choices of 3 read tokens: 300 + 30 * 32 = 1260."""
    layout = long_layout(fixed=fixed)
    plan = plan_scoring(layout, 512)
    if fixed:
        assert plan.computed <= 1260
    assert layout.tree.n_nodes <= plan.computed <= 1.02 * layout.tree.n_nodes
    assert plan.cached == (300 if fixed else 0)
    assert max(len(step.tokens) for step in plan.steps) <= 512
    pairs = np.concatenate([step.pair for step in plan.steps])
    assert sorted(pairs.tolist()) == list(range(len(layout.pair_node)))
    assert plan_scoring(layout, 512) is plan


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


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # the second has biases
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rank", [1, 5])
def test_fused_layers_give_pefts_own_result(rank: int, dora: bool, family: str) -> None:
    model, tokens = lora(tiny(family), rank, use_dora=dora), torch.arange(40).view(2, 20)
    with torch.inference_mode():
        expected = model(tokens).logits
        with fused_adapters(model):
            torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
            changed = [m for m in model.modules() if "forward" in vars(m)]
            assert len(changed) == 3 * 7
        assert not [m for m in model.modules() if "forward" in vars(m)]
        torch.testing.assert_close(model(tokens).logits, expected, atol=0, rtol=0)


@pytest.mark.parametrize("dora", [False, True])
def test_fused_layers_on_a_16_bit_base_are_as_close_to_the_truth_as_pefts(dora: bool) -> None:
    """Both against the same numbers in float64: ours is at most 1.2 times as far away."""
    half = lora(copy.deepcopy(tiny("llama")).bfloat16(), 4, use_dora=dora)
    for name, parameter in half.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    exact, tokens = copy.deepcopy(half).double(), torch.arange(60).view(3, 20)
    with torch.inference_mode():
        truth = exact(tokens).logits
        theirs = (half(tokens).logits - truth).norm()
        with fused_adapters(half):
            ours = (half(tokens).logits - truth).norm()
    assert ours < 1.2 * theirs


def test_disabled_hooked_and_special_layers_are_left_to_peft() -> None:
    model, tokens = lora(tiny("llama"), 4), torch.arange(20)[None]
    layer = model.model.layers[0].mlp.up_proj
    layer.lora_A["a"].register_forward_hook(lambda _m, _i, out: out * 3)
    model.model.layers[1].mlp.up_proj.enable_adapters(enabled=False)
    from peft.tuners.lora.config import KasaConfig

    kasa = lora(tiny("llama"), 4, kasa_config=KasaConfig(), init_lora_weights=True)
    with torch.inference_mode():
        expected, special = model(tokens).logits, kasa(tokens).logits
        with fused_adapters(model), fused_adapters(kasa):
            assert "forward" not in vars(layer)
            torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(kasa(tokens).logits, special, atol=0, rtol=0)


def test_an_unmerged_adapter_scores_and_writes_as_hflm() -> None:
    rng = random.Random(0)
    model = lora(tiny("qwen2"), 4)
    pairs = [(words(rng, 6).strip() or "fox", " " + "x" + words(rng, 2)) for _ in range(6)]
    mine = loglikelihoods(model, tokenizer(), pairs)
    theirs = reference_scores(model, pairs)
    np.testing.assert_allclose([v for v, _ in mine], [v for v, _ in theirs], atol=1e-4)
    requests = [(c, {"until": ["the"], "max_gen_toks": 20}) for c, _ in pairs]
    texts = generate(model, tokenizer(), [GenerationRequest.from_kwargs(*r) for r in requests])
    assert texts == reference_texts(model, requests)


def test_the_probe_rejects_a_model_whose_positions_are_not_the_given_ones() -> None:
    model = copy.deepcopy(tiny("llama"))
    original = model.model.forward

    def ignoring(_self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    model.model.forward = MethodType(ignoring, model.model)
    with evaluating(model):
        verdict = probe(model)
    assert not verdict.packed
    assert "differs" in verdict.reason


def test_the_probe_rejects_a_layer_that_mixes_neighbouring_tokens() -> None:
    """What a recurrent or convolutional layer does: packed neighbours are strangers."""
    model = copy.deepcopy(tiny("llama"))
    norm = model.model.layers[1].input_layernorm
    original = norm.forward
    norm.forward = lambda x: original(x) + 0.5 * torch.roll(original(x), 1, dims=1)
    with evaluating(model):
        assert not probe(model).packed


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_the_probe_examines_the_base_whatever_adapter_is_attached(scale: float) -> None:
    """An adapter's rounding, or its overflow, says nothing about the model's attention."""
    model = lora(copy.deepcopy(tiny("llama")).bfloat16(), 16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(scale)
    tokens = torch.arange(12)[None]
    with evaluating(model):
        before = model(tokens).logits
        assert probe(model).packed
        torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=0, equal_nan=True)


def test_a_window_that_attention_is_not_told_of_limits_the_length() -> None:
    model = copy.deepcopy(tiny("llama"))
    model.config.attention_chunk_size = 64
    with evaluating(model):
        verdict = probe(model)
    assert verdict.packed
    assert verdict.serves(64)
    assert not verdict.serves(65)


def test_a_verdict_is_kept_for_the_model_object() -> None:
    model = copy.deepcopy(tiny("llama"))
    with evaluating(model):
        first = probe(model)
        model.model.forward = None  # a second examination would fail
        assert probe(model) is first
    assert Verdict(packed=False).serves(1) is False


@pytest.mark.parametrize("name", ["batch_tokens", "max_length", "batch_size", "cache_tokens"])
def test_budgets_below_one_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=0"):
        EngineOptions(**{name: 0})


@settings(max_examples=20, deadline=None)
@given(sequences)
def test_scored_pairs_lead_back_to_the_requests(rows: list[tuple[int, ...]]) -> None:
    encoded = [((7,), row) for row in rows]
    layout = ScoringLayout.from_tokens(encoded, 50)
    for row, index in zip(rows, layout.request_pairs, strict=True):
        assert layout.pair_token[index].tolist() == list(row)


def test_an_encoder_decoder_is_refused_for_the_caller_to_serve() -> None:
    from transformers import AutoModelForSeq2SeqLM, T5Config

    config = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = AutoModelForSeq2SeqLM.from_config(config)
    with pytest.raises(UnsupportedRequestError, match="encoder-decoder"):
        loglikelihoods(model, tokenizer(), [("fox", " the")])
    with pytest.raises(UnsupportedRequestError, match="encoder-decoder"):
        generate(model, tokenizer(), [GenerationRequest("fox")])


@pytest.mark.parametrize("packed", [True, False])
def test_progress_is_told_pass_by_pass(packed: bool) -> None:
    pairs = [(f"fox {i}", f" the {j}") for i in range(12) for j in range(3)]
    seen: list[int] = []
    options = EngineOptions(batch_tokens=20, packed=packed)
    loglikelihoods(tiny("llama"), tokenizer(), pairs, options=options, progress=seen.append)
    assert sum(seen) == len(pairs)
    assert len(seen) > 2


@settings(deadline=None)
@given(
    st.integers(1, 70).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=80))
    ),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_scores_are_log_softmax_and_hits_are_argmax_with_ties(
    shape: tuple[int, list[int]], seed: int, dtype: torch.dtype
) -> None:
    """Whole numbers from 0 to 3 over 9 tokens: most rows have several best ones."""
    n, rows = shape
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 4, (n, 9), generator=draw).to(dtype)
    logits[::5, 3] = -torch.inf  # how some models rule a token out
    row = torch.tensor(rows, dtype=torch.long)
    token = torch.randint(0, 9, (len(rows),), generator=draw)
    logprob, hit = score_logits(logits, row, token)
    expected = torch.log_softmax(logits.double(), dim=-1)[row, token]
    torch.testing.assert_close(logprob.double(), expected, rtol=1e-6, atol=1e-6)
    assert hit.tolist() == (logits.argmax(dim=-1)[row] == token).tolist()


def effort_of(*requests: tuple[str, Any]) -> float:
    kinds = {str: "loglikelihood", dict: "generate_until"}
    asked = [
        SimpleNamespace(request_type=kinds[type(second)], args=(first, second))
        for first, second in requests
    ]
    return Requests(asked, lambda *_: []).effort()


def test_effort_counts_what_is_read_once_and_written_answers_dearly() -> None:
    # A header of 100 characters, then 10 of each question, and choices of 2 and 3.
    header = "x" * 100
    first, second = header + "a" * 10, header + "b" * 10
    assert effort_of((first, "yy"), (first, "zzz"), (second, "yy")) == 110 + 2 + 3 + 10 + 2
    assert effort_of((first, "yy"), (second, "yy")) < effort_of(("c" * 110, "yy"), (first, "yy"))
    # Half of 64 tokens are written, each as dear as four tokens of four characters.
    assert effort_of((first, {"until": ["."], "max_gen_toks": 64})) == 110 + 32 * 16


def test_sequences_are_held_by_bytes_but_never_fewer_than_a_number_of_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three layers, two heads of keys and values of 8 numbers of 4 bytes: 384 bytes a token."""
    model = tiny("llama")
    assert cached_tokens(model) == 2**31 // 384
    monkeypatch.setattr(running, "_CACHE_BYTES", 384 * 40_000)
    assert cached_tokens(model) == 40_000
    monkeypatch.setattr(running, "_CACHE_BYTES", 384 * 10)
    assert cached_tokens(model) == 32_768
    assert cached_tokens(torch.nn.Linear(2, 2)) == 32_768


@pytest.mark.parametrize("name", ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"])
@pytest.mark.parametrize("asked", [None, "7"])
def test_kernels_are_bounded_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch, name: str, asked: str | None
) -> None:
    monkeypatch.delenv(name, raising=False)
    if asked is not None:
        monkeypatch.setenv(name, asked)
    model = tiny("llama")
    loglikelihoods(model, tokenizer(), [("a b", " c")])
    assert os.environ[name] == (asked or "128")


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_depend_on_the_longest_sequence_are_kept_apart(kind: str) -> None:
    """From a length on the model turns all tokens of a pass otherwise: no others share it then."""
    import transformers as hf

    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 32,
        }
    config = hf.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128 if kind == "longrope" else 32,
        rope_parameters=rope,
    )
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(config).eval()
    with torch.inference_mode():
        verdict = probe(model)
    assert (verdict.packed, verdict.longest) == (True, 32)
    assert "rotary positions change beyond 32 tokens" in verdict.reason


@pytest.mark.parametrize(
    ("most", "kept", "calls"),
    [
        (1 << 31, True, [(-3, 1 << 30), (-1, 1 << 30)]),
        (1 << 25, True, [(-3, 1 << 30), (-3, 1 << 25), (-1, 1 << 30)]),  # glibc before 2.35
        (0, False, [(-3, 1 << 30), (-3, 1 << 25)]),
    ],
)
def test_a_threshold_that_is_refused_is_not_frozen(
    monkeypatch: pytest.MonkeyPatch, most: int, *, kept: bool, calls: list[tuple[int, int]]
) -> None:
    asked: list[tuple[int, int]] = []

    def setting(option: int, value: int) -> bool:
        asked.append((option, value))
        return option == -1 or value <= most

    monkeypatch.setattr(device, "_set", setting)
    assert device.keep_freed_memory.__wrapped__() is kept
    assert asked == calls


class Elsewhere:
    """As much of a model on an accelerator as the engine's decisions look at."""

    def __init__(self, weights: int) -> None:
        self._weight = SimpleNamespace(
            device=torch.device("cuda"), itemsize=2, numel=lambda: weights
        )

    def parameters(self) -> Any:
        return iter([self._weight])

    def named_parameters(self) -> Any:
        return iter([("w", self._weight), ("w.lora_A", self._weight)])

    def modules(self) -> Any:
        return iter([])


def test_an_accelerators_passes_are_larger() -> None:
    assert (running.pass_tokens(Elsewhere(1)), running.pass_tokens(tiny("llama"))) == (8192, 1024)


def test_an_accelerators_passes_are_not_timed_from_outside() -> None:
    model = Elsewhere(1)
    with recording() as record:
        for _ in range(2):
            with counted_pass(model, 5, 1):
                pass
    assert (record.passes, record.computed, record.forward_seconds) == (2, 10, None)
    assert record.to_dict()["forward_seconds"] is None
