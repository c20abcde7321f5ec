"""Files of rows: every way they can be broken, and which columns of a table are read."""

from __future__ import annotations

import gzip

import pytest

from aurac.errors import DataError
from aurac.readers.data_files import read_rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", '{"a": 1}\n\n{"a": \n', r"test\.jsonl, line 3 is not JSON"),
        ("test.jsonl", '{"a": "x\n', r"JSON \(Unterminated string starting at character 7\)"),
        ("test.jsonl", '{"a": 1}\n[1]\n', r"line 2 is a JSON list"),
        ("test.jsonl", '{"a": 1, "b": 2}\n{"a": 1}\n', r"line 2 has no 'b'"),
        ("test.jsonl", "\n \n", "is empty"),
        ("test.jsonl", b'{"a": "\xff"}\n', "cannot be read"),
        ("test.jsonl.gz", '{"a": 1}\n', r"test\.jsonl\.gz cannot be read"),
        (
            "test.jsonl.gz",
            gzip.compress(b'{"a": 1}\n', mtime=0)[:-9],
            r"test\.jsonl\.gz cannot be read",
        ),
        ("test.json", '[{"a": 1},\n {"a" 2}]', r"test\.json, line 2 is not JSON"),
        ("test.json", '{"a":\n{"b": 1}}', "line 1 is not JSON .*a list of objects"),
        ("test.json", "[]", "is empty"),
        ("test.json", '[{"a": 1}, 3]', "entry 2 is a JSON int"),
        ("test.parquet", "not parquet", "cannot be read as parquet"),
        ("test.csv", "", "is empty"),
        ("test.csv", 'a,b\n1,"2\n', "cannot be read as csv"),
        ("test.csv", "a,b\n1,2\n3\n", "line 3 has more or fewer cells"),
        ("test.csv", "a,b\n1,2,3\n", "line 2 has more or fewer cells"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_rows(path, typed=True)


def test_cells_are_texts_or_of_the_type_of_their_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("n,word,code,list\n1,007a,007,[1]\n2,x,1,[2]\n")
    typed, texts = (
        [list(row.values()) for row in read_rows(path, typed=typed)] for typed in (True, False)
    )
    assert typed == [[1, "007a", "007", [1]], [2, "x", "1", [2]]]
    assert texts == [["1", "007a", "007", "[1]"], ["2", "x", "1", "[2]"]]


def test_rows_of_other_columns_are_refused_of_one_table_only(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1, "b": 2}\n\n{"a": 1}\n')
    assert read_rows(path) == [{"a": 1, "b": 2}, {"a": 1}]
    with pytest.raises(DataError, match="line 3 has no 'b'"):
        read_rows(path, typed=True)
