"""The side-car: what it adds to PEFT's config, the base that both name, and contradictions."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig
from support.adapters import edit, random_adapter, tiny_llama

from aurac.adapters import Nesting, check_base, load_adapter, save_adapter, truncate
from aurac.adapters.formats.peft_config import CONFIG
from aurac.errors import AuracError, CheckpointError
from aurac.models.packaged import DEFAULT_BASE

NESTED = Nesting("dylora", (1, 2, 4), (3.0, 2.0, 1.0), "frozen")
HASH = "5" * 64


def saved(folder, **fields):
    return save_adapter(random_adapter(tiny_llama(), 4, names=["q_proj"], **fields), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_alpha": 64}, "lora_alpha 64"),
        ({"alpha": 3.0}, "is not rule sqrt with alpha 3"),
        ({"rule": "rank"}, "is not rule rank"),
        ({"rule": "cube"}, "rule"),
        ({"aurac_adapter": 2}, "another version"),
        ({"nested_ranks": [4, 2]}, "nested ranks"),
        ({"method": "lorra"}, "lorra"),
        ({"seed": "one"}, "seed"),
    ],
)
def test_side_cars_that_are_refused(tmp_path, changes, message):
    folder = saved(tmp_path / "x", nesting=NESTED)
    edit(folder / (CONFIG if "lora_alpha" in changes else "aurac.json"), **changes)
    with pytest.raises(AuracError, match=message):
        load_adapter(folder)


def test_peft_s_config_has_the_record_as_well(tmp_path):
    """So that a model that PEFT loaded, and what it saves, know how the adapter was trained."""
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers"}
    folder = saved(tmp_path / "x", nesting=NESTED, peft_config={"auto_mapping": mapping})
    config = LoraConfig.from_pretrained(str(folder))
    assert mapping.items() <= config.auto_mapping.items()  # with which `AutoPeftModel` loads it
    adapter = load_adapter(folder)
    assert adapter.peft_config["auto_mapping"] == mapping
    edit(folder / "aurac.json", seed=5)  # where both are there, the side-car counts
    assert load_adapter(folder).seed == 5
    (folder / "aurac.json").unlink()
    assert load_adapter(folder).sha256 == adapter.sha256
    edit(folder / CONFIG, auto_mapping=mapping)
    assert load_adapter(folder).method is None


@pytest.mark.parametrize(
    ("config", "sidecar", "taken"),
    [
        (None, "org/one", "org/one"),
        ("org/one", None, "org/one"),
        ("org/one", "org/one", "org/one"),
        ("org/moved", "org/one", "org/moved"),  # the config is what people edit
        ("HuggingFaceTB/SmolLM2-135M-Instruct", DEFAULT_BASE, DEFAULT_BASE),
    ],
)
def test_the_base_that_config_and_side_car_name(tmp_path, config, sidecar, taken):
    folder = saved(tmp_path / "x", base=sidecar, base_sha256=HASH)
    edit(folder / CONFIG, base_model_name_or_path=config)
    adapter = load_adapter(folder)
    assert (adapter.base, adapter.base_sha256) == (taken, HASH)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        check_base(adapter, taken, "6" * 64)
    assert load_adapter(folder, base="org/given").base == "org/given"
    cut = save_adapter(truncate(adapter, 1), tmp_path / "cut")
    assert load_adapter(cut).base == taken


@pytest.mark.parametrize(
    ("base", "fields"),
    [
        (None, ("org/one", "v2")),
        ("org/other", ("org/other", None)),
        ("{here}/a@b", ("{here}/a@b", None)),
    ],
)
def test_the_revision_of_a_base_on_the_hub_is_part_of_its_name(tmp_path, base, fields):
    """PEFT keeps it in a field of its own, with which ``AutoPeftModel`` fetches the base."""
    folder = saved(tmp_path / "x")
    edit(folder / CONFIG, base_model_name_or_path="org/one", revision="v2")
    assert load_adapter(folder).base == "org/one@v2"
    given = base and base.format(here=tmp_path)
    cut = save_adapter(truncate(load_adapter(folder, base=given), 1), tmp_path / "cut")
    config = json.loads((cut / CONFIG).read_text())
    assert config["base_model_name_or_path"] == fields[0].format(here=tmp_path)
    assert config["revision"] == fields[1]
    assert load_adapter(cut).base == (given or "org/one@v2")
