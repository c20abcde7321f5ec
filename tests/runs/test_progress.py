"""What a person sees on a pipe; tests/cli/test_terminal_screen.py looks at a terminal."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console
from runs_doubles import Task, planned

from aurac.records.store import CellStore
from aurac.runs.interrupts import Interrupts
from aurac.runs.log import duration
from aurac.runs.progress import CurveTable, SweepProgress, counting


def test_durations():
    assert [duration(s) for s in (0, 8.2, 65, 3700, 90000)] == [
        "0 s", "8 s", "1 min 5 s", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip


def test_progress_on_a_pipe_says_each_tenth_with_the_time_left(monkeypatch, capsys, tmp_path):
    """27 of 90 requests in 9 s are 3 a second, and leave 21 s; labels are not printed."""
    now = [0.0]
    monkeypatch.setattr("aurac.runs.progress.time.perf_counter", lambda: now[0])
    cells = planned(*(Task(f"t{k}", n=30) for k in range(3)))
    stored = planned(Task("t3"))
    with SweepProgress(cells, [*cells, *stored], CellStore(tmp_path), Interrupts()) as progress:
        progress.cell(cells[0])
        for _ in range(10):
            now[0] += 1.0
            progress.documents(3)
        progress.settled(cells[0], "failed")
        progress.documents(-3)
        progress.documents(3)
        now[0] = 20.0
        progress.documents(60)
    assert capsys.readouterr().err.splitlines() == [
        "3 of 4 cells to compute, 1 already there",
        "10 %: 0 of 3 cells, 3 s, 3 requests/s, 27 s left",
        "20 %: 0 of 3 cells, 6 s, 3 requests/s, 24 s left",
        "30 %: 0 of 3 cells, 9 s, 3 requests/s, 21 s left",
        "1 of 3 cells finished in 20 s",
    ]


def test_the_table_says_how_many_ranks_have_no_room():
    [cell] = planned(Task("a", n=4))
    cells = [replace(cell, rank=rank) for rank in range(12)]
    table = CurveTable(Console(file=StringIO(), width=80), cells, 4)
    shown, note = [*table.get_renderables()][:2]
    assert len(shown.columns) == 1 + 6
    assert str(note) == "and 6 more ranks: a wider terminal shows them"


def test_steps_on_a_pipe_say_each_tenth_with_the_time_left(monkeypatch, capsys):
    """10 of 40 steps in 20 s are one in two seconds, and leave a minute; the last says nothing."""
    now = [0.0]
    monkeypatch.setattr("aurac.runs.progress.time.perf_counter", lambda: now[0])
    with counting("timing", 40, "steps") as step:
        for _ in range(40):
            now[0] += 2.0
            step()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "timing: 10 %, 8 s, 0.5 steps/s, 1 min 12 s left",
        "timing: 20 %, 16 s, 0.5 steps/s, 1 min 4 s left",
    ]
    assert len(lines) == 9
