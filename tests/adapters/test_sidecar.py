"""The base that a checkpoint names, and the one that its side-car names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness_doubles import make_tokenizer
from peft import LoraConfig
from support.adapters import random_adapter, tiny_llama
from support.hostile_files import run_aurac

from aurac.adapters import Nesting, check_base, load_adapter, save_adapter, truncate
from aurac.adapters.formats.peft_config import CONFIG
from aurac.errors import CheckpointError
from aurac.models.base import resolve_base
from aurac.models.packaged import DEFAULT_BASE

DATA = Path(__file__).parent / "data"
HASH = "5" * 64


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def contradicting(folder, config, sidecar, sha256=None):
    """An adapter whose two files name these bases."""
    nesting = Nesting("lora", (2,))
    adapter = random_adapter(tiny_llama(), 2, names=["q_proj"], nesting=nesting, base=sidecar)
    save_adapter(adapter, folder)
    edit(folder / CONFIG, base_model_name_or_path=config)
    edit(folder / "aurac.json", base_sha256=sha256)
    return folder


@pytest.fixture
def bases(tmp_path):
    """Two bases of other weights, on disk."""
    for name in ("one", "other"):
        model = tiny_llama()
        model.lm_head.weight.data *= 1 + len(name)
        model.save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path / "one", tmp_path / "other"


def test_two_names_without_a_hash_are_refused_and_the_user_decides(tmp_path):
    folder = contradicting(tmp_path / "x", "org/one", "org/other")
    with pytest.raises(
        CheckpointError,
        match=r"adapter_config.json names base org/one, .*aurac.json org/other; .*give base=",
    ):
        load_adapter(folder)
    assert load_adapter(folder, base="org/one").base == "org/one"
    code, _, error = run_aurac("inspect", folder)
    assert (code, error.count("\n")) == (2, 1)


def test_what_the_user_decided_and_saved_is_not_asked_again(tmp_path):
    folder = contradicting(tmp_path / "x", "org/one", "org/one")
    code, _, _ = run_aurac("inspect", folder, "--base", "org/other", "--save", "--force")
    assert code == 0
    assert load_adapter(folder).base == "org/other"
    edit(folder / CONFIG, base_model_name_or_path="org/third")
    with pytest.raises(CheckpointError, match="names base org/third"):
        load_adapter(folder)


def test_a_name_without_another_is_taken(tmp_path):
    assert load_adapter(contradicting(tmp_path / "a", None, "org/one")).base == "org/one"
    assert load_adapter(contradicting(tmp_path / "b", "org/one", None)).base == "org/one"


def test_one_folder_under_two_names_is_one_base(tmp_path, bases, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(bases[0])
    for k, name in enumerate(("one", "one/", "link")):
        adapter = load_adapter(contradicting(tmp_path / str(k), name, str(bases[0])))
        assert (adapter.base, adapter.notes) == (str(bases[0]), ())


def test_a_recorded_hash_decides_about_a_base_that_moved(tmp_path, bases):
    one, other = (resolve_base(str(base)) for base in bases)
    for k, (file, record, taken) in enumerate(
        [
            (str(one.path), str(tmp_path / "gone"), str(one.path)),  # moved, and the config edited
            ("org/one", str(one.path), str(one.path)),  # published under another name
            ("org/one", str(tmp_path / "gone"), "org/one"),
        ]
    ):
        adapter = load_adapter(contradicting(tmp_path / str(k), file, record, one.sha256))
        assert adapter.base == taken
        assert f"{taken} is taken" in adapter.notes[-1]
        check_base(adapter, taken, one.sha256)
        cut = save_adapter(truncate(adapter, 1), tmp_path / f"cut{k}")
        assert (load_adapter(cut).base, load_adapter(cut).notes) == (taken, ())
    wrong = contradicting(tmp_path / "wrong", str(other.path), "org/one", one.sha256)
    code, _, error = run_aurac("truncate", wrong, "--rank", 1, "--merge-into", tmp_path / "merged")
    assert code == 2
    assert "was trained on org/one (hash" in error.splitlines()[-1]


def test_other_formats_are_asked_too(tmp_path):
    folder = Path(shutil.copytree(DATA / "mlx", tmp_path / "mlx"))
    edit(folder / CONFIG, model="org/one")
    (folder / "aurac.json").write_text(json.dumps({"aurac_adapter": 1, "base": "org/other"}))
    with pytest.raises(CheckpointError, match=r"names base org/one, .* org/other"):
        load_adapter(folder)
    assert load_adapter(folder, base="org/other").base == "org/other"


def test_the_folder_that_one_stands_in_has_its_own_name(tmp_path, monkeypatch):
    """As in `aurac compare .` of a card; a curve without a name could not be reported."""
    folder = contradicting(tmp_path / "mine", "org/one", "org/one")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder)
    assert load_adapter(".").name == "mine"
    monkeypatch.chdir(folder / "below")
    assert load_adapter("..").name == "mine"
    assert load_adapter("..", name="other").name == "other"


def test_the_cached_folder_of_a_packaged_base_is_that_base(tmp_path, monkeypatch):
    """An adapter that PEFT trained on what `aurac base` prints goes with those of the zoo."""
    monkeypatch.setenv("AURAC_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "bases" / f"{DEFAULT_BASE}-1"
    folder = contradicting(tmp_path / "x", str(place), None)
    (folder / "aurac.json").unlink()
    adapter = load_adapter(folder)
    assert adapter.base == DEFAULT_BASE
    cut = save_adapter(truncate(adapter, 1), tmp_path / "cut")
    assert str(tmp_path) not in (cut / CONFIG).read_text()
    edit(folder / CONFIG, base_model_name_or_path=str(tmp_path / "other"))
    assert load_adapter(folder).base == str(tmp_path / "other")


def test_other_programs_read_the_repository_of_a_packaged_base(tmp_path):
    """The side-car keeps the packaged name, with which the base is found without a network."""
    folder = contradicting(tmp_path / "x", DEFAULT_BASE, DEFAULT_BASE)  # as of older versions
    adapter = load_adapter(folder)
    cut = save_adapter(truncate(adapter, 1), tmp_path / "cut")
    named = LoraConfig.from_pretrained(str(cut)).base_model_name_or_path
    assert named == "HuggingFaceTB/SmolLM2-135M-Instruct"
    again = load_adapter(cut)
    assert (again.base, again.notes) == (DEFAULT_BASE, ())
    saved = save_adapter(adapter, tmp_path / "saved")
    assert load_adapter(saved).sha256 == adapter.sha256
    edit(cut / CONFIG, base_model_name_or_path="org/one")
    with pytest.raises(CheckpointError, match="names base org/one"):
        load_adapter(cut)


def test_the_revision_of_a_base_on_the_hub_is_part_of_its_name(tmp_path):
    """PEFT keeps it in a field of its own, with which ``AutoPeftModel`` fetches the base."""
    folder = contradicting(tmp_path / "x", "org/one", None)
    edit(folder / CONFIG, revision="v2")
    adapter = load_adapter(folder)
    assert adapter.base == "org/one@v2"
    for k, (base, fields) in enumerate(
        {
            None: ("org/one", "v2"),
            "org/other": ("org/other", None),
            str(tmp_path / "a@b"): (str(tmp_path / "a@b"), None),
        }.items()
    ):
        cut = truncate(load_adapter(folder, base=base), 1)
        config = json.loads((save_adapter(cut, tmp_path / f"{k}") / CONFIG).read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == fields
        assert load_adapter(tmp_path / f"{k}").base == (base or "org/one@v2")
    edit(folder / CONFIG, revision="main")
    assert load_adapter(folder).base == "org/one"
    edit(folder / CONFIG, revision="v2", base_model_name_or_path=str(tmp_path))
    assert load_adapter(folder).base == str(tmp_path)  # a folder has no revision


@pytest.mark.parametrize("name", ["a" * 300, "o/" + "n" * 5000, "a\0b", "o/n@" + "v" * 400])
def test_names_that_no_file_can_have(tmp_path, name):
    folder = contradicting(tmp_path / "x", name, "org/one")
    with pytest.raises(CheckpointError, match="names base"):
        load_adapter(folder)
    edit(folder / "aurac.json", base_sha256=HASH)
    assert load_adapter(folder).base == name
    edit(folder / "aurac.json", base=None)
    edit(folder / CONFIG, revision="r" * 300)
    save_adapter(truncate(load_adapter(folder), 1), tmp_path / "cut")
    assert load_adapter(tmp_path / "cut").base == load_adapter(folder).base
