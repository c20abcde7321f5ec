"""Marks of processes: is the one that wrote this still running here?

A mark names no host and no user: it is a hash of the kernel's boot and the process namespace, the
process number, and when that process began, so that a number that is used again is not mistaken.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@lru_cache(maxsize=1)
def machine_mark() -> str | None:
    """This boot of this machine and this process namespace; None where it cannot be told."""
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    except OSError:
        return None
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def _began(pid: int) -> str | None:
    """When a process began, in ticks since boot; None for one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def process_mark() -> str:
    """`machine-pid-start` of this process."""
    return _mark_of(os.getpid())


@lru_cache(maxsize=4)
def _mark_of(pid: int) -> str:
    return f"{machine_mark() or 'unknown'}-{pid}-{_began(pid) or 0}"


def same_machine(mark: str) -> bool:
    """Whether a mark was made by a process whose fate can be seen from here."""
    here = machine_mark()
    return here is not None and mark.split("-", maxsplit=1)[0] == here and mark.count("-") == 2


def alive(mark: str) -> bool:
    """Whether the process of a mark of this machine still runs."""
    _, pid, began = mark.split("-")
    return pid.isdigit() and _began(int(pid)) == began
