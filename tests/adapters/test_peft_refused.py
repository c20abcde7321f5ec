"""What docs/adapters.md calls converted or refused, on checkpoints that PEFT writes."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, save_as_lora
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType
from safetensors.torch import load_file, save_file
from support.adapters import (
    adalora,
    load_with_peft,
    logits,
    randomise,
    save_with_peft,
    tiny_llama,
    token_ids,
)
from support.peft_rows import EXACT

from aurac.adapters import attach, load_adapter, prepare, save_adapter
from aurac.adapters.formats.peft_config import REFUSED_FIELDS, UNDERSTOOD
from aurac.errors import CheckpointError

DOCS = Path(__file__).parents[2] / "docs" / "adapters.md"
LM = {"task_type": "CAUSAL_LM"}


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


# row of the table: (a config that PEFT writes, or its model, and what the message says)
REFUSED = {
    "lora_bias": (lambda: lora(lora_bias=True), "bias of lora_B"),
    "alora_invocation_tokens": (lambda: lora(alora_invocation_tokens=[1, 2]), "aLoRA"),
    "use_qalora": (lambda: lora(use_qalora=True), "pools its inputs"),
    "use_bdlora": (
        lambda: lora(use_bdlora=sub("BdLoraConfig", target_modules_bd_a=["q_proj"], nblocks=2)),
        "block-diagonal",
    ),
    "arrow_config": (lambda: lora(arrow_config=sub("ArrowConfig")), "Arrow routes"),
    "kasa_config": (lambda: lora(kasa_config=sub("KasaConfig")), "KaSA truncates"),
    "velora_config": (lambda: lora(velora_config=sub("VeloraConfig")), "VeLoRA compresses"),
    "monteclora_config": (lambda: lora(monteclora_config=sub("MontecloraConfig")), "samples"),
    "ensure_weight_tying": (lambda: lora(ensure_weight_tying=True), "tied adapters"),
    "layer_replication": (lambda: lora(layer_replication=[[0, 2], [1, 2]]), "repeated layers"),
    "megatron_config": (
        lambda: lora(megatron_config={"tensor_model_parallel_size": 2}),
        "Megatron",
    ),
    "init pissa": (lambda: lora(init_lora_weights="pissa"), "PiSSA moves"),
    "init pissa_niter_4": (lambda: lora(init_lora_weights="pissa_niter_4"), "PiSSA moves"),
    "init olora": (lambda: lora(init_lora_weights="olora"), "OLoRA moves"),
    "init corda": (corda, "CorDA moves"),
    "init loftq": (
        lambda: lora(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1}),
        "LoftQ",
    ),
    "init lora_ga": (lambda: lora(init_lora_weights="lora_ga"), "LoRA-GA shifts"),
    "init mica": (lambda: lora(init_lora_weights="mica"), "MiCA derives"),
}
# What PEFT builds only with other adapters, another package or an accelerator: its config beside
# plain weights.
CONFIG_ALONE = {"arrow_config", "megatron_config", "init loftq"}


@pytest.mark.parametrize("row", REFUSED)
def test_refused_rows(row, tmp_path):
    build, message = REFUSED[row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = build()
        if row in CONFIG_ALONE:
            save_with_peft(tiny_llama(), tmp_path, r=4, target_modules=["q_proj"], **LM)
        elif isinstance(made, LoraConfig):
            made = get_peft_model(tiny_llama(), made)
        made.save_pretrained(tmp_path)
    for lazy in (False, True):
        with pytest.raises(CheckpointError, match=f"refused: .*{message}") as caught:
            load_adapter(tmp_path, lazy=lazy)
    if row.startswith("init"):
        assert "path_initial_model_for_weight_conversion" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"use_dora": True}, "does not set use_dora"),
        ({"lora_bias": True}, "does not explain"),
        ({"kasa_config": "Kasa"}, "does not explain"),
    ],
)
def test_what_peft_writes_is_refused_by_its_tensors_too(tmp_path, fields, match):
    fields = {k: sub("KasaConfig") if v == "Kasa" else v for k, v in fields.items()}
    save_with_peft(tiny_llama(), tmp_path, r=4, target_modules=["q_proj"], **LM, **fields)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    plain = {key: None if key in fields else value for key, value in config.items()}
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match=match):
        load_adapter(tmp_path)


CONVERTED_BY_PEFT = ["pissa", "olora", "corda"]


@pytest.mark.parametrize("init", CONVERTED_BY_PEFT)
def test_what_peft_converts_back_is_exact_on_the_unchanged_base(init, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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


MASKS = [[True, False, True, True], [False, True, False, False]]


@pytest.mark.parametrize("masks", [None, MASKS], ids=["whole", "after its budget"])
def test_adalora_is_converted(masks, tmp_path):
    adalora(tmp_path / "theirs", masks=masks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "theirs")).eval()
    adapter = load_adapter(tmp_path / "theirs", lazy=True)
    assert adapter.rule == "none"
    assert adapter.alpha == pytest.approx(6 / (4 + 1e-5), rel=1e-12)
    assert adapter.ranks == ((4,) if masks is None else (1, 3))
    assert any("components have no order" in note for note in adapter.notes)
    base = tiny_llama()
    with attach(base, prepare(adapter)) as live:
        torch.testing.assert_close(logits(base), logits(theirs), rtol=1e-4, atol=1e-5)
        for basis, r in (("prefix", 2), ("svd", 1), ("svd", adapter.rank)):
            how = prepare(adapter, basis)
            folder = save_adapter(how.at(r), tmp_path / f"{basis}{r}")
            exported = logits(load_with_peft(tiny_llama(), folder))
            if basis == "prefix":
                live.set_rank(r)
                assert torch.equal(logits(base), exported)
            elif r == adapter.rank:
                torch.testing.assert_close(exported, logits(theirs), rtol=1e-4, atol=2e-5)
    # and the dense formula, from the raw file
    raw = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    for name, f in adapter.modules.items():
        key = f"base_model.model.{name}.lora_"
        A, B, E = (raw[key + side].double() for side in "ABE")
        torch.testing.assert_close(
            f.scale(1) * f.B.double() @ f.A.double(), B @ (A * E) * 6 / (4 + 1e-5)
        )


def test_adalora_that_left_a_module_empty(tmp_path):
    adalora(tmp_path / "a", masks=[MASKS[0], [False] * 4])
    adapter = load_adapter(tmp_path / "a")
    assert len(adapter.modules) == 2
    assert any("left 2 modules without a component" in note for note in adapter.notes)
    adalora(tmp_path / "b", masks=[[False] * 4])
    with pytest.raises(CheckpointError, match="no module with a component left"):
        load_adapter(tmp_path / "b")


@pytest.mark.parametrize(
    ("config", "change"),
    [
        ({"lora_alpha": 0}, None),
        ({"lora_alpha": "x"}, None),
        ({"init_r": 0}, None),
        ({"init_r": True}, None),
        ({"use_dora": True}, None),
        ({}, lambda key, t: None if key.endswith("lora_E") else t),
        ({}, lambda key, t: t[:2] if key.endswith("lora_E") else t),
        ({}, lambda key, t: t[:, :2] if key.endswith("lora_B") else t),
        ({}, lambda key, t: t * float("nan") if key.endswith("lora_E") else t),
        ({}, lambda key, t: t.int() if key.endswith("lora_A") else t),
    ],
)
def test_adalora_that_is_damaged(tmp_path, config, change):
    adalora(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    weights = tmp_path / "adapter_model.safetensors"
    if change is not None:
        changed = {key: change(key, t) for key, t in load_file(weights).items()}
        save_file({k: t.contiguous() for k, t in changed.items() if t is not None}, weights)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(tmp_path)
    assert "\n" not in str(caught.value)


TARGETS = {"target_modules": ["q_proj", "v_proj"]}
OPTIONS = {
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "BOFT": {"boft_block_size": 4, **TARGETS},
    "C3A": {"block_size": 4, **TARGETS},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "CPT": {},
    "FOURIERFT": {"n_frequency": 10, **TARGETS},
    "IA3": {"feedforward_modules": [], **TARGETS},
    "LN_TUNING": {"target_modules": ["norm"]},
    "MISS": {"r": 2, **TARGETS},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_ranks": 1, "num_tasks": 1},
    "OFT": {"oft_block_size": 4, **TARGETS},
    "POLY": {"n_tasks": 2, **TARGETS},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PSOFT": {"r": 2, **TARGETS},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 8},
    "ROAD": {"group_size": 8, **TARGETS},
    "SHADOW": {},
    "SHIRA": {"r": 2, **TARGETS},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2], "target_modules": ["embed_tokens"]},
    "VBLORA": {"num_vectors": 8, "vector_length": 4, **TARGETS},
    "WAVEFT": {"n_frequency": 10, **TARGETS},
}


def xlora(folder):
    """X-LoRA mixes adapters that lie elsewhere."""
    save_with_peft(tiny_llama(), folder / "0", r=2, target_modules=["q_proj"], **LM)
    base = tiny_llama()
    base.config.use_cache = False
    build = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.XLORA]
    return get_peft_model(base, build(hidden_size=32, adapters={"0": str(folder / "0")}, **LM))


@pytest.mark.parametrize("kind", sorted({t.value for t in PeftType} - {"LORA", "ADALORA"}))
def test_every_other_method_of_peft_is_refused_by_its_name(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "XLORA":
            model = xlora(tmp_path / "parts")
        else:
            config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
            model = get_peft_model(tiny_llama(), config(**LM, **OPTIONS.get(kind, TARGETS)))
        model.save_pretrained(tmp_path / "x")
    with pytest.raises(CheckpointError) as caught:
        load_adapter(tmp_path / "x")
    assert f"is a {kind} adapter, which is refused" in caught.value.given
    assert {"LoRA", "DoRA", "AdaLoRA"} <= set(re.findall(r"\w+", caught.value.expected))
    assert "save_as_lora" in caught.value.fix


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


def test_every_field_of_lora_config_is_decided():
    from dataclasses import fields

    assert {f.name for f in fields(LoraConfig)} <= UNDERSTOOD | set(REFUSED_FIELDS)


def test_the_tables_in_the_docs_are_these():
    text = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (.+?) +\| (exact|converted|refused) ", text, re.MULTILINE))
    assert rows == {
        **dict.fromkeys(EXACT, "exact"),
        **{f"init {name}, converted by PEFT": "exact" for name in CONVERTED_BY_PEFT},
        **dict.fromkeys(REFUSED, "refused"),
    }
    assert "ADALORA is converted" in text
    _, _, methods = text.partition("| methods | why |\n|---|---|\n")
    grouped = re.findall(r"^\| (.+?) \| .+ \|$", methods.partition("\n\n")[0], re.MULTILINE)
    refused = {kind for kinds in grouped for kind in kinds.split(", ")}
    assert {"LORA", "ADALORA"} | refused == {t.value for t in PeftType}
