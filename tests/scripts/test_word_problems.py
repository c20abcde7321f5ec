"""The generator makes the bundled files again, and their splits share no set of numbers."""

from __future__ import annotations

import gzip
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

from aurac.tasks import BUNDLED, documents, load_split
from aurac.tasks.bundled import DIGESTS
from scripts.word_problems.__main__ import pack

REPOSITORY = Path(__file__).parents[2]
# Wordings that imply the number 2 without writing it.
TWO = re.compile(
    r"\b(twice|doubled|half|way back|there and back|round trips?|each way|back again|ride back"
    r"|perimeter|goes? around|go around it|around (it|a)|frames)\b",
    re.IGNORECASE,
)


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
            # RFC 1952: magic, deflate, no name, no comment, time 0, best compression, no system.
            assert written[:10] == path.read_bytes()[:10] == bytes.fromhex("1f8b080000000000 02ff")
            assert DIGESTS[task][split] in done.stdout
    assert len(list(tmp_path.rglob("*.*"))) == sum(map(len, DIGESTS.values()))


def numbers(question):
    """The problem's numbers as a reader finds them: the digits, and 2 where the words imply it."""
    digits = {int(n) for n in re.findall(r"\d+", question)}
    return tuple(sorted([*digits, *([2] if TWO.search(question) else [])]))


def test_no_set_of_numbers_occurs_in_two_splits_of_either_task():
    # Across the tasks too: training on the one may not show the numbers of the other's test.
    seen = {
        split: {numbers(d["question"]) for task in BUNDLED for d in load_split(task, split)}
        for split in ("train", "validation", "test")
    }
    for one, other in itertools.combinations(seen.values(), 2):
        assert not one & other
