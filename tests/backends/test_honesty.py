"""An honest server is never refused, and a dishonest one is, in bfloat16 and in float16.

The server is PEFT on a random model, one row after the other, with transformers' sdpa or its eager
attention; the engine packs its rows.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from harness_doubles import make_model, make_tokenizer, write_choice_task, write_text_task
from support.adapters import LLAMA_TARGETS, save_with_peft

from aurac.adapters import load_adapter, save_adapter
from aurac.runs.check import verdicts
from aurac.runs.inputs import load
from aurac.runs.settings import Settings

pytest.importorskip("tenacity", reason="lm-eval's client needs aurac[servers]")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("alone")]

ADAPTERS = {  # method, rank, modules, rsLoRA
    "small": ("lora", 2, ["v_proj"], False),
    "lora": ("lora", 4, ["q_proj", "v_proj"], True),
    "wide": ("lora", 16, LLAMA_TARGETS, False),
    "dylora": ("dylora", 8, ["q_proj", "k_proj", "v_proj", "o_proj"], False),
    "matryoshka": ("matryoshka", 8, LLAMA_TARGETS, True),
}
DTYPES = ("bfloat16", "float16")
MISTAKES = {  # what the server does, and the verdict's words
    "ignored": ({"scale": 0.0}, "the adapter is ignored"),
    "another rank": ({"keeps_first": True}, "differ by|is scaled by"),
    "scale 1.1": ({"scale": 1.1}, "is scaled by|differ by"),
    "scale 0.9": ({"scale": 0.9}, "is scaled by|differ by"),
    "half of the layers": (
        {"without": ("layers.1.",)},
        "differ by|is scaled by",
    ),
    "truncated": ({"most_tokens": 2}, "its texts differ"),
    "sampled": ({"samples": True}, "its texts differ"),
}


def model_of(seed):
    """A random model that writes printable ASCII, which is the same in tokens and in text."""
    model, tokenizer = make_model(seed), make_tokenizer()
    shown = [tokenizer.convert_tokens_to_ids(chr(code)) for code in range(33, 127)]
    weight = model.get_output_embeddings().weight.data
    kept = weight[shown].clone()
    weight.zero_()
    weight[shown] = kept
    return model


def checked(root, server, seed, adapter, dtype):
    """The verdicts on the base, the trained and the smallest rank."""
    method, rank, modules, rslora = ADAPTERS[adapter]
    base, mine = root / f"BASE{seed}", root / f"{adapter}{seed}"
    if not base.exists():
        model_of(seed).save_pretrained(base)
        make_tokenizer().save_pretrained(base)
    if not mine.exists():
        how = {"r": rank, "target_modules": modules, "use_rslora": rslora, "lora_alpha": rank}
        nested = {} if method == "lora" else {"nested_ranks": (1, 2, 4, 8)}
        save_with_peft(model_of(seed), root / "peft", seed=seed + 10, **how)
        save_adapter(load_adapter(root / "peft", method=method, base=str(base), **nested), mine)
    tasks = [str(write_choice_task(root / "tasks")), str(write_text_task(root / "tasks"))]
    text = root / "tasks" / "tiny_choice.yaml"
    mcc = "  - metric: mcc\n    aggregation: matthews_corrcoef\n    higher_is_better: true\n"
    text.write_text(text.read_text().replace(mcc, ""))
    server.base, server.dtype = lambda: model_of(seed), getattr(torch, dtype)
    server.models.clear()
    how = {"model": "local-completions", "model_args": {"base_url": server.url}, "device": "cpu"}
    inputs = load(Settings.of(mine, tasks, dtype=dtype, limit=8, out=root / "run", **how))
    [every] = inputs.cuts.values()
    cuts = [every[rank] for rank in dict.fromkeys((max(every), min(every)))]
    with inputs.backend as backend:
        backend.begin(cuts, scores=True)
        return list(verdicts(inputs, cuts, 8))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("honesty")


def honest(root, server, seed, adapter, dtype):
    server.attention = ("sdpa", "eager")[seed % 2]
    found = checked(root, server, seed, adapter, dtype)
    assert all(verdict.right for verdict in found), found


def dishonest(root, server, adapter, dtype, mistake):
    """Refused, unless the effect is too small for a scale, which is then said."""
    twist, says = MISTAKES[mistake]
    vars(server).update(twist)
    found = checked(root, server, 1, adapter, dtype)
    wrong = [verdict for verdict in found if not verdict.right]
    if not wrong and mistake.startswith("scale"):
        assert all("off by 10 % cannot be seen" in str(verdict) for verdict in found[1:]), found
        pytest.skip("cannot be seen")
    assert wrong, found
    assert any(part in verdict.says for part in says.split("|") for verdict in wrong), wrong


@pytest.mark.parametrize("adapter", ["small", "matryoshka"])
def test_an_honest_server_is_not_refused(root, server, adapter):
    honest(root, server, 1, adapter, "bfloat16")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_dishonest_one_is_refused(root, server, mistake):
    dishonest(root, server, "lora", "bfloat16", mistake)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "adapter", "dtype"), list(itertools.product(range(1, 6), ADAPTERS, DTYPES))
)
def test_fifty_honest_servers(root, server, seed, adapter, dtype):
    honest(root, server, seed, adapter, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "dtype", "mistake"), list(itertools.product(ADAPTERS, DTYPES, MISTAKES))
)
def test_seventy_dishonest_ones(root, server, adapter, dtype, mistake):
    dishonest(root, server, adapter, dtype, mistake)
