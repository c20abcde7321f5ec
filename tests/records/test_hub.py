"""What a card says of the base: a repository of the hub, never a path of this machine."""

from __future__ import annotations

import ast

import pytest
from huggingface_hub import ModelCard

from aurac.models.packaged import PACKAGED
from aurac.records.hub import (
    UPSTREAM,
    base_name,
    base_note,
    front_matter,
    hub_id,
    licence,
    loading_snippet,
    recorded_base,
)

PACKAGED_BASE = "smollm2-135m-instruct-q4_1"


@pytest.mark.parametrize(
    ("base", "repository"),
    [
        ("owner/model", "owner/model"),
        ("owner/model@main", "owner/model"),
        (PACKAGED_BASE, "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/home/me/model", None),
        ("./model", None),
        ("../bases/model", None),
        ("model", None),
        (None, None),
    ],
)
def test_only_a_repository_is_named(base, repository):
    assert hub_id(base) == repository
    data = ModelCard(front_matter("mine", base, "lora") + "\n\n# mine\n").data
    assert data.base_model == repository
    assert data.tags == ["lora", "aurac"]


def test_an_existing_folder_of_two_parts_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "bases" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("bases/model") is None
    assert "bases/model" not in base_note("bases/model")
    assert base_name("/secret/place/model") == "model"
    kept = recorded_base("bases/model")
    monkeypatch.chdir("/")
    assert hub_id("bases/model") == "bases/model"  # so that is not what results record
    assert hub_id(kept) is None
    for name in ("owner/model", "/home/me/model", "./model", "model", PACKAGED_BASE):
        assert recorded_base(name) == name


def test_the_snippet_is_python_that_names_the_base():
    code = loading_snippet("owner/model").removeprefix("```python\n").removesuffix("```")
    ast.parse(code)
    assert 'AutoModelForCausalLM.from_pretrained("owner/model")' in code


def test_the_snippet_loads_the_revision_that_was_measured():
    code = loading_snippet("owner/model@abc123")
    assert 'AutoModelForCausalLM.from_pretrained("owner/model", revision="abc123")' in code


def test_the_licence_is_that_of_the_readme_beside_the_adapter(tmp_path):
    assert licence(None) == licence(tmp_path) == (None, None, None)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# mine\n")
    (tmp_path / "adapter.pt").touch()
    assert licence(tmp_path) == licence(tmp_path / "adapter.pt") == ("mit", None, None)
    named = "license: other\nlicense_name: llama3.2\nlicense_link: https://example.org/LICENSE\n"
    (tmp_path / "README.md").write_text(f"---\n{named}---\n")
    head = front_matter("mine", None, "lora", licence=licence(tmp_path))
    assert named in head
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    assert licence(tmp_path) == (None, None, None)


def test_every_packaged_base_has_its_repository_and_licence():
    assert set(PACKAGED) == set(UPSTREAM)
    assert base_note(PACKAGED_BASE).startswith("It was trained on `")
    assert base_note(PACKAGED_BASE, measured=True).startswith("It was trained and measured on `")
    assert "(apache-2.0)" in base_note(PACKAGED_BASE)
    data = ModelCard(front_matter("mine", PACKAGED_BASE, "dylora") + "\n").data
    assert data.license is None  # that of the adapter is its owner's to choose
    assert data.tags == ["lora", "dylora", "aurac"]
