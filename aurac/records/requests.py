"""A task's prompts and documents in a run folder: gzipped lines of JSON.

The first line describes the task and the base; each other one is a document with its requests.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from aurac.errors import RunFolderError, first_line
from aurac.files import write_atomic
from aurac.records.results_file import Record


class ModelFacts(Record, frozen=True, kw_only=True):
    """What lm-eval's results say about a model and its tokenizer; a token is text and number."""

    parameters: int
    max_length: int | None
    eot_token_id: int | None
    pad_token: list[str | None]
    eos_token: list[str | None]
    bos_token: list[str | None]


class RequestsHeader(Record, frozen=True, kw_only=True):
    """What all cells of a task share; config, version and higher_is_better as lm-eval has them."""

    task: str
    config: dict[str, Any]
    version: Any
    higher_is_better: dict[str, Any]
    original: int  # documents of the split
    chat_template: Any
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    scoring: str = ""
    model: ModelFacts


class RequestRow(Record, frozen=True, kw_only=True):
    """A document, the arguments of each of its requests, and the hashes of lm-eval's samples."""

    doc_id: int
    doc: Any
    target: str
    arguments: list[list[Any]]
    doc_hash: str
    prompt_hash: str
    target_hash: str


class StoredRequests(NamedTuple):
    """The content of the file."""

    header: RequestsHeader
    rows: Sequence[RequestRow]

    def write(self, path: Path) -> None:
        """Write it; lone surrogates are kept."""
        lines = (json.dumps(row.to_dict(), ensure_ascii=False) for row in (self.header, *self.rows))
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        write_atomic(path, gzip.compress(text, 6, mtime=0))

    @classmethod
    def header_in(cls, path: Path) -> RequestsHeader | None:
        """What a file says of the task whose prompts it has; None where it cannot be read."""
        try:
            with gzip.open(path, "rb") as lines:
                return msgspec.json.decode(next(lines, b""), type=RequestsHeader)
        except (OSError, EOFError, ValueError):
            return None

    @classmethod
    def read(cls, path: Path) -> StoredRequests:
        """Read it; a RunFolderError where it is missing or damaged."""
        try:
            with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
                header, *rows = (json.loads(line) for line in lines)
            return msgspec.convert((header, rows), cls)
        except (OSError, EOFError, ValueError) as error:
            raise RunFolderError(
                f"{path} cannot be read ({first_line(error)})",
                fix="delete it and run the same `aurac compare` again, which makes it anew",
            ) from error
