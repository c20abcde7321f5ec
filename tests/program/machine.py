"""Sequences of commands on run folders, each step against the oracle."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from program.commands import (
    PROMPTS,
    QUESTION,
    SHOWN,
    TYPO,
    RefusedError,
    World,
    asked,
    commands,
    mostly,
    question,
    recipes,
)
from program.folder import Folder
from program.mishaps import Mishaps, untouched, whole
from program.oracle import TOLD, frames_of
from program.shown import (
    KEYS,
    check_card,
    check_export,
    check_files,
    check_frames,
    check_printed,
)
from support import table_world
from support.ended_writes import EndedError, ending
from support.table_world import GROUP, PROSE, TASKS, VERSIONS, Table, leaves_of

import aurac
from aurac.cli import main
from aurac.tasks.listing import stock_tasks


@contextlib.contextmanager
def quick(root, *, flush=False):
    """No figure is drawn, nothing is flushed, lm-eval's own tasks are not looked for."""

    def no_figure(_draw, stem, **_):
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".svg").write_text("<svg/>")
        return [stem.with_suffix(".svg")]

    names = root / "cache" / "lm_eval" / f"tasks-{version('lm_eval')}-2.json"
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_text("{}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second process is a fork, which has no threads of OpenMP
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURAC_CACHE", str(root / "cache"))
        patch.setattr("aurac.show.report.save", no_figure)
        patch.setattr(gc, "collect", lambda *_: 0)
        patch.setattr(os, "fsync", os.fsync if flush else lambda _: None)
        gc.freeze()
        stock_tasks.cache_clear()
        yield
    torch.set_num_threads(threads)
    stock_tasks.cache_clear()


def program(*words, ends=math.inf, away=0):
    """Run a command line, which ends at so many writes: exit code, standard output and error.

    The clock is so many seconds away from the right time.
    """
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "9999")  # no line is broken
        patch.setattr(time, "time", lambda now=time.time: now() + (away or 0))
        patch.setattr(sys, "argv", ["aurac", *map(str, words)])
        with ending(ends), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as error:
                status = error.code
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def a_second_process(words, file):
    """The same command at the same time; it ends alike, and says what it asked of the model."""
    if (pid := os.fork()) == 0:
        signal.alarm(300)
        try:
            status, _, said = program(*words)
            file.write_text(json.dumps([status, said, [*Table.asked.elements()]]))
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.waitpid(pid, 0)
    status, said, asked = json.loads(file.read_text())
    file.unlink()
    assert status in (0, 3), f"the second process: exit code {status}, {said}"
    Table.asked.update(map(tuple, asked))


def exit_code(expected, folder, rank, limit):
    """Of `recommend`: 4 where an adapter may not be shipped at a rank, 3 where results lack.

    A perplexity recommends nothing; an adapter that has no other number may not be shipped.
    """
    rows = [*expected["recommended"].values()]
    curves = folder.curves(limit)
    tested = [curve for curve in curves if curve.task != PROSE and curve.scores]
    if rank:
        small = all(row["rank"] and row["smallest_rank"] <= rank for row in rows)
        known = {curve.adapter for curve in tested}
        return 0 if small and {*folder.names.values()} <= known else 4
    absent = {*folder.names.values()} - {curve.adapter for curve in curves if curve.scores}
    untested = any(row["reference"] is None for row in rows)
    absent |= {*folder.asked} - {PROSE} - {curve.task for curve in curves if curve.scores}
    return (
        3
        if absent or untested or any(curve.missing for curve in curves if curve.task != PROSE)
        else 0
    )


NO_OPTION = dict.fromkeys(SHOWN)


# Sequences --------------------------------------------------------------------------------------


class Sequences(Mishaps, RuleBasedStateMachine):
    """Two run folders, each begun by a command.

    Of a folder `last` is the latest command, which was `ended` so often and is not done yet;
    `asked` is what the model was asked meanwhile. `reached` counts what all sequences came to.
    """

    reached: ClassVar[Counter] = Counter()

    @initialize(table=st.integers(0, 10_000), first=commands(), second=commands())
    def begin(self, table, first=None, second=None):
        self.table, self.place = table, Path(tempfile.mkdtemp(dir=self.root, suffix="d"))
        self.world, self.runs, self.begun = World(), [], 0
        for command in (first, second):
            self.runs.append(self.new_run())
            if command:
                self.compare(which=len(self.runs) - 1, command=command)

    def new_run(self):
        """A folder in which nothing is yet."""
        self.begun += 1
        about = {"last": None, "ended": 0, "asked": Counter(), "reports": {}}
        path, folder = self.place / f"run{self.begun}", Folder(self.table, self.root)
        return SimpleNamespace(path=path, folder=folder, **about)

    def teardown(self):
        shutil.rmtree(self.place)
        self.lie(World())

    def lie(self, world):
        """Have a world on disk."""
        if world.versions != self.world.versions:
            table_world.change(self.root, world.versions)
        if world.filtered != self.world.filtered:
            table_world.write_task(self.root, "sums", table_world.FILTERS[world.filtered])
        for name in world.swapped ^ self.world.swapped:
            table_world.swap(self.root, name, other=name in world.swapped)
        self.world = world

    program = staticmethod(program)

    @precondition(lambda self: not any(run.ended for run in self.runs))
    @rule(
        task=st.sampled_from([*TASKS]),
        changes=st.dictionaries(st.integers(0, 39), st.sampled_from(VERSIONS), max_size=2),
    )
    def change_examples(self, task, changes):
        """Some examples of a task change, or are as they were before."""
        versions = self.world.versions
        self.lie(replace(self.world, versions=versions | {task: changes}))

    @precondition(lambda self: not any(run.ended for run in self.runs))
    @rule(name=st.sampled_from(("lora", "nested", None)))
    def change_others(self, name):
        """The filter of a task, or the adapter at a path."""
        change = {"swapped": self.world.swapped ^ {name}} if name else {"filtered": True}
        self.lie(replace(self.world, **change))

    @rule(
        which=st.integers(0, 1),
        command=commands(),
        alike=mostly("prompts", "view", None),
        ends=mostly(None, 5, 12, 20, 40, 60),
        fails=mostly(None, *range(0, 40, 5)),
        away=SHOWN["away"],
        twice=mostly(False, True),
        elsewhere=mostly(True, False),
    )
    def compare(
        self, which, command, alike=None, ends=None, fails=None, away=0, twice=False,
        elsewhere=False,
    ):  # fmt: skip
        """A command, perhaps with prompts, adapters and tasks of the one before; or that again.

        What this folder refuses may go `elsewhere`, to a new folder.
        """
        run = self.runs[which]
        command = replace(self.like(run, command, alike), world=self.world)
        Table.asked.clear()
        Table.fails.clear()
        words = command.words(self.root, run.path, self.table, run.folder.called(command))
        try:
            needed = run.folder.may_ask(command)
        except RefusedError:
            status, _, said = program(*words)
            assert status == 2, f"should be refused: exit code {status}, {said}"
            assert not Table.asked, "what is refused computes nothing"
            self.reached["refused"] += 1
            if elsewhere and run.last and not run.ended:
                self.runs[which] = self.new_run()
                self.compare(which, command)
            return
        if fails is not None and needed and not run.ended and not ends:
            kinds = sorted({key[:2] for key in needed})
            Table.fails.add(kinds[fails % len(kinds)])
        run.last, run.reports, beside = command, {}, contextlib.nullcontext()
        if twice and not ends and not Table.fails:
            beside = a_second_process(words, self.place / "second.json")
        try:
            with beside:
                status, out, said = program(*words, ends=ends or math.inf, away=away)
        except EndedError:
            run.ended, run.asked = run.ended + 1, run.asked + Table.asked
            return
        part, before = run.folder.part(command), dict(run.folder.lists)
        run.folder.run(command, Table.fails)
        self.reached["computing commands"] += bool(needed)
        longer = any(len(run.folder.lists[leaf]) > len(before[leaf]) for leaf in before)
        self.reached["a list is extended"] += longer
        self.check_asked(run, needed, said, often=twice)
        self.check_command(run, part, status, out, said)
        self.check_whole(run)

    @precondition(whole)
    @rule(
        at=st.integers(0, 1),
        limit=st.sampled_from((12, 24, None)),
        margin=QUESTION["margin"],
        fails=st.none() | st.integers(0, 40),
    )
    def go_on(self, at, limit, margin, fails):
        """The latest command asks for more examples; of one cell they may fail."""
        run = whole(self)[at % len(whole(self))]
        options = run.last.options | {"limit": limit, "margin": margin}
        which = [*map(id, self.runs)].index(id(run))
        self.compare(which, replace(run.last, options=options), fails=fails)

    def like(self, run, command, alike):
        """A command with the prompts, or all that decides examples, of the one before it."""
        typo = {"reference": TYPO} if command.options["reference"] == TYPO else {}
        if run.ended:
            return replace(run.last, options=run.last.options | typo)
        if run.last and alike:
            prompts = {name: run.last.options[name] for name in {*PROMPTS} - {"limit"}}
            command = replace(command, options=command.options | prompts)
        return run.last.seen_by(command) if run.last and alike == "view" else command

    def check_asked(self, run, needed, said, *, often):
        """Nothing is computed that is there; an ended command loses one block of a cell."""
        total = run.asked + Table.asked
        lacking = [key for key in needed if not total[key] and key[:2] not in Table.fails]
        assert not lacking, f"not asked: {lacking[:5]}; {said}"
        again = total - Counter(needed)
        assert often or len({key[:2] for key in again}) <= run.ended, f"asked again: {[*again][:5]}"
        run.ended, run.asked = 0, Counter()

    def check_command(self, run, part, status, out, said):
        """What a command prints and writes: what it asked for, and the whole folder."""
        asks = run.last.options
        curves = part.curves()
        groups = recipes(dict.fromkeys(curve.adapter for curve in curves), part.groups)
        reference = part.question["reference"]
        try:
            expected = frames_of(curves, groups, asks["margin"], reference)
        except RefusedError:  # it has no result at all
            expected = frames_of(curves, groups, asks["margin"])
        assert status == (3 if part.failures() else 0), f"exit code {status}, {said}"
        self.count(expected, curves)
        if any(curve.scores for curve in curves):
            check_printed(expected, out, "compare", as_json=asks["json"])
        if run.folder.curves():
            check_files(run.path, self.expected(run), run.folder.labels)

    def count(self, frames, curves):
        """What a command came to."""
        scores, pairs = frames["scores"].values(), frames["pairs"].values()
        shipped = [row for row in frames["recommended"].values() if row["rank"]]
        found = {
            "clusters in an interval": any(
                row[TOLD]["clusters"] and row["low"] is not None for row in scores
            ),
            "a difference of two arms": any(row[TOLD]["arms"] > 1 for row in pairs),
            "a smaller rank is shipped": any(
                row["smallest_rank"] < row["reference"] for row in shipped
            ),
            "a row lacks examples": any(curve.missing for curve in curves),
        }
        self.reached.update({name: int(some) for name, some in found.items()})

    def check_whole(self, run):
        """The folder as Python reads it, under its last question."""
        if not run.folder.curves():
            return
        expected = self.expected(run)
        loaded = aurac.load_run(run.path)
        frames = {name: getattr(loaded, name).to_dict("records") for name in KEYS}
        check_frames(expected, frames, "load_run")

    def expected(self, run, groups=None, limit=None, **asks):
        """The frames of all that a folder holds, under its last question or another one.

        Groups take the place of those with the same adapters. A reference of the last question
        that is no row is left out.
        """
        curves, given = run.folder.curves(limit), groups or {}
        taken = {member for members in given.values() for member in members}
        known = {name: some for name, some in run.folder.groups.items() if not taken & {*some}}
        every = recipes(dict.fromkeys(curve.adapter for curve in curves), known | given)
        last = dict(run.folder.question)
        try:
            frames_of(curves, every, None, last["reference"])
        except RefusedError:
            last["reference"] = None
        return frames_of(curves, every, **last | {k: v for k, v in asks.items() if v is not None})

    @precondition(whole)
    @rule(at=st.integers(0, 1), how=st.sampled_from(("score", "recommend", "report")),
          asks=st.fixed_dictionaries(QUESTION), how_shown=st.fixed_dictionaries(SHOWN))  # fmt: skip
    def ask(self, at, how, asks, how_shown=NO_OPTION):
        """What the folder says to another question."""
        run = whole(self)[at % len(whole(self))]
        there = tuple(dict.fromkeys(curve.adapter for curve in run.folder.curves()))
        assume(there)
        groups, asks = asked(there, **asks)
        asks["margin"] = asks["margin"] or (0.1 if how == "recommend" else None)
        shown, report, out = SimpleNamespace(**how_shown), how == "report", run.path
        labels = {there[0]: "La–bel_1"} if shown.label and report else {}
        if shown.out and report:
            out = self.place / f"{run.path.name}-elsewhere"
        rank, as_json = shown.rank if how == "recommend" else None, shown.json and not report
        words = question(groups, **asks, rank=rank, limit=shown.limit, json=as_json)
        words += [f"--label={name}={text}" for name, text in labels.items()]
        words += ["--out", out] if out != run.path else []
        reads = not report or out != run.path
        with untouched(run.path) if reads else contextlib.nullcontext():
            status, said, error = program(how, run.path, *words, away=shown.away)
        try:
            expected = self.expected(run, groups, shown.limit, **asks)
            labels = labels or run.folder.labels
            if not {*labels} <= {key[1] for key in expected["scores"]}:
                raise RefusedError("a label of an adapter that stands in no row")
        except RefusedError:
            assert status == 2, f"{how} {words}: exit code {status}"
            return
        wanted = exit_code(expected, run.folder, rank, shown.limit) if how == "recommend" else 0
        assert status == wanted, f"{how} {words}: exit code {status}, not {wanted}; {error}"
        if report:
            check_files(out, expected, labels)
        else:
            check_printed(expected, said, how, as_json=as_json)
        if out != run.path:
            run.reports = {out: (groups, shown.limit, asks, labels)}
        if not reads:
            last = run.folder.question | {k: v for k, v in asks.items() if v is not None}
            run.folder.ask(groups, shown.limit or run.folder.limit, **last)
            run.folder.labels, run.reports = labels, {}

    @precondition(lambda self: any(run.reports for run in whole(self)))
    @rule(margin=QUESTION["margin"])
    def report_again(self, margin):
        """A report elsewhere is made again from the question that it stores."""
        [run, *_] = [run for run in whole(self) if run.reports]
        [(out, (groups, limit, asks, labels))] = run.reports.items()
        asks = asks | ({"margin": margin} if margin else {})
        with untouched(run.path):
            status, _, said = program("report", out, *question({}, margin=margin))
        try:
            expected = self.expected(run, groups, limit, **asks)
        except RefusedError:
            return
        assert status == 0, f"report of {out}: {said}"
        check_files(out, expected, labels)

    @precondition(whole)
    @rule(at=st.integers(0, 1), packed=st.booleans())
    def move(self, at, packed):
        """The folder lies elsewhere, its cells packed as the documents say."""
        run = whole(self)[at % len(whole(self))]
        run.path = Path(shutil.move(run.path, run.path.with_name(f"{run.path.name}-moved")))
        run.reports = {}
        archive, cells = run.path / "cells.tar.xz", run.path / "cells"
        if packed and cells.exists() and not archive.exists():
            with tarfile.open(archive, "w:xz", preset=0) as tar:
                tar.add(cells, "cells")
            shutil.rmtree(cells)
        self.check_whole(run)

    @precondition(whole)
    @rule(at=st.integers(0, 1), margin=st.sampled_from((None, 0.2)))
    def export(self, at, margin=None):
        """lm-eval's files, and the card of each adapter."""
        run = whole(self)[at % len(whole(self))]
        folder, out = run.folder, self.place / "exported"
        shutil.rmtree(out, ignore_errors=True)
        more = ["--margin", margin] if margin else []
        status, _, said = program("export", run.path, "--out", out, *more)
        assert status == 0, f"export: {said}"
        points, leaves = {}, [leaf for task in folder.asked for leaf in leaves_of(task)]
        first = {}
        for cut in [None, *folder.cuts]:
            name = "base" if cut is None else folder.names[cut[0]].replace("/", "__")
            if cut and first.setdefault(name, cut) != cut:
                name = f"{name}@{'-'.join(cut[1:])}"
            for leaf in dict.fromkeys(leaves):
                for rank, scores in folder.logged(cut, leaf).items():
                    points.setdefault((name, rank), {})[leaf] = scores
        files = {(f.parts[-4], int(f.parts[-3][5:])): f for f in out.rglob("results_*.json")}
        assert {*files} == {*points}, f"export has {sorted(files)}, not {sorted(points)}"
        for point, found in points.items():
            check_export(files[point], found, GROUP in folder.asked)
        for name in folder.names.values():
            curves, first = [c for c in folder.curves() if c.scores and c.adapter == name], {}
            for curve in curves:
                first.setdefault(curve.task, curve)
            if first and name != "family":
                frames = frames_of([*first.values()], {}, margin or folder.question["margin"])
                check_card(out / name.replace("/", "__") / "README.md", frames)
