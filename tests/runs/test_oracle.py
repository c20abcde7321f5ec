"""Outcomes are those of `lm_eval.simple_evaluate` with PEFT; groups, clusters, perplexities."""

from __future__ import annotations

import numpy as np
import pytest
from harness_doubles import (
    make_model,
    make_tokenizer,
    simple_evaluate,
    stay_offline,
    write_choice_task,
    write_text_task,
)
from support.adapters import save_with_peft
from support.small_runs import run_small

import aurac
from aurac.adapters import load_adapter, truncate
from aurac.analysis import Question, analyse
from aurac.records.cells import CellStore
from aurac.records.run import read_run

pytestmark = pytest.mark.filterwarnings("ignore")
ROLLING = """
task: tiny_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rolling.jsonl}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    make_model(1).save_pretrained(root / "base")
    make_tokenizer().save_pretrained(root / "base")
    save_with_peft(
        make_model(1), root / "adapter", seed=4, r=4, target_modules=["q_proj", "down_proj"]
    )
    write_choice_task(root / "tasks")
    write_text_task(root / "tasks")
    for name, offset in (("leaf_b", 20), ("leaf_a", 0)):
        write_choice_task(root / "tasks", name, offset)
    (root / "tasks" / "both.yaml").write_text("group: both\ntask: [leaf_b, leaf_a]\n")
    (root / "tasks" / "tiny_rolling.yaml").write_text(ROLLING.format(folder=root / "tasks"))
    rows = "".join(f'{{"text": "some words {i} more {i * 7}"}}\n' for i in range(5))
    (root / "tasks" / "rolling.jsonl").write_text(rows)
    return root


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        yield


def run_on(place, out, tasks, **options):
    words = {"base": str(place / "base"), "limit": 6, "include_path": place / "tasks", **options}
    return run_small(place / "adapter", out, tasks, **words)


def reference(place, rank, task):
    """The samples of lm-eval with PEFT around a truncation that was written to a folder."""
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel

    model = make_model(1)
    if rank:
        cut = truncate(load_adapter(place / "adapter", base=str(place / "base")), rank)
        folder = aurac.save_adapter(cut, place / f"cut{rank}", force=True)
        model = PeftModel.from_pretrained(model, folder)
    lm = HFLM(pretrained=model.eval(), tokenizer=make_tokenizer(), softmax_dtype="float32")
    results = simple_evaluate(place / "tasks" / f"{task}.yaml", lm, limit=6)
    return sorted(results["samples"][task], key=lambda row: row["doc_id"])


@pytest.mark.parametrize(("task", "metric"), [("tiny_choice", "acc"), ("tiny_text", None)])
def test_every_cell_equals_lm_eval_with_peft(place, tmp_path, task, metric):
    run = run_on(place, tmp_path / "run", [task], ranks="1,4")
    [curve] = run.curves
    metric = metric or run.tasks[0].metric.partition(",")[0]
    for rank in (0, 1, 4):
        ours = run.answers(task, curve.adapter, curve.basis, curve.rescale, rank)
        theirs = reference(place, rank, task)
        name = run.tasks[0].metric.partition(",")[2]
        theirs = [row for row in theirs if row["filter"] == name]
        assert ours.score.tolist() == [float(row[metric]) for row in theirs]
        if metric == "acc":
            expected = [[pair[0] for pair in row["filtered_resps"]] for row in theirs]
            np.testing.assert_allclose(ours.response.tolist(), np.array(expected, float), atol=1e-4)
        else:
            assert ours.response.tolist() == [row["resps"][0][0] for row in theirs]


def test_a_group_is_one_curve_and_its_tasks_are_there(place, tmp_path):
    run = run_on(place, tmp_path / "run", ["both"], cluster={"leaf_a": "answerKey"})
    [curve] = run.curves
    assert (curve.task, curve.n_docs) == ("both", 12)
    assert curve.doc_ids[5:8] == ("leaf_b:5", "leaf_a:0", "leaf_a:1")
    assert len(set(curve.clusters[6:])) == 4
    members = [run.curve(run.task(name), run.manifest.cuts[0]) for name in run.tasks[0].members]
    pooled = np.concatenate([member.outcomes for member in members], axis=1)
    np.testing.assert_array_equal(curve.outcomes, pooled)
    [task] = run.tasks
    answers = run.answers(task.name, curve.adapter, curve.basis, curve.rescale, curve.ranks[0])
    assert answers.example.tolist() == list(curve.doc_ids)


def test_a_perplexity_has_a_value_at_each_rank_and_no_scores(place, tmp_path):
    run = run_on(place, tmp_path / "run", ["tiny_rolling"])
    [curve] = read_run(run.folder).curves
    assert curve.rolling
    assert curve.outcomes is None
    assert curve.ranks == (1, 2, 4)
    assert all(value > 1 for value in (curve.baseline, *curve.accuracy))
    run_on(place, tmp_path / "run", ["tiny_rolling"], limit=3, basis="prefix")
    both = analyse(read_run(run.folder).curves)
    assert [row.lacks for row in both.rows] == [None, None]  # of rank 4, which is the adapter's
    assert both.rows[1].ranks == (4,)
    fewer = run_on(place, tmp_path / "run", ["tiny_rolling"], limit=3)
    again = run_on(place, tmp_path / "fewer", ["tiny_rolling"], limit=3)
    assert fewer.curves[0].accuracy == again.curves[0].accuracy != curve.accuracy


def test_a_base_that_accelerate_spreads_gives_the_same(place, tmp_path):
    layers = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu"}
    rest = {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    whole = run_on(place, tmp_path / "whole", ["tiny_choice"])
    spread = run_on(place, tmp_path / "spread", ["tiny_choice"], device_map={**layers, **rest})
    assert spread.curves[0].outcomes.tolist() == whole.curves[0].outcomes.tolist()


def test_a_perplexity_is_that_of_the_whole_list_whichever_command_computed_it(place, tmp_path):
    """A base that failed at first is whole once another command has asked it."""
    run = run_on(place, tmp_path / "run", ["tiny_rolling"], limit=5)
    base = CellStore(run.folder).path(run.manifest.base["tiny_rolling"])
    base.write_bytes(base.read_bytes().splitlines(keepends=True)[0])  # nothing was kept of it
    run_on(place, tmp_path / "run", ["tiny_rolling"], limit=3, basis="prefix")
    assert read_run(run.folder).curves[0].baseline is None
    run_on(place, tmp_path / "run", ["tiny_rolling"], limit=5, basis="prefix")
    for curve in read_run(run.folder, Question(limit=2)).curves:
        assert curve.baseline == run.curves[0].baseline
