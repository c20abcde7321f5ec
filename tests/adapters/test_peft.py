"""PEFT folders: round trips, atomic writing, the side-car, contradictions."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from support.adapters import load_with_peft, logits, random_adapter, save_with_peft, tiny_llama

from aurac.adapters import Nesting, load_adapter, save_adapter, truncate
from aurac.adapters.formats import storage
from aurac.errors import AuracError, CheckpointError, RunFolderError, UsageError

NESTED = Nesting("dylora", (1, 2, 4), (3.0, 2.0, 1.0), "frozen")


def saved(tmp_path, **fields):
    adapter = random_adapter(tiny_llama(), 4, names=["q_proj", "down_proj"], **fields)
    return adapter, save_adapter(adapter, tmp_path / "adapter")


def edit(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rule", ["none", "rank", "sqrt"])
def test_load_save_load_is_bit_equal(tmp_path, dtype, rule):
    adapter, folder = saved(
        tmp_path,
        dtype=dtype,
        rule=rule,
        alpha=0.1,
        nesting=NESTED,
        seed=3,
        base="b",
        base_sha256="h",
        recipe={"lr": 1e-3, "data": ["x"]},
    )
    first = load_adapter(folder)
    second = load_adapter(save_adapter(first, tmp_path / "again"))
    for read in (first, second):
        assert read.sha256 == adapter.sha256
        assert (read.nesting, read.rule, read.alpha) == (NESTED, rule, 0.1)
        assert (read.base, read.base_sha256, read.recipe) == ("b", "h", {"lr": 1e-3, "data": ["x"]})
        for name, f in adapter.modules.items():
            assert torch.equal(read.modules[name].A, f.A)
            assert read.modules[name].A.dtype == dtype
    for name in ("adapter_config.json", "aurac.json", "adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_peft_itself_saved_comes_back_bit_equal(tmp_path):
    save_with_peft(
        tiny_llama(),
        tmp_path / "peft",
        r=4,
        lora_alpha=8,
        target_modules=["q_proj"],
        task_type="CAUSAL_LM",
    )
    read = load_adapter(tmp_path / "peft")
    assert (read.rule, read.alpha, read.rank, read.nesting, read.method) == (
        "rank",
        8.0,
        4,
        None,
        None,
    )
    save_adapter(read, tmp_path / "ours")
    theirs = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[k], ours[k]) for k in theirs)
    assert torch.equal(
        logits(load_with_peft(tiny_llama(), tmp_path / "peft")),
        logits(load_with_peft(tiny_llama(), tmp_path / "ours")),
    )


def test_an_export_is_portable(tmp_path):
    # vLLM and others want: one r, empty patterns, init true, no bias, safetensors
    adapter, _ = saved(tmp_path, nesting=Nesting("matryoshka", (1, 2, 4)))
    config = json.loads(
        (save_adapter(truncate(adapter, 2), tmp_path / "cut") / "adapter_config.json").read_text()
    )
    assert config["r"] == 2
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["init_lora_weights"] is True
    assert config["bias"] == "none"
    # trained at rank 2: the scale of rank 4, 1/2, is held, so alpha = 2 · 1/2 under the rank rule
    assert (config["lora_alpha"], config["use_rslora"]) == (1, False)
    sidecar = json.loads((tmp_path / "cut" / "aurac.json").read_text())
    assert sidecar["derived"]["rescale"] == "trained"
    assert sidecar["derived"]["from_sha256"] == adapter.sha256
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "aurac.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "alpha", "rslora"), [("none", 6, False), ("rank", 2, False), ("sqrt", 2, True)]
)
def test_the_published_scale_in_plain_peft(tmp_path, rule, alpha, rslora):
    # alpha 2 cut to rank 3: none is written as lora_alpha = 2 · 3
    adapter, _ = saved(tmp_path, rule=rule, alpha=2.0)
    cut = save_adapter(truncate(adapter, 3, rescale="rule"), tmp_path / "cut")
    config = json.loads((cut / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["use_rslora"], config["r"]) == (alpha, rslora, 3)


def test_a_path_stands_for_the_adapter_in_it(tmp_path):
    adapter, folder = saved(tmp_path)
    cut = truncate(str(folder), 2)
    assert (cut.rank, cut.derived.from_sha256) == (2, adapter.sha256)
    again = load_adapter(save_adapter(folder, tmp_path / "copy"))
    assert again.sha256 == adapter.sha256
    for wrong in (3, torch.nn.Linear(2, 2)):
        with pytest.raises(UsageError, match=r"is no adapter.*adapter_from_peft\(model\)"):
            truncate(wrong, 2)
    for shown in (repr(adapter), repr(cut), repr(next(iter(adapter.modules.values())))):
        assert len(shown) < 200
    assert repr(adapter).startswith(f"Adapter({adapter.name!r}: rank {adapter.rank}, ")
    lora = replace(adapter, nesting=Nesting("lora", (adapter.rank,)))
    assert "cut from lora" in repr(truncate(truncate(lora, 2, basis="svd"), 1))


def test_nothing_is_replaced_unless_told_to(tmp_path):
    adapter, folder = saved(tmp_path)
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match=r"already there; .*force=True"):
        save_adapter(truncate(adapter, 2), folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    save_adapter(truncate(adapter, 2), folder, force=True)
    assert load_adapter(folder).rank == 2
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "draft.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="not replaced even with force=True"):
        save_adapter(adapter, other, force=True)
    assert (other / "draft.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save_adapter(adapter, tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "empty", "thesis"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    adapter, folder = saved(tmp_path)
    before = load_adapter(folder).sha256

    def full(*_args, **_kwargs):
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(RunFolderError, match="No space left"):
        save_adapter(truncate(adapter, 1), folder, force=True)
    with pytest.raises(RunFolderError, match="No space left"):
        save_adapter(adapter, tmp_path / "new")
    assert load_adapter(folder).sha256 == before
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_what_is_said_wins_with_a_note(tmp_path):
    _, folder = saved(tmp_path, nesting=NESTED, alpha=2.0, base="small")
    overridden = load_adapter(
        folder, scaling="none", alpha=1.0, base="big", method="matryoshka", nested_ranks=[1, 4]
    )
    assert (overridden.rule, overridden.alpha, overridden.base) == ("none", 1.0, "big")
    assert overridden.nesting == Nesting("matryoshka", (1, 4))
    assert any(
        "none with alpha 1, replaces the recorded sqrt with alpha 2" in n for n in overridden.notes
    )
    assert any("big, replaces the recorded small" in n for n in overridden.notes)
    assert any(
        "matryoshka with nested ranks 1,4, replaces the recorded dylora" in n
        for n in overridden.notes
    )
    assert load_adapter(folder, scaling="sqrt", alpha=2.0, base="small").notes == ()


def test_what_is_said_must_go_together(tmp_path):
    _, folder = saved(tmp_path)
    with pytest.raises(UsageError, match="give alpha= with it"):
        load_adapter(folder, scaling="none")
    with pytest.raises(UsageError, match="without a method"):
        load_adapter(folder, nested_ranks=[1, 4])
    with pytest.raises(CheckpointError, match="its rank 4 as the last"):
        load_adapter(folder, method="dylora", nested_ranks=[1, 2])
    with pytest.raises(UsageError, match="method 'lorra'"):
        load_adapter(folder, method="lorra")
    assert load_adapter(folder, method="lora").nesting == Nesting("lora", (4,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 3}, "ranks 4 and 4 for .*expected rank 3"),
        ({"peft_type": "LOHA"}, "LOHA adapter, which is refused: it is no plain"),
        ({"peft_type": None}, "names no PEFT method"),
        (
            {"use_dora": True},
            "without lora_magnitude_vector for .*which has factors",
        ),
        ({"use_dora": "yes"}, "use_dora = 'yes'"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which is refused: PiSSA moves"),
        ({"init_lora_weights": "tomorrow"}, "not known what that does"),
        ({"use_magic": True}, "'use_magic' = 'True', which is not understood"),
        ({"r": "4"}, "r = '4'; expected a whole number"),
        ({"r": 0}, "r = 0"),
        ({"r": True}, "r = True"),
        ({"lora_alpha": "8"}, "lora_alpha = '8'"),
        ({"use_rslora": 1}, "use_rslora = 1"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern"),
        ({"rank_pattern": {"(": 4}}, "rank_pattern"),
        ({"target_modules": [1]}, "target_modules"),
        ({"bias": "some"}, "bias = 'some'"),
    ],
)
def test_configs_that_are_refused(tmp_path, changes, message):
    _, folder = saved(tmp_path)
    edit(folder / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(folder)


def test_an_unknown_field_that_is_unset_is_only_noted(tmp_path):
    _, folder = saved(tmp_path)
    edit(
        folder / "adapter_config.json",
        use_magic=None,
        megatron_core="megatron.core",
        peft_version="9.9",
    )
    assert load_adapter(folder).notes == (
        "the config has an unknown field 'use_magic', which is unset",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 3.0}, "alpha 3, but adapter_config.json lora_alpha 1"),
        ({"rule": "rank"}, "scaling rank, but adapter_config.json says sqrt"),
        ({"rule": "cube"}, "rule = 'cube'"),
        ({"aurac_adapter": 2}, "newer aurac"),
        ({"nested_ranks": [4, 2]}, "nested ranks"),
        ({"nested_ranks": "1,2"}, "nested_ranks = '1,2'"),
        ({"weights": ["a", 1, 1]}, "weights"),
        ({"method": ["lora"]}, "method"),
        ({"seed": "one"}, "seed"),
    ],
)
def test_side_cars_that_are_refused(tmp_path, changes, message):
    _, folder = saved(tmp_path, nesting=NESTED)
    edit(folder / "aurac.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(folder)


def with_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), "no lora_A for model.layers.0.self_attn.q_proj"),
        (lambda t: t.update({KEY: t[KEY][:3].clone()}), "ranks 3 and 4"),
        (lambda t: t.update({KEY: t[KEY].to(torch.int32)}), "is of type int32"),
        (lambda t: t[KEY].__setitem__((0, 0), float("nan")), "NaN or infinite"),
        (lambda t: t.update({KEY: torch.zeros(4, 0)}), "is empty"),
        (lambda t: t.update({"foreign": torch.ones(1)}), "foreign key 'foreign'"),
        (
            lambda t: t.update({KEY.replace("lora_A.weight", "lora_B.bias"): torch.ones(32)}),
            "does not explain",
        ),
        (lambda t: t.update({KEY.replace("lora_A", "lora_C"): torch.ones(32)}), "does not explain"),
        (
            lambda t: t.update(
                {KEY.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(32)}
            ),
            "DoRA",
        ),
        (lambda t: t.update({KEY: t[KEY].flatten()}), "factors of shapes"),
    ],
)
def test_tensors_that_contradict_the_config(tmp_path, change, message):
    _, folder = saved(tmp_path)
    with_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(folder)


def test_places_that_hold_no_adapter(tmp_path):
    for path, message in [
        (tmp_path / "missing", "there is no folder or file"),
        (tmp_path, "holds no adapter"),
        ("", "expected a folder"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load_adapter(path)
    _, folder = saved(tmp_path)
    assert load_adapter(tmp_path).source == folder  # the only adapter inside
    assert load_adapter(folder / "adapter_model.safetensors").source == folder
    save_adapter(load_adapter(folder), tmp_path / "second")
    with pytest.raises(CheckpointError, match="holds 2 adapters: adapter, second"):
        load_adapter(tmp_path)
    assert load_adapter(tmp_path, subfolder="second").name == "second"
    with pytest.raises(CheckpointError, match="has no folder"):
        load_adapter(tmp_path, subfolder="../etc")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_adapter(folder)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_adapter(tmp_path / "notes.txt")


def test_several_adapters_that_peft_saved_in_one_folder(tmp_path):
    from peft import LoraConfig

    model = save_with_peft(
        tiny_llama(), tmp_path / "x", r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"
    )
    model.add_adapter("other", LoraConfig(r=4, target_modules=["v_proj"], task_type="CAUSAL_LM"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "both")
    # "default" lies in the folder itself, "other" in a folder of its own below
    both = load_adapter(tmp_path / "both")
    assert both.rank == 2
    assert both.notes == ("the folder holds other adapters too, named with their subfolder: other",)
    assert load_adapter(tmp_path / "both", subfolder="other").rank == 4


def test_a_bin_file_is_read_without_executing_it(tmp_path):
    adapter, folder = saved(tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    torch.save(tensors, folder / "adapter_model.bin")
    assert load_adapter(folder).notes == (
        "adapter_model.bin is ignored beside adapter_model.safetensors",
    )
    (folder / "adapter_model.safetensors").unlink()
    assert load_adapter(folder).sha256 == adapter.sha256


def test_the_hub_is_asked_for_what_is_not_there(monkeypatch, tmp_path):
    import huggingface_hub

    adapter, _ = saved(tmp_path)
    requests = []

    def snapshot(repo, **options):
        requests.append((repo, options["revision"], options["allow_patterns"][0]))
        assert "adapter/README.md" in options["allow_patterns"]  # which has the licence
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_adapter("owner/name@v1:adapter").sha256 == adapter.sha256
    assert requests == [("owner/name", "v1", "adapter/adapter_config.json")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    save_adapter(truncate(adapter, 1), tmp_path / "owner" / "name")
    assert load_adapter("owner/name").rank == 1  # a path that exists wins
    assert len(requests) == 1

    def offline(_repo, **_options):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        load_adapter("owner/other")


def test_messages_are_single_lines(tmp_path):
    with pytest.raises(AuracError) as caught:
        load_adapter(tmp_path / "a\nb")
    assert "\n" not in str(caught.value)


def test_parameters_and_bytes_by_hand(tmp_path):
    adapter, _ = saved(tmp_path, dtype=torch.bfloat16)
    # per layer: q_proj 32 in + 32 out, down_proj 48 in + 32 out = 144; two layers, two bytes
    assert adapter.parameters(3) == 3 * 2 * 144
    assert adapter.bytes(3) == 2 * 3 * 2 * 144
    assert adapter.parameters(0) == 0


def test_the_hash_sees_what_decides_the_outputs(tmp_path):
    adapter, _ = saved(tmp_path)
    name, f = next(iter(adapter.modules.items()))
    flipped = f.A.clone()
    flipped[0, 0] += 1e-3
    variants = [
        adapter,
        replace(adapter, modules={**adapter.modules, name: replace(f, A=flipped)}),
        replace(adapter, modules={**adapter.modules, name: replace(f, alpha=2.0)}),
        replace(adapter, modules={**adapter.modules, name: replace(f, rule="rank")}),
        replace(adapter, nesting=NESTED),
    ]
    assert len({a.sha256 for a in variants}) == len(variants)
    assert replace(adapter, name="x", seed=1, notes=("y",)).sha256 == adapter.sha256
