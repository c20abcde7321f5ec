"""What a comparison may be told, checked and carried to another process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aurac.adapters.formats.sidecar import LoadOverrides
from aurac.engine import EngineOptions
from aurac.errors import UsageError
from aurac.runs.settings import (
    Execution,
    ModelOptions,
    Overrides,
    Request,
    RequestOptions,
    Settings,
    SettingsOptions,
    TruncationOptions,
    separated,
)
from aurac.tasks.options import TaskOptions


def test_execution_is_checked_and_apart_from_what_changes_numbers():
    settings, execution = separated({"limit": 3, "executor": "local"})
    assert (settings.task.limit, execution.executor) == (3, "local")
    with pytest.raises(UsageError, match="executor 'slurm'"):
        Execution(executor="slurm")
    with pytest.raises(UsageError, match="an address without executor='ray'"):
        Execution(address="auto")
    with pytest.raises(TypeError, match="no_such"):
        separated({"no_such": 1})


def test_the_keywords_are_the_fields_of_the_records():
    kinds = (TaskOptions, TruncationOptions, ModelOptions, EngineOptions, Settings)
    fields = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    parts, made = {"task", "truncation", "model", "engine"}, {"added", "held_out"}
    assert set(SettingsOptions.__annotations__) == fields - parts - made
    both = set(RequestOptions.__annotations__) - set(SettingsOptions.__annotations__)
    assert both == {f.name for f in dataclasses.fields(Execution)}
    stated = {f.name for f in dataclasses.fields(LoadOverrides)}
    assert set(Overrides.__annotations__) == stated


def test_one_will_do_where_several_are_expected():
    settings, _ = separated(
        {
            "basis": "svd",
            "ranks": 4,
            "primary": "a,b",
            "metric": "acc",
            "limit": "2",
            "groups": {"both": "one,two"},
            "data": {"sums": "folder"},
            "pass_at": 1,
            "batch_size": "auto:4",
            "truncations": {"a": {"basis": "svd"}, "b": TruncationOptions(basis="pca", ranks=2)},
        }
    )
    cut, task = settings.truncation, settings.task
    a, b = settings.truncations["a"], settings.truncations["b"]
    assert (a, b.basis, b.ranks) == (TruncationOptions(basis=("svd",)), ("pca",), (2,))
    assert (cut.basis, cut.ranks, task.pass_at) == (("svd",), (4,), (1,))
    assert (settings.primary, settings.groups) == ([("a", "b")], {"both": ("one", "two")})
    assert (task.metric, task.limit, task.data) == ({"*": "acc"}, 2, {"sums": Path("folder")})
    assert settings.engine.batch_size is None
    for pairs in (("a", "b"), [("a", "b")], ["a,b"]):
        assert separated({"primary": pairs})[0].primary == [("a", "b")]
    request = Request.of(Path("one"), "x, y")
    assert (request.checkpoints, request.tasks) == (("one",), ("x", "y"))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("chat_template", "chatml", "chat_template='chatml'; expected True or False"),
        ("limit", "two", "limit='two'; expected a number of documents, or a share below 1"),
        ("limit", "10%", r"limit='10%'; .*; give 0\.1"),
        ("limit", 2.5, r"limit=2\.5; expected a number of documents"),
        ("limit", float("nan"), "limit=nan; expected a number of documents"),
        ("limit", True, "limit=True; expected a number of documents"),
        (
            "truncations",
            {"a": {"bases": "svd"}},
            "a truncation has no option bases; expected basis",
        ),
        ("truncations", {"a": "svd"}, "truncations={'a': 'svd'}; expected a mapping to Trunc"),
        ("truncations", "svd", "truncations='svd'; expected a mapping to TruncationOptions"),
        ("fewshot", "none", "expected 'stock' or 'fixed'"),
        ("batch_size", "few", "batch_size='few'; expected a whole number from 1"),
        ("batch_size", 0, "batch_size=0; expected a whole number from 1, or auto"),
        ("data", "folder", "expected a mapping to a path"),
        ("basis", None, "basis=None; expected several"),
        ("limits", 2, "no option limits; expected limit"),
        ("overrides", {"metod": "lora"}, "no option metod; expected method"),
    ],
)
def test_values_of_another_kind_are_refused(option, value, words):
    with pytest.raises(UsageError, match=words):
        separated({option: value})


def test_an_adapter_in_memory_is_told_how_to_be_compared():
    with pytest.raises(UsageError, match=r"save_adapter\(adapter, folder\)"):
        Request.of([object()], "x")
