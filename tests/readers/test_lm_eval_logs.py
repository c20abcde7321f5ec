"""lm-eval's sample logs: which adapter, rank, task and metric, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aurac.analysis import analyse
from aurac.errors import DataError
from aurac.readers import read_curves


def log(folder, rank: str, scores, task="gsm8k", when="2025-05-01T10-00-00.123456", **change):
    place = folder / rank / "some__model"
    place.mkdir(parents=True, exist_ok=True)
    lines = []
    for doc, score in enumerate(scores):
        for name in ("strict-match", "flexible-extract"):
            row = {
                "doc_id": doc, "doc": {"q": doc}, "filter": name, "metrics": ["exact_match"],
                "exact_match": score if name == "strict-match" else 1.0,
                "doc_hash": f"h{doc}", "prompt_hash": "p", "target_hash": "t", **change,
            }  # fmt: skip
            lines.append(json.dumps(row))
    (place / f"samples_{task}_{when}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_lm_eval_logs(tmp_path):
    root = tmp_path / "lora"
    log(root, "rank_0", [0, 0, 0])
    log(root, "rank_1", [0, 1, 0])
    log(root, "rank_16", [1, 1, 0])
    (curve,) = read_curves(root)
    assert (curve.adapter, curve.task, curve.metric) == (
        "lora",
        "gsm8k",
        "exact_match,strict-match",
    )
    assert (curve.ranks, curve.baseline) == ((1, 16), 0.0)
    np.testing.assert_array_equal(curve.outcomes, [[0, 1, 0], [1, 1, 0]])
    (other,) = read_curves(root, "exact_match,flexible-extract")
    assert other.accuracy == (1.0, 1.0)
    with pytest.raises(DataError, match="No task has a metric 'acc,none'"):
        read_curves(root, "acc,none")
    log(root, "rank_1", [0, 1, 0], "both", acc=0)
    [file] = root.rglob("samples_both*")
    of = '"flexible-extract", "metrics": ["exact_match"]'
    file.write_text(file.read_text().replace(of, '"none", "metrics": ["acc"]'))
    assert [curve.metric for curve in read_curves(root) if curve.task == "both"] == ["acc,none"]


def test_lm_eval_logs_of_several_adapters(tmp_path):
    for name in ("a", "b"):
        for rank in ("rank_2", "rank_4"):
            log(tmp_path / name, rank, [0, 1])
    assert [c.adapter for c in read_curves(tmp_path)] == ["a", "b"]


def test_the_rank_is_that_of_its_folder_from_wherever_one_looks(tmp_path):
    """The name of a base may end in a number, as that of `smollm2-135m-instruct-q4_1` does."""
    root = tmp_path / "lora" / "rank_8"
    log(root, ".", [0, 1])
    (root / "some__model").rename(root / "base-q4_1")
    for place in (root, root.parent, tmp_path, root / "base-q4_1"):
        (curve,) = read_curves(place)
        assert (curve.adapter, curve.ranks) == ("lora", (8,)), place


def test_bad_logs(tmp_path):
    log(tmp_path / "twice", "rank_1", [0])
    log(tmp_path / "twice", "rank_1", [0], when="2025-05-02T10-00-00.1")
    log(tmp_path / "unranked", "lora-r8", [0])
    log(tmp_path / "prompts", "rank_1", [0, 1])
    log(tmp_path / "prompts", "rank_2", [0, 1], prompt_hash="other")
    log(tmp_path / "fewer", "rank_1", [0, 1])
    log(tmp_path / "fewer", "rank_2", [0])
    (tmp_path / "broken" / "rank_1").mkdir(parents=True)
    (tmp_path / "broken" / "rank_1" / "samples_x.jsonl").write_text("{broken", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("twice", "both gsm8k at rank 1"),
        ("unranked", "no folder named by its rank"),
        ("prompts", "example '0' needs one text and prompt"),
        ("fewer", "different examples"),
        ("broken", "no lm-eval sample log"),
        ("empty", "holds no samples_"),
    ):
        with pytest.raises(DataError, match=words):
            read_curves(tmp_path / name)


def choices(folder, rank, *documents):
    """A log of multiple choice: for each document the log-likelihoods of its choices."""
    place = folder / rank
    place.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({
            "doc_id": doc, "target": "0", "filter": "none", "metrics": ["acc"], "acc": 1.0,
            "resps": [[pair] if pair else [] for pair in pairs], "filtered_resps": pairs,
            "doc_hash": f"h{doc}", "prompt_hash": "p", "target_hash": "t",
        })
        for doc, pairs in enumerate(documents)
    ]  # fmt: skip
    path = place / "samples_arc_2026-11-01T10-00-00.1.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")


KNOWN = ["-1.25", "False"], ["0.0", "True"]  # lm-eval writes them as text; a certain choice is 0
EMPTY = ["0", "True"], ["0", "True"]  # its sum over no token


@pytest.mark.parametrize(
    "unknown",
    [
        (EMPTY, EMPTY),
        *((KNOWN, (KNOWN[0], gone)) for gone in (["nan", "False"], ["None"] * 2, None)),
    ],
)
def test_logs_of_a_server_without_prompt_log_probabilities_are_refused(tmp_path, unknown):
    """Accuracies would be chance: every choice scores 0, and the first of them is the pick."""
    choices(tmp_path, "rank_1", KNOWN, EMPTY)
    assert read_curves(tmp_path)[0].n_docs == 2
    choices(tmp_path, "rank_0", *unknown)  # the base is read as well
    with pytest.raises(DataError, match=r"rank_0/samples.* missing or all 0\.0.*prompt_logprobs"):
        read_curves(tmp_path)


def test_a_group_that_was_asked_for_pools_the_documents_of_its_tasks(tmp_path):
    for rank in ("rank_1", "rank_2"):
        log(tmp_path, rank, [0, 1], task="one")
        log(tmp_path, rank, [1, 1, 1], task="two")
        place = tmp_path / rank / "some__model"
        results = {"group_subtasks": {"both": ["one", "two"], "one": [], "two": []}}
        (place / "results_2025-05-01T10-00-00.123456.json").write_text(json.dumps(results))
    curves = {curve.task: curve for curve in read_curves(tmp_path)}
    assert set(curves) == {"one", "two", "both"}
    assert curves["both"].accuracy == (0.8, 0.8)
    assert curves["both"].doc_ids == ("one:0", "one:1", "two:0", "two:1", "two:2")
    scores = analyse(curves.values()).scores  # and no mean of a group beside its tasks
    assert dict(zip(scores.task, scores.examples, strict=True)) == {"one": 2, "two": 3, "both": 5}


def test_a_field_of_the_documents_clusters_them(tmp_path):
    for rank in ("rank_1", "rank_2"):
        log(tmp_path, rank, [0, 1], doc={"passage": "p"})
    (curve,) = read_curves(tmp_path, cluster={"": "passage"})
    assert curve.clusters == ("p", "p")
    with pytest.raises(DataError, match="no field 'page'"):
        read_curves(tmp_path, cluster={"gsm8k": "page"})
