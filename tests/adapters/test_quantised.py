"""Live adapters on quantised and on sharded bases: plain PEFT's own logits, bit for bit."""

from __future__ import annotations

import pytest
import torch
from harness_doubles import make_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from support.adapters import logits, randomise, tiny_llama
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from aurac.adapters import attach, load_adapter, prepare, save_adapter
from aurac.models.base import load_base, resolve_base

pytestmark = pytest.mark.filterwarnings("ignore")
LORA = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
KINDS = ["bitsandbytes 4-bit", "bitsandbytes 8-bit", "hqq"]


def llama():
    """Wide enough for a block of 64 in each quantised row."""
    return tiny_llama(hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    return folder


def load(kind, folder):
    if kind == "hqq":
        return with_hqq(llama())
    pytest.importorskip("bitsandbytes", exc_type=ImportError)
    config = BitsAndBytesConfig(**{f"load_in_{kind[-5]}bit": True})
    how = {"quantization_config": config, "dtype": torch.float32, "device_map": "cpu"}
    return AutoModelForCausalLM.from_pretrained(folder, **how).eval()


def with_hqq(model):
    quantize = pytest.importorskip("hqq.core.quantize", exc_type=ImportError)
    config = quantize.BaseQuantizeConfig(nbits=4, group_size=16)
    how = {"compute_dtype": torch.float32, "device": "cpu", "del_orig": False}
    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            model.set_submodule(path, quantize.HQQLinear(module, config, **how))
    return model.requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_is_pefts_own_on_the_same_base(kind, plain_folder, tmp_path):
    base = load(kind, plain_folder)
    assert type(base.model.layers[0].self_attn.q_proj) is not torch.nn.Linear
    model = randomise(get_peft_model(load(kind, plain_folder), LoraConfig(**LORA)))
    model.save_pretrained(tmp_path / "theirs")
    theirs = logits(PeftModel.from_pretrained(load(kind, plain_folder), tmp_path / "theirs").eval())
    plain = logits(base)
    prepared = prepare(load_adapter(tmp_path / "theirs"))
    with attach(base, prepared) as live:
        assert torch.equal(logits(base), theirs)
        assert not torch.allclose(theirs, plain, atol=1e-3)
        for r in (1, 3):
            live.set_rank(r)
            folder = save_adapter(prepared.at(r), tmp_path / f"r{r}")
            cut = PeftModel.from_pretrained(load(kind, plain_folder), folder).eval()
            assert torch.equal(logits(base), logits(cut))
        live.set_rank(0)
        assert torch.equal(logits(base), plain)
    assert torch.equal(logits(base), plain)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_base_that_was_saved_quantised(kind, plain_folder, tmp_path, isolated_cache):
    expected = logits(load(kind, plain_folder))
    load(kind, plain_folder).save_pretrained(tmp_path / "quantised")
    make_tokenizer().save_pretrained(tmp_path / "quantised")
    loaded = load_base(str(tmp_path / "quantised"), dtype="float32", device="cpu")
    assert torch.equal(logits(loaded.model), expected)
    assert loaded.sha256 != resolve_base(str(plain_folder)).sha256


def test_a_sharded_base(tmp_path, isolated_cache):
    tiny_llama().save_pretrained(tmp_path / "one")
    tiny_llama().save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    for name in ("one", "shards"):
        make_tokenizer().save_pretrained(tmp_path / name)
    loaded = {n: load_base(str(tmp_path / n), dtype="float32") for n in ("one", "shards")}
    assert loaded["one"].sha256 == loaded["shards"].sha256
    assert torch.equal(logits(loaded["shards"].model), logits(tiny_llama()))
