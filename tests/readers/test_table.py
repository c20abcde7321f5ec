"""Tables of other tools: csv, parquet and jsonl files, and DataFrames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from aurac.errors import DataError, UsageError
from aurac.readers import read_curves
from aurac.readers.table import curves_from_frame

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
    for curves in (*found, curves_from_frame(frame)):
        assert [(c.adapter, c.task) for c in curves] == [
            ("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"),
        ]  # fmt: skip
        for curve, other in zip(curves, found[0], strict=True):
            assert curve.doc_ids == other.doc_ids
            np.testing.assert_array_equal(curve.outcomes, other.outcomes)


def test_rows_may_come_in_any_order(tmp_path):
    lines = BODY.splitlines(keepends=True)
    mixed = HEAD + "".join(lines[i] for i in (3, 0, 2, 1))
    (curve,) = read_curves(write(tmp_path, mixed))
    at = {doc: i for i, doc in enumerate(curve.doc_ids)}
    assert curve.outcomes[:, at["x"]].tolist() == [0, 1]
    assert curve.outcomes[:, at["y"]].tolist() == [1, 1]


def test_seeds_clusters_and_what_is_known_of_an_adapter(tmp_path):
    head = "adapter,rank,doc_id,score,seed,cluster,method,trained_rank,bytes,basis,rescale\n"
    rows = [
        f"a,{rank},{doc},{(seed + rank) % 2},{seed},{cluster},lora,8,{10 * rank or ''},svd,keep"
        for seed in (1, 2)
        for rank in (0, 1, 2)
        for doc, cluster in (("x", "p"), ("y", "p"), ("z", "q"))
    ]
    curves = read_curves(write(tmp_path, head + "\n".join(rows)))
    assert [curve.seed for curve in curves] == [1, 2]
    one = curves[0]
    assert one.clusters == ("p", "p", "q")
    assert (one.method, one.trained_rank, one.cut) == ("lora", 8, "svd")
    assert dict(one.sizes) == {1: 10, 2: 20}
    assert one.base_scores.tolist() == [1, 1, 1]
    assert one.accuracy == (0.0, 1.0)


def test_a_base_on_other_documents_is_a_baseline_alone(tmp_path):
    (curve,) = read_curves(write(tmp_path, HEAD + BODY + "a,t,0,x,1\na,t,0,z,0\n"))
    assert (curve.baseline, curve.base_scores) == (0.5, None)
    assert curve.n_docs == 2


@pytest.mark.parametrize("columns", ["adapter,task", "adapter,task,metric"])
def test_a_base_that_names_nothing_is_that_of_all(tmp_path, columns):
    labels = {"adapter,task": ("a,t", ","), "adapter,task,metric": ("a,t,acc", ",,")}[columns]
    rows = [f"{labels[0]},1,.4", f"{labels[0]},2,.5", f"{labels[1]},0,.1"]
    (curve,) = read_curves(write(tmp_path, "\n".join([f"{columns},rank,accuracy", *rows])))
    assert (curve.baseline, curve.ranks) == (0.1, (1, 2))


def test_samples_of_a_document_are_averaged(tmp_path):
    rows = [f"{rank},d,{sample},{int(sample < rank)}" for rank in (1, 2) for sample in range(4)]
    (curve,) = read_curves(write(tmp_path, "rank,doc_id,sample,score\n" + "\n".join(rows)))
    assert curve.accuracy == (0.25, 0.5)


def test_point_tables_keep_empty_accuracies_as_missing_ranks(tmp_path):
    text = "adapter,rank,accuracy\na,0,0.1\na,1,0.2\na,2,\na,4,0.4\n"
    (curve,) = read_curves(write(tmp_path, text))
    assert (curve.ranks, curve.accuracy, curve.baseline) == ((1, 4), (0.2, 0.4), 0.1)
    assert curve.missing == {2: "empty in the table"}


def test_a_metric_is_chosen_by_name_for_all_tasks_or_one(tmp_path):
    measured = ("t", "acc,none", 0.1), ("t", "f1,none", 0.2), ("u", "em,x", 0.3)
    rows = [f'a,{t},"{metric}",{rank},{y}\n' for t, metric, y in measured for rank in (1, 2)]
    path = write(tmp_path, "adapter,task,metric,rank,accuracy\n" + "".join(rows))
    assert [c.metric for c in read_curves(path)] == ["acc,none", "f1,none", "em,x"]
    assert [c.metric for c in read_curves(path, "f1")] == ["f1,none", "em,x"]
    assert [c.accuracy[0] for c in read_curves(path, {"t": "acc,none"})] == [0.1, 0.3]
    with pytest.raises(DataError, match=r"t has no one metric 'em'"):
        read_curves(path, "t=em")
    with pytest.raises(DataError, match=r"No task has a metric 'bleu'"):
        read_curves(path, "bleu")
    with pytest.raises(UsageError, match="no task 'v'"):
        read_curves(path, "v=f1")


def test_names_that_look_like_numbers_are_texts(tmp_path):
    """Examples 01 and 1 are two, as they are in JSON Lines; NA is a name."""
    rows = [
        (rank, doc, score) for rank in (1, 2) for doc, score in (("01", 0), ("1", 1), ("NA", 0))
    ]
    table = "rank,example,score\n" + "".join(f"{r},{doc},{score}\n" for r, doc, score in rows)
    lines = "".join(f'{{"rank":{r},"example":"{doc}","score":{score}}}\n' for r, doc, score in rows)
    for path in (write(tmp_path, table), write(tmp_path, lines, "t.jsonl")):
        (curve,) = read_curves(path)
        assert curve.doc_ids == ("01", "1", "NA")
        np.testing.assert_array_equal(curve.outcomes, [[0, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank,accuracy\n1,.2\n2\n", "line 3 has more or fewer cells than the first"),
        ("rank,accuracy\n1,.2\ninf,.3\n", "column rank: The number inf is no whole number"),
        ("rank,accuracy\n-1,.2\n", "Rank -1 is below 1"),
        (
            "rank,accuracy,seed\n1,.2,1\n2,.3,1.5\n",
            "column seed: The number 1.5 is no whole number",
        ),
        ("rank,accuracy,bytes\n1,.2,1e30\n", r"column bytes: The number 1e\+30 is no whole number"),
        ("adapter,score\na,1\n", "columns adapter, score"),
        (HEAD, "is empty"),
        (HEAD + "a,t,1,x,yes\n", "column score: Unable to parse string .yes. at position 0"),
        (HEAD + "a,t,1,x,\n", "1 rows without a score"),
        (HEAD + "a,t,1,x,50\n", "percent"),
        (HEAD + BODY + "a,t,2,y,1\n", "example 'y' appears twice at rank 2"),
        (HEAD + BODY + "a,t,2,z,1\n", "different examples .1 differ, 'z' among them"),
        ("rank,accuracy\n1,0.2\n1,0.3\n", "rank 1 appears twice"),
        ("rank,doc_id,sample,score\n1,x,0,1\n1,x,1,1\n1,y,0,1\n", "unequal numbers of samples"),
        ("rank,doc_id,cluster,score\n1,x,p,1\n2,x,q,1\n", "needs one cluster"),
        ("rank,doc_id,cluster,score\n1,x,p,1\n1,y,,1\n", "needs one cluster"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read_curves(write(tmp_path, text))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match="There is no"):
        read_curves(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="xlsx, line 1 is not JSON"):
        read_curves(write(tmp_path, "nonsense", "t.xlsx"))
    with pytest.raises(DataError, match="a field is for logs and runs"):
        read_curves(write(tmp_path, HEAD + BODY), cluster={"": "passage"})
