"""PEFT folders: round trips, atomic writing, the side-car, contradictions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import Nesting, load_adapter, save_adapter, truncate
from aurac.errors import CheckpointError, RunFolderError, UsageError

NESTED = Nesting("dylora", (1, 2, 4), (3.0, 2.0, 1.0), "frozen")


def saved(tmp_path, **fields):
    adapter = random_adapter(tiny_llama(), 4, names=["q_proj", "down_proj"], **fields)
    return adapter, save_adapter(adapter, tmp_path / "adapter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rule", ["none", "rank", "sqrt"])
def test_load_save_load_is_bit_equal(tmp_path, dtype, rule):
    facts = {"base": "b", "base_sha256": "h", "recipe": {"lr": 1e-3, "data": ["x"]}}
    adapter, folder = saved(tmp_path, dtype=dtype, rule=rule, alpha=0.1, nesting=NESTED, **facts)
    first = load_adapter(folder)
    second = load_adapter(save_adapter(first, tmp_path / "again"))
    for read in (first, second):
        assert read.sha256 == adapter.sha256
        assert (read.nesting, read.rule, read.alpha) == (NESTED, rule, 0.1)
        assert {name: getattr(read, name) for name in facts} == facts
        for name, f in adapter.modules.items():
            assert torch.equal(read.modules[name].A, f.A)
            assert read.modules[name].A.dtype == dtype
    for name in ("adapter_config.json", "aurac.json", "adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_an_export_is_portable(tmp_path):
    """vLLM and others want one r, empty patterns, no initialisation, no bias, safetensors."""
    adapter, _ = saved(tmp_path, nesting=Nesting("matryoshka", (1, 2, 4)))
    cut = save_adapter(truncate(adapter, 2), tmp_path / "cut")
    config = json.loads((cut / "adapter_config.json").read_text())
    # the scale of rank 4, 1/2, is held, so alpha = 2 · 1/2 under the rank rule
    wanted = {"r": 2, "lora_alpha": 1, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    assert {**config, **wanted, "init_lora_weights": True, "bias": "none"} == config
    derived = load_adapter(cut).derived
    assert str(derived) == "rank 2 of 4 (basis prefix, rescale trained)"
    assert (derived.from_sha256, derived.trained) == (adapter.sha256, adapter.nesting)
    files = {"adapter_config.json", "adapter_model.safetensors", "aurac.json"}
    assert {p.name for p in cut.iterdir()} == files


def test_nothing_is_replaced_unless_told_to(tmp_path):
    adapter, folder = saved(tmp_path)
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="already there"):
        save_adapter(truncate(adapter, 2), folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    save_adapter(truncate(adapter, 2), folder, force=True)
    assert load_adapter(folder).rank == 2
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "draft.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="so it is not replaced"):
        save_adapter(adapter, other, force=True)
    assert (other / "draft.txt").read_text() == "years of work"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    adapter, folder = saved(tmp_path)
    before = load_adapter(folder).sha256

    def full(*_args, **_kwargs):
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("aurac.adapters.export.save_file", full)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(SafetensorError, match="No space left"):
            save_adapter(truncate(adapter, 1), place, force=True)
    assert load_adapter(folder).sha256 == before
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_parameters_and_bytes_by_hand(tmp_path):
    adapter, _ = saved(tmp_path, dtype=torch.bfloat16)
    # per layer: q_proj 32 in + 32 out, down_proj 48 in + 32 out = 144; two layers, two bytes
    assert adapter.parameters(3) == 3 * 2 * 144
    assert adapter.bytes(3) == 2 * 3 * 2 * 144
    name, f = next(iter(adapter.modules.items()))
    dora = {**adapter.modules, name: replace(f, magnitude=torch.ones(32, 1))}
    assert replace(adapter, modules=dora).parameters(3) == adapter.parameters(3) + 32


def test_the_hash_sees_what_decides_the_outputs(tmp_path):
    adapter, _ = saved(tmp_path)
    name, f = next(iter(adapter.modules.items()))
    flipped = f.A.clone()
    flipped[0, 0] += 1e-3
    variants = [
        adapter,
        *(
            replace(adapter, modules={**adapter.modules, name: replace(f, **change)})
            for change in (
                {"A": flipped},
                {"alpha": 2.0},
                {"rule": "rank"},
                {"magnitude": torch.ones(32, 1)},
            )
        ),
        replace(adapter, nesting=NESTED),
        # the same rows for other tokens are another adapter, with cells of its own
        replace(adapter, peft_config={"trainable_token_indices": [3, 5]}),
        replace(adapter, peft_config={"trainable_token_indices": [3, 6]}),
    ]
    assert len({a.sha256 for a in variants}) == len(variants)
    assert replace(adapter, name="x", seed=1, notes=("y",)).sha256 == adapter.sha256


def test_what_is_stated_wins_with_a_note(tmp_path):
    _, folder = saved(tmp_path, nesting=NESTED, alpha=2.0, base="small")
    stated = load_adapter(
        folder, scaling="none", alpha=1.0, base="big", method="matryoshka", nested_ranks=[1, 4]
    )
    assert (stated.rule, stated.alpha, stated.base) == ("none", 1.0, "big")
    assert stated.nesting == Nesting("matryoshka", (1, 4))
    assert stated.notes == (
        "the scaling given replaces the recorded one",
        "the training given replaces the recorded one",
        "the base given replaces the recorded one",
    )
    assert load_adapter(folder, scaling="sqrt", alpha=2.0, base="small").notes == ()


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"scaling": "none"}, "needs --alpha"),
        ({"nested_ranks": [1, 4]}, "give --method"),
        ({"method": "lorra"}, "no method 'lorra'"),
        ({"method": "dylora"}, "needs --nested-ranks"),
    ],
)
def test_what_is_stated_must_go_together(tmp_path, stated, said):
    _, folder = saved(tmp_path)
    with pytest.raises(UsageError, match=said):
        load_adapter(folder, **stated)
    assert load_adapter(folder, method="lora").nesting == Nesting("lora", (4,))


def test_a_link_out_of_an_adapters_folder_is_not_followed_by_a_cut(tmp_path):
    _, folder = saved(tmp_path)
    (tmp_path / "private").write_text("a password")
    (folder / "chat_template.jinja").symlink_to(tmp_path / "private")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        save_adapter(truncate(load_adapter(folder), 2), tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    (folder / "chat_template.jinja").unlink()
    repository = tmp_path / "models--a--b"  # as the hub's cache has it
    for name in ("snapshots", "blobs"):
        (repository / name).mkdir(parents=True)
    (repository / "blobs" / "1").write_text("{{ messages }}")
    snapshot = folder.rename(repository / "snapshots" / "main")
    (snapshot / "chat_template.jinja").symlink_to("../../blobs/1")
    cut = save_adapter(truncate(load_adapter(snapshot), 2), tmp_path / "cut")
    assert (cut / "chat_template.jinja").read_text() == "{{ messages }}"
