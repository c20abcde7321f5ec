"""What a comparison may be told, checked and carried to another process."""

from __future__ import annotations

import dataclasses

import pytest

from aurac.adapters.formats.sidecar import LoadOverrides
from aurac.engine import EngineOptions
from aurac.errors import UsageError
from aurac.runs.settings import (
    Execution,
    ModelOptions,
    Overrides,
    RequestOptions,
    Settings,
    SettingsOptions,
    TruncationOptions,
    parse_shard,
    separated,
)
from aurac.tasks.options import TaskOptions


def test_shards_are_numbered_from_one():
    assert parse_shard("3/8") == (3, 8)
    assert parse_shard(None) is None
    for bad in ("0/8", "9/8", "x", "1", "1/0", "-1/2"):
        with pytest.raises(UsageError, match="numbers from 1"):
            parse_shard(bad)


def test_execution_is_checked_and_apart_from_what_changes_numbers():
    settings, execution = separated({"limit": 3, "workers": 2, "executor": "local"})
    assert (settings.task.limit, execution.workers) == (3, 2)
    with pytest.raises(UsageError, match="executor 'slurm'"):
        Execution(executor="slurm")
    with pytest.raises(UsageError, match="an address without --executor ray"):
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
