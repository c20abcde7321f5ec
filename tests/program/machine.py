"""Sequences of commands on run folders, and what the oracle says of each."""

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
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from program import world
from program.oracle import (
    Folder,
    Frames,
    RefusedError,
    curves_of_logs,
    frames_of,
    recipes,
)
from program.world import Command, Table

import aurac
from aurac.cli import main
from aurac.errors import AuracError

KEYS = {
    "scores": ("task", "adapter"),
    "points": ("task", "adapter", "rank"),
    "pairs": ("task", "a", "b"),
    "rank_pairs": ("task", "a", "b", "rank"),
    "recommended": ("task", "adapter"),
}


class EndedError(BaseException):
    """What ends a command at a write."""


class Disk:
    """Counts writes, and ends the process's work at one of them; nothing is flushed."""

    left: ClassVar[float] = math.inf

    @classmethod
    def before(cls, real):
        """The call that is counted, or the end; of a line half is written then."""

        def call(*args, **options):
            cls.left -= 1
            if cls.left <= 0:
                if real is os.write:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise EndedError
            return real(*args, **options)

        return call


@contextlib.contextmanager
def quick(root: Path):
    """No figure is drawn, nothing is flushed, the names of lm-eval's own tasks are not read."""
    names = root / "cache" / "lm_eval" / f"tasks-{version('lm_eval')}-1.json"
    names.parent.mkdir(parents=True)
    names.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURAC_CACHE", str(root / "cache"))
        patch.setattr("aurac.show.report.save", _no_figure)
        patch.setattr(gc, "collect", lambda *_: 0)
        patch.setattr(os, "fsync", lambda _: None)
        for name in ("write", "replace", "rename", "fsync"):
            patch.setattr(os, name, Disk.before(getattr(os, name)))
        gc.freeze()
        yield


def _no_figure(_draw, stem: Path, **_) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png", "pdf")]
    for path in paths:
        path.write_text("<svg/>")
    return paths


def program(*words: object, ends: float = math.inf) -> tuple[int, str, str]:
    """Run a command line: exit code, standard output and error. It ends at so many writes."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aurac", *map(str, words)])
        patch.setattr(Disk, "left", ends)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as error:
                status = error.code
    return status, out.getvalue(), err.getvalue()


def check_frames(expected: Frames, said: dict[str, list[dict]], where: str) -> None:
    """Every row and every number of the frames, and none besides."""
    for name, rows in expected.items():
        there = {tuple(row[key] for key in KEYS[name]): row for row in said[name]}
        for key, row in rows.items():
            known, wanted = key, dict(row)
            if key not in there and wanted.pop("tie", False):  # either may stand first
                known = (key[0], key[2], key[1], *key[3:])
                ends = {"low": row["high"], "high": row["low"], "difference": row["difference"]}
                wanted |= {k: v if v is None else -v for k, v in ends.items()}
            assert known in there, f"{where}: {name} lacks {known}, has {sorted(there)}"
            found = there.pop(known)
            for column, value in wanted.items():
                told = f"{where}: {column} of {known} in {name} is {found.get(column)}"
                assert column == "tie" or _same(found[column], value), f"{told}, not {value}"
        assert not there, f"{where}: {name} has {sorted(there)}, which should not be there"


def _same(a: object, b: object) -> bool:
    unknown = [x is None or x is pd.NA or x != x for x in (a, b)]  # noqa: PLR0124 - NaN
    if any(unknown) or isinstance(b, str):
        return all(unknown) or a == b
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-8)


def check_files(path: Path, part: Folder, expected: Frames) -> None:
    """`results.json`, `analysis.json` and the CSV files of a run folder."""
    check_frames(expected, json.loads((path / "analysis.json").read_text()), "analysis.json")
    tables = {name: pd.read_csv(path / f"{name}.csv").to_dict("records") for name in KEYS}
    check_frames(expected, tables, "CSV")


def check_results(path: Path, part: Folder) -> None:
    """`results.json`."""
    told = json.loads((path / "results.json").read_text())
    curves = {(c.task, c.adapter, c.basis, c.rescale): c for c in part.curves()}
    said = {(c["task"], c["adapter"], c["basis"], c["rescale"]): c for c in told["curves"]}
    assert set(said) == set(curves), f"results.json has {sorted(said)}, not {sorted(curves)}"
    for key, curve in curves.items():
        found, n = said[key], len(next(iter(curve.scores.values())))
        means = {str(rank): scores.mean() for rank, scores in curve.scores.items()}
        there = dict(zip(map(str, found["ranks"]), found["accuracy"], strict=True))
        assert there == pytest.approx(means), f"results.json {key}: {there}, not {means}"
        base = None if curve.base is None else pytest.approx(curve.base.mean())
        assert (found["base"], found["examples"]) == (base, n), f"results.json {key}"
        assert {int(rank) for rank in found["missing"]} == curve.missing
    failed = {(f["adapter"] or None, f["rank"], f["task"]) for f in told["failures"]}
    assert failed == {(c and c[0], c[1] if c else 0, leaf) for c, leaf in part.failures()}
    assert [adapter["name"] for adapter in told["adapters"]] == part.adapters


# Sequences --------------------------------------------------------------------------------------

PACKS = [
    *(("lora",), ("bare",), ("nested",), ("dylora",), ("family",), ("cid3", "cid4"), ("ada0",)),
    *(("ada0", "ada1"), ("ada0", "ada1", "ada2"), ("bob0", "bob1"), ("bob0", "bob1", "bob2")),
]
TASKS = [
    *(("colours",), ("sums",), ("both",), ("left",), ("colours", "sums"), ("both", "sums")),
    *(("right", "left"), ("colours", "both"), ("colours", "both", "sums")),
]
TYPO = "loar"


@st.composite
def questions(draw) -> dict:
    """A margin, what is compared and what belongs together, to be made of adapters."""
    return {
        "margin": draw(st.sampled_from((None, 0.05, 0.2, 0.4))),
        "reference": draw(st.sampled_from((None, None, 0, 1, TYPO))),
        "group": draw(st.sampled_from((0, 0, 0, 2, 3))),
    }


def asked(question: dict, adapters: tuple[str, ...]) -> dict:
    """A question to adapters, as a command has it."""
    count, reference = question["group"], question["reference"]
    groups = {"mix": adapters[:count]} if 0 < count <= len(adapters) else {}
    if isinstance(reference, int):
        found = recipes(adapters, groups)
        names = [*found, *(set(adapters) - {m for some in found.values() for m in some})]
        reference = sorted(names)[reference % len(names)]
    return {"margin": question["margin"], "reference": reference, "groups": groups}


@st.composite
def commands(draw) -> Command:
    """Any command."""
    adapters = tuple(
        dict.fromkeys(sum(draw(st.lists(st.sampled_from(PACKS), min_size=1, max_size=3)), ()))
    )
    rescale = draw(
        st.sampled_from([(), (), (), ("keep",), ("rule",), ("trained",), ("keep", "rule")])
    )
    tasks = draw(st.sampled_from(TASKS))
    return Command(
        adapters=adapters,
        tasks=tasks,
        limit=draw(st.sampled_from([6, 12, None, 1])),
        ranks=draw(st.sampled_from(["pow2", "pow2", "all", "1,2", "1", "3"])),
        basis=draw(st.sampled_from([(), (), ("prefix",), ("svd",), ("svd", "prefix")])),
        rescale=() if "bare" in adapters and "trained" in rescale else rescale,
        clusters=draw(st.sampled_from([(), (), tasks[:1], tasks])),
        shots=draw(st.sampled_from([0, 0, 1])),
        chat=draw(st.sampled_from([False, False, True])),
        tokens=draw(st.sampled_from([None, None, 5])),
        **asked(draw(questions()), adapters),
    )


@dataclass
class Run:
    """A run folder and what it should hold.

    Attributes:
        last: The latest command; it has not been done to its end while it is `ended`.
        asked: What the model was asked meanwhile.
    """

    path: Path
    folder: Folder
    last: Command | None = None
    ended: int = 0
    asked: Counter = field(default_factory=Counter)


class Sequences(RuleBasedStateMachine):
    """One or two run folders."""

    root: ClassVar[Path]

    @initialize(table=st.integers(0, 10_000))
    def begin(self, table: int) -> None:
        """The table; nothing is there."""
        self.table, self.place = table, Path(tempfile.mkdtemp(dir=self.root))
        self.runs = [Run(self.place / name, Folder(table)) for name in ("one", "two")]

    def teardown(self) -> None:
        """No folder stays."""
        shutil.rmtree(self.place)

    def whole(self) -> bool:
        """Whether there is a run that is not to be repeated."""
        return any(run.last and not run.ended for run in self.runs)

    def chosen(self, which: bool) -> Run:
        """One of them."""
        some = [run for run in self.runs if run.last and not run.ended]
        return some[which % len(some)]

    @rule(
        which=st.booleans(),
        command=commands(),
        alike=st.sampled_from((True, True, False)),
        ends=st.one_of(st.none(), st.none(), st.integers(1, 60)),
        fails=st.one_of(st.none(), st.none(), st.integers(0, 40)),
    )
    def compare(self, which, command, alike, ends, fails) -> None:
        """A command, alike the one before in its prompts and examples or not; or that again."""
        run = self.runs[which]
        if run.last and alike:
            names = ("limit", "shots", "chat", "tokens")
            command = replace(command, **{name: getattr(run.last, name) for name in names})
        if run.ended:
            typo = command.reference == TYPO
            command = replace(run.last, reference=TYPO) if typo else run.last
        self.do(run, command, ends or math.inf, None if run.ended or ends else fails)

    def do(self, run: Run, command: Command, ends: float = math.inf, fails: int | None = None):
        """Run a command and check everything that it says."""
        words, Table.asked, Table.fails = (
            command.words(self.root, run.path, self.table),
            Counter(),
            set(),
        )
        try:
            run.folder.refuse(command)
            needed = run.folder.may_ask(command)
        except (RefusedError, ValueError):
            status, _, said = program(*words)
            assert status == 2, f"{command} should be refused: {status} {said}"
            assert not Table.asked, "what is refused computes nothing"
            return
        if fails is not None and needed:
            kinds = sorted({key[:2] for key in needed})
            Table.fails = {kinds[fails % len(kinds)]}
        try:
            run.last = command
            status, out, said = program(*words, ends=ends)
        except EndedError:
            run.ended, run.asked = run.ended + 1, run.asked + Table.asked
            self.check_part(run)
            return
        run.folder.run(command, Table.fails)
        self.check_asked(run, needed)
        part = run.folder.part(command)
        curves, failed = part.curves(), part.failures()
        try:
            expected = frames_of(
                curves,
                recipes({c.adapter for c in curves}, part.groups),
                command.margin,
                command.reference,
            )
        except RefusedError:
            assert status == 2, f"{status} {said}"
        else:
            assert status == (3 if failed else 0), f"{command}: exit code {status}, {said}"
            check_results(run.path, part)
            if curves:
                check_frames(expected, json.loads(out), "compare --json")
                check_files(run.path, part, expected)
        self.check_whole(run)

    def check_asked(self, run: Run, needed: Counter) -> None:
        """Nothing is computed that is there, and an ended command loses one block of a cell."""
        total = run.asked + Table.asked
        lacking = {key for key in needed - total if key[:2] not in Table.fails}
        assert not lacking, f"not asked: {sorted(lacking)[:5]}"
        again = {key[:2] for key in total - needed}
        assert len(again) <= run.ended, f"asked again: {sorted(total - needed)[:5]}"
        run.ended, run.asked = 0, Counter()

    def check_part(self, run: Run) -> None:
        """What an ended command left behind is right, if it can be read."""
        with contextlib.suppress(AuracError):
            for curve in aurac.load_run(run.path).curves:
                assert set(np.unique(curve.outcomes)) <= {0.0, 1.0}

    def check_whole(self, run: Run, margin: float | None = 0.2) -> None:
        """The folder as Python reads it."""
        try:
            expected = self.expected(run, {}, margin)
        except RefusedError:
            with pytest.raises(AuracError):
                aurac.load_run(run.path).ask(margin=margin).scores  # noqa: B018
            return
        loaded = aurac.load_run(run.path).ask(margin=margin)
        frames = {name: getattr(loaded, name).to_dict("records") for name in KEYS}
        check_frames(expected, frames, "load_run")

    def expected(self, run: Run, groups: dict, margin=None, reference=None) -> Frames:
        """The frames of all that a folder holds; groups take the place of those it knows."""
        curves, taken = run.folder.curves(), {m for some in groups.values() for m in some}
        known = recipes({curve.adapter for curve in curves}, run.folder.groups)
        known = {name: some for name, some in known.items() if not taken & set(some)}
        return frames_of(curves, known | groups, margin, reference)

    @precondition(whole)
    @rule(
        which=st.booleans(),
        how=st.sampled_from(("score", "recommend", "report")),
        question=questions(),
    )
    def ask(self, which, how, question) -> None:
        """What the folder says to another question."""
        run = self.chosen(which)
        there = tuple(dict.fromkeys(curve.adapter for curve in run.folder.curves()))
        assume(there)
        asks = asked(question, there)
        if how == "recommend":
            asks["margin"] = asks["margin"] or 0.1
        words = [f"--{k}={asks[k]}" for k in ("margin", "reference") if asks[k]]
        words += [f"--group={name}={','.join(some)}" for name, some in asks["groups"].items()]
        status, out, said = program(how, run.path, *words, *(["--json"] if how != "report" else []))
        try:
            expected = self.expected(run, asks["groups"], asks["margin"], asks["reference"])
        except RefusedError:
            assert status == 2, f"{how} {words}: exit code {status}"
            return
        assert status == 0, f"{how} {words}: {said}"
        if how == "report":
            check_files(run.path, run.folder, expected)
        else:
            check_frames(expected, json.loads(out), how)

    @precondition(whole)
    @rule(which=st.booleans())
    def pack(self, which) -> None:
        """As the documents say: `tar cJf cells.tar.xz cells`, and the folder is removed."""
        run = self.chosen(which)
        archive, cells = run.path / "cells.tar.xz", run.path / "cells"
        assume(cells.exists() and not archive.exists())
        with tarfile.open(archive, "w:xz", preset=0) as tar:
            tar.add(cells, "cells")
        shutil.rmtree(cells)
        self.check_whole(run)

    @precondition(whole)
    @rule(which=st.booleans())
    def copy(self, which) -> None:
        """The folder lies elsewhere from now on."""
        run = self.chosen(which)
        other = run.path.with_name(f"{run.path.name}-copy")
        shutil.copytree(run.path, other)
        shutil.rmtree(run.path)
        run.path = other
        self.check_whole(run)

    @precondition(whole)
    @rule(which=st.booleans(), question=questions(), clusters=st.booleans())
    def export(self, which, question, clusters) -> None:
        """lm-eval's files, and what `score` reads of them."""
        run = self.chosen(which)
        out = Path(tempfile.mkdtemp(dir=self.place)) / "exported"
        status, _, said = program("export", run.path, "--out", out)
        assert status == 0, f"export: {said}"
        logs = run.folder.logs()
        names = tuple(dict.fromkeys(name for name, rank in logs if rank))
        said = {(f.parts[-4], int(f.parts[-3][5:])): f for f in out.rglob("results_*.json")}
        assert set(said) == set(logs), f"export has {sorted(said)}, not {sorted(logs)}"
        pooled = world.GROUP in run.folder.asked
        for point, found in logs.items():
            check_export(said[point], found, pooled)
        assume(names)
        asks, leaves = asked(question, names), {leaf for found in logs.values() for leaf in found}
        fields = tuple(sorted(leaves))[:1] if clusters else ()
        words = [f"--{k}={asks[k]}" for k in ("margin", "reference") if asks[k]]
        words += [f"--group={name}={','.join(some)}" for name, some in asks["groups"].items()]
        words += [f"--cluster={leaf}=passage" for leaf in fields]
        status, told, said = program("score", out, "--json", *words)
        try:
            curves = curves_of_logs(logs, pooled, fields)
            expected = frames_of(curves, asks["groups"], asks["margin"], asks["reference"])
        except RefusedError:
            assert status == 2, f"score of logs {words}: exit code {status}"
            return
        assert status == 0, f"score of logs {words}: {said}"
        check_frames(expected, json.loads(told), "score of logs")


def check_export(path: Path, found: dict[str, np.ndarray], pooled: bool) -> None:
    """lm-eval's results and samples of one cut at one rank."""
    rows = json.loads(path.read_text())["results"]
    groups = {world.GROUP} if pooled and set(world.MEMBERS) <= set(found) else set()
    assert set(rows) == {*found, *groups}, f"{path}: {sorted(rows)}"
    for leaf, scores in found.items():
        metric, chain = (
            ("exact_match", "strict-match") if leaf in world.WRITTEN else ("acc", "none")
        )
        n = len(scores)
        error = scores.std(ddof=1) / n**0.5 if n > 1 else "N/A"
        assert rows[leaf][f"{metric},{chain}"] == pytest.approx(scores.mean()), f"{path}: {leaf}"
        assert rows[leaf][f"{metric}_stderr,{chain}"] == (error if n == 1 else pytest.approx(error))
        [log] = path.parent.glob(f"samples_{leaf}_*.jsonl")
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert [row[metric] for row in told] == list(scores), f"{log}"
        assert [row["doc_id"] for row in told] == list(range(n))
    for name in groups:
        parts = [found[member] for member in world.MEMBERS]
        every, n = np.concatenate(parts), sum(map(len, parts))
        if min(map(len, parts)) > 1:
            spread = sum(((x - x.mean()) ** 2).sum() for x in parts) / (n - len(parts)) / n
            assert rows[name]["acc_stderr,none"] == pytest.approx(spread**0.5)
            assert rows[name]["acc,none"] == pytest.approx(every.mean())
