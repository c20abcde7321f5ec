"""A run folder is read as curves, failures and the answers of each example."""

from __future__ import annotations

import gzip
import json

import msgspec
import pytest
from support.made_runs import make_identity, make_keys, make_run, store_cell

from aurac.analysis import analyse
from aurac.curves.question import Question
from aurac.errors import RunFolderError
from aurac.records.cells import CellStore
from aurac.records.lines import DocumentKey, Failed
from aurac.records.manifest import AdapterInfo, CutInfo, Examples, Manifest, recipe_groups
from aurac.records.run import read_run

SCORES = {"a": {1: [0, 1, 0], 2: [1, 1, 0]}, "b": {1: [0, 0, 0], 4: [1, 0, 1]}}


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", SCORES, base=[0, 0, 1])


def test_answers_and_questions(folder):
    run = read_run(folder)
    samples = run.samples("t", "a", "prefix", "rule", 2)
    columns = ["example", "question", "target", "choices", "score", "response", "read"]
    assert samples.columns.tolist() == columns
    assert samples.score.tolist() == [1, 1, 0]
    assert samples.question.tolist() == ["question 0", "question 1", "question 2"]
    assert run.samples("t", "a", "prefix", "rule", 0).score.tolist() == [0, 0, 1]
    with pytest.raises(RunFolderError, match="a at rank 4 on t is not there"):
        run.samples("t", "a", "prefix", "rule", 4)
    with pytest.raises(RunFolderError, match="no task 'u'"):
        run.samples("u", "a", "prefix", "rule", 1)


def test_a_cell_that_failed_or_is_not_finished_is_missing_with_its_reason(folder):
    store = CellStore(folder)
    store.path(make_identity(adapter="a", rank=1).key).unlink()
    store.path(make_identity(adapter="b", rank=4).key).unlink()
    store.keep(make_identity(adapter="b", rank=4), Failed(reason="why", time=0.0))
    a, b = (run := read_run(folder)).curves
    assert (a.ranks, dict(a.missing)) == ((2,), {1: "not finished: 0 of 3 examples"})
    assert (b.ranks, dict(b.missing)) == ((1,), {4: "why"})
    [failure] = run.failures
    assert (failure.adapter, failure.rank, failure.reason) == ("b", 4, "why")


def test_a_seed_that_failed_everywhere_has_no_curve_and_is_in_no_group(folder):
    question = Question(groups={"both": ("a", "b")})
    msgspec.structs.replace(Manifest.read(folder), question=question).write(folder)
    for rank in SCORES["a"]:
        CellStore(folder).path(make_identity(adapter="a", rank=rank).key).unlink()
    assert [curve.adapter for curve in read_run(folder).curves] == ["b"]
    assert read_run(folder).groups == {"both": ("b",)}


def test_a_cell_that_failed_beyond_what_is_asked_is_no_failure(folder):
    CellStore(folder).keep(make_identity(adapter="b", rank=4), Failed(reason="why", time=0.0))
    assert not read_run(folder).failures


def looked(folder, n, rows, *, base=None, changed=()):
    """A later command in the folder, on n examples, of which some have changed since."""
    stem, keys = f"documents/t-{n}", make_keys(n)
    keys = [DocumentKey(k.id, f"new {k.id}", k.prompt) if i in changed else k
            for i, k in enumerate(keys)]  # fmt: skip
    (folder / f"{stem}.json").write_text(
        json.dumps(
            {
                "keys": [[key.id, key.content, key.prompt] for key in keys],
                "questions": [None] * n,
                "targets": [f"new target {i}" if i in changed else f"target {i}" for i in range(n)],
            }
        )
    )
    cuts = []
    for name, ranks in rows.items():
        cells = {}
        for rank, row in ranks.items():
            identity = make_identity(adapter=name, rank=rank)
            cells[rank] = store_cell(folder, identity, keys, {"acc,none": row})
        ways, asked = {"basis": "prefix", "rescale": "rule"}, {"t": {stem: sorted(ranks)}}
        cuts.append(CutInfo(adapter=name, **ways, cells={"t": cells}, asked=asked))
    known = Manifest.read(folder)
    new = msgspec.structs.replace(
        known,
        cuts=cuts,
        adapters=[AdapterInfo(name=n, sha256=n, trained_rank=max(rows[n])) for n in rows],
        tasks=[
            msgspec.structs.replace(
                known.tasks[0], sets=[Examples(documents={"t": stem}, limits=[n])]
            )
        ],
    )
    known.grown(new).write(folder)
    return read_run(folder)


def test_a_look_at_fewer_examples_changes_no_curve(folder):
    """Of a: 2 ranks × 3 examples are more than 2 × 1; of c there is nothing but the look."""
    run = looked(folder, 1, {"a": {1: [0], 2: [1]}, "c": {1: [1], 2: [1]}})
    assert {c.adapter: (c.ranks, c.n_docs) for c in run.curves} == {
        "a": ((1, 2), 3), "b": ((1, 4), 3), "c": ((1, 2), 1),
    }  # fmt: skip


def test_a_look_at_another_rank_leaves_the_curve_as_it_is(folder):
    run = looked(folder, 1, {"a": {4: [1]}})
    assert (run.curves[0].ranks, dict(run.curves[0].missing)) == ((1, 2), {})


def test_a_rank_that_has_more_examples_is_read_with_the_others(tmp_path):
    """Rank 2 has 5 examples, ranks 1 and 4 have 3 of them: 3 × 3 is more than 1 × 5."""
    folder = make_run(tmp_path, {"a": {1: [0, 1, 0], 4: [1, 1, 1]}})
    [curve] = looked(folder, 5, {"a": {2: [0, 0, 1, 1, 1]}}).curves
    assert (curve.ranks, curve.n_docs, dict(curve.missing)) == ((1, 2, 4), 3, {})


def test_an_example_that_changed_is_another_one(folder):
    """b was asked again after the change of the last example, a was not."""
    run = looked(folder, 3, {"b": {1: [0, 1, 1], 4: [1, 0, 0]}}, changed={2})
    a, b = run.curves
    assert a.outcomes.tolist() == [[0, 1, 0], [1, 1, 0]]
    assert b.outcomes.tolist() == [[0, 0, 1], [1, 0, 0]]  # of the first two the first outcome
    targets = [run.samples("t", n, "prefix", "rule", 1).target.tolist()[2] for n in "ab"]
    assert targets == ["target 2", "new target 2"]
    known = analyse(run.curves)
    assert known.scores.examples.tolist() == [2, 2]
    assert {row.unpaired for row in known.rows} == {1}


def test_a_group_that_got_another_task_is_read_where_all_of_its_tasks_were_asked(folder):
    known = Manifest.read(folder)
    stem, [info] = "documents/t", known.tasks
    sets = [Examples(documents={"t": stem}), Examples(documents={"t": stem, "u": stem})]
    cuts = [
        msgspec.structs.replace(
            cut,
            cells={"g:t": cut.cells["t"], "g:u": cut.cells["t"]},
            asked={"g": {each.name: list(cut.ranks) for each in sets}},
        )
        for cut in known.cuts
    ]
    group = msgspec.structs.replace(info, name="g", members=("t", "u"), sets=sets)
    tasks = [info, msgspec.structs.replace(info, name="u"), group]
    base = dict.fromkeys("tu", known.base["t"])
    msgspec.structs.replace(known, tasks=tasks, cuts=cuts, asked=["g"], base=base).write(folder)
    assert [(c.adapter, c.n_docs) for c in read_run(folder).curves] == [("a", 6), ("b", 6)]


def test_the_first_examples_of_each_set(folder):
    run = read_run(folder, Question(limit=2))
    assert [c.outcomes.tolist() for c in run.curves] == [[[0, 1], [1, 1]], [[0, 0], [1, 0]]]


def test_a_field_of_the_examples_clusters_them(folder):
    path = folder / "documents" / "t.json"
    told = json.loads(path.read_text()) | {"fields": {"passage": ["x", "y", "x"]}}
    path.write_text(json.dumps(told))
    assert read_run(folder).curves[0].clusters is None
    asked = read_run(folder, Question(clusters={"t": "passage"}))
    assert asked.curves[0].clusters == ("x", "y", "x")


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


def test_prompts_are_parsed_once_for_all_ranks(folder, monkeypatch):
    with gzip.open(folder / "documents" / "t.jsonl.gz", "wt") as lines:
        lines.write("{}\n" * 4)
    opened, read = [], gzip.open
    monkeypatch.setattr(gzip, "open", lambda *given: opened.append(given) or read(*given))
    run = read_run(folder)
    logged = [run.logged("t", cut, rank) for cut in run.cuts for rank in cut.ranks]
    assert [len(each.rows) for each in logged] == [4] * 4
    assert len(opened) == 1


def test_keys_of_examples_tell_prompts_apart(folder):
    """A cell whose examples were asked otherwise counts for nothing."""
    keys = make_keys(3, "another")
    assert CellStore(folder).scores(make_identity(adapter="a").key).missing(keys) == [0, 1, 2]
