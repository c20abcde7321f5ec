"""One process at a time works on a cell, on one machine or on several that share a folder.

A lock is a file made with `O_EXCL` that names its owner; a thread of the owner touches it every few
seconds. Another process takes it over when the owner is seen to have ended, or when the file has
not changed for the lock's whole time. A lock saves work and protects nothing: of documents that two
processes compute, the first outcome counts.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from typing_extensions import Self

from aurac.files import alive, process_mark, same_machine

LOCK_SECONDS = 60.0
STALL_SECONDS = 3600.0  # without a step; loading a base and a pass of a large model are steps
_BEATS = 6  # touches in the time after which a lock is taken over
FOLDER = "locks"


class Owner(msgspec.Struct, frozen=True):
    """A lock's file: its process (`aurac.files.process_mark`), by one random `token` for all locks.

    `deaths`: processes that ended holding the lock since something of the work was last kept.
    """

    token: str = ""
    mark: str = ""
    deaths: int = 0


class Locks:
    """The locks of one process in a run folder; use as a context.

    A lock may stay untouched for `seconds` of the monotonic `clock`; an owner that makes no `step`
    for `stall_seconds` falls silent.
    """

    def __init__(
        self,
        run_folder: Path,
        seconds: float = LOCK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.folder = run_folder / FOLDER
        self.seconds, self.stall_seconds = seconds, stall_seconds
        self._clock, self._token = clock, secrets.token_hex(4)
        self._held: dict[str, Owner] = {}
        self._seen: dict[str, tuple[object, float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._stepped = clock()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._keep_touching, name="aurac-locks", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._held):
            self.release(key)
        for key in self.keys():  # a process that is killed leaves the lock of a finished cell
            owner = read_owner(self.folder / key)
            if owner is not None and same_machine(owner.mark) and not alive(owner.mark):
                with contextlib.suppress(OSError):
                    (self.folder / key).unlink()

    def step(self) -> None:
        """The work goes on: called before each pass of the model and each look for a cell."""
        self._stepped = self._clock()

    def touch(self) -> None:
        """Show the others that this process lives; not if its work hangs."""
        if self._clock() - self._stepped <= self.stall_seconds:
            for key in list(self._held):
                with contextlib.suppress(OSError):
                    os.utime(self.folder / key)

    def _keep_touching(self) -> None:
        while not self._stop.wait(self.seconds / _BEATS):
            self.touch()

    def acquire(self, key: str) -> bool:
        """Take the lock if nobody holds it, or if its holder is gone; or raise an OSError."""
        if key in self._held and not self.lost(key):
            return True
        self._held.pop(key, None)
        path, deaths = self.folder / key, 0
        if path.exists():
            before = read_owner(path) or Owner()
            if not self._is_gone(key, before):
                return False
            deaths = before.deaths + 1
            path.unlink(missing_ok=True)
        return self._create(path, Owner(self._token, process_mark(), deaths))

    @contextlib.contextmanager
    def awaited(self, key: str) -> Iterator[None]:
        """Hold a lock within this block, however long others hold it first."""
        while not self.acquire(key):
            time.sleep(0.2)
        try:
            yield
        finally:
            self.release(key)

    def _create(self, path: Path, owner: Owner) -> bool:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, msgspec.json.encode(owner))
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        finally:
            os.close(descriptor)
        self._held[path.name] = owner
        return True

    def lost(self, key: str) -> bool:
        """Whether another process has taken the lock over."""
        held = self._held.get(key)
        return held is None or read_owner(self.folder / key) != held

    def deaths(self, key: str) -> int:
        """How many processes ended while they held this lock, the last ones before this one."""
        return self._held[key].deaths

    def clear_deaths(self, key: str) -> None:
        """Something of the work is kept: those who ended over it before did not end in vain."""
        owner = self._held.get(key)
        if owner is None or not owner.deaths or self.lost(key):
            return
        owner = msgspec.structs.replace(owner, deaths=0)
        with contextlib.suppress(OSError):
            (self.folder / key).write_bytes(msgspec.json.encode(owner))
            self._held[key] = owner

    def release(self, key: str) -> None:
        """Give the lock back."""
        if key in self._held and not self.lost(key):
            with contextlib.suppress(OSError):
                (self.folder / key).unlink()
        self._held.pop(key, None)

    def keys(self) -> set[str]:
        """Keys that somebody holds or held, from one listing."""
        return {path.name for path in self.folder.glob("*")}

    def _is_gone(self, key: str, owner: Owner) -> bool:
        """Whether the owner has ended or has been silent for too long, by this process's clock."""
        if same_machine(owner.mark) and not alive(owner.mark):
            return True
        try:
            state = (owner, (self.folder / key).stat().st_mtime_ns)
        except FileNotFoundError:
            return True
        now = self._clock()
        before, since = self._seen.get(key, (None, now))
        if state != before:
            self._seen[key] = (state, now)
            return False
        return now - since >= self.seconds


def read_owner(path: Path) -> Owner | None:
    """Who holds a lock; None where the file is gone or not written yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Owner)
    except (OSError, ValueError):
        return None
