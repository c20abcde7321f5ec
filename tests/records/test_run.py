"""A run folder is read as curves, failures and the answers of each example."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from support.made_runs import make_identity, make_keys, make_run

from aurac.errors import RunFolderError
from aurac.records.cells import CellStore
from aurac.records.lines import Failed
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo
from aurac.records.run import read_run, recipe_groups

SCORES = {"a": {1: [0, 1, 0], 2: [1, 1, 0]}, "b": {1: [0, 0, 0], 4: [1, 0, 1]}}


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", SCORES, base=[0, 0, 1])


def test_curves_of_a_run(folder):
    run = read_run(folder)
    assert [(c.adapter, c.ranks, c.basis, c.method) for c in run.curves] == [
        ("a", (1, 2), "prefix", "dylora"),
        ("b", (1, 4), "prefix", "dylora"),
    ]
    for curve in run.curves:
        expected = [SCORES[curve.adapter][rank] for rank in curve.ranks]
        assert curve.outcomes.tolist() == expected
        assert curve.base_scores.tolist() == [0, 0, 1]
        assert curve.doc_ids == ("0", "1", "2")
        assert curve.sizes == {rank: 1000 * rank for rank in curve.ranks}
    assert run.curves[0].doc_ids is run.curves[1].doc_ids
    assert run.tasks[0].examples == 3
    assert not run.failures


def test_answers_and_questions(folder):
    run = read_run(folder)
    samples = run.samples("t", "a", "prefix", "rule", 2)
    assert samples.columns.tolist() == ["example", "score", "response"]
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


def test_an_adapter_without_any_cell_has_no_curve(folder):
    store = CellStore(folder)
    for rank in SCORES["a"]:
        store.path(make_identity(adapter="a", rank=rank).key).unlink()
    assert [curve.adapter for curve in read_run(folder).curves] == ["b"]


def test_a_seed_that_failed_everywhere_is_in_no_group(folder):
    manifest = Manifest.read(folder)
    msgspec.structs.replace(manifest, groups={"both": ["a", "b"]}).write(folder)
    assert read_run(folder).groups == {"both": ("a", "b")}
    for rank in SCORES["a"]:
        CellStore(folder).path(make_identity(adapter="a", rank=rank).key).unlink()
    assert read_run(folder).groups == {"both": ("b",)}


def test_a_cell_that_failed_beyond_what_is_asked_is_no_failure(folder):
    CellStore(folder).append(make_identity(adapter="b", rank=4), Failed(reason="why", time=0.0))
    assert not read_run(folder).failures


def test_fewer_examples_are_the_first_ones(folder):
    manifest = Manifest.read(folder)
    cut = msgspec.structs.replace(manifest.cuts[0], examples={"t": 2})
    msgspec.structs.replace(manifest, cuts=[cut, manifest.cuts[1]]).write(folder)
    a, b = read_run(folder).curves
    assert (a.n_docs, b.n_docs) == (2, 3)
    assert a.outcomes.tolist() == [[0, 1], [1, 1]]
    assert a.base_scores.tolist() == [0, 0]


def test_answers_of_a_cut_that_fewer_examples_were_asked_of(tmp_path):
    folder = make_run(tmp_path, {"a": {1: [0, 1]}})
    less = Manifest.read(folder)
    make_run(folder, {"b": {1: [0, 1, 1]}})
    Manifest.read(folder).grown(less).write(folder)
    run = read_run(folder)
    assert run.samples("t", "a", "prefix", "rule", 1).score.tolist() == [0, 1]
    assert run.samples("t", "b", "prefix", "rule", 1).score.tolist() == [0, 1, 1]


def test_a_group_is_its_tasks_one_after_the_other(tmp_path):
    made = [make_run(tmp_path, SCORES, task=name) for name in ("t", "u")]
    manifests = []
    for name in ("t", "u"):
        make_run(made[0], SCORES, task=name)
        manifests.append(Manifest.read(tmp_path))
    group = TaskInfo(name="g", metric="acc,none", examples=6, members=("t", "u"))
    both = manifests[0].grown(manifests[1])
    msgspec.structs.replace(both, tasks=[*both.tasks, group], asked=["g"]).write(tmp_path)
    run = read_run(tmp_path)
    [curve, _] = run.curves
    assert (curve.task, curve.n_docs) == ("g", 6)
    assert curve.doc_ids == ("t:0", "t:1", "t:2", "u:0", "u:1", "u:2")
    np.testing.assert_array_equal(curve.outcomes[0], [0, 1, 0, 0, 1, 0])
    assert [run.curve(run.task(name), run.manifest.cuts[0]).task for name in "tu"] == ["t", "u"]
    assert run.samples("g", "a", "prefix", "rule", 1).example.tolist() == list(curve.doc_ids)


def test_clusters_stand_with_the_questions(folder):
    path = folder / "documents" / "t.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "clusters": ["x", "y", "x"]}))
    assert read_run(folder).curves[0].clusters == ("x", "y", "x")


def test_another_schema_and_no_run_are_refused(tmp_path, folder):
    with pytest.raises(RunFolderError, match="no run folder"):
        read_run(tmp_path / "nothing")
    told = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**told, "schema": 99}))
    with pytest.raises(RunFolderError, match="schema 99"):
        read_run(folder)


def test_what_a_folder_holds_grows():
    def manifest(ranks, n, name="a"):
        cells = {"t": {rank: f"key {rank}" for rank in ranks}}
        cut = CutInfo(adapter=name, basis="svd", rescale="keep", examples={"t": n}, cells=cells)
        adapter = AdapterInfo(name=name, trained_rank=4, sizes={rank: rank for rank in ranks})
        task = TaskInfo(name="t", metric="acc,none", examples=n, documents=f"{n}")
        rest = {"asked": ["t"], "base": {"t": "base"}, "settings": {}}
        return Manifest(adapters=[adapter], tasks=[task], cuts=[cut], **rest)

    grown = manifest((4, 1), 5).grown(manifest((2,), 9)).grown(manifest((1,), 3, "b"))
    [a, b] = grown.cuts
    assert (a.ranks, a.examples) == ((1, 2, 4), {"t": 9})
    assert (b.adapter, b.examples) == ("b", {"t": 3})
    assert (grown.tasks[0].examples, grown.tasks[0].documents) == (9, "9")
    assert grown.adapters[0].sizes == {1: 1, 2: 2, 4: 4}


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
