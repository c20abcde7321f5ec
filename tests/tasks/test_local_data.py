"""Local splits: every format, every way they can be broken."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest
from harness_doubles import choice_rows, text_rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from aurac.errors import DataError
from aurac.tasks.local_data import find_splits, match_split, read_split, with_local_examples


def rows_of(split):
    return [dict(row) for row in split]


def test_every_format_holds_the_same_documents(tmp_path):
    words = ["NA", "null", "None", "nan", "", "007"]  # none of them a missing number, or one
    rows = [row | {"word": word} for row, word in zip(choice_rows(6), words, strict=True)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    write_jsonl(tmp_path / "c.json", rows)  # JSON Lines under another name
    pd.DataFrame(rows).to_parquet(tmp_path / "d.parquet")
    flat = [{**row, "choices": json.dumps(row["choices"])} for row in rows]
    pd.DataFrame(flat).to_csv(tmp_path / "e.csv", index=False)
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for name in ("a.jsonl", "b.json", "c.json", "d.parquet", "e.csv", "f.jsonl.gz"):
        assert rows_of(read_split([tmp_path / name])) == rows, name


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"q": st.text(max_size=20), "n": st.integers(-9, 9)}), min_size=1
    )
)
def test_json_lines_round_trip(tmp_path_factory, rows):
    # U+2028 and other line separators inside a string must not split a line.
    path = tmp_path_factory.mktemp("rt") / "test.jsonl"
    lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert rows_of(read_split([path])) == rows


def test_shards_are_one_split_in_order(tmp_path):
    rows = text_rows(5)
    for number, part in enumerate((rows[:2], rows[2:])):
        packed = gzip.compress("".join(json.dumps(row) + "\n" for row in part).encode())
        (tmp_path / f"train-{number}-of-2.jsonl.gz").write_bytes(packed)
    pd.DataFrame(rows[:3]).to_parquet(tmp_path / "test-00000-of-00002.parquet")
    pd.DataFrame(rows[3:]).to_parquet(tmp_path / "test-00001-of-00002.parquet")
    files = find_splits(tmp_path)
    assert list(files) == ["test", "train"]
    assert rows_of(read_split(files["test"])) == rows_of(read_split(files["train"])) == rows


@pytest.mark.parametrize(
    ("wanted", "name"), [("validation", "dev"), ("dev", "validation"), ("auxiliary", "auxiliary")]
)
def test_split_names_and_their_aliases(tmp_path, wanted, name):
    path = write_jsonl(tmp_path / f"{name}.jsonl", text_rows(1))
    assert match_split(wanted, find_splits(tmp_path)) == [path]
    assert match_split("test", find_splits(tmp_path)) is None


def test_a_split_under_two_aliases_is_not_guessed(tmp_path):
    for name in ("dev", "val"):
        write_jsonl(tmp_path / f"{name}.jsonl", text_rows(1))
    with pytest.raises(DataError, match=r"val.jsonl and .*dev.jsonl could both be"):
        match_split("validation", find_splits(tmp_path))
    assert match_split("dev", find_splits(tmp_path)) == [tmp_path / "dev.jsonl"]


def test_folders_that_cannot_serve(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        find_splits(tmp_path / "nowhere")
    (tmp_path / "README.md").write_text("no data")
    with pytest.raises(DataError, match="holds no split"):
        find_splits(tmp_path)
    write_jsonl(tmp_path / "test.jsonl", text_rows(1))
    write_jsonl(tmp_path / "test.json", text_rows(1))
    with pytest.raises(DataError, match=r"more than once \(test.json, test.jsonl\)"):
        find_splits(tmp_path)


def test_broken_splits_are_named(tmp_path):
    for rows, message in (
        (['{"a": 1}\n{"a": "x"}\n'], "mixed types"),
        (['{"a": 1}\n', '{"b": 1}\n'], "other columns"),
        (["a,b\n"], "is empty"),
    ):
        kind = "jsonl" if rows[0].startswith("{") else "csv"
        paths = [tmp_path / f"test-{at}-of-{len(rows)}.{kind}" for at in range(len(rows))]
        for path, text in zip(paths, rows, strict=True):
            path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_split(paths)


CONFIG = {
    "task": "t",
    "training_split": "train",
    "validation_split": "validation",
    "test_split": "test",
    "dataset_path": "hub/name",
    "doc_to_text": "{{question}}",
}


def test_only_splits_that_are_there_are_read(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", text_rows(2))
    files = find_splits(tmp_path)
    laid = with_local_examples(CONFIG, files, fewshot=False)
    assert (laid["training_split"], laid["validation_split"]) == (None, None)
    assert (laid["test_split"], laid["doc_to_text"]) == ("test", "{{question}}")
    assert list(laid["custom_dataset"](version=1)) == ["test"]
    assert "custom_dataset" not in CONFIG  # the stock definition is left alone
    with pytest.raises(DataError, match=r"needs the split train, and .* holds test"):
        with_local_examples(CONFIG, files, fewshot=True)
    given = {**CONFIG, "fewshot_config": {"samples": [{"question": "?", "answer": "!"}]}}
    laid = with_local_examples(given, files, fewshot=True)
    assert laid["fewshot_config"] == given["fewshot_config"]
    with pytest.raises(DataError, match=r"needs the split validation, and .* holds test"):
        with_local_examples({**CONFIG, "test_split": None}, files, fewshot=False)
    with pytest.raises(DataError, match="Python class"):
        with_local_examples({**CONFIG, "class": object}, files, fewshot=False)
    own = {**CONFIG, "fewshot_split": "dev"}
    with pytest.raises(DataError, match="needs the split dev"):
        with_local_examples(own, files, fewshot=True)
    assert with_local_examples(own, files, fewshot=False)["fewshot_split"] is None
