"""What is no pair of factors is refused by PEFT's own name, on checkpoints that PEFT writes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model, save_as_lora
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType
from support.adapters import (
    load_with_peft,
    logits,
    randomise,
    save_with_peft,
    tiny_llama,
    token_ids,
)

from aurac.adapters import attach, load_adapter, prepare, save_adapter
from aurac.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about what it is asked for here
LM = {"task_type": "CAUSAL_LM"}
TARGETS = {"target_modules": ["q_proj", "v_proj"]}


def lora(**fields):
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **LM, **fields})


def sub(name, **fields):
    import peft.tuners.lora.config as configs

    return getattr(configs, name)(**fields)


def corda():
    from peft.tuners.lora.corda import preprocess_corda

    model, config = tiny_llama(), lora(init_lora_weights="corda", corda_config=sub("CordaConfig"))
    preprocess_corda(model, config, run_model=lambda: model(input_ids=token_ids(shape=(1, 40))))
    return get_peft_model(model, config)


# Fields of PEFT's config, each as PEFT would hold it
BLOCKS = {"target_modules_bd_a": ["q_proj"], "nblocks": 2}
FIELDS = {
    "lora_bias": lambda: lora(lora_bias=True),
    "alora_invocation_tokens": lambda: lora(alora_invocation_tokens=[1, 2]),
    "use_qalora": lambda: lora(use_qalora=True),
    "use_bdlora": lambda: lora(use_bdlora=sub("BdLoraConfig", **BLOCKS)),
    "arrow_config": lambda: lora(arrow_config=sub("ArrowConfig")),
    "kasa_config": lambda: lora(kasa_config=sub("KasaConfig")),
    "velora_config": lambda: lora(velora_config=sub("VeloraConfig")),
    "monteclora_config": lambda: lora(monteclora_config=sub("MontecloraConfig")),
    "ensure_weight_tying": lambda: lora(ensure_weight_tying=True),
    "layer_replication": lambda: lora(layer_replication=[[0, 2], [1, 2]]),
    "megatron_config": lambda: lora(megatron_config={"tensor_model_parallel_size": 2}),
    **{
        name: lambda name=name: lora(init_lora_weights=name)
        for name in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "mica")
    },
    "loftq": lambda: lora(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
}


@pytest.mark.parametrize("field", FIELDS)
def test_fields_that_are_refused(field, tmp_path):
    """PEFT's config beside plain weights."""
    save_with_peft(tiny_llama(), tmp_path, r=4, target_modules=["q_proj"], **LM)
    FIELDS[field]().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=field):
        load_adapter(tmp_path)


def test_every_field_of_lora_config_is_decided():
    from dataclasses import fields

    from aurac.adapters.formats.peft_config import UNDERSTOOD

    assert {f.name for f in fields(LoraConfig)} <= UNDERSTOOD | set(FIELDS)


CONVERTED_BY_PEFT = ["pissa", "olora", "corda"]


@pytest.mark.parametrize("init", CONVERTED_BY_PEFT)
def test_what_peft_converts_back_is_exact_on_the_unchanged_base(init, tmp_path):
    if init == "corda":
        model = corda()
    else:
        model = get_peft_model(tiny_llama(), lora(init_lora_weights=init))
    config = model.peft_config["default"]
    config.init_lora_weights = True
    model.save_pretrained(tmp_path / "init")
    config.init_lora_weights = init
    randomise(model)
    theirs = logits(model.eval())
    model.save_pretrained(
        tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "init")
    )
    adapter = load_adapter(tmp_path / "out")
    assert adapter.rank == 8  # PEFT writes the difference of two adapters of rank 4
    base = tiny_llama()
    with attach(base, prepare(adapter)) as live:
        torch.testing.assert_close(logits(base), theirs, rtol=1e-4, atol=2e-5)
        live.set_rank(3)
        folder = save_adapter(prepare(adapter).at(3), tmp_path / "r3")
        assert torch.equal(logits(base), logits(load_with_peft(tiny_llama(), folder)))


@pytest.mark.parametrize("kind", ["ADALORA", "LOHA", "VERA", "LN_TUNING", "PREFIX_TUNING"])
def test_another_method_of_peft_is_refused_by_its_name(kind, tmp_path):
    options = {
        "ADALORA": {"total_step": 10, **TARGETS},
        "LN_TUNING": {"target_modules": ["norm"]},
        "PREFIX_TUNING": {"num_virtual_tokens": 4},
    }
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    model = get_peft_model(tiny_llama(), config(**LM, **options.get(kind, TARGETS)))
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"of PEFT's type {kind}, and only LORA"):
        load_adapter(tmp_path)


def test_what_save_as_lora_makes_of_a_refused_adapter_gives_its_logits(tmp_path):
    """At a rank that holds the whole update; PEFT's LoHa is the oracle."""
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LOHA](r=2, init_weights=False, **LM, **TARGETS)
    model = get_peft_model(tiny_llama(), config).eval()
    save_as_lora(tmp_path / "x", model, rank=4)  # a product element by element has rank 2 x 2
    adapter, base = load_adapter(tmp_path / "x"), tiny_llama()
    plain = logits(base)
    with attach(base, prepare(adapter, "svd")) as live:
        live.set_rank(4)
        torch.testing.assert_close(logits(base), logits(model), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(logits(base), plain, atol=1e-2)
