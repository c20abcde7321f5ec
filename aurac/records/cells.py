"""Cells on disk: a file for each, named by the hash of its identity, that grows by blocks.

A line is appended in one write and carries its own hash; one that was cut off by a kill or a full
disk is passed over by readers, and its examples are computed again. Of an example that was computed
twice the first outcome counts. Of a run that is packed, cells are read in `cells.tar.xz`; the first
line that is added unpacks it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock

from aurac.curves.metrics import WHOLE
from aurac.errors import RunFolderError
from aurac.files import archive_of, packed, unpack
from aurac.records.lines import Aggregates, Failed, Head, Written, decode_line, encode_line

if TYPE_CHECKING:
    from aurac.records.lines import Block, CellIdentity, DocumentKey


@dataclass(eq=False)
class Cell:
    """The outcomes that a cell's file holds."""

    identity: CellIdentity | None = None  #: None where its first line was cut off
    blocks: list[Any] = field(default_factory=list)  #: in the order in which they were kept
    #: example → block and row of its outcome
    places: dict[DocumentKey, tuple[Any, int]] = field(default_factory=dict)
    #: hash of a set of examples → lm-eval's aggregates over these
    aggregates: dict[str, dict[str, float]] = field(default_factory=dict)
    #: example → what greedy decoding writes in the place of its reference
    written: dict[DocumentKey, str] = field(default_factory=dict)
    unwritten: str = ""  #: why these texts could not be generated, if they could not the last time
    failed: Failed | None = None  #: why it could not be completed, if nothing was kept since
    failures: int = 0  #: how often it could not be completed

    def add(self, line: Any) -> None:
        """Take in one line of the file."""
        if isinstance(line, Head):
            self.identity = line.identity
        elif isinstance(line, Aggregates):
            self.aggregates[line.examples] = line.values
        elif isinstance(line, Written):
            self.written = dict(zip(line.documents, line.texts, strict=True)) | self.written
            self.unwritten = line.failed
        elif isinstance(line, Failed):
            self.failed, self.failures = line, self.failures + 1
        else:
            self.failed = None
            for row, key in enumerate(line.documents):
                self.places.setdefault(key, (line, row))
            self.blocks.append(line)

    def missing(self, documents: Sequence[DocumentKey]) -> list[int]:
        """The places of those of n examples that are not there."""
        return [at for at, key in enumerate(documents) if key not in self.places]

    def _rows(
        self, column: Callable[[Any], list[Any] | None], documents: Sequence[DocumentKey]
    ) -> list[Any] | None:
        """What a column of blocks holds of examples that are all there; None where one lacks it."""
        where = [(column(block), row) for block, row in map(self.places.__getitem__, documents)]
        if any(rows is None for rows, _ in where):
            return None
        return [(rows or [])[row] for rows, row in where]

    def values(self, metric: str, documents: Sequence[DocumentKey]) -> list[Any] | None:
        """The n values of examples that are all there; None where it does not hold the metric."""
        return self._rows(lambda block: block.metrics.get(metric), documents)

    def metrics(self) -> list[str]:
        """The metrics that every block has."""
        first = self.blocks[0].metrics if self.blocks else {}
        return [key for key in first if all(key in block.metrics for block in self.blocks)]

    def unfinished(self, documents: Sequence[DocumentKey]) -> int | None:
        """How many of n answers were cut off at the token limit; None where it is not known."""
        cut_off = self._rows(lambda block: block.unfinished, documents)
        return sum(map(bool, cut_off)) if cut_off else None

    def responses(self, documents: Sequence[DocumentKey]) -> list[Any]:
        """The n answers; of a cell that was read whole."""
        return self._rows(lambda block: block.responses, documents) or []

    def texts(self, documents: Sequence[DocumentKey], references: Sequence[Any]) -> list[Any]:
        """The n answers as texts, of a user's own examples what greedy decoding writes.

        That is the reference, or another text; None where that was not generated.
        """
        whole = self.values(f"{WHOLE},none", documents)
        if whole is None:
            return self.responses(documents)
        rows = zip(documents, references, whole, strict=True)
        return [right if score == 1 else self.written.get(key) for key, right, score in rows]

    def greedy(self, documents: Sequence[DocumentKey]) -> list[list[bool]] | None:
        """Of n examples whether each choice is what greedy decoding gives; None of texts."""
        return self._rows(lambda block: block.greedy, documents)

    def filtered(self, name: str, documents: Sequence[DocumentKey]) -> list[Any]:
        """The n answers of a filter; None where their block has none, as it changes none there."""
        where = map(self.places.__getitem__, documents)
        return [(rows := block.filtered.get(name)) and rows[row] for block, row in where]


class CellStore:
    """The `cells/` of a run folder; of each cell the scores are kept once they were read."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder, self.folder = run_folder, run_folder / "cells"
        self._known: dict[str, tuple[int, Cell]] = {}

    def path(self, key: str) -> Path:
        """Where the cell of this key lies."""
        return self.folder / f"{key}.jsonl"

    def scores(self, key: str) -> Cell:
        """The cell without its answers; empty where nothing is kept."""
        path = self.path(key)
        size = path.stat().st_size if path.exists() else -1
        known = self._known.get(key)
        if known is None or known[0] != size:
            known = self._known[key] = size, self.read(key, whole=False)
        return known[1]

    def read(self, key: str, *, whole: bool = True) -> Cell:
        """The cell, without `whole` its scores alone; empty where nothing is kept."""
        cell = Cell()
        with _opened(self.path(key)) as lines:
            for line in filter(bytes.strip, lines):
                with suppress(ValueError):  # its examples are computed again
                    cell.add(decode_line(line, whole=whole))
        return cell

    def keep(self, identity: CellIdentity, line: Block | Aggregates | Written | Failed) -> None:
        """Add a line to a cell.

        Raises:
            RunFolderError: The folder cannot be written.
        """
        path, data = self.path(identity.key), encode_line(line)
        with writing(self.run_folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if archive_of(self.folder).exists():
                (locks := self.run_folder / "locks").mkdir(exist_ok=True)
                with FileLock(locks / "cells.lock"):
                    unpack(self.folder)
            with path.open("a+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end == 0:
                    data = encode_line(Head(identity=identity)) + data
                else:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":  # the last line was cut off
                        data = b"\n" + data
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())


def _opened(path: Path) -> IO[bytes]:
    """A cell's lines, wherever they lie; none where nothing is kept.

    Where neither the file nor the archive has them, another process may have unpacked the archive
    between the two looks. It removes the archive last, so that a second look finds the file.
    """
    for _ in range(2):
        with suppress(FileNotFoundError):
            return path.open("rb")
        if content := packed(path.parent).get(path.name):
            return io.BytesIO(content)
    return io.BytesIO()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise a RunFolderError where the run folder takes no more: what is in it is whole."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"the run folder {folder} cannot be written ({error.strerror or error}); what is in it "
            "is whole"
        ) from error
