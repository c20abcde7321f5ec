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
from scripts.word_problems.__main__ import pack

REPOSITORY = Path(__file__).parents[2]
DIGESTS = {  # SHA-256 of each split's lines: a published number refers to these examples
    "aurac_word_problems": {
        "train": "4bb9b513d211006a27e509893305d149d08a8d5fac6cd96039b40a3ae72bf768",
        "validation": "94613542414019fa5dadef15016b390016f441d5b461a6e98f696c4cd22c148a",
        "test": "67ac09ab0f6222273b746aefd0a605c43be997c7ec98c89efcccd87836bee7de",
    },
    "aurac_word_problems_mc": {
        "train": "e99874d3b3c116fbd21aa10d4eb23c4374ef5e5ed2e5456015e0b3f88bb6c1e7",
        "validation": "add14afd4013f6269bd225d934dddaaf79d4f3a85ceb7da58d235f160f6b78c6",
        "test": "864280c617999c87c2cac7a776e8664751ac90af7f4fc81798ebd82bc5428e3a",
    },
}
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
