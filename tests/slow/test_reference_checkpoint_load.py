"""An adapter that the MatryoshkaLoRA research code trained, on the real base.

The checkpoint is development data and lies beside the repository, not in it; without it these tests
are skipped. Its accuracies (greedy, first 119 rows of MAWPS test, rank merged into bf16 weights)
are .034 .076 .067 .084 .101 .126 at ranks 1, 2, 4, 8, 16, 32.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from aurac.adapters import attach, check_fits, load_adapter, prepare, save_adapter

DATA = Path(os.environ.get("AURAC_DEVELOPMENT_DATA", Path(__file__).parents[3] / "shared" / "data"))
FOLDER = DATA / "reference_checkpoint"
SAID = {
    "method": "matryoshka",
    "scaling": "sqrt",
    "alpha": 1.0,
    "nested_ranks": (1, 2, 4, 8, 16, 32),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER.is_dir(), reason="the development data is not beside the repository"
    ),
]


@pytest.fixture(scope="module")
def base():
    from aurac.models.base import load_base
    from aurac.models.packaged import DEFAULT_BASE

    return load_base(DEFAULT_BASE, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def adapter():
    return load_adapter(FOLDER, **SAID)


def test_it_is_read_as_what_it_is(base, adapter):
    assert (adapter.format, adapter.rank, len(adapter.modules)) == ("research", 32, 210)
    # seven projections of 30 layers: 305,280 parameters per rank
    assert adapter.parameters(1) == 305_280
    check_fits(adapter, base.model)


def test_published_inference_is_the_merged_weight(base, adapter):
    raw = torch.load(next(FOLDER.glob("*.pt")), weights_only=True)
    ids = base.tokenizer(
        "Question: Tom has 3 apples and buys 4.\nAnswer:", return_tensors="pt"
    ).input_ids
    r = 4
    with attach(base.model, prepare(adapter, "prefix", "rule")) as live, torch.no_grad():
        live.set_rank(r)
        ours = base.model(input_ids=ids).logits
    weights = {}
    for key in raw:
        if key.endswith(".lora_A"):
            module = base.model.get_submodule(key.removesuffix(".lora_A"))
            weights[module] = module.weight.data
            A, B = raw[key].double(), raw[key.replace("lora_A", "lora_B")].double()
            update = (A[:, :r] @ B[:r]).T * r**-0.5  # the research code's layout, alpha 1
            module.weight.data = (weights[module].double() + update).float()
    with torch.no_grad():
        merged = base.model(input_ids=ids).logits
    for module, weight in weights.items():
        module.weight.data = weight
    torch.testing.assert_close(ours, merged, rtol=1e-3, atol=2e-3)
    with torch.no_grad():
        assert not torch.allclose(base.model(input_ids=ids).logits, merged, atol=0.1)


@pytest.mark.parametrize(("rank", "published"), [(32, 0.126)])
def test_its_published_accuracy(base, adapter, rank, published):
    rows = _rows(119)
    with attach(base.model, prepare(adapter, "prefix", "rule")) as live:
        live.set_rank(rank)
        right = sum(_right(text, row) for text, row in zip(_answers(base, rows), rows, strict=True))
    assert abs(right - round(published * 119)) <= 4


def test_an_export_of_it_in_plain_peft(base, adapter, tmp_path):
    from peft import PeftModel

    ids = torch.arange(100, 160)[None]
    prepared = prepare(adapter, "prefix", "trained")
    with attach(base.model, prepared) as live, torch.no_grad():
        live.set_rank(8)
        ours = base.model(input_ids=ids).logits
    theirs = PeftModel.from_pretrained(base.model, save_adapter(prepared.at(8), tmp_path / "r8"))
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=ids).logits, ours)
    theirs.unload()


def _rows(count):
    for path in sorted((DATA / "mawps").glob("test*")):
        if path.suffix == ".parquet":
            import pandas as pd

            return pd.read_parquet(path).head(count).to_dict("records")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()[:count]]
        return json.loads(path.read_text())[:count]
    pytest.skip("no MAWPS test split")


@torch.no_grad()
def _answers(base, rows, batch=17):
    tokenizer = base.tokenizer
    texts = []
    for start in range(0, len(rows), batch):
        prompts = [f"Question: {row['question']}\nAnswer:" for row in rows[start : start + batch]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        out = base.model.generate(
            **inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
        new = out[:, inputs.input_ids.shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def _right(text, row):
    found = re.search(r"=\s*(-?\d+(?:\.\d+)?)", text)
    return found is not None and abs(float(found[1]) - float(row["answer"])) < 1e-6
