"""Readers: per-document tables, point tables, lm-eval's logs, run folders, and bad files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from made_cells import make_identity, store_cell
from msgspec.structs import replace
from score_tables import run

import aurac
from aurac.errors import CurveError, DataError, RunFolderError, UsageError
from aurac.readers import read_curves
from aurac.readers.table import curves_from_frame
from aurac.records.cell import DocumentKey
from aurac.records.reader import data_order, recipe_groups
from aurac.records.results_file import AdapterRecord
from aurac.training.recipe import Recipe

HEAD = "adapter,task,rank,doc_id,score\n"
BODY = "a,t,1,x,0\na,t,1,y,1\na,t,2,x,1\na,t,2,y,1\n"


def write(folder, text: str, name: str = "t.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_three_formats_agree(tmp_path):
    frame = pd.DataFrame(
        [(a, t, r, d, float((d + r) % 3 == 0)) for a in "ab" for t in "xy" for r in (1, 4)
         for d in range(7)],
        columns=["adapter", "task", "rank", "doc_id", "score"],
    )  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    found = [read_curves(tmp_path / f"t.{kind}") for kind in ("csv", "parquet", "jsonl")]
    for one in found:
        assert one.kind == "documents"
        assert [(c.adapter, c.task) for c in one.curves] == [
            ("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"),
        ]  # fmt: skip
        for curve, other in zip(one.curves, found[0].curves, strict=True):
            assert curve.doc_ids == other.doc_ids
            np.testing.assert_array_equal(curve.outcomes, other.outcomes)
    # Curves of one table share the tuple of identities, so that joining them compares no text.
    assert found[0].curves[0].doc_ids is found[0].curves[2].doc_ids


def test_rows_in_any_order(tmp_path):
    lines = BODY.splitlines(keepends=True)
    mixed = HEAD + "".join(lines[i] for i in (3, 0, 2, 1))
    (curve,) = read_curves(write(tmp_path, mixed)).curves
    at = {doc: i for i, doc in enumerate(curve.doc_ids)}
    assert curve.outcomes[0, at["x"]] == 0
    assert curve.outcomes[0, at["y"]] == 1
    assert curve.accuracy == (0.5, 1.0)


def test_seeds_clusters_strata_and_rank_0(tmp_path):
    text = "rank,doc_id,score,seed,cluster,stratum\n" + "".join(
        f"{r},{d},{int(r > d)},{s},p{d // 2},q{d // 4}\n"
        for s in (3, 4) for r in (0, 1, 2) for d in range(8)
    )  # fmt: skip
    curves = read_curves(write(tmp_path, text)).curves
    assert [c.seed for c in curves] == [3, 4]
    assert curves[0].clusters == ("p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3")
    assert curves[0].strata == ("q0",) * 4 + ("q1",) * 4
    assert curves[0].baseline == 0.0
    assert curves[0].ranks == (1, 2)


def test_samples_of_a_document_are_averaged(tmp_path):
    text = "rank,doc_id,score,sample\n" + "".join(
        f"{r},{d},{int((s + d) % 2)},{s}\n" for r in (1, 2) for d in range(3) for s in range(4)
    )
    (curve,) = read_curves(write(tmp_path, text)).curves
    assert curve.n_docs == 3
    np.testing.assert_array_equal(curve.outcomes, 0.5)


def test_several_metrics(tmp_path):
    text = "rank,doc_id,score,metric\n" + "".join(
        f"{r},{d},{v},{m}\n" for m, v in (("em", 0), ("acc", 1)) for r in (1, 2) for d in range(3)
    )
    path = write(tmp_path, text)
    assert [c.metric for c in read_curves(path).curves] == ["em", "acc"]
    assert [c.accuracy for c in read_curves(path, "acc").curves] == [(1.0, 1.0)]
    with pytest.raises(DataError, match="no metric 'f1'"):
        read_curves(path, "f1")


def test_a_path_of_several_seeds_or_metrics_is_no_single_curve(tmp_path):
    """Neither is the first of them without a word: the mean over seeds is another number."""
    values = [("alpha", "0.2"), ("alpha", "0.4"), ("beta", "0.3"), ("beta", "0.5")]
    rows = [f"{a},math,{i % 2},{r},{v}\n" for i, (a, v) in enumerate(values) for r in (1, 2)]
    path = write(tmp_path, "adapter,task,seed,rank,accuracy\n" + "".join(rows))
    with pytest.raises(CurveError, match="alpha on math: a table of 2 seeds is no sing") as refused:
        aurac.score(path, adapter="alpha", task="math")
    assert "aurac.analysis.analyse(aurac.readers.read_curves(path).curves).scores" in str(refused)
    scores = aurac.analysis.analyse(aurac.readers.read_curves(path).curves).scores
    assert [row.log2.value for row in scores] == pytest.approx([0.3, 0.4])
    every = "csv, alpha on math, beta on math: a table of 2 seeds is no single curve; take one of"
    for asked in ({}, {"task": "math"}):  # a choice would end so, whichever it is
        with pytest.raises(CurveError, match=every):
            aurac.score(path, **asked)
    path = write(tmp_path, "adapter,task,seed,rank,accuracy\n" + "".join(rows[:6]))
    with pytest.raises(CurveError, match=r"3 curves of any adapter.*; name adapter=, or take all"):
        aurac.score(path)
    with pytest.raises(CurveError, match=r"3 curves of math.*; name adapter=, or take all"):
        aurac.score(path, task="math")
    every = "".join(f"{r},.5,{m}\n" for m in ("em", "acc") for r in (1, 2))
    with pytest.raises(CurveError, match="the curve: a table of 2 metrics is no single curve"):
        aurac.score(write(tmp_path, "rank,accuracy,metric\n" + every))


def test_a_metric_is_of_the_tasks_that_have_it(tmp_path, caplog):
    """One task has acc alone, the other em as well."""
    rows = [("x", "acc,none", 0), ("y", "acc,none", 0), ("y", "em,flex", 1)]
    text = "task,metric,rank,doc_id,score\n" + "".join(
        f'{t},"{m}",{r},{d},{v}\n' for t, m, v in rows for r in (1, 2) for d in range(3)
    )
    path = write(tmp_path, text)
    wanted = {"x": "acc,none", "y": "em,flex"}
    assert {c.task: c.metric for c in read_curves(path, "em").curves} == wanted
    assert "x has no metric em" in caplog.text
    assert {c.task: c.metric for c in read_curves(path, "y=em").curves if c.task == "y"} == {
        "y": "em,flex"
    }
    with pytest.raises(UsageError, match="metric= names 'z'"):
        read_curves(path, {"z": "em"})
    log(tmp_path / "logs", "r1", [0, 1])
    choices(tmp_path / "logs", "r1", KNOWN, KNOWN)
    of_logs = {c.task: c.metric for c in read_curves(tmp_path / "logs", "acc").curves}
    assert of_logs == {"arc": "acc,none", "gsm8k": "exact_match,strict-match"}
    given = [path, "--metric", "y=em", "--metric", "acc", "--json"]
    scores = json.loads(run("score", *given, "--details"))["scores"]
    assert {row["task"]: row["metric"] for row in scores} == wanted
    assert json.loads(run("recommend", *given, "--margin", "0.1"))
    text = run("score", path, "--metric", "y=em,flex", "--metric", "x=acc")
    assert "metric acc,none, em,flex" in text


def test_point_tables(tmp_path):
    path = write(tmp_path, "rank,accuracy,adapter\n0,.1,a\n2,.3,a\n1,.2,a\n1,.5,b\n4,,b\n2,.6,b\n")
    found = read_curves(path)
    assert found.kind == "points"
    a, b = found.curves
    assert (a.ranks, a.accuracy, a.baseline) == ((1, 2), (0.2, 0.3), 0.1)
    assert dict(b.missing) == {4: "empty in the table"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (HEAD, "no rows"),
        ("adapter,score\na,1\n", "has columns adapter, score"),
        (HEAD + BODY + "a,t,2,x,1\n", "document 'x' appears 2 times at rank 2"),
        (HEAD + BODY + "a,t,2,x,0\n", "document 'x' appears 2 times at rank 2"),
        (HEAD + BODY[:-10], "other documents at ranks 1 and 2"),
        (HEAD + BODY.replace("a,t,2,x,1", "a,t,2,z,1"), "2 differ, 'x'"),
        (HEAD + BODY.replace("x,0", "x,"), r"1 row without a score \(.*the first in data row \d; "),
        (HEAD + BODY.replace("x,0", "x,nan"), "1 row without a score"),
        (HEAD + BODY.replace("x,0", "x,inf"), "a score of inf"),
        (HEAD + BODY.replace("x,0", "x,good"), "column score: a cell is no number: 'good'"),
        (HEAD + BODY.replace("x,0", "x,55"), "looks like percent"),
        (HEAD + BODY.replace("x,0", "x,-1"), "down to -1"),
        (HEAD + BODY.replace("t,2", "t,1.5"), "a rank of 1.5"),
        (HEAD + BODY.replace("t,2", "t,-2"), "a rank of -2"),
        (HEAD + BODY.replace("t,2", "t,"), "without a rank"),
        (HEAD + BODY.replace("t,1,", "t,0,").replace("t,2,", "t,0,"), "appears 2 times"),
        (HEAD + "a,t,0,x,1\n", "rank 0 only"),
        (HEAD + "a,t,1\n", "cannot be read"),
        ("rank,rank,accuracy\n1,1,.2\n", "two columns named rank"),
        ("rank,accuracy\n1,.2\n1,.3\n", "rank 1 twice"),
        ("rank,accuracy\n1,20\n2,30\n", "looks like percent"),
        ("Rank,Accuracy\n1,.2\n2,.3\n", "write rank, accuracy in small letters"),
        ("rank,accuracy\none,.2\n2,.3\n", "expected whole numbers such as 4"),
        ("rank,accuracy\n1,0,2\n2,0,3\n", "write decimals with points"),
        ("rank,accuracy\n1,\n", "no accuracy at any rank"),
        ("rank,accuracy,high\n1,.2,.3\n", "a column high alone; expected low and high"),
        (
            "rank,doc_id,score,cluster\n1,x,0,p\n1,y,0,p\n2,x,0,q\n2,y,0,p\n",
            "document 'x' of the adapter has another cluster",
        ),
        ("rank,doc_id,score,sample\n1,x,0,1\n1,x,0,1\n", "a sample of a document appears twice"),
        ("rank,doc_id,score,sample\n1,x,0,1\n1,x,0,2\n1,y,1,1\n", "has 1 samples at rank 1"),
        ("rank,doc_id,score,seed\n1,x,0,one\n", "column seed: a cell is no number: 'one'"),
    ],
)
def test_bad_tables_say_one_clear_line(tmp_path, text, words):
    with pytest.raises(DataError, match=words) as caught:
        read_curves(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.parquet", b"PAR1 not really", "cannot be read"),
        ("t.jsonl", b"{not json}\n", "cannot be read"),
        ("t.jsonl", b'{"rank": 1}\n', "has columns rank"),
        ("t.csv", b"\xff\xfe\x00bad", "cannot be read"),
        ("t.txt", b"rank", "is no table"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_curves(path)
    with pytest.raises(DataError, match="does not exist"):
        read_curves(tmp_path / "nowhere.csv")


def test_a_2_gb_file_is_refused_at_once(tmp_path):
    path = tmp_path / "big.csv"
    with path.open("wb") as stream:  # sparse: takes no space
        stream.truncate(2_000_000_000)
    with pytest.raises(DataError, match=r"has 2\.0 GB"):
        read_curves(path)


def test_frames_say_what_is_wrong():
    with pytest.raises(DataError, match="has columns a"):
        curves_from_frame(pd.DataFrame({"a": [1]}))
    with pytest.raises(DataError, match="no rows"):
        curves_from_frame(pd.DataFrame({"rank": [], "accuracy": []}))
    with pytest.raises(DataError, match="without a doc_id"):
        curves_from_frame(pd.DataFrame({"rank": [1], "doc_id": [None], "score": [1.0]}))
    mixed = pd.DataFrame({"rank": [1, 1], "doc_id": [1, "x"], "score": [1, 0]})
    assert curves_from_frame(mixed)[0].doc_ids == ("1", "x")


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
    found = read_curves(root)
    (curve,) = found.curves
    assert found.kind == "samples"
    assert (curve.adapter, curve.task, curve.metric) == (
        "lora",
        "gsm8k",
        "exact_match,strict-match",
    )
    assert (curve.ranks, curve.baseline) == ((1, 16), 0.0)
    np.testing.assert_array_equal(curve.outcomes, [[0, 1, 0], [1, 1, 0]])
    (other,) = read_curves(root, "exact_match,flexible-extract").curves
    assert other.accuracy == (1.0, 1.0)
    with pytest.raises(DataError, match="give metric="):
        read_curves(root, "acc,none")


def test_lm_eval_logs_of_several_adapters(tmp_path):
    for name in ("a", "b"):
        for rank in ("r2", "r4"):
            log(tmp_path / name, rank, [0, 1])
    assert [c.adapter for c in read_curves(tmp_path).curves] == ["a", "b"]
    flat = tmp_path / "flat"
    log(flat, "lora-r2", [0, 1])
    log(flat, "lora-r4", [1, 1])
    assert [(c.adapter, c.ranks) for c in read_curves(flat).curves] == [("lora", (2, 4))]


@pytest.mark.parametrize("cut", [{}, {"aurac": {"rank": 8}}])
def test_no_rank_is_read_from_the_name_of_a_base(tmp_path, cut):
    """The name of a base may end in a number, as that of `smollm2-135m-instruct-q4_1` does."""
    root = tmp_path / "lora" / "rank_8"
    log(root, ".", [0, 1])
    base = (root / "some__model").rename(root / "base-q4_1")
    results = {"model_name_sanitized": "base-q4_1", "config": {"model_args": cut}}
    (base / "results_2025-05-01T10-00-00.123456.json").write_text(json.dumps(results))
    for place in (root, root.parent, tmp_path):
        (curve,) = read_curves(place).curves
        assert (curve.adapter, curve.ranks) == ("lora", (8,))
    if cut:  # the record holds where no folder says it
        root.rename(tmp_path / "lora" / "some-2")
        (curve,) = read_curves(tmp_path).curves
        assert (curve.adapter, curve.ranks) == ("lora/some-2", (8,))


def test_bad_logs(tmp_path):
    with pytest.raises(DataError, match="nor sample logs"):
        read_curves(tmp_path)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "run.json").write_text("{}")
    with pytest.raises(RunFolderError, match="or let an interrupted run finish"):
        read_curves(begun)
    run_folder(begun / "subsets" / "less")
    with pytest.raises(RunFolderError, match=r"holds no results\.json; .* give .*subsets/less$"):
        read_curves(begun)
    log(tmp_path / "one", "rank_1", [0])
    log(tmp_path / "one", "rank_1", [0], when="2025-05-02T10-00-00.1")
    with pytest.raises(DataError, match="both gsm8k at rank 1"):
        read_curves(tmp_path / "one")
    log(tmp_path / "two", "first", [0])
    with pytest.raises(DataError, match="no folder named by its rank"):
        read_curves(tmp_path / "two")
    log(tmp_path / "three", "rank_1", [0, 1])
    log(tmp_path / "three", "rank_2", [0, 1], prompt_hash="other")
    with pytest.raises(DataError, match="another text or prompt at rank 2"):
        read_curves(tmp_path / "three")
    log(tmp_path / "four", "rank_1", [0, 1])
    log(tmp_path / "four", "rank_2", [0])
    with pytest.raises(DataError, match="different documents"):
        read_curves(tmp_path / "four")
    place = tmp_path / "five" / "rank_1"
    place.mkdir(parents=True)
    (place / "samples_x.jsonl").write_text("{broken", encoding="utf-8")
    with pytest.raises(DataError, match="no lm-eval sample log"):
        read_curves(tmp_path / "five")


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


def test_logs_of_a_server_without_prompt_log_probabilities_are_refused(tmp_path, caplog):
    """Accuracies would be chance: every choice scores 0, and the first of them is the pick."""
    choices(tmp_path / "a", "r1", KNOWN, KNOWN)
    assert read_curves(tmp_path / "a").curves[0].accuracy == (1.0,)
    assert not caplog.text
    choices(tmp_path / "a", "r2", EMPTY, EMPTY)
    with pytest.raises(
        DataError, match=r"r2/samples.* 0\.0 for every choice in 2 of 2 .*prompt_logprobs"
    ):
        read_curves(tmp_path / "a")
    choices(tmp_path / "base", "r1", KNOWN)
    choices(tmp_path / "base", "rank_0", EMPTY)
    with pytest.raises(DataError, match="rank_0"):  # the base is read as well
        read_curves(tmp_path / "base")
    for name, gone in (("nan", ["nan", "False"]), ("none", ["None", "None"]), ("empty", None)):
        choices(tmp_path / name, "r1", KNOWN, (KNOWN[0], gone))
        with pytest.raises(DataError, match="without a number in 1 of 2 rows"):
            read_curves(tmp_path / name)
    choices(tmp_path / "some", "r1", KNOWN, EMPTY)
    assert read_curves(tmp_path / "some").curves[0].n_docs == 2
    assert "0.0 for every choice in 1 of 2 rows" in caplog.text


def run_folder(folder, *, recipes=None):
    curves = []
    for name, default, add in (("m", True, 0), ("m", False, 1), ("l", True, 2)):
        cells = {}
        for rank in (1, 2):
            scores = [float((d + rank + add) % 3 == 0) for d in range(6)]
            cells[str(rank)] = store_cell(
                folder,
                make_identity(adapter_sha256=f"{name}{add}", rank=rank),
                [DocumentKey(str(d), c, "p") for d, c in enumerate("abcdef")],
                {"em,strict": scores, "em,flex": [1.0] * 6},
            )
        curves.append({
            "adapter": name, "task": "t", "metric": "em,strict", "method": "lora", "base": "b",
            "basis": "prefix", "rescale": "rule" if default else "keep", "default": default,
            "ranks": [1, 2], "accuracy": [1 / 3, 1 / 3], "missing": {}, "baseline": 0.1,
            "bytes": [10, 20], "n_docs": 6, "cells": cells,
        })  # fmt: skip
    adapters = [
        {"name": n, "method": "lora", "recipe": (recipes or {}).get(n), "seed": s}
        for s, n in enumerate(("m", "l"))
    ]
    content = {
        "schema": 1, "curves": curves[1:] + curves[:1], "adapters": adapters,
        "tasks": [{"name": "t", "prompts_sha256": "pp"}],
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content))
    return content


def test_run_folders(tmp_path):
    run_folder(tmp_path / "run")
    found = read_curves(tmp_path / "run")
    assert found.kind == "run"
    assert found.groups == {}
    assert [(c.adapter, c.rescale) for c in found.curves] == [
        ("l", "rule"), ("m", "rule"), ("m", "keep"),
    ]  # fmt: skip
    curve = found.curves[1]
    assert curve.doc_hashes == tuple("abcdef")
    assert curve.prompts == "pp"
    assert dict(curve.sizes) == {1: 10, 2: 20}
    np.testing.assert_array_equal(curve.outcomes[0], [0, 0, 1, 0, 0, 1])
    assert read_curves(tmp_path / "run" / "results.json").kind == "run"
    with pytest.raises(
        DataError, match="t has no metric 'f1'; expected one of 'em,flex', 'em,strict'"
    ):
        read_curves(tmp_path / "run", "t=f1")
    flex = read_curves(tmp_path / "run", "em,flex").curves[0]
    assert flex.accuracy == (1.0, 1.0)


DATA = {  # every field of a recipe that decides which examples a step sees, with another value
    "base": "other",
    "task": "",
    "data": "other.jsonl",
    "prompt": "{question}",
    "prompt_without": "{other}",
    "target": "{answer}",
    "documents": 5,
    "max_tokens": 7,
    "steps": 3,
    "epochs": 2.0,
    "batch_size": 4,
}
OTHER = {"method": "dylora", "rank": 4, "learning_rate": 0.1, "seed": 1, "accumulation": 4}


def test_training_data_and_their_order_follow_from_the_recorded_recipe():
    recipe = Recipe(name="a", method="lora", rank=8, task="aurac_word_problems").to_dict()
    known = data_order(recipe)
    for field, value in DATA.items():
        assert data_order({**recipe, field: value}) != known, field
    for field in recipe.keys() - DATA.keys():
        assert data_order({**recipe, field: OTHER.get(field, "other")}) == known, field
    assert OTHER.keys() < recipe.keys()
    assert data_order(None) is data_order({"name": "of another trainer"}) is None


def test_a_runs_curves_know_the_order_of_their_data(tmp_path):
    recipe = Recipe(name="a", method="lora", rank=8, task="aurac_word_problems").to_dict()
    run_folder(tmp_path / "run", recipes={"m": recipe})
    orders = {c.adapter: c.data_order for c in read_curves(tmp_path / "run").curves}
    assert orders == {"m": data_order(recipe), "l": None}


def test_seeds_of_one_recipe_are_found(tmp_path):
    recipes = {"m": {"lr": 1, "seed": 0}, "l": {"lr": 1, "seed": 1}}
    run_folder(tmp_path / "run", recipes=recipes)
    assert read_curves(tmp_path / "run").groups == {"m + l": ["m", "l"]}
    rows = [
        AdapterRecord(name=f"lora-seed{s}", method="lora", recipe={"lr": 1, "seed": s}, seed=s)
        for s in range(3)
    ]
    assert recipe_groups(rows) == {"lora": ["lora-seed0", "lora-seed1", "lora-seed2"]}
    assert recipe_groups([replace(rows[0], recipe={"lr": 2}), rows[1]]) == {}
    assert recipe_groups([rows[0], replace(rows[1], seed=0)]) == {}


def test_groups_of_tasks_concatenate_their_members(tmp_path):
    content = run_folder(tmp_path / "run")
    for row in content["curves"]:
        row["cells"] = {r: [where, where] for r, where in row["cells"].items()}
    (tmp_path / "run" / "results.json").write_text(json.dumps(content))
    curve = read_curves(tmp_path / "run").curves[0]
    assert curve.n_docs == 12
    assert curve.strata == ("0",) * 6 + ("1",) * 6
    assert curve.doc_ids[6] == "1:0"


def first_cell(folder, content):
    return folder / content["curves"][0]["cells"]["1"]


def flip(path):
    """One bit of an outcome, behind the hash of its line."""
    path.write_bytes(path.read_bytes().replace(b"1.0", b"0.0", 1))


def list_documents(folder, content, count):
    """Say which documents the results are about."""
    keys = [[str(d), "abcdefg"[d], "p"] for d in range(count)]
    (folder / "documents.json").write_text(
        json.dumps({"doc_ids": [key[0] for key in keys], "keys": keys})
    )
    content["tasks"] = [{"name": "t", "documents": "documents.json"}]


def test_results_are_about_the_documents_that_they_list(tmp_path):
    """A cell may have grown since: more documents, in another order."""
    content = run_folder(tmp_path / "run")
    list_documents(tmp_path / "run", content, 4)
    (tmp_path / "run" / "results.json").write_text(json.dumps(content))
    curve = next(c for c in read_curves(tmp_path / "run").curves if c.adapter == "m")
    assert curve.doc_ids == ("0", "1", "2", "3")
    assert curve.outcomes.tolist() == [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f, c: (f / "results.json").write_text("{"), "cannot be read"),
        (lambda f, c: (f / "results.json").write_text("[]"), "Expected `object`, got `array`"),
        (lambda f, c: c.update(schema=9), "schema 9; expected schema 1; update aurac"),
        (lambda f, c: c.update(curves=[]), "holds no curves"),
        (
            lambda f, c: c["curves"][0].pop("task"),
            r"missing required field `task` - at `\$.curves\[0\]`",
        ),
        (lambda f, c: first_cell(f, c).unlink(), "missing or damaged"),
        (lambda f, c: first_cell(f, c).write_text('{"metrics": {}}\n'), "missing or damaged"),
        (lambda f, c: flip(first_cell(f, c)), "missing or damaged"),
        (lambda f, c: c["curves"][0].update(metric="acc,none"), "holds no metric"),
        (lambda f, c: c["curves"][0]["cells"].update({"1": "../../x.json"}), "is outside"),
        (lambda f, c: list_documents(f, c, 7), "lacks 1 of 7 documents"),
    ],
)
def test_damaged_run_folders(tmp_path, damage, words):
    folder = tmp_path / "run"
    content = run_folder(folder)
    before = json.dumps(content)
    damage(folder, content)
    if json.dumps(content) != before:
        (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=words):
        read_curves(folder)


def test_rows_that_repeat_are_told_apart_by_seed_before_sample(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"a,{run},{r},{d},{d % 2}" for run in (1, 2) for r in (1, 2) for d in range(4)]
    path.write_text("\n".join(["adapter,run,rank,doc_id,score", *rows]))
    said = (
        "tasks and metrics and training seeds are told apart by a column named task or metric or "
    )
    with pytest.raises(
        DataError, match=f"{said}seed; repeated generations of one training by a col"
    ):
        read_curves(path)


def test_lost_documents_are_named_once_with_what_to_do(tmp_path):
    folder = tmp_path / "run"
    content = run_folder(folder)
    list_documents(folder, content, 4)
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "documents.json").unlink()
    lost = r"documents\.json cannot be read \(No such file or directory\); restore it, or give the "
    with pytest.raises(RunFolderError, match=lost):
        read_curves(folder)


def test_rank_0_of_a_table_is_the_base_document_by_document(tmp_path):
    rows = "".join(f"a,t,{r},{d},{int(d < 2 * r)}\n" for r in (2, 1, 0) for d in (3, 1, 2, 0))
    (curve,) = read_curves(write(tmp_path, HEAD + rows)).curves
    assert (curve.ranks, curve.baseline) == ((1, 2), 0.0)
    by_document = dict(zip(curve.doc_ids, curve.outcomes[0], strict=True))
    assert by_document == {"0": 1.0, "1": 1.0, "2": 0.0, "3": 0.0}
    assert curve.base_scores.tolist() == [0.0] * 4
