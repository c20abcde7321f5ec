"""A run with several sampled answers of each document, from the request to the report."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from small_runs import random_adapter

from aurac.analysis.whole import analyse
from aurac.curves.metrics import WantedMetrics
from aurac.errors import RunFolderError, UsageError
from aurac.exports import export_lm_eval
from aurac.records.cell import Block, decode_scored
from aurac.records.reader import read_run
from aurac.runs.compare import compare

YAML = """
task: odd_answers
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/test.jsonl, train: {folder}/test.jsonl}}
output_type: generate_until
training_split: train
test_split: test
fewshot_split: train
doc_to_text: "say {{{{question}}}}"
doc_to_target: "x"
process_results: !function odd.is_odd
generation_kwargs: {{until: ["."], do_sample: true, temperature: 1.0, max_gen_toks: 6}}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
ODD = """
def is_odd(doc, results):
    return {"acc": len(results[0]) % 2}
"""
KEY = "acc,none"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("odd")
    rows = [json.dumps({"question": f"word {i}"}) for i in range(12)]
    (where / "test.jsonl").write_text("\n".join(rows))
    (where / "odd.py").write_text(ODD)
    (where / "odd_answers.yaml").write_text(YAML.format(folder=where))
    return where


def asked(folder, base, out, **options):
    adapter = folder / "adapter"
    if not adapter.exists():
        random_adapter(base, adapter)
    settings = {"ranks": (1, 4), "dtype": "float32", "device": "cpu", "base": str(base)} | options
    return compare([adapter], [str(folder / "odd_answers.yaml")], out=out, **settings)


@pytest.fixture(scope="module")
def run(folder, tiny_base_folder):
    return asked(folder, tiny_base_folder, folder / "run", repeats=3, pass_at=(1, 2))


def outcomes(folder, curve, rank, of="samples"):
    lines = (folder / curve.files(rank)[0]).read_bytes().splitlines()
    read = [decode_scored(line, "a cell")[0] for line in lines]
    (block,) = [line for line in read if isinstance(line, Block)]
    return np.array(getattr(block, of)[KEY])


def test_scores_are_means_of_samples_and_pass_at_k_the_share_of_subsets(run):
    mean, passing = run.results.curves  # pass@1 is the mean itself
    assert (mean.metric, passing.metric) == (KEY, f"pass@2:{KEY}")
    assert passing.task == f"{mean.task}:pass@2"
    for at, rank in enumerate(mean.ranks):
        rows = outcomes(run.folder, mean, rank)
        assert rows.shape == (12, 3)
        assert 0 < rows.mean() < 1
        assert mean.accuracy[at] == pytest.approx(rows.mean())
        pairs = [[max(pair) for pair in combinations(row, 2)] for row in rows]
        assert passing.accuracy[at] == pytest.approx(np.mean(pairs))
        assert passing.cells[rank] == [mean.cells[rank]]
        assert mean.accuracy_low[at] < mean.accuracy[at] < mean.accuracy_high[at]
    assert (mean.n_docs, passing.n_docs) == (12, 12)
    assert "strata" not in str(passing.score_method)


def test_the_share_of_sampling_is_an_analysis_of_variance_of_areas(run):
    mean, passing = run.results.curves
    areas = sum(outcomes(run.folder, mean, rank) for rank in mean.ranks) / 2  # weights 1/2, 1/2
    within = areas.var(axis=1, ddof=1).mean()
    total = areas.mean(axis=1).var(ddof=1)
    assert mean.sampling.samples == 3
    assert mean.sampling.within == pytest.approx(within)
    assert mean.sampling.share == pytest.approx(min(1, within / 3 / total))
    plain = [curve.to_dict() for curve in (mean, passing)]
    assert ["sampling" in curve for curve in plain] == [True, False]
    assert "3 sampled answers of each document" in (run.folder / "report.md").read_text()


def test_other_k_need_no_new_answers_and_another_number_of_samples_another_folder(
    run, folder, tiny_base_folder
):
    before = {path: path.stat().st_size for path in (run.folder / "cells").iterdir()}
    more = asked(folder, tiny_base_folder, run.folder, repeats=3, pass_at=(2, 3))
    assert {path: path.stat().st_size for path in (run.folder / "cells").iterdir()} == before
    assert [curve.metric for curve in more.results.curves] == [
        KEY, f"pass@2:{KEY}", f"pass@3:{KEY}"
    ]  # fmt: skip
    with pytest.raises(RunFolderError, match="repeats"):
        asked(folder, tiny_base_folder, run.folder, repeats=2)


def test_scoring_by_another_k_takes_the_stored_samples(run):
    (curve,), _ = read_run(run.folder, WantedMetrics(f"pass@3:{KEY}"))
    (mean,) = (c for c in run.results.curves if c.metric == KEY)
    some = [outcomes(run.folder, mean, rank).max(axis=1).mean() for rank in mean.ranks]
    assert curve.accuracy == pytest.approx(some)
    with pytest.raises(RunFolderError, match="pass@4"):
        read_run(run.folder, WantedMetrics(f"pass@4:{KEY}"))


def test_pass_at_k_is_no_further_task_of_an_aggregate(run):
    curves, _ = read_run(run.folder)
    assert len(curves) > 1
    assert analyse(curves).aggregates == ()


def test_one_answer_leaves_no_trace_of_samples(folder, tiny_base_folder):
    single = asked(folder, tiny_base_folder, folder / "single", limit=2)
    text = (single.folder / "results.json").read_text() + "".join(
        path.read_text() for path in (single.folder / "cells").iterdir()
    )
    for name in ("repeats", "samples", "sampling"):
        assert f'"{name}":' not in text


def greedy(folder, base, out, **options):
    settings = {"do_sample": False, "temperature": None}
    return asked(folder, base, out, gen_kwargs=settings, num_fewshot=2, **options)


def test_several_draws_of_the_examples_are_the_runs_with_their_seeds_averaged(
    folder, tiny_base_folder
):
    run = greedy(folder, tiny_base_folder, folder / "draws", fewshot_seeds=3)
    (curve,) = run.results.curves
    task = run.results.task(curve.task)
    assert (task.drawn, task.members) == (
        True,
        [f"{curve.task}:seed{s}" for s in (1234, 1235, 1236)],
    )
    alone = [
        greedy(folder, tiny_base_folder, folder / f"seed{seed}", seed=seed)
        for seed in (1234, 1235, 1236)
    ]
    for at, rank in enumerate(curve.ranks):
        each = [outcomes(x.folder, x.results.curves[0], rank, "metrics") for x in alone]
        assert len({tuple(column) for column in each}) > 1
        assert curve.accuracy[at] == pytest.approx(np.mean(each))
        cells = [path.rpartition("/")[2] for path in curve.cells[rank]]
        assert cells == [one.results.curves[0].cells[rank].rpartition("/")[2] for one in alone]
    areas = [one.results.curves[0].score.log2.value for one in alone]
    assert curve.fewshot_draws.scores == pytest.approx(areas)
    assert 0 <= curve.fewshot_draws.share <= 1
    (read,), _ = read_run(run.folder)
    assert read.draws.shape == (3, 2, 12)
    assert read.accuracy == pytest.approx(curve.accuracy)
    (row,) = analyse([read]).scores
    assert (row.log2.low, row.log2.high) == (curve.score.log2.low, curve.score.log2.high)
    assert "3 draws of the few-shot examples" in (run.folder / "report.md").read_text()
    assert len(run.samples) == 3 * 3 * 12  # the base, two ranks
    assert set(run.samples.fewshot_seed) == {1234, 1235, 1236}
    with pytest.raises(UsageError, match="several draws"):
        export_lm_eval(run.folder, folder / "exported")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_fewshot": 0}, "whose prompts have no examples"),
        ({"num_fewshot": 2, "fewshot": "fixed"}, "with fewshot='fixed'"),
        ({"fewshot_seeds": 0}, "fewshot_seeds=0"),
    ],
)
def test_draws_that_make_no_sense_are_refused(options, said, folder, tiny_base_folder):
    with pytest.raises(UsageError, match=said):
        asked(folder, tiny_base_folder, folder / "refused", **{"fewshot_seeds": 2, **options})
