"""DoRA (arXiv 2402.09353): PEFT is the oracle. Every cut is in test_matrix.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from support.adapters import edit_tensors, load_with_peft, logits, save_with_peft, tiny_llama

from aurac.adapters import attach, load_adapter, prepare, save_adapter
from aurac.cli import cli
from aurac.engine.layers import fewer_operations
from aurac.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about what it is asked for here
CONFIG = {"r": 4, "lora_alpha": 6, "use_dora": True, "target_modules": "all-linear"}
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"


@pytest.fixture
def folder(tmp_path):
    save_with_peft(tiny_llama(), tmp_path / "dora", task_type="CAUSAL_LM", **CONFIG)
    return tmp_path / "dora"


@pytest.mark.parametrize("basis", ["prefix", "svd"])
def test_the_fast_path_gives_the_logits_of_an_export_in_peft(folder, basis, tmp_path):
    prepared, base = prepare(load_adapter(folder), basis), tiny_llama()
    plain = logits(base)
    with attach(base, prepared) as live, torch.inference_mode():
        for r in (1, 2, 4):
            live.set_rank(r)
            theirs = load_with_peft(tiny_llama(), save_adapter(prepared.at(r), tmp_path / f"r{r}"))
            with fewer_operations(base):
                assert sum("forward" in vars(m) for m in base.modules()) >= 2 * 7
                torch.testing.assert_close(logits(base), logits(theirs), atol=1e-5, rtol=0)
        live.set_rank(0)
        with fewer_operations(base):
            assert torch.equal(logits(base), plain)


def test_magnitudes_count_and_identify_and_are_said(folder):
    adapter = load_adapter(folder)
    bare = {n: replace(f, magnitude=None) for n, f in adapter.modules.items()}
    plain = replace(adapter, modules=bare)
    # of each of 2 layers: q 32, k 16, v 16, o 32, gate 48, up 48, down 32
    assert adapter.parameters(2) - plain.parameters(2) == 2 * 224
    assert adapter.sha256 != plain.sha256
    out = CliRunner().invoke(cli, ["inspect", str(folder)], catch_exceptions=False).output
    assert "DoRA with trained magnitudes" in out
    model = PeftModel.from_pretrained(tiny_llama(), str(folder))
    assert load_adapter(model).sha256 == adapter.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(Q), r"q_proj lacks its factors or magnitudes"),
        (lambda t: t.update({Q: torch.full((32,), torch.nan)}), "NaN"),
        (lambda t: t.update({Q.replace("q_proj", "x"): torch.ones(4)}), "x lacks its factors"),
    ],
)
def test_magnitudes_that_are_missing_or_wrong(folder, change, message):
    edit_tensors(folder / "adapter_model.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(folder)
