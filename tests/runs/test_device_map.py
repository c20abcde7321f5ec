"""A base that is spread or offloaded by accelerate gives the answers of the base in one piece."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from harness_doubles import (
    make_model,
    make_tokenizer,
    stay_offline,
    write_choice_task,
    write_text_task,
)
from support.adapters import save_with_peft
from support.tasks import build_tasks, evaluate

from aurac.adapters import attach, load_adapter, prepare
from aurac.cli import cli
from aurac.engine import EngineOptions
from aurac.errors import UsageError
from aurac.models.base import load_base
from aurac.runs.settings import parse_device_map

pytestmark = pytest.mark.filterwarnings("ignore")

MAPS = {
    "all on the cpu": {"": "cpu"},
    "layers from the cpu": {
        "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu",
        "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu",
    },
    "a layer from the disk": {
        "model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu",
        "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu",
    },
    "every layer from the disk": {
        "model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu",
        "model.rotary_emb": "cpu", "lm_head": "cpu",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    make_model(1).save_pretrained(root / "base")
    make_tokenizer().save_pretrained(root / "base")
    save_with_peft(
        make_model(1), root / "adapter", seed=4, r=4, target_modules=["q_proj", "down_proj"]
    )
    write_choice_task(root / "tasks")
    write_text_task(root / "tasks")
    return root


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        yield


def answers(place, device_map):
    """Every metric and response at ranks 0, 1, 4 and 0 again."""
    base = load_base(str(place / "base"), dtype="float32", device="cpu", device_map=device_map)
    names = [str(place / "tasks" / f"{name}.yaml") for name in ("tiny_choice", "tiny_text")]
    tasks = build_tasks(names, tokenizer=base.tokenizer, limit=4)
    prepared = prepare(load_adapter(place / "adapter", method="lora"), "prefix", "rule")
    found = []
    with torch.no_grad(), attach(base.model, prepared) as live:
        for rank in (0, 1, 4, 0):
            live.set_rank(rank)
            found += [evaluate(t, base.model, base.tokenizer, EngineOptions()) for t in tasks]
    found += [evaluate(t, base.model, base.tokenizer, EngineOptions()) for t in tasks]
    return base, found


@pytest.fixture(scope="module")
def whole(place):
    return answers(place, None)[1]


@pytest.mark.parametrize("name", MAPS)
def test_answers_are_those_of_the_base_in_one_piece(place, whole, name):
    base, found = answers(place, MAPS[name])
    assert set(base.device_map.values()) <= {"cpu", "disk"}
    if "disk" in name:
        parameters = dict(base.model.named_parameters())
        assert parameters["model.layers.0.self_attn.q_proj.weight"].is_meta
    for ours, theirs in zip(found, whole, strict=True):
        for key, column in theirs.metrics.items():
            assert ours.metrics[key].tolist() == column.tolist()
        if isinstance(theirs.responses[0], str):
            assert ours.responses == theirs.responses
        else:
            np.testing.assert_allclose(ours.responses, theirs.responses, atol=1e-4)
    # The ranks say something: otherwise equal answers would mean nothing.
    assert whole[0].responses != whole[4].responses
    assert whole[0].responses == whole[6].responses


def test_a_base_in_one_piece_has_no_map(place):
    assert load_base(str(place / "base"), dtype="float32", device="cpu").device_map is None


def compare(place, out, *more):
    done = CliRunner().invoke(
        cli,
        ["compare", str(place / "adapter"), "--tasks", str(place / "tasks" / "tiny_choice.yaml"),
         "--base", str(place / "base"), "--method", "lora", "--dtype", "float32", "--limit", "4",
         "--out", str(out), *more],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return json.loads((out / "results.json").read_text())


def test_compare_records_the_map_and_finds_the_same(place, tmp_path):
    plain = compare(place, tmp_path / "plain", "--device", "cpu")
    spread = compare(place, tmp_path / "spread", "--device", "cpu", "--device-map", '{"": "cpu"}')
    assert spread["provenance"]["settings"]["device_map"] == {"": "cpu"}
    assert plain["provenance"]["settings"]["device_map"] is None
    assert [c["accuracy"] for c in spread["curves"]] == [c["accuracy"] for c in plain["curves"]]
    auto = compare(place, tmp_path / "auto", "--device-map", "auto")
    assert [c["accuracy"] for c in auto["curves"]] == [c["accuracy"] for c in plain["curves"]]


def test_maps_that_are_none_say_so():
    assert parse_device_map("auto") == "auto"
    assert parse_device_map('{"model": 0}') == {"model": 0}
    for text in ("everywhere", "{", "[]", "{}"):
        with pytest.raises(UsageError, match="device_map="):
            parse_device_map(text)
