"""DoRA (arXiv 2402.09353): its magnitudes. Every cut is in test_matrix.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from support.adapters import edit_tensors, save_with_peft, tiny_llama

from aurac.adapters import load_adapter
from aurac.cli import cli
from aurac.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about what it is asked for here
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"


@pytest.fixture
def folder(tmp_path):
    fields = {"r": 4, "use_dora": True, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    save_with_peft(tiny_llama(), tmp_path / "dora", **fields)
    return tmp_path / "dora"


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
