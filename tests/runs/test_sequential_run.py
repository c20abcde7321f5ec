"""Runs that stop when decided, on a tiny random Llama."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
from harness_doubles import write_task
from score_tables import run as run_command
from small_runs import events

from aurac.curves.area import document_areas
from aurac.errors import RunFolderError, UsageError
from aurac.notebook import load_run
from aurac.records.reader import read_run
from aurac.records.store import read_cell
from aurac.runs.compare import compare
from aurac.runs.evaluator import Evaluator
from aurac.runs.sequential_plan import Sampler, Until, check_task, sequential
from aurac.runs.sequential_records import fewer_documents, record_of
from aurac.runs.sequential_run import run_until
from aurac.runs.settings import Request
from aurac.runs.status import read_status
from aurac.stats.design import Design, Series
from aurac.stats.sequential import decide
from aurac.training import make_recipe, train

TASK = "aurac_word_problems_mc"
COMMON = {"dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def adapters(tiny_base_folder, tmp_path_factory) -> list[str]:
    """Two adapters of rank 4, trained far enough to differ from the base."""
    root = tmp_path_factory.mktemp("adapters")
    data = root / "train.jsonl"
    rows = [{"question": f"how many {a} + 1", "answer": f"{a}"} for a in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = []
    for name, rate in (("a", 0.1), ("b", 0.02)):
        recipe = {"name": name, "method": "lora", "rank": 4, "base": str(tiny_base_folder)}
        recipe |= {"data": str(data), "steps": 10, "learning_rate": rate, "dtype": "float32"}
        made.append(str(train(make_recipe(recipe), root / name).folder))
    return made


def request(adapters, out, **options):
    return Request.of(adapters, [TASK], str(out), **COMMON, **options)


@pytest.fixture(scope="module")
def run(adapters, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return run_until(request(adapters, out), Until.of("decided", budget="80"))


def decided(done):
    (decision,) = done.results.sequential.decisions
    return msgspec.to_builtins(decision)


def test_a_pair_is_decided_on_a_random_sample(run, caplog):
    decision = decided(run)
    assert decision["verdict"] != "continue"
    assert decision["documents"] <= decision["of"] == 80
    assert decision["look"] == len(decision["path"])
    assert decision["low"] <= decision["estimate"] <= decision["high"]
    curves, _ = read_run(run.folder)
    assert "stopped early" in caplog.text
    assert "## Decided early" in (run.folder / "report.md").read_text()
    assert {curve.n_docs for curve in curves} == {decision["documents"]}
    ids = [int(doc) for doc in curves[0].doc_ids]
    assert ids != sorted(ids)
    assert max(ids) > 200  # of the first 80 documents of the file none has such a number
    gap = curves[1].outcomes.mean(axis=1) - curves[0].outcomes.mean(axis=1)
    assert np.abs(gap).max() <= 1.0
    assert decision["sentence"] in (run.folder / "results.json").read_text()


def test_the_same_command_computes_nothing_and_decides_the_same(run, adapters, monkeypatch):
    from aurac.runs import compare as module

    def none_left(self, _cells):
        pass

    monkeypatch.setattr(module.Sweep, "_compute", none_left)
    again = run_until(request(adapters, run.folder), Until.of("decided", budget="80"))
    assert decided(again) == decided(run)


def test_a_decided_run_goes_on_to_all_documents_and_says_so(run, adapters, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    known = {p.name: len(read_cell(p).documents) for p in (folder / "cells").iterdir()}
    whole = compare(adapters, [TASK], out=folder, limit=150, **COMMON)
    assert whole.results.curves[0].n_docs == 150
    for path in (folder / "cells").iterdir():
        assert 150 <= len(read_cell(path).documents) < 150 + known[path.name]
    kept = whole.results.sequential
    assert kept.decisions == run.results.sequential.decisions
    assert "150 documents" in " ".join(kept.notes)


def lines_in(folder: Path) -> int:
    """Blocks stored so far."""
    cells = (folder / "cells").glob("*.jsonl")
    return sum(path.read_bytes().count(b'"kind":"block"') for path in cells)


SURE = """
task: sure
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{choices.index(answer)}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


@pytest.fixture(scope="module")
def three(tiny_base_folder, tmp_path_factory) -> tuple[list[str], str]:
    """Two adapters that are always right on a task, the one between them always wrong."""
    root = tmp_path_factory.mktemp("three")
    questions = [f"how many {a} + {b}" for a in range(10) for b in range(10)]
    rows = [{"question": one, "choices": ["a", "b"], "answer": "a"} for one in questions]
    task = write_task(root / "tasks", "sure", SURE, [], rows)
    made = []
    for name, answer in (("one", "a"), ("wrong", "b"), ("two", "a")):
        data = root / f"{name}.jsonl"
        data.write_text("".join(json.dumps({**row, "answer": answer}) + "\n" for row in rows))
        recipe = {"name": name, "method": "matryoshka", "rank": 4, "base": str(tiny_base_folder)}
        recipe |= {"data": str(data), "steps": 30, "learning_rate": 0.05, "dtype": "float32"}
        recipe["seed"] = len(made)
        made.append(str(train(make_recipe(recipe), root / name).folder))
    return made, str(task)


@pytest.fixture(scope="module")
def dropped(three, tmp_path_factory):
    return run_three(three, tmp_path_factory.mktemp("dropped") / "run")


def run_three(three, out, **options):
    adapters, task = three
    asked = Request.of(adapters, [task], str(out), **COMMON, **options)
    return run_until(asked, Until.of("decided", budget="80"))


def by_pair(done):
    return {(one.a, one.b): msgspec.to_builtins(one) for one in done.results.sequential.decisions}


def test_an_adapter_whose_pairs_are_all_decided_is_evaluated_no_further(dropped):
    decisions = by_pair(dropped)
    few, all_ = decisions["one", "wrong"]["documents"], decisions["one", "two"]["documents"]
    assert decisions["one", "wrong"]["verdict"] == "inferior"
    assert decisions["wrong", "two"]["verdict"] == "superior"
    assert decisions["wrong", "two"]["documents"] == few < all_ <= 80
    assert decisions["one", "two"]["verdict"] == "futile"
    stored = {}
    for curve in dropped.results.curves:
        for rank in curve.ranks:
            (path,) = curve.files(rank)
            stored.setdefault(curve.adapter, set()).add(
                len(read_cell(dropped.folder / path).documents)
            )
    assert stored == {"one": {all_}, "wrong": {few}, "two": {all_}}


def test_curves_of_different_documents_are_read_and_not_compared(dropped):
    few, all_ = (by_pair(dropped)[pair]["documents"] for pair in (("one", "wrong"), ("one", "two")))
    curves, _ = read_run(dropped.folder)
    assert {c.adapter: c.n_docs for c in curves} == {"one": all_, "wrong": few, "two": all_}
    longest, shorter = (next(c for c in curves if c.adapter == n) for n in ("one", "wrong"))
    assert longest.doc_ids[:few] == shorter.doc_ids
    text = (dropped.folder / "report.md").read_text()
    assert f"no further documents were needed of wrong after {few}" in text
    assert f"sections below are of {few} to {all_} documents" in text
    assert "none is the best" in text
    for row in load_run(dropped.folder).pairs.itertuples():
        same = row.a == row.b or "wrong" not in (row.a, row.b)  # truncations share documents
        assert pd.isna(row.reason) == same
    records = {curve.adapter: curve.to_dict() for curve in dropped.results.curves}
    assert records["wrong"]["documents"] == {"sure": few}
    assert "documents" not in records["one"]
    frame = load_run(dropped.folder).samples
    assert (
        frame[frame["adapter"] == "wrong"].groupby("rank").size() == 2 * few
    ).all()  # with P and without


def test_the_decisions_are_those_of_adapters_that_all_go_on(three, dropped, tmp_path):
    folder, (adapters, task) = tmp_path / "whole", three
    shutil.copytree(dropped.folder, folder)
    whole = compare(adapters, [task], out=folder, limit=0, **COMMON)
    rows = [dict(zip(c.doc_ids, document_areas(c), strict=True)) for c in whole.curves]
    areas = {
        c.adapter: row for c, row in zip(whole.curves, rows, strict=True) if c.role == "default"
    }
    order = dropped.curves[0].doc_ids
    values = {name: np.array([row[doc] for doc in order]) for name, row in areas.items()}
    family = {(a, b): Series(values[b] - values[a], 80) for a, b in combinations(values, 2)}
    decisions = by_pair(dropped)
    for pair, expected in decide(Design(), family).items():
        names = ("verdict", "documents", "p", "p_adjusted", "estimate", "low", "high")
        assert {n: decisions[pair][n] for n in names} == {n: getattr(expected, n) for n in names}
    assert "Later extended to 100 documents" in " ".join(whole.results.sequential.notes)


def run_of(done) -> str:
    """The name of the log of the process that gave the command."""
    return events(done.folder, "start")[0]["run"]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_several_processes_decide_as_one(three, dropped, tmp_path, executor, monkeypatch):
    if executor == "ray":
        pytest.importorskip("ray")
    compute = Evaluator._block

    def slowly(*block):  # in this process alone, which waits for the other one's first cell
        end = time.monotonic() + 120 * (executor == "local")
        while time.monotonic() < end and not events(tmp_path / "run", "cell"):
            time.sleep(0.1)
        time.sleep(0.5 if executor == "local" else 0.0)
        return compute(*block)

    monkeypatch.setattr(Evaluator, "_block", slowly)
    done = run_three(three, tmp_path / "run", workers=2, executor=executor)
    assert by_pair(done) == by_pair(dropped)
    assert [c.accuracy for c in done.results.curves] == [c.accuracy for c in dropped.results.curves]
    if executor == "local":  # the other process is there for all looks
        assert len(events(done.folder, "worker")) == 1
        looks = [event for event in events(done.folder, "cell") if event["run"] != run_of(done)]
        assert len({event["key"] for event in looks}) < len(looks)


_KILLED = """
import importlib, json, os, signal, sys, time
from pathlib import Path
from aurac.runs.sequential_plan import Until
from aurac.runs.sequential_run import run_until
from aurac.runs.settings import Request

for name in ("lm_eval.tasks", "matplotlib.figure", "peft", "aurac.engine.running",
             "aurac.tasks.lm_eval", "transformers.models.llama.modeling_llama"):
    importlib.import_module(name)  # once, for all that are killed
adapters, task, folder = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def work():
    try:
        request = Request.of(adapters, [task], str(folder), dtype="float32", device="cpu")
        run_until(request, Until.of("decided", budget="80"))
    finally:
        os._exit(0)

def blocks():
    return sum(path.read_bytes().count(b'"kind":"block"') for path in folder.glob("cells/*.jsonl"))

for enough in (1, 13, 22):
    child, ended = os.fork() or work(), 0
    while not ended and blocks() < enough:
        ended, _ = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_decides_the_same(three, dropped, tmp_path):
    folder, (adapters, task) = tmp_path / "killed", three
    words = [sys.executable, "-c", _KILLED, json.dumps(adapters), task, str(folder)]
    subprocess.run(words, env={**os.environ}, check=True)
    assert lines_in(folder) >= 22
    done = run_three(three, folder)
    assert by_pair(done) == by_pair(dropped)
    assert done.results.curves == dropped.results.curves


def test_adapters_that_failed_are_not_said_to_need_fewer_documents():
    """c failed on the task, so no decision is about it."""
    decisions = [SimpleNamespace(task="t", a="a", b="b")]
    counts = {("t", "a"): 50, ("t", "b"): 20, ("t", "c"): 10}
    (note,) = fewer_documents(counts, decisions)
    assert "needed of b after 20;" in note
    assert fewer_documents(counts, []) == []


def test_an_answer_below_its_boundary_is_explained():
    """Its z was 2.8 at the first look, which suffices once the other question is answered."""

    def signs(*ups):
        return np.concatenate([np.repeat([1.0, -1.0], [up, 200 - up]) for up in ups])

    family = {"late": Series(signs(120, 90), 400), "clear": Series(signs(100, 160), 400)}
    design = Design(looks=(0.5, 1.0), futility=0.0)
    late, clear = (
        record_of(decision, design, "difference", "t", "a", b=name)
        for name, decision in decide(design, family).items()
    )
    assert late.verdict == clear.verdict == "superior"
    assert 0 < late.z < late.boundary
    assert late.p_adjusted < 0.05
    assert "larger error rate" in late.sentence
    assert "larger error rate" not in clear.sentence


def test_a_margin_and_a_width_stop_it(adapters, tmp_path):
    margin = run_until(request(adapters, tmp_path / "m"), Until.of("decided", margin=0.3))
    assert decided(margin)["verdict"] == "non-inferior"
    assert decided(margin)["low"] > -0.3
    width = run_until(request(adapters[:1], tmp_path / "w"), Until.of("width=0.3"))
    (decision,) = width.results.sequential.decisions
    assert decision.verdict == "width reached"
    assert decision.high - decision.low <= 0.3
    assert decision.documents < decision.of


def test_the_smallest_rank_is_found_without_the_ranks_that_are_not_needed(adapters, tmp_path):
    until = Until.of("decided", margin=0.25, budget="200", ranks=True)
    done = run_until(request(adapters[:1], tmp_path / "r"), until)
    record = done.results.sequential
    ranks = [decision.rank for decision in record.decisions]
    assert ranks == [2, 1][: len(ranks)]
    passed = [d.rank for d in record.decisions if d.verdict == "non-inferior"]
    assert f"rank {min(passed)} " in record.notes[0] if passed else "no rank" in record.notes[0]
    (curve,) = done.results.curves
    assert curve.ranks == sorted({*ranks, 4})
    assert read_status(tmp_path / "r").state == "done"


@pytest.fixture(scope="module")
def rank_run(three, tmp_path_factory):
    """Always right at every rank it looks at, so that no rank is left."""
    out = tmp_path_factory.mktemp("ranks") / "run"
    return ranks_of(three, out, 0.2, "40"), out


def ranks_of(three, out, margin, budget, **options):
    (first, *_), task = three
    asked = Request.of([first], [task], str(out), **COMMON, **options)
    return run_until(asked, Until.of("decided", margin=margin, budget=budget, ranks=True))


def test_the_folder_of_a_rank_search_is_a_run(three, rank_run, tmp_path):
    """What lies there is what was evaluated: `score`, `recommend`, `report`, `load_run` read it."""
    done, out = rank_run
    assert (done.folder, done.besides) == (out, "")
    assert read_status(out).state == "done"
    assert load_run(out).results.sequential == done.results.sequential
    for words in (["score"], ["recommend", "--margin", "0.2"], ["report"]):
        run_command(*words, out)
    folder, (first, *_) = tmp_path / "more", three[0]
    shutil.copytree(out, folder)
    again = ranks_of(three, folder, 0.2, "40")
    assert (again.folder, again.results.curves) == (folder, done.results.curves)
    whole = compare([first], [three[1]], out=folder, limit=60, **COMMON)
    assert whole.folder == folder
    assert whole.results.curves[0].n_docs == 60
    assert whole.results.sequential.decisions == done.results.sequential.decisions


def test_finished_commands_say_what_was_decided_and_no_more(rank_run):
    """Tests for a fixed number of documents do not hold where the run chose when to stop."""
    record, out = rank_run[0].results.sequential, rank_run[1]
    words = [decision.sentence for decision in record.decisions] + record.notes
    for command in (["recommend"], ["recommend", "--margin", "0.2"], ["score"]):
        shown, stored = run_command(*command, out), run_command(*command, out, "--json")
        assert all(sentence in shown for sentence in words), command
        assert msgspec.to_builtins([record]) == json.loads(stored)["sequential"]
    assert "Use rank" not in run_command("recommend", out)
    for more in (
        ["--margin", "0.1"],
        ["--margin", "0.2", "--require-rank", "4"],
        ["--min-accuracy", "0.5"],
    ):
        with pytest.raises(UsageError, match=r"its own margin \(20 points\) or none"):
            run_command("recommend", out, *more)
    fixed = Path(__file__).parents[2] / "reports" / "word_problems"  # it would be left out unsaid
    with pytest.raises(UsageError, match="no other run"):
        run_command("recommend", out, fixed)


def test_a_search_that_ends_early_leaves_no_cell_to_compute(three, tmp_path):
    """Rank 2 is not shown, so rank 1 is not evaluated: no part of the folder is about it."""
    done = ranks_of(three, tmp_path / "r", 0.001, "40")
    assert [d.rank for d in done.results.sequential.decisions] == [2]
    assert done.folder == tmp_path / "r"
    assert done.results.curves[0].ranks == [2, 4]
    assert read_status(done.folder).state == "done"


def test_a_plan_cannot_change_once_the_test_has_begun(three, rank_run, tmp_path):
    """The first has spent its error rate, so that a second one on the same documents adds to it."""
    out = tmp_path / "run"
    shutil.copytree(rank_run[1], out)
    before = (out / "run.json").read_bytes()
    for margin, budget, options, words in (
        (0.3, "40", {}, r"margin was 0\.2, is 0\.3"),
        (0.2, "60", {}, "budget of sure was 40, is 60"),
        (0.2, "40", {"ranks": (1, 4)}, r"ranks of .* was \[1, 2, 4\], is \[1, 4\]"),
    ):
        with pytest.raises(RunFolderError, match=f"{words}.*err up to twice as often"):
            ranks_of(three, out, margin, budget, **options)
    assert (out / "run.json").read_bytes() == before
    adapters, task = three
    pair = Request.of(adapters[:2], [task], str(out), **COMMON)  # another question
    run_until(pair, Until.of("decided", budget="40"))
    with pytest.raises(RunFolderError, match="anytime was False, is True"):
        run_until(pair, Until.of("decided", anytime=True))
    run_until(pair, Until.of("width=0.5"))  # no test


def test_two_tasks_are_one_family(adapters, tmp_path):
    tasks = [TASK, "aurac_word_problems"]
    both = Request.of(adapters, tasks, str(tmp_path / "two"), **COMMON)
    done = run_until(both, Until.of("decided", budget="20"))
    record = done.results.sequential
    assert [decision.task for decision in record.decisions] == tasks
    assert all(decision.p <= decision.p_adjusted for decision in record.decisions)
    assert all(decision.verdict != "continue" for decision in record.decisions)
    assert set(record.documents) == set(tasks)


def test_a_budget_of_time_ends_it_undecided(adapters, tmp_path):
    done = run_until(request(adapters, tmp_path / "t"), Until.of("decided", budget="0.001s"))
    assert decided(done)["verdict"] == "continue"
    assert "time" in done.results.sequential.notes[0]
    with pytest.raises(RunFolderError, match=r"budget of .* is 60"):
        run_until(request(adapters, tmp_path / "t"), Until.of("decided", budget="60"))
    after = run_until(request(adapters, tmp_path / "t"), Until.of("decided", budget="1h"))
    assert decided(after)["verdict"] != "continue"


def test_a_confidence_sequence_goes_on_with_a_larger_budget(three, tmp_path):
    """It holds at any time, so its budget is no plan."""
    (one, _, two), task = three
    pair = Request.of([one, two], [task], str(tmp_path / "any"), **COMMON)
    for budget, documents in (("20", 20), ("60", 60)):
        done = run_until(pair, Until.of("decided", budget=budget, anytime=True))
        assert decided(done)["documents"] == documents


def test_a_group_is_sampled_in_proportion_to_its_tasks():
    members = tuple(SimpleNamespace(name=name, n_docs=n) for name, n in (("x", 60), ("y", 30)))
    strata = ("x",) * 60 + ("y",) * 30
    group = SimpleNamespace(
        name="g", n_docs=90, members=members, strata=strata, clusters=None, group=None
    )
    settings = SimpleNamespace(task=SimpleNamespace(seed=3))
    session = SimpleNamespace(built=[group], settings=settings)
    sampler = Sampler(session, Until.of("decided", budget="60"))
    assert sampler.totals == {"g": 60}
    places = sampler._places(group, 30)
    assert [place < 60 for place in places] == sorted((p < 60 for p in places), reverse=True)
    assert abs(sum(place < 60 for place in places) - 20) <= 1
    back = np.array(places)[sampler.sampled("g", 30)]
    assert (back == sampler.orders["g"][:30]).all()
    assert sampler.labels("g", 30)["strata"] == [strata[place] for place in back]


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ({"until": "decided", "margin": 0.0}, "margin=0"),
        ({"until": "decided", "margin": -0.1}, "margin=-0.1"),
        ({"until": "width=0"}, "width=0"),
        ({"until": "width=x"}, "width=x"),
        ({"until": "tomorrow"}, "tomorrow"),
        ({"until": "width=0.1", "margin": 0.1}, "margin"),
        ({"until": "width=0.1", "anytime": True}, "anytime"),
        ({"until": "decided", "budget": "0"}, "budget '0'"),
        ({"until": "decided", "budget": "5"}, "budget '5'"),
        ({"until": "decided", "budget": "-3min"}, "budget '-3min'"),
    ],
)
def test_what_cannot_be_asked_is_said(until, words):
    with pytest.raises(UsageError, match=words):
        Until.of(**until)


def test_a_task_that_does_not_go_with_it_is_refused_before_it_is_evaluated():
    few = SimpleNamespace(name="t", n_docs=12, clusters=None, strata=None)
    with pytest.raises(UsageError, match=r"t has 12 documents; expected at least 20"):
        check_task(few, Until.of("decided"))
    check_task(few, Until.of("width=0.5"))
    group = SimpleNamespace(name="g", n_docs=50, clusters=None, strata=("x",) * 50)
    with pytest.raises(UsageError, match="--anytime on g"):
        check_task(group, Until.of("decided", anytime=True))
    check_task(group, Until.of("decided"))


def test_options_that_do_not_go_with_it_are_refused_before_anything_is_read(adapters):
    for options, words in (
        ({"limit": 5}, "limit"),
        ({"shard": (1, 2)}, "shard"),
        ({"groups": {"g": ["a", "b"]}}, "group"),
        ({"fewshot_seeds": 3}, "fewshot_seeds"),
        ({"repeats": 4, "pass_at": (2,)}, "pass_at"),
    ):
        with pytest.raises(UsageError, match=words):
            run_until(request(adapters, "nowhere", **options), Until.of("decided"))
    assert sequential(request(adapters, "nowhere", limit=0), Until.of("decided")).settings
    with pytest.raises(UsageError, match="one adapter"):
        run_until(request(adapters[:1], "nowhere"), Until.of("decided"))
