"""Cells on disk: a file for each, named by the hash of its identity, that grows by blocks.

A line is appended whole and carries its own hash; one that was cut off by a kill or a full disk is
passed over by readers, and its documents are computed again. Two processes that compute the same
documents do no harm: the first outcome of a document counts. A cell that could not be computed has
a record of the reason beside them.

A run that is finished may be packed: cells that have no file are looked for in `cells.tar.xz`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from aurac.errors import RunFolderError
from aurac.files import (
    open_stored,
    packed,
    sha256_json,
    sweep_scraps,
    write_atomic,
    write_json,
)
from aurac.records.cell import (
    CELL_SCHEMA,
    Aggregates,
    Block,
    CellHead,
    CellIdentity,
    DocumentKey,
    EngineCounts,
    Failure,
    Line,
    Logged,
    Recount,
    decode_scored,
    encode_line,
    metric_column,
    read_record,
    same_scoring,
)

logger = logging.getLogger(__name__)

_BINARY = getattr(os, "O_BINARY", 0)  # Windows
_SUFFIX = ".jsonl"
_RECORD = ".json"
_TAIL_BYTES = 128
_END = re.compile(rb'(?:"scoring":"([-0-9a-f]+)",)?"documents":(\d+)\}\n\Z')


class CellEnd(NamedTuple):
    """What the end of a cell's file says: how it was scored, and how many documents it has."""

    scoring: str  # "" where that is not known
    documents: int


@dataclass(eq=False)
class Cell:
    """The outcome of some documents of a cell, as far as its file holds them.

    Attributes:
        documents: n keys, in the order that was asked for.
        metrics: ``metric,filter`` to n numbers, of the metrics that every block has.
        responses: n answers.
        logged: What else lm-eval's logs would hold.
        samples: ``metric,filter`` to n lists of the outcomes of samples; empty without.
        scoring: How the documents were scored; "" where that is not known.
        aggregates: Values over exactly these documents of metrics that are no means.
        engine: Summed over the blocks that hold them; near ties are not known where a block holds
            other documents too.
        seconds: Likewise.
        missing: The documents that were asked for and are not there.
        damaged: How many lines could not be used.
    """

    identity: CellIdentity
    documents: list[DocumentKey]
    metrics: dict[str, list[float]]
    responses: list[Any]
    logged: Logged
    aggregates: dict[str, float]
    engine: EngineCounts
    seconds: float
    notes: list[str]
    missing: list[DocumentKey]
    damaged: int
    scoring: str
    samples: dict[str, list[list[float]]]

    def scores(self, metric: str) -> list[float] | None:
        """The n scores under a metric or pass@k of one; None where it has none."""
        return metric_column(self.metrics, self.samples, metric)

    @property
    def doc_ids(self) -> list[str]:
        """N identities of the documents."""
        return [document.id for document in self.documents]


class CellStore:
    """The `cells/` and `failed/` folders of a run."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.folder = run_folder / "cells"
        self.failed = run_folder / "failed"

    def path(self, key: str) -> Path:
        """Where the cell of this key lies."""
        return self.folder / f"{key}{_SUFFIX}"

    def keys(self) -> set[str]:
        """Keys of all cells that have a file."""
        inside = (name for name in self._packed if name.endswith(_SUFFIX) and "/" not in name)
        return _keys_in(self.folder, _SUFFIX) | {name.removesuffix(_SUFFIX) for name in inside}

    @cached_property
    def _packed(self) -> Mapping[str, memoryview]:
        return packed(self.folder)

    def count(self, key: str, scoring: str = "") -> int:
        """How many of the documents that were asked for are there, by the end of the file.

        0 where there is no file, its last line was cut off, or it was scored otherwise.
        """
        end = self.end(key)
        return end.documents if same_scoring(end.scoring, scoring) else 0

    def end(self, key: str) -> CellEnd:
        """The end of a cell's file; without documents where there is no file or it was cut off."""
        path = self.path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | _BINARY)
        except OSError:
            return _end(self._packed.get(path.name, b"")[-_TAIL_BYTES:])
        try:
            return _end(_tail(descriptor, _TAIL_BYTES))
        except OSError:
            return CellEnd("", 0)
        finally:
            os.close(descriptor)

    def read(
        self, key: str, documents: Sequence[DocumentKey] | None = None, scoring: str = ""
    ) -> Cell | None:
        """See `read_cell`."""
        return read_cell(self.path(key), documents, scoring)

    def append(
        self, identity: CellIdentity, content: Block | Aggregates, documents: int, scoring: str = ""
    ) -> None:
        """Add a line to a cell, with which so many of the documents asked for are there."""
        self._append(identity, encode_line(content, documents, scoring))
        self.clear_failure(identity.key)

    def recount(self, identity: CellIdentity, documents: int, scoring: str = "") -> None:
        """Correct the number at the end of a cell's file."""
        self._append(identity, encode_line(Recount(), documents, scoring))

    def _append(self, identity: CellIdentity, line: bytes) -> None:
        head = CellHead(schema=CELL_SCHEMA, key=identity.key, identity=identity)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.path(identity.key)
            if path.name in self._packed:
                with contextlib.suppress(FileExistsError):
                    write_atomic(path, bytes(self._packed[path.name]), exclusive=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | _BINARY
            descriptor = os.open(path, flags, 0o666)
            try:
                last = _tail(descriptor, 1)
                if not last or not _has_head(path):
                    line = encode_line(head, 0) + line
                if last not in (b"", b"\n"):  # the last line was cut off
                    line = b"\n" + line
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(self.run_folder, error) from error

    def fail(self, failure: Failure) -> None:
        """Record that a cell could not be computed."""
        try:
            write_json(self._record(failure.key), msgspec.to_builtins(failure))
        except OSError as error:
            raise cannot_write(self.run_folder, error) from error

    def failure(self, key: str) -> Failure | None:
        """The record of a failed cell; None without one, or where it is damaged."""
        if not self.has_failed(key):
            return None
        try:
            return read_record(self._record(key), Failure)
        except RunFolderError as error:
            logger.warning("%s", error.text)
            return None

    def failed_keys(self) -> set[str]:
        """Keys of the cells with a record of failure."""
        return _keys_in(self.failed, _RECORD)

    def has_failed(self, key: str) -> bool:
        """Whether a cell has a record of failure."""
        return self._record(key).is_file()

    def clear_failure(self, key: str) -> None:
        """Forget a failure, so that the cell is tried again."""
        with contextlib.suppress(OSError):
            self._record(key).unlink(missing_ok=True)

    def _record(self, key: str) -> Path:
        return self.failed / f"{key}{_RECORD}"

    def tidy(self) -> None:
        """Remove what killed processes of this machine left half-written."""
        sweep_scraps(self.run_folder)
        for folder in self.run_folder.iterdir():
            if folder.is_dir():
                sweep_scraps(folder)


def cannot_write(folder: Path, error: OSError) -> RunFolderError:
    """The error for a run folder that takes no more: what is in it is whole."""
    return RunFolderError(
        f"the run folder {folder} cannot be written ({error.strerror or error})",
        expected="a writable folder with space left",
        fix="what is in it is whole: put that right and give the same command again",
    )


def read_cell(
    path: str | Path, documents: Sequence[DocumentKey] | None = None, scoring: str = ""
) -> Cell | None:
    """The outcomes of these documents in a cell's file, in this order; None: of all, each once.

    With `scoring` those that were scored otherwise are missing. There is no cell (None) where there
    is no file, or none that says whose it is.

    Raises:
        RunFolderError: The file is of a newer schema.
    """
    path = Path(path)
    key = path.name.removesuffix(_SUFFIX)
    head: CellHead | None = None
    belongs = False  # whether lines are this cell's: not before its first line or after another's
    blocks: list[Block] = []
    aggregates: list[Aggregates] = []
    damaged, scored = 0, ""
    for content, by in _contents(path):
        if belongs and not same_scoring(by, scored):
            blocks, aggregates = [], []
        scored = by or scored
        if isinstance(content, CellHead):
            belongs = content.key == key
            head = content if belongs else head
        elif content is None or not belongs:
            damaged += 1
        elif isinstance(content, Block):
            blocks.append(content)
        elif isinstance(content, Aggregates):
            aggregates.append(content)
    if head is None:
        return None
    if not same_scoring(scored, scoring):
        blocks, aggregates = [], []
    return _assembled(head.identity, blocks, aggregates, documents, damaged, scored)


def _contents(path: Path) -> Iterator[tuple[Line | None, str]]:
    """What each line of a file says, None for one that cannot be used, and its scoring."""
    with contextlib.suppress(FileNotFoundError), open_stored(path) as lines:
        for line in filter(bytes.strip, lines):
            try:
                yield decode_scored(line, path)
            except ValueError:
                yield None, ""


def _end(tail: bytes | memoryview) -> CellEnd:
    """What a cell's last line ends with; no documents without one."""
    found = _END.search(tail)
    return CellEnd((found[1] or b"").decode(), int(found[2])) if found else CellEnd("", 0)


def _tail(descriptor: int, size: int) -> bytes:
    """The last bytes of an open file, at most `size`."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, max(0, end - size), os.SEEK_SET)
    return os.read(descriptor, size)


def _has_head(path: Path) -> bool:
    """Whether a file has a whole first line of its cell."""
    key = path.name.removesuffix(_SUFFIX)
    return any(isinstance(line, CellHead) and line.key == key for line, _ in _contents(path))


def documents_hash(documents: Sequence[DocumentKey]) -> str:
    """One hash of documents, their prompts and their order."""
    return sha256_json([[d.id, d.content, d.prompt] for d in documents])


def _assembled(
    identity: CellIdentity,
    blocks: Sequence[Block],
    aggregates: Sequence[Aggregates],
    documents: Sequence[DocumentKey] | None,
    damaged: int,
    scoring: str,
) -> Cell:
    place: dict[DocumentKey, tuple[int, int]] = {}
    for number, block in enumerate(blocks):
        for row, document in enumerate(block.documents):
            place.setdefault(document, (number, row))
    wanted = list(place) if documents is None else list(documents)
    there = [document for document in wanted if document in place]
    rows = [place[document] for document in there]
    used = [blocks[number] for number in sorted({number for number, _ in rows})]
    engine = sum((block.engine for block in used), EngineCounts())
    if len(rows) < sum(len(block.documents) for block in used):
        engine = msgspec.structs.replace(engine, near_ties=None)  # of which of them is not known
    keys = [k for k in (used[0].metrics if used else ()) if all(k in b.metrics for b in used)]
    sampled = [{} if b.samples is UNSET else b.samples for b in blocks]
    digest = documents_hash(there) if aggregates else ""
    values = next((a.values for a in aggregates if a.documents_sha256 == digest), {})
    return Cell(
        identity=identity,
        documents=there,
        metrics={key: [blocks[n].metrics[key][row] for n, row in rows] for key in keys},
        responses=[blocks[n].responses[row] for n, row in rows],
        logged=_logged(blocks, used, rows),
        aggregates=values,
        engine=engine,
        seconds=sum(block.seconds for block in used),
        notes=list(dict.fromkeys(note for block in used for note in block.notes)),
        missing=[document for document in wanted if document not in place],
        damaged=damaged,
        scoring=scoring,
        samples={
            key: [sampled[n][key][row] for n, row in rows]
            for key in keys
            if rows and all(key in sampled[n] for n, _ in rows)
        },
    )


def _logged(
    blocks: Sequence[Block], used: Sequence[Block], rows: Sequence[tuple[int, int]]
) -> Logged:
    """The blocks' logs in one. A filter that left all answers as they are has no entries."""
    greedy = None
    if used and all(block.logged.greedy is not None for block in used):
        greedy = [(blocks[n].logged.greedy or [])[row] for n, row in rows]
    filtered: dict[str, list[Any] | None] = {}
    for chain in used[0].logged.filtered if used else ():
        columns = [block.logged.filtered.get(chain) for block in blocks]
        kept = any(block.logged.filtered.get(chain) is not None for block in used)
        entries = [None if (c := columns[n]) is None else c[row] for n, row in rows]
        filtered[chain] = entries if kept else None
    other = {
        key: [blocks[n].logged.other[key][row] for n, row in rows]
        for key in (used[0].logged.other if used else ())
        if all(key in block.logged.other for block in used)
    }
    return Logged(greedy=greedy, filtered=filtered, other=other)


def _keys_in(folder: Path, suffix: str) -> set[str]:
    names = list[str]()
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return {x.removesuffix(suffix) for x in names if x.endswith(suffix) and x[0] != "."}
