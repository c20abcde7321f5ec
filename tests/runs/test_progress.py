"""What is told while a run works: steps, counts, and the time left."""

from __future__ import annotations

from support.runs_doubles import Task, planned

from aurac.runs.progress import Bar


def told(capsys, seconds, n=100, there=0):
    """The lines of a run whose cells take so many seconds each, the first partly there already."""
    clock, cells = [0.0], planned(*(Task(f"t{at}", n=n) for at in range(len(seconds))))
    with Bar(now=lambda: clock[0]) as bar:
        clock[0] += 500  # until computing begins
        left = [n - there, *[n] * (len(cells) - 1)]
        bar.plan(cells, left)
        for cell, each, missing in zip(cells, seconds, left, strict=True):
            bar.at(cell, n - missing)
            clock[0] += each
            bar.advance(cell, missing)
            bar.settled(cell, "done")
    return capsys.readouterr().err.splitlines()


def test_lines_have_the_time_left_by_what_was_computed(capsys):
    assert told(capsys, [20, 40, 30, 30]) == [
        "1/4 done, about 60 s left: the base on t0",
        "2/4 done, about 60 s left: the base on t1",
        "3/4 done, about 30 s left: the base on t2",
        "4/4 done: the base on t3",
    ]
    resumed = told(capsys, [10, 40, 40], there=75)
    assert resumed[0] == "1/3 done, about 80 s left: the base on t0"
