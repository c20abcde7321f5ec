"""What a run says about itself: one JSON object a line, and where the time went."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import secrets
import time
from collections import defaultdict
from pathlib import Path

import msgspec
from typing_extensions import Self

from aurac.files import Json

LOGS = "logs"
_TAIL_BYTES, _MOST_READ = 1 << 16, 32  # of each log, and logs
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class RunLog:
    """Appends events, and as a context what aurac warns of, to `logs/<run id>.jsonl`.

    A log that cannot be written never stops a run. Without a run folder it keeps nothing.
    """

    def __init__(self, run_folder: Path | None) -> None:
        began = dt.datetime.now(tz=dt.timezone.utc).strftime("%Y%m%dT%H%M%S")
        self.run_id = f"{began}-{secrets.token_hex(4)}"
        self._path = run_folder / LOGS / f"{self.run_id}.jsonl" if run_folder else None
        self._began = time.monotonic()
        self._handler = _ToLog(self)

    def __enter__(self) -> Self:
        logging.getLogger("aurac").addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        logging.getLogger("aurac").removeHandler(self._handler)
        self.event("end", how="done" if kind is None else kind.__name__)

    def event(self, event: str, **fields: Json) -> None:
        """One line: the event, the run's id, wall time for people, monotonic time for sums."""
        if self._path is None:
            return
        now = dt.datetime.now(tz=dt.timezone.utc).isoformat(timespec="milliseconds")
        clock = round(time.monotonic() - self._began, 3)
        line = {"event": event, "run": self.run_id, "at": now, "clock": clock, **fields}
        payload = (json.dumps(line, ensure_ascii=False, default=str) + "\n").encode()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
            try:
                os.write(descriptor, payload)
            finally:
                os.close(descriptor)


class _ToLog(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.event("message", level=record.levelname.lower(), text=record.getMessage())


class _CellEvent(msgspec.Struct, tag_field="event", tag="cell"):
    task: str
    seconds: float
    requests: int


def cell_costs(run_folder: Path) -> dict[str, list[tuple[float, int]]]:
    """Task → (seconds, requests) of its cells in the newest lines of the newest logs."""
    costs: dict[str, list[tuple[float, int]]] = defaultdict(list)
    with contextlib.suppress(OSError):
        for path in sorted((run_folder / LOGS).glob("*.jsonl"))[-_MOST_READ:]:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                lines = file.read().splitlines()
            for line in lines:
                with contextlib.suppress(ValueError):  # another event, or cut off
                    event = msgspec.json.decode(line, type=_CellEvent)
                    if event.requests > 0:
                        costs[event.task].append((event.seconds, event.requests))
    return dict(costs)


def duration(seconds: float) -> str:
    """Two units at most: `3 d 4 h`, `12 min 5 s`, `8 s`."""
    parts, rest = [], max(0, round(seconds))
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
