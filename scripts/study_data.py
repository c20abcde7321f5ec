"""Lays the data of `reports/small_ranks/study.yaml` beside it, and checks that they are the same.

    python -m scripts.study_data FOLDER

FOLDER has MAWPS as LLM-Adapters (github.com/AGI-Edgerunners/LLM-Adapters) gives it, in the columns
of the hub: `mawps/{train,validation,test}.jsonl` with question, equation and answer.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

OUT = Path(__file__).parents[1] / "reports/small_ranks/data"
DIGESTS = {
    "mawps/train.jsonl": "75da6629a75c6ce746d7881f5912070e85ff6f017c90951c876f72ed309cff41",
    "mawps/validation.jsonl": "94f8dbaa18c69db303c4715c3364f468b4e49b22bc8797e2a8bc94cf98da39f5",
    "mawps/test.jsonl": "9ff60b04d0535a9dda3ffa3cf581e2d213f78c11bc259310e7f23db81377f0d2",
}


def main() -> None:
    """Write the files, or say which one differs from the study's."""
    found = {name: (Path(sys.argv[1]) / name).read_bytes() for name in DIGESTS}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    if different := [name for name, digest in digests.items() if digest != DIGESTS[name]]:
        sys.exit(f"other data than the study's: {', '.join(different)}")
    for name, content in found.items():
        path = OUT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
