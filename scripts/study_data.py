"""Lays the data of `reports/small_ranks/study.yaml` beside it, and checks that they are the same.

    python -m scripts.study_data FOLDER

FOLDER has MAWPS and ARC-Easy as LLM-Adapters (github.com/AGI-Edgerunners/LLM-Adapters) gives them,
in the columns of the hub: `mawps/{train,validation,test}.jsonl` with question, equation and answer,
`arc_easy/{train,test}.jsonl` with question, choices and answerKey. The last 251 training examples
of ARC-Easy become its validation split, on which nothing is trained.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

OUT = Path(__file__).parents[1] / "reports/small_ranks/data"
HELD_OUT = 251
DIGESTS = {
    "mawps/train.jsonl": "75da6629a75c6ce746d7881f5912070e85ff6f017c90951c876f72ed309cff41",
    "mawps/validation.jsonl": "94f8dbaa18c69db303c4715c3364f468b4e49b22bc8797e2a8bc94cf98da39f5",
    "mawps/test.jsonl": "9ff60b04d0535a9dda3ffa3cf581e2d213f78c11bc259310e7f23db81377f0d2",
    "arc_easy/test.jsonl": "b4f5fec53dfa2bd49d444e83534453c2fa643eeae6da9c7b4ddb4e8794fc2a74",
    "arc_easy/train.jsonl": "b918edf5ecf804cb41724a112cfa3cce7c733eb2a012100b0df9371dcf3c6a39",
    "arc_easy/validation.jsonl": "26b98ed1ad784ea996595fe51b9c1e09ff803da75163c63eb4157fb9b32e0697",
}


def splits(folder: Path) -> dict[str, bytes]:
    """The content of each file of the study."""
    names = [f"mawps/{split}.jsonl" for split in ("train", "validation", "test")]
    found = {name: (folder / name).read_bytes() for name in [*names, "arc_easy/test.jsonl"]}
    rows = (folder / "arc_easy/train.jsonl").read_bytes().splitlines(keepends=True)
    found["arc_easy/train.jsonl"] = b"".join(rows[:-HELD_OUT])
    found["arc_easy/validation.jsonl"] = b"".join(rows[-HELD_OUT:])
    return found


def main() -> None:
    """Write the files, or say which one differs from the study's."""
    found = splits(Path(sys.argv[1]))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    if different := [name for name, digest in digests.items() if digest != DIGESTS[name]]:
        sys.exit(f"other data than the study's: {', '.join(different)}")
    for name, content in found.items():
        path = OUT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
