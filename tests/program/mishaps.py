"""What happens to run folders beside commands: loss, damage, a disk that takes nothing, a merge."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import assume
from hypothesis.stateful import precondition, rule
from program.commands import cell_of

TABLES = [f"{name}.csv" for name in ("scores", "points", "pairs")]
REPORT = [*TABLES, "report.md", "report.html", "table.tex"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def whole(state):
    """The runs that are not to be repeated."""
    return [run for run in state.runs if run.last and not run.ended]


def both_whole(state):
    return len(whole(state)) == 2


def unpacked(state):
    """Those whose cells lie in files."""
    return [run for run in whole(state) if (Path(run.path) / "cells").is_dir()]


def cells_of_file(run):
    """The name of each cell's file → (cell, task), as `run.json` says."""
    told = json.loads((Path(run.path) / "run.json").read_text())
    own = {name: own for own, name in run.folder.names.items()}
    found = {key: (None, leaf) for leaf, key in told["base"].items()}
    for cut in told["cuts"]:
        way = cut["basis"], cut["rescale"]
        for task, keys in cut["cells"].items():
            for rank, key in keys.items():
                found[key] = cell_of(own[cut["adapter"]], int(rank), *way), task.split(":")[-1]
    return found


@contextlib.contextmanager
def read_only(folder):
    """A folder that takes nothing, also of root."""
    folder = os.path.realpath(folder)

    def inside(path):
        known = isinstance(path, (str, bytes, os.PathLike))
        return known and os.path.realpath(os.fsdecode(path)).startswith(folder)

    def refusing(real, wants):
        def call(*args, **options):
            if any(map(inside, args[:2])) and wants(*args, **options):
                raise PermissionError(13, "Permission denied", str(args[0]))
            return real(*args, **options)

        return call

    def mode(_path, mode="r", *_, **__):
        return isinstance(mode, str) and {*mode} & {*"wax+"}

    with pytest.MonkeyPatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(module, "open", refusing(io.open, mode))
        patch.setattr(os, "open", refusing(os.open, lambda _, flags=0, *__, **___: flags & WRITING))
        for name in ("mkdir", "replace", "rename", "unlink", "remove", "rmdir", "link", "symlink"):
            patch.setattr(os, name, refusing(getattr(os, name), lambda *_, **__: True))
        yield


def state_of(folder):
    """Every file with its content and the time of its last change."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@contextlib.contextmanager
def untouched(folder):
    """Nothing in a folder changes."""
    before = state_of(folder)
    yield
    after = state_of(folder)
    changed = [path.name for path in {*before, *after} if before.get(path) != after.get(path)]
    assert not changed, f"what only reads has written {changed}"


class Mishaps:
    """Rules of `Sequences`."""

    @precondition(unpacked)
    @rule(at=st.integers(0, 1), which=st.integers(0, 99), damaged=st.booleans())
    def lose_a_cell(self, at, which, damaged):
        """The file of a cell goes, or all its lines but the first are damaged."""
        run = unpacked(self)[at % len(unpacked(self))]
        there = sorted((Path(run.path) / "cells").glob("*.jsonl"))
        known = cells_of_file(run)
        there = [path for path in there if path.stem in known]
        assume(there)
        path = there[which % len(there)]
        if damaged:
            head, *lines = path.read_bytes().splitlines(keepends=True)
            spoilt = [line[: (n := len(line) // 2)] + b"#" + line[n + 1 :] for line in lines]
            path.write_bytes(head + b"".join(spoilt))
        else:
            path.unlink()
        run.folder.lose(*known[path.stem])
        self.check_whole(run)

    @precondition(whole)
    @rule(at=st.integers(0, 1), which=st.sampled_from([*REPORT, "analysis.json", "locks"]))
    def lose_a_file(self, at, which):
        """A file of the report, or the locks; the next command writes it again."""
        run = whole(self)[at % len(whole(self))]
        path = Path(run.path) / which
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.check_whole(run)

    @precondition(both_whole)
    @rule(into=st.integers(0, 1))
    def merge(self, into):
        """The cells of one folder are added to those of the other one."""
        one, other = self.runs[into], self.runs[1 - into]
        assume(len(unpacked(self)) == 2 and not one.folder.failed and not other.folder.failed)
        for path in (Path(other.path) / "cells").glob("*.jsonl"):
            with (Path(one.path) / "cells" / path.name).open("ab") as file:
                file.write(path.read_bytes())
        one.folder.merge(other.folder)
        self.check_whole(one)

    @precondition(whole)
    @rule(at=st.integers(0, 1), how=st.sampled_from(("compare", "report", "score", "export")))
    def write_protect(self, at, how):
        """On a disk that takes nothing what reads goes on, and what writes says that it cannot."""
        run = whole(self)[at % len(whole(self))]
        assume(run.folder.curves())
        command, out = run.last, self.place / "exported"
        shutil.rmtree(out, ignore_errors=True)
        words = {"export": ["export", run.path, "--out", out], "score": ["score", run.path]}
        words |= {"report": ["report", run.path, "--margin=0.3"]}
        if how == "compare":
            assume(command.world == self.world)
            called = run.folder.called(command)
            words["compare"] = command.words(self.root, run.path, self.table, called)
        with untouched(run.path), read_only(run.path):
            status, _, said = self.program(*words[how])
        assert status == (0 if how in ("score", "export") else 2), f"{how}: {status}, {said}"
