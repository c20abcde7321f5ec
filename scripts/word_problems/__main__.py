"""Write the documents of both bundled tasks as gzipped JSON Lines, one file a split.

    python -m scripts.word_problems            # into aurac/tasks/bundled
    python -m scripts.word_problems FOLDER

It takes a few seconds and prints the number of documents and the SHA-256 of each split's lines,
which `tests/scripts/test_word_problems.py` pins. Other documents are a new version of the task.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.tasks import include_path
from scripts.word_problems import documents, multiple_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.word_problems.documents import Splits

GENERATORS: dict[str, Callable[[], Splits]] = {
    "aurac_word_problems": documents.generate,
    "aurac_word_problems_mc": multiple_choice.generate,
}


def encode(rows: list[dict[str, Any]]) -> bytes:
    """The lines of a split: a JSON object each, ASCII, keys as generated."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")


def pack(lines: bytes) -> bytes:
    """Gzip without a file name and with time 0: the same zlib always gives the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(lines)
    return buffer.getvalue()


def write(folder: Path) -> dict[Path, str]:
    """Generate and write all files, `TASK/SPLIT.jsonl.gz`.

    Returns:
        For each file the SHA-256 of its uncompressed lines, in hexadecimal.
    """
    digests = {}
    for task, generate in GENERATORS.items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        for split, rows in generate().items():
            lines = encode(rows)
            path = folder / task / f"{split}.jsonl.gz"
            path.write_bytes(pack(lines))
            digests[path] = hashlib.sha256(lines).hexdigest()
    return digests


def main() -> None:
    """Parse the command line, write, and print a line for each file."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.word_problems", description="Write the bundled word problems."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=include_path())
    for path, digest in write(parser.parse_args().folder).items():
        print(f"{path}  {path.stat().st_size} bytes  SHA-256 of the lines {digest}")


if __name__ == "__main__":
    main()
