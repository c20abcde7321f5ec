"""Leases: one process at a time works on a cell, on one machine or on many that share a folder.

A lease is a file made with `O_EXCL`, named `<key>.<generation>`; the holder is the owner of the
highest generation. Each process keeps one file of its own and changes it every few seconds. Another
process takes a lease over when it has *watched* that file stay the same for the lease's whole time
by its own monotonic clock (no two clocks are compared, so none may jump), or at once when it can
see on this machine that the owner has ended. Taking over makes the next generation, which only one
process can make; an owner that wakes up too late finds the higher generation and drops its work.
An owner that makes no step for an hour stops showing life, and is followed like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.machine import alive, process_mark, same_machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

LEASE_SECONDS = 60.0
STALL_SECONDS = 3600.0  # without a step; loading a base and a pass of a large model are steps
_BEATS = 6  # changes of the owner's file in the time after which it would be given up
_GONE_SECONDS = 2.0  # an owner's file that is missing for so long: a shared folder may lag
_OWNERS = "owners"
_BEAT_WIDTH = 20


@dataclass(frozen=True)
class Lease:
    """A lease as it stands in the folder."""

    key: str
    generation: int
    owner: str

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.key}.{self.generation}"


class Leases:
    """The leases of one process in a run folder; use as a context.

    Args:
        run_folder: The run folder; leases lie in its `leases/`.
        seconds: How long an owner may be silent.
        clock: A monotonic clock, in seconds.
        stall_seconds: How long it may go on without a step (`step`) before it falls silent.
    """

    def __init__(
        self,
        run_folder: Path,
        seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.folder = run_folder / "leases"
        self.seconds, self.stall_seconds = seconds, stall_seconds
        self.owner = secrets.token_hex(8)
        self._clock = clock
        self._held: dict[str, Lease] = {}
        self._seen: dict[str, tuple[bytes | None, float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._beats = 0
        self._stepped = clock()

    def __enter__(self) -> Self:
        (self.folder / _OWNERS).mkdir(parents=True, exist_ok=True)
        self._own.write_bytes(self._content())
        self._thread = threading.Thread(target=self._keep_beating, name="aurac-leases", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._held):
            self.release(key)
        with contextlib.suppress(OSError):
            self._own.unlink()
        self._bury()

    @property
    def _own(self) -> Path:
        return self.folder / _OWNERS / self.owner

    def _content(self) -> bytes:
        return f"{process_mark()} {self._beats:0{_BEAT_WIDTH}d}\n".encode()

    def step(self) -> None:
        """The work goes on: called before each pass of the model and each look for a cell."""
        before, self._stepped = self._stepped, self._clock()
        if self._stepped - before > self.stall_seconds:
            self.beat()  # who has watched it be silent must see that before it takes another lease

    def beat(self) -> None:
        """Change this process's file, so that the others see it lives; not if its work hangs."""
        if self._clock() - self._stepped > self.stall_seconds:
            return
        self._beats += 1
        # In place and of the same length: a full disk does not silence a process.
        with contextlib.suppress(OSError), self._own.open("r+b") as handle:
            handle.write(self._content())

    def _keep_beating(self) -> None:
        while not self._stop.wait(self.seconds / _BEATS):
            self.beat()

    def acquire(self, key: str) -> bool:
        """Take the lease if nobody holds it, or if its holder is gone.

        Raises:
            OSError: The folder cannot be written.
        """
        standing = self.standing(key)
        if standing is not None and (standing.owner == self.owner or not self._gone(standing)):
            return standing.owner == self.owner
        lease = Lease(key, 1 if standing is None else standing.generation + 1, self.owner)
        if not self._create(lease):
            return False
        self._held[key] = lease
        if lease.generation > 1:
            self._remove_up_to(key, lease.generation - 1)
        if self.lost(key):
            self.release(key)
            return False
        return True

    def _create(self, lease: Lease) -> bool:
        path = self.folder / lease.name
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            try:
                os.write(descriptor, json.dumps({"owner": self.owner}).encode())
            finally:
                os.close(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return True

    def lost(self, key: str) -> bool:
        """Whether another process has taken the lease over (asked before work counts)."""
        standing = self.standing(key)
        return standing is not None and standing != self._held.get(key)

    def generation(self, key: str) -> int:
        """Which generation of this lease is held: one more than owners that went silent with it."""
        return self._held[key].generation

    def release(self, key: str) -> None:
        """Give the lease back."""
        lease = self._held.pop(key, None)
        path = self.folder / lease.name if lease is not None else None
        # After it was lost and given back by another, a third may hold a lease of the same name.
        if path is not None and owner_of(path) == self.owner:
            with contextlib.suppress(OSError):
                path.unlink()

    def _remove_up_to(self, key: str, generation: int) -> None:
        for number in self._generations(key):
            if number <= generation:
                with contextlib.suppress(OSError):
                    (self.folder / f"{key}.{number}").unlink()

    def _generations(self, key: str) -> list[int]:
        return sorted(lease.generation for lease in listed(self.folder) if lease.key == key)

    def keys(self) -> set[str]:
        """Keys that somebody holds or held, from one listing."""
        return {lease.key for lease in listed(self.folder)}

    def standing(self, key: str) -> Lease | None:
        """The lease on a key, if there is one: that of the highest generation."""
        numbers = self._generations(key)
        if not numbers:
            return None
        return Lease(key, numbers[-1], owner_of(self.folder / f"{key}.{numbers[-1]}"))

    def _gone(self, lease: Lease) -> bool:
        """Whether the owner of a lease has ended or has been silent for too long."""
        # A lease without an owner's name was cut off while it was made: watch the lease itself.
        content = _read(self.folder / _OWNERS / lease.owner) if lease.owner else b""
        watched = lease.owner or lease.name
        mark = content.split(b" ")[0].decode("ascii", "replace") if content else ""
        if same_machine(mark) and not alive(mark):
            return True
        now = self._clock()
        before, since = self._seen.get(watched, (b"-", now))
        if content != before:
            self._seen[watched] = (content, now)
            return False
        return now - since >= (_GONE_SECONDS if content is None else self.seconds)

    def _bury(self) -> None:
        """Remove the files of owners of this machine that have ended, and their leases.

        A process that is killed between writing a cell and giving its lease back leaves a lease
        that nobody asks for again.
        """
        marks = owner_marks(self.folder)
        ended = {name for name, mark in marks.items() if same_machine(mark) and not alive(mark)}
        stale = [self.folder / lease.name for lease in listed(self.folder)]
        paths = [path for path in stale if owner_of(path) in ended]
        for path in (*paths, *(self.folder / _OWNERS / name for name in ended)):
            with contextlib.suppress(OSError):
                path.unlink()


def listed(folder: Path) -> list[Lease]:
    """The lease files in a folder, without their owners."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            key, _, number = entry.name.rpartition(".")
            if key and number.isdigit():
                found.append(Lease(key, int(number), ""))
    return found


def owner_of(path: Path) -> str:
    """Who made a lease file; empty where it cannot be read."""
    try:
        owner = json.loads(path.read_bytes())["owner"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return owner if isinstance(owner, str) and owner.isalnum() else ""


def owner_marks(folder: Path) -> dict[str, str]:
    """Owner → mark of its process."""
    found = {}
    with contextlib.suppress(OSError), os.scandir(folder / _OWNERS) as entries:
        for entry in entries:
            content = _read(folder / _OWNERS / entry.name) or b""
            found[entry.name] = content.split(b" ")[0].decode("ascii", "replace")
    return found


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
