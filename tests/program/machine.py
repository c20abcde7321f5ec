"""Sequences of commands on run folders, each step against the oracle."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import os
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from program.commands import (
    PROMPTS,
    QUESTION,
    TYPO,
    RefusedError,
    asked,
    commands,
    question,
    recipes,
)
from program.oracle import Folder, frames_of
from support.table_world import GROUP, MEMBERS, WRITTEN, Table, leaves_of

import aurac
from aurac.cli import main


class EndedError(BaseException):
    """What ends a command at a write."""


@contextlib.contextmanager
def quick(root, *, flush=False):
    """No figure is drawn, nothing is flushed, lm-eval's own tasks are not looked for."""

    def no_figure(_draw, stem, **_):
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".svg").write_text("<svg/>")
        return [stem.with_suffix(".svg")]

    names = root / "cache" / "lm_eval" / f"tasks-{version('lm_eval')}-1.json"
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURAC_CACHE", str(root / "cache"))
        patch.setattr("aurac.show.report.save", no_figure)
        patch.setattr(gc, "collect", lambda *_: 0)
        patch.setattr(os, "fsync", os.fsync if flush else lambda _: None)
        gc.freeze()
        yield


def program(*words, ends=math.inf):
    """Run a command line, which ends at so many writes: exit code, standard output and error."""
    out, err, status, left = io.StringIO(), io.StringIO(), 0, [ends]

    def counted(real):
        def call(*args, **options):
            left[0] -= 1
            if left[0] > 0:
                return real(*args, **options)
            if real.__name__ == "write":  # a line is cut off
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            raise EndedError

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aurac", *map(str, words)])
        for name in ("write", "replace", "rename", "fsync", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as error:
                status = error.code
    return status, out.getvalue(), err.getvalue()


KEYS = {
    "scores": "task adapter basis rescale",
    "points": "task adapter basis rescale rank",
    "pairs": "task a a_basis a_rescale b b_basis b_rescale",
    "rank_pairs": "task a a_basis a_rescale b b_basis b_rescale rank",
    "recommended": "task adapter basis rescale",
}


def check_frames(expected, said, where):
    """Every row and every number of the frames, and none besides."""
    for name, rows in expected.items():
        keys = [
            [row[x] if pd.notna(row[x]) else None for x in KEYS[name].split()] for row in said[name]
        ]
        there = dict(zip(map(tuple, keys), said[name], strict=True))
        for key, row in rows.items():
            found, wanted = there.pop(key, None), dict(row)
            if found is None and row.get("tie"):  # either may stand first
                found = there.pop((key[0], *key[4:7], *key[1:4], *key[7:]), None)
                wanted |= {"low": row["high"] and -row["high"], "high": row["low"] and -row["low"]}
                wanted |= {"wins": row.get("losses"), "losses": row.get("wins")}
                wanted |= {"difference": -row["difference"]}
            assert found, f"{where}: {name} lacks {key}, has {[*there]}"
            for column in wanted.keys() - {"tie"}:
                text = f"{where}: {column} of {key} in {name} is {found.get(column)}"
                assert _same(found.get(column), wanted[column]), f"{text}, not {wanted[column]}"
        assert not there, f"{where}: {name} has {[*there]}, which should not be there"


def _same(a, b):
    unknown = [bool(pd.isna(x)) for x in (a, b)]
    if any(unknown) or isinstance(b, str):
        return all(unknown) or a == b
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-8)


def check_files(path, expected):
    """`analysis.json` and the CSV files of a run folder."""
    check_frames(expected, json.loads((path / "analysis.json").read_text()), "analysis.json")
    tables = {name: pd.read_csv(path / f"{name}.csv").to_dict("records") for name in KEYS}
    check_frames(expected, tables, "CSV")


def check_export(path, found, pooled):
    """lm-eval's results and samples of one cut at one rank: task → scores."""
    rows = json.loads(path.read_text())["results"]
    pooled &= len({*MEMBERS} & {*found}) == len(MEMBERS)
    assert {*rows} == {*found} | ({GROUP} if pooled else set()), f"{path}: {sorted(rows)}"
    for leaf, scores in found.items():
        words = ("exact_match", "strict-match") if leaf == WRITTEN else ("acc", "none")
        n = len(scores)
        error = pytest.approx(scores.std(ddof=1) / n**0.5) if n > 1 else "N/A"
        said = [rows[leaf][key] for key in (",".join(words), "_stderr,".join(words))]
        assert said == [pytest.approx(scores.mean()), error], f"{path}: {leaf} {said}"
        [log] = path.parent.glob(f"samples_{leaf}_*.jsonl")
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(row["doc_id"], row[words[0]]) for row in told] == list(enumerate(scores)), f"{log}"
    if pooled and all(len(found[member]) > 1 for member in MEMBERS):
        parts = [found[member] for member in MEMBERS]
        n = sum(map(len, parts))
        error = (sum(((x - x.mean()) ** 2).sum() for x in parts) / (n - len(parts)) / n) ** 0.5
        said = [rows[GROUP][key] for key in ("acc,none", "acc_stderr,none")]
        assert said == pytest.approx([np.concatenate(parts).mean(), error]), f"{path}: {said}"


# Sequences --------------------------------------------------------------------------------------


class Sequences(RuleBasedStateMachine):
    """Two run folders: `last` is the latest command, which was `ended` so often, and not done.

    `asked` is what the model was asked meanwhile.
    """

    @initialize(table=st.integers(0, 10_000))
    def begin(self, table):
        self.table, self.place = table, Path(tempfile.mkdtemp(dir=self.root))
        new = [{"path": self.place / name, "folder": Folder(table)} for name in ("one", "two")]
        self.runs = [SimpleNamespace(**x, last=None, ended=0, asked=Counter()) for x in new]

    def teardown(self):
        shutil.rmtree(self.place)

    def whole(self):
        """The runs that are not to be repeated."""
        return [run for run in self.runs if run.last and not run.ended]

    @rule(
        which=st.booleans(),
        command=commands(),
        alike=st.sampled_from((True, True, False)),
        ends=st.one_of(st.none(), st.none(), st.integers(1, 60)),
        fails=st.one_of(st.none(), st.none(), st.integers(0, 40)),
    )
    def compare(self, which, command, alike, ends, fails):
        """A command, alike the one before in prompts and examples or not; or that again."""
        run = self.runs[which]
        typo = {"reference": TYPO} if command.options["reference"] == TYPO else {}
        if run.last and alike:
            prompts = {name: run.last.options[name] for name in PROMPTS}
            command = replace(command, options=command.options | prompts)
        if run.ended:
            command = replace(run.last, options=run.last.options | typo)
        Table.asked.clear()
        Table.fails.clear()
        words = command.words(self.root, run.path, self.table)
        try:
            needed = run.folder.may_ask(command)
        except RefusedError:
            status, _, said = program(*words)
            assert status == 2, f"should be refused: exit code {status}, {said}"
            assert not Table.asked, "what is refused computes nothing"
            return
        if fails is not None and needed and not run.ended and not ends:
            kinds = sorted({key[:2] for key in needed})
            Table.fails.add(kinds[fails % len(kinds)])
        run.last = command
        try:
            status, out, said = program(*words, ends=ends or math.inf)
        except EndedError:
            run.ended, run.asked = run.ended + 1, run.asked + Table.asked
            return
        run.folder.run(command, Table.fails)
        self.check_asked(run, needed, said)
        self.check_command(run, status, out, said)
        self.check_whole(run)

    def check_asked(self, run, needed, said):
        """Nothing is computed that is there; an ended command loses one block of a cell."""
        total = run.asked + Table.asked
        lacking = [key for key in needed - total if key[:2] not in Table.fails]
        assert not lacking, f"not asked: {lacking[:5]}; {said}"
        again = total - needed
        assert len({key[:2] for key in again}) <= run.ended, f"asked again: {[*again][:5]}"
        run.ended, run.asked = 0, Counter()

    def check_command(self, run, status, out, said):
        """What a command prints and writes: what it asked for, and the whole folder."""
        part, asks = run.folder.part(run.last), run.last.options
        curves = part.curves()
        groups = recipes(dict.fromkeys(curve.adapter for curve in curves), part.groups)
        reference = asks["reference"]
        try:
            expected = frames_of(curves, groups, asks["margin"], reference)
        except RefusedError:  # it has no result at all
            expected = frames_of(curves, groups, asks["margin"])
        assert status == (3 if part.failures() else 0), f"exit code {status}, {said}"
        if curves:
            check_frames(expected, json.loads(out), "compare --json")
        if run.folder.curves():
            check_files(run.path, self.expected(run))

    def check_whole(self, run):
        """The folder as Python reads it, under its last question."""
        expected = self.expected(run)
        loaded = aurac.load_run(run.path)
        frames = {name: getattr(loaded, name).to_dict("records") for name in KEYS}
        check_frames(expected, frames, "load_run")

    def expected(self, run, groups=None, **asks):
        """The frames of all that a folder holds, under its last question or another one.

        Groups take the place of those with the same adapters. A reference of the last question
        that is no row is left out.
        """
        curves, given = run.folder.curves(), groups or {}
        taken = {member for members in given.values() for member in members}
        known = {name: some for name, some in run.folder.groups.items() if not taken & {*some}}
        every = recipes(dict.fromkeys(curve.adapter for curve in curves), known | given)
        last = dict(run.folder.question)
        try:
            frames_of(curves, self.recorded(run), None, last["reference"])
        except RefusedError:
            last["reference"] = None
        return frames_of(curves, every, **last | {k: v for k, v in asks.items() if v is not None})

    def recorded(self, run):
        """The recipes of a folder under its last question."""
        adapters = dict.fromkeys(curve.adapter for curve in run.folder.curves())
        return recipes(adapters, run.folder.groups)

    @precondition(whole)
    @rule(at=st.integers(0, 1), how=st.sampled_from(("score", "recommend", "report")),
          asks=st.fixed_dictionaries(QUESTION))  # fmt: skip
    def ask(self, at, how, asks):
        """What the folder says to another question."""
        run = self.whole()[at % len(self.whole())]
        there = tuple(dict.fromkeys(curve.adapter for curve in run.folder.curves()))
        assume(there)
        groups, asks = asked(there, **asks)
        asks["margin"] = asks["margin"] or (0.1 if how == "recommend" else None)
        words = question(groups, **asks, json=how != "report")
        status, out, said = program(how, run.path, *words)
        try:
            expected = self.expected(run, groups, **asks)
        except RefusedError:
            assert status == 2, f"{how} {words}: exit code {status}"
            return
        assert status == 0, f"{how} {words}: {said}"
        if how == "report":
            check_files(run.path, expected)
            last = run.folder.question | {k: v for k, v in asks.items() if v is not None}
            run.folder.ask(groups, **last)
        else:
            check_frames(expected, json.loads(out), how)

    @precondition(whole)
    @rule(at=st.integers(0, 1), packed=st.booleans())
    def move(self, at, packed):
        """The folder lies elsewhere, its cells packed as the documents say."""
        run = self.whole()[at % len(self.whole())]
        run.path = shutil.move(run.path, run.path.with_name(f"{run.path.name}-moved"))
        archive, cells = run.path / "cells.tar.xz", run.path / "cells"
        if packed and cells.exists() and not archive.exists():
            with tarfile.open(archive, "w:xz", preset=0) as tar:
                tar.add(cells, "cells")
            shutil.rmtree(cells)
        self.check_whole(run)

    @precondition(whole)
    @rule(at=st.integers(0, 1))
    def export(self, at):
        """lm-eval's files."""
        run = self.whole()[at % len(self.whole())]
        folder, out = run.folder, self.place / "exported"
        shutil.rmtree(out, ignore_errors=True)
        status, _, said = program("export", run.path, "--out", out)
        assert status == 0, f"export: {said}"
        points, leaves = {}, [leaf for task in folder.asked for leaf in leaves_of(task)]
        first = {}
        for cut in [None, *folder.cuts]:
            name = "base" if cut is None else cut[0]
            if cut and first.setdefault(name, cut) != cut:
                name = f"{name}@{'-'.join(cut[1:])}"
            for leaf in dict.fromkeys(leaves):
                for rank, scores in folder.logged(cut, leaf).items():
                    points.setdefault((name, rank), {})[leaf] = scores
        files = {(f.parts[-4], int(f.parts[-3][5:])): f for f in out.rglob("results_*.json")}
        assert {*files} == {*points}, f"export has {sorted(files)}, not {sorted(points)}"
        for point, found in points.items():
            check_export(files[point], found, GROUP in folder.asked)
