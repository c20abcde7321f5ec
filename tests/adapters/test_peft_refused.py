"""What is no pair of factors is refused by PEFT's own name; what PEFT converts back is read."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from support.adapters import (
    edit,
    edit_tensors,
    load_with_peft,
    logits,
    randomise,
    save_with_peft,
    tiny_llama,
    token_ids,
)

from aurac.adapters import attach, load_adapter, prepare, save_adapter
from aurac.adapters.formats.peft_config import UNDERSTOOD
from aurac.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about what it is asked for here
LORA = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
FIELDS = [
    *("lora_bias", "use_qalora", "ensure_weight_tying", "alora_invocation_tokens", "use_bdlora"),
    *("layer_replication", "arrow_config", "kasa_config", "velora_config", "monteclora_config"),
    "megatron_config",
]
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
NORMS = KEY.replace("lora_A.weight", "lora_magnitude_vector")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({field: True}, f"sets {field}") for field in FIELDS),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base"),
        ({"peft_type": "ADALORA"}, "of PEFT's type ADALORA, and only LORA"),
        ({"r": 3}, "whose rank is 3 by its config"),
        ({"use_dora": False}, "lora_magnitude_vector that does not fit"),
        (lambda t: t.pop(NORMS), "q_proj lacks its factors or magnitudes"),
        (
            lambda t: t.update({NORMS.replace("q_", "x_"): torch.ones(4)}),
            "x_proj lacks",
        ),
        ({"r": 0}, "r`"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern"),
        (lambda t: t.pop(KEY), "no lora_A for model.layers.0.self_attn.q_proj"),
        (lambda t: t.update({KEY: t[KEY][:3].clone()}), "whose rank is 4"),
        (lambda t: t.update({KEY: t[KEY].to(torch.int32)}), "int32"),
        (lambda t: t[KEY].__setitem__((0, 0), float("nan")), "NaN or infinite"),
        (lambda t: t.update({KEY: torch.zeros(4, 0)}), "is empty"),
        (lambda t: t.update({"foreign": torch.ones(1)}), "'foreign' that PEFT does not write"),
        (lambda t: t.update({KEY: t[KEY].reshape(4, -1, 1, 1)}), "not .* of a linear layer"),
        (lambda t: t.update({KEY.replace("A.weight", "B.bias"): torch.ones(32)}), "does not fit"),
    ],
)
def test_what_cannot_be_cut_is_refused(tmp_path, changes, message):
    save_with_peft(tiny_llama(), tmp_path, use_dora=True, **LORA)
    if isinstance(changes, dict):
        edit(tmp_path / "adapter_config.json", **changes)
    else:
        edit_tensors(tmp_path / "adapter_model.safetensors", changes)
    with pytest.raises(CheckpointError, match=message):
        attach(tiny_llama(), prepare(load_adapter(tmp_path))).__enter__()


def test_every_field_of_lora_config_is_decided():
    assert {f.name for f in fields(LoraConfig)} <= UNDERSTOOD | {*FIELDS}


@pytest.mark.parametrize("init", ["pissa", "olora", "corda"])
def test_what_peft_converts_back_is_exact_on_the_unchanged_base(init, tmp_path):
    model, corda = tiny_llama(), CordaConfig() if init == "corda" else None
    config = LoraConfig(**LORA, init_lora_weights=init, corda_config=corda)
    if corda:
        preprocess_corda(model, config, run_model=lambda: model(token_ids(shape=(1, 40))))
    model = get_peft_model(model, config)
    config = model.peft_config["default"]
    config.init_lora_weights = True
    model.save_pretrained(tmp_path / "init")
    config.init_lora_weights = init
    randomise(model)
    theirs = logits(model.eval())
    before = {"path_initial_model_for_weight_conversion": str(tmp_path / "init")}
    model.save_pretrained(tmp_path / "out", **before)
    adapter, base = load_adapter(tmp_path / "out"), tiny_llama()
    assert adapter.rank == 8  # PEFT writes the difference of two adapters of rank 4
    with attach(base, prepare(adapter)) as live:
        torch.testing.assert_close(logits(base), theirs, rtol=1e-4, atol=2e-5)
        live.set_rank(3)
        folder = save_adapter(prepare(adapter).at(3), tmp_path / "r3")
        assert torch.equal(logits(base), logits(load_with_peft(tiny_llama(), folder)))
