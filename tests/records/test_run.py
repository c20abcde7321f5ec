"""A run folder is read as curves, failures and the answers of each example."""

from __future__ import annotations

import json

import msgspec
import pytest
from support.made_runs import make_identity, make_keys, make_run, store_cell

from aurac.analysis import analyse
from aurac.curves.question import Question
from aurac.errors import RunFolderError
from aurac.records.cells import CellStore
from aurac.records.lines import Failed
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo, recipe_groups
from aurac.records.run import read_run

SCORES = {"a": {1: [0, 1, 0], 2: [1, 1, 0]}, "b": {1: [0, 0, 0], 4: [1, 0, 1]}}


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", SCORES, base=[0, 0, 1])


def test_answers_and_questions(folder):
    run = read_run(folder)
    samples = run.answers("t", "a", "prefix", "rule", 2)
    columns = ["example", "question", "target", "choices", "score", "response", "read"]
    assert samples.columns.tolist() == columns
    assert samples.score.tolist() == [1, 1, 0]
    assert samples.question.tolist() == ["question 0", "question 1", "question 2"]
    assert run.answers("t", "a", "prefix", "rule", 0).score.tolist() == [0, 0, 1]
    with pytest.raises(RunFolderError, match="a at rank 4 on t is not there"):
        run.answers("t", "a", "prefix", "rule", 4)
    with pytest.raises(RunFolderError, match="no task 'u'"):
        run.answers("u", "a", "prefix", "rule", 1)


def test_a_cell_that_failed_or_is_not_finished_is_missing_with_its_reason(folder):
    store = CellStore(folder)
    store.path(make_identity(adapter="a", rank=1).key).unlink()
    store.path(make_identity(adapter="b", rank=4).key).unlink()
    store.keep(make_identity(adapter="b", rank=4), Failed(reason="why", time=0.0))
    a, b = (run := read_run(folder)).curves
    assert (a.ranks, dict(a.missing)) == ((2,), {1: "0 of 3 examples: repeat the command"})
    assert (b.ranks, dict(b.missing)) == ((1,), {4: "why"})
    [failure] = run.failures
    assert (failure.adapter, failure.rank, failure.reason) == ("b", 4, "why")


def test_an_adapter_that_failed_everywhere_is_a_row_without_ranks_and_stays_a_seed(folder):
    question = Question(groups={"both": ("a", "b")})
    msgspec.structs.replace(Manifest.read(folder), question=question).write(folder)
    for rank in SCORES["a"]:
        CellStore(folder).path(make_identity(adapter="a", rank=rank).key).unlink()
    run = read_run(folder)
    assert [(c.adapter, c.ranks, [*c.missing]) for c in run.curves] == [
        ("a", (), [1, 2]), ("b", (1, 4), []),
    ]  # fmt: skip
    assert run.groups == {"both": ("a", "b")}
    [score] = analyse(run.curves, run.question).tables.scores
    assert score.reason == "rank 1 of a has no result: 0 of 3 examples: repeat the command"


def test_a_cell_that_failed_beyond_what_is_asked_is_no_failure(folder):
    CellStore(folder).keep(make_identity(adapter="b", rank=4), Failed(reason="why", time=0.0))
    assert not read_run(folder).failures


def asked(folder, n, rows):
    """A later command in the folder on n examples: adapter → rank → scores of those there."""
    keys, cuts, cells = make_keys(n), [], {}
    for name, ranks in rows.items():
        found = {}
        for rank, row in ranks.items():
            identity = make_identity(adapter=name, rank=rank)
            found[rank] = store_cell(folder, identity, make_keys(len(row)), {"acc,none": row})
        cuts.append(CutInfo(adapter=name, basis="prefix", rescale="rule", cells={"t": found}))
        cells |= dict.fromkeys(found.values(), n)
    known, path = Manifest.read(folder), folder / "documents" / "t.json"
    if n > known.tasks[0].examples["t"]:
        told = json.loads(path.read_text())
        path.write_text(json.dumps(told | {"keys": [[k.id, k.content, k.prompt] for k in keys]}))
    adapters = [AdapterInfo(name=x, sha256=x, trained_rank=max(rows[x])) for x in rows]
    tasks = [msgspec.structs.replace(known.tasks[0], examples={"t": n})]
    new = {"cuts": cuts, "adapters": adapters, "tasks": tasks, "asked_examples": cells}
    known.grown(msgspec.structs.replace(known, **new)).write(folder)
    return read_run(folder)


def test_a_look_at_fewer_examples_changes_no_curve(folder):
    """An adapter of which there is nothing but the look has no rank on all examples."""
    run = asked(folder, 1, {"a": {1: [0], 2: [1], 4: [1]}, "c": {1: [1], 2: [1]}})
    assert {c.adapter: (c.ranks, c.missing, c.fewer) for c in run.curves} == {
        "a": ((1, 2), {}, {4: 1}), "b": ((1, 4), {}, {}), "c": ((), {}, {1: 1, 2: 1}),
    }  # fmt: skip
    assert {c.n_docs for c in run.curves} == {3}
    scores = {row.key.adapter: row for row in analyse(run.curves).tables.scores}
    assert [*scores] == ["a", "b", "c"]
    assert scores["c"].reason == "it was asked 1 of 3 examples"
    assert read_run(folder, Question(limit=1)).curves[2].ranks == (1, 2)


def test_more_examples_are_asked_of_all_and_one_that_is_interrupted_lacks_them(folder):
    """Of a 5 were asked at rank 2 alone, where 4 are there; with --limit 3 all is as before."""
    run = asked(folder, 5, {"a": {2: [0, 0, 1, 1]}})
    [a, b] = run.curves
    assert (a.ranks, a.missing, a.fewer) == (
        (), {2: "4 of 5 examples: repeat the command"}, {1: 3},
    )  # fmt: skip
    assert (b.ranks, b.fewer) == ((), {1: 3, 4: 3})
    before = read_run(folder, Question(limit=3)).curves
    assert [c.ranks for c in before] == [(1, 2), (1, 4)]
    assert before[0].outcomes.tolist() == [[0, 1, 0], [1, 1, 0]]  # the first outcome counts


def test_a_rank_that_has_all_examples_belongs_however_few_were_asked(folder):
    """As where the cells of two folders were merged, or a cut shares the cell of full rank."""
    run = asked(folder, 1, {"c": {1: [0, 1, 1], 2: [1]}})
    c = run.curves[2]
    assert (c.ranks, c.fewer) == ((1,), {2: 1})


def test_a_look_at_a_member_leaves_its_group_as_it_is(folder):
    """In g both were asked 2 examples of t and 3 of u; then a was asked 3 of t at rank 4."""
    known = Manifest.read(folder)
    path = folder / "documents" / "t.json"
    path.with_name("u.json").write_text(path.read_text())
    cuts = [
        msgspec.structs.replace(cut, cells=dict.fromkeys(("g:t", "g:u", "t", "u"), cut.cells["t"]))
        for cut in known.cuts
    ]
    group = TaskInfo(name="g", metric="acc,none", members=("t", "u"), examples={"t": 2, "u": 3})
    tasks = [known.tasks[0], TaskInfo(name="u", metric="acc,none", examples={"u": 3}), group]
    base = dict.fromkeys("tu", known.base["t"])
    more = {"tasks": tasks, "cuts": cuts, "asked": ["g"], "base": base}
    msgspec.structs.replace(known, **more).write(folder)
    run = asked(folder, 3, {"a": {4: [1]}})
    a = run.curves[0]
    assert (a.ranks, a.n_docs, a.fewer) == ((1, 2), 5, {})
    assert a.outcomes.tolist() == [[0, 1, 0, 1, 0], [1, 1, 1, 1, 0]]
    assert a.doc_ids == ("t:0", "t:1", "u:0", "u:1", "u:2")


def test_another_schema_and_no_run_are_refused(tmp_path, folder):
    with pytest.raises(RunFolderError, match="no run folder"):
        read_run(tmp_path / "nothing")
    (tmp_path / "analysis.json").write_text('{"question": {}, "run": "."}')
    with pytest.raises(RunFolderError, match=r"the run of the report .* is not there"):
        read_run(tmp_path)
    told = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**told, "schema": 99}))
    with pytest.raises(RunFolderError, match="schema 99"):
        read_run(folder)


def test_seeds_of_one_recipe_are_a_group():
    def adapter(name, seed, **more):
        recipe = {"base": "x", "steps": 1, "seed": seed, **more}
        return AdapterInfo(name=name, trained_rank=4, method="lora", seed=seed, recipe=recipe)

    every = [adapter("x-seed1", 1), adapter("x-seed2", 2), adapter("y", 1, steps=2)]
    assert recipe_groups(every, {}) == {"x": ("x-seed1", "x-seed2")}
    named = [*every, adapter("x", 1, steps=3)]  # is no seed of theirs
    assert recipe_groups(named, {}) == {"x-seed1 + x-seed2": ("x-seed1", "x-seed2")}
    assert recipe_groups(every, {"mine": ["y", "x-seed1", "gone"]}) == {"mine": ("y", "x-seed1")}
