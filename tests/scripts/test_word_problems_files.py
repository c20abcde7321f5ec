"""The generator makes the bundled files again."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

from aurac.tasks import BUNDLED, documents
from aurac.tasks.bundled import DIGESTS
from scripts.word_problems.__main__ import encode, pack

REPOSITORY = Path(__file__).parents[2]


def test_the_command_makes_the_bundled_documents(tmp_path):
    # A fixed hash seed other than the usual random one: no order of a set may matter.
    done = subprocess.run(
        [sys.executable, "-m", "scripts.word_problems", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    for task in BUNDLED:
        for split, path in documents(task).items():
            written = (tmp_path / task / path.name).read_bytes()
            lines = gzip.decompress(path.read_bytes())
            assert gzip.decompress(written) == lines
            # Not compared with the bundled file: another zlib may compress in another way.
            assert written == pack(lines)
            assert DIGESTS[task][split] in done.stdout
    assert len(list(tmp_path.rglob("*.*"))) == sum(map(len, DIGESTS.values()))


def test_a_packed_file_holds_no_name_and_no_time():
    # RFC 1952: magic, deflate, no flags (no name, no comment), time 0, best compression, no system.
    header = bytes.fromhex("1f8b 08 00 00000000 02 ff")
    assert pack(b'{"a": 1}\n')[:10] == header
    for task in BUNDLED:
        for path in documents(task).values():
            assert path.read_bytes()[:10] == header


def test_a_line_is_a_json_object():
    rows = [{"id": "test-00000", "question": "Café?"}, {"id": "test-00001", "question": "1\n2"}]
    lines = encode(rows)
    assert [json.loads(line) for line in lines.splitlines()] == rows
    assert lines.isascii()
