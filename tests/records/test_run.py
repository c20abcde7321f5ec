"""A run folder is read as curves, failures and the answers of each example."""

from __future__ import annotations

import json

import msgspec
import pytest
from support.made_runs import make_identity, make_keys, make_run

from aurac.errors import RunFolderError
from aurac.records.cells import CellStore
from aurac.records.lines import Failed
from aurac.records.manifest import AdapterInfo, Manifest
from aurac.records.run import read_run, recipe_groups

SCORES = {"a": {1: [0, 1, 0], 2: [1, 1, 0]}, "b": {1: [0, 0, 0], 4: [1, 0, 1]}}


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", SCORES, base=[0, 0, 1])


def test_answers_and_questions(folder):
    run = read_run(folder)
    samples = run.samples("t", "a", "prefix", "rule", 2)
    assert samples.columns.tolist() == ["example", "score", "response", "read"]
    assert samples.score.tolist() == [1, 1, 0]
    assert run.samples("t", None, None, None, 0).score.tolist() == [0, 0, 1]
    assert run.questions("t").question.tolist() == ["question 0", "question 1", "question 2"]
    with pytest.raises(RunFolderError, match="a at rank 4 on t is not there"):
        run.samples("t", "a", "prefix", "rule", 4)
    with pytest.raises(RunFolderError, match="no task 'u'"):
        run.questions("u")


def test_a_cell_that_failed_or_is_not_finished_is_missing_with_its_reason(folder):
    store = CellStore(folder)
    store.path(make_identity(adapter="a", rank=1).key).unlink()
    store.path(make_identity(adapter="b", rank=4).key).unlink()
    store.append(make_identity(adapter="b", rank=4), Failed(reason="why", time=0.0))
    a, b = (run := read_run(folder)).curves
    assert (a.ranks, dict(a.missing)) == ((2,), {1: "not finished: 0 of 3 examples"})
    assert (b.ranks, dict(b.missing)) == ((1,), {4: "why"})
    [failure] = run.failures
    assert (failure.adapter, failure.rank, failure.reason) == ("b", 4, "why")


def test_a_seed_that_failed_everywhere_has_no_curve_and_is_in_no_group(folder):
    groups = {"both": ["a", "b"]}
    msgspec.structs.replace(Manifest.read(folder), groups=groups).write(folder)
    for rank in SCORES["a"]:
        CellStore(folder).path(make_identity(adapter="a", rank=rank).key).unlink()
    assert [curve.adapter for curve in read_run(folder).curves] == ["b"]
    assert read_run(folder).groups == {"both": ("b",)}


def test_a_cell_that_failed_beyond_what_is_asked_is_no_failure(folder):
    CellStore(folder).append(make_identity(adapter="b", rank=4), Failed(reason="why", time=0.0))
    assert not read_run(folder).failures


def test_answers_of_a_cut_that_fewer_examples_were_asked_of(tmp_path):
    folder = make_run(tmp_path, {"a": {1: [0, 1]}})
    less = Manifest.read(folder)
    make_run(folder, {"b": {1: [0, 1, 1]}})
    Manifest.read(folder).grown(less).write(folder)
    path = folder / "documents" / "t.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clusters": ["x", "y", "x"]}))
    run = read_run(folder)
    clusters = {curve.adapter: curve.clusters for curve in run.curves}
    assert clusters == {"a": ("x", "y"), "b": ("x", "y")}
    assert run.samples("t", "a", "prefix", "rule", 1).score.tolist() == [0, 1]
    assert run.samples("t", "b", "prefix", "rule", 1).score.tolist() == [0, 1]


def test_another_schema_and_no_run_are_refused(tmp_path, folder):
    with pytest.raises(RunFolderError, match="no run folder"):
        read_run(tmp_path / "nothing")
    told = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**told, "schema": 99}))
    with pytest.raises(RunFolderError, match="schema 99"):
        read_run(folder)


RECIPE = {
    **dict.fromkeys(("base", "task", "data", "prompt", "prompt_without", "target"), 1),
    **dict.fromkeys(("documents", "max_tokens", "steps", "epochs", "batch_size"), 1),
}


def test_seeds_of_one_recipe_are_a_group():
    def adapter(name, seed, **more):
        recipe = {**RECIPE, "seed": seed, **more}
        return AdapterInfo(name=name, trained_rank=4, method="lora", seed=seed, recipe=recipe)

    every = [adapter("x-seed1", 1), adapter("x-seed2", 2), adapter("y", 1, steps=2)]
    assert recipe_groups(every, {}) == {"x": ("x-seed1", "x-seed2")}
    named = [*every, adapter("x", 1, steps=3)]  # is no seed of theirs
    assert recipe_groups(named, {}) == {"x-seed1 + x-seed2": ("x-seed1", "x-seed2")}
    assert recipe_groups(every, {"mine": ["y", "x-seed1", "gone"]}) == {"mine": ("y", "x-seed1")}


def test_keys_of_examples_tell_prompts_apart(folder):
    """A cell whose examples were asked otherwise counts for nothing."""
    keys = make_keys(3, "another")
    assert CellStore(folder).scores(make_identity(adapter="a").key).missing(keys) == [0, 1, 2]
