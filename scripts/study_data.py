"""Lays the data of `reports/small_ranks/study.yaml` beside it.

    python -m scripts.study_data FOLDER

FOLDER has MAWPS as LLM-Adapters (github.com/AGI-Edgerunners/LLM-Adapters) gives it, in the columns
of the hub: `mawps/{train,validation,test}.jsonl` with question, equation and answer; that they are
the study's files is checked. Questions that are in the training split, too, are left out of the
others; of the test split those of the validation split and repeated ones as well. Of the bundled
word problems the test split begins after the examples that earlier studies were evaluated on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from aurac.tasks.bundled import load_split

OUT = Path(__file__).parents[1] / "reports/small_ranks/data"
DIGESTS = {
    "train": "75da6629a75c6ce746d7881f5912070e85ff6f017c90951c876f72ed309cff41",
    "validation": "94f8dbaa18c69db303c4715c3364f468b4e49b22bc8797e2a8bc94cf98da39f5",
    "test": "9ff60b04d0535a9dda3ffa3cf581e2d213f78c11bc259310e7f23db81377f0d2",
}
SEEN = 400  # test examples of earlier studies


def main() -> None:
    """Write the files, or say which one differs from the study's."""
    contents = {
        split: (Path(sys.argv[1]) / f"mawps/{split}.jsonl").read_bytes() for split in DIGESTS
    }
    digests = {split: hashlib.sha256(content).hexdigest() for split, content in contents.items()}
    if different := [split for split, digest in digests.items() if digest != DIGESTS[split]]:
        sys.exit(f"other data than the study's: {', '.join(different)}")
    rows = {split: list(map(json.loads, text.splitlines())) for split, text in contents.items()}
    trained, validated = ({*map(_words, rows[split])} for split in ("train", "validation"))
    first = {_words(row): row for row in reversed(rows["test"])}
    rows["validation"] = [row for row in rows["validation"] if _words(row) not in trained]
    rows["test"] = [
        row
        for row in rows["test"]
        if row is first[_words(row)] and _words(row) not in trained | validated
    ]
    for split, every in rows.items():
        _write("mawps", split, every)
    for split in rows:
        start = SEEN if split == "test" else 0
        _write("word_problems", split, load_split("aurac_word_problems", split)[start:])


def _words(row: dict[str, Any]) -> str:
    return " ".join(row["question"].lower().split())


def _write(task: str, split: str, rows: list[dict[str, Any]]) -> None:
    path = OUT / task / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
