"""Sequences of studies: files, changes of them, kills and a second process, against an oracle.

Training is a table: factors are drawn from what should decide them, the rows of the data included.
The model answers from the dense update of what it is given. So the oracle, which reads the drawn
file and the documents' rules alone, knows every accuracy.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import itertools
import json
import math
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lm_eval.api.registry import register_model
from safetensors.numpy import load_file
from support.ended_writes import EndedError, ending
from support.table_world import MODULE, SIDE, Table

import aurac
from aurac.cli import main
from aurac.errors import DivergedError
from aurac.study import StudyFolder, load_study, run_study

SIDES = np.random.default_rng(5).normal(size=(64, SIDE * SIDE))  # of example i
BEST = {"lora": ("svd", "keep"), "dylora": ("prefix", "rule")}
BOTH = [["svd", "keep"], ["prefix", "rule"]]


# The table --------------------------------------------------------------------------------------


def factors(*decides):
    """What a training gives: drawn from all that decides it."""
    rank = decides[0]["rank"]
    seed = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).digest()
    draw = np.random.default_rng([*seed])
    return [draw.normal(size=shape).astype("f4") for shape in ((rank, SIDE), (SIDE, rank))]


def dense(A, B, rank, basis):
    """The update of a cut, at the scale 1/√r, in one row."""
    R = len(A)
    if basis == "svd":
        u, s, vt = np.linalg.svd(B.astype(float) @ A / R**0.5)
        return (u[:, :rank] * s[:rank] @ vt[:rank]).ravel()
    return (B[:, :rank].astype(float) @ A[:rank] / rank**0.5).ravel()


def right(update, task, at):
    """Whether the model answers an example rightly."""
    return int(SIDES[(at + len(task)) % 64] @ update > 0)


@register_model("drawn")
class Drawn(Table):
    """Answers by the dense update of a PEFT folder."""

    def __init__(self, pretrained, peft=None, **_):
        super().__init__(pretrained)
        self.update = np.zeros(SIDE * SIDE)
        if peft is not None:
            config = json.loads(Path(peft, "adapter_config.json").read_text())
            tensors = load_file(Path(peft, "adapter_model.safetensors"))
            A, B = (tensors[f"base_model.model.{MODULE}.lora_{x}.weight"] for x in "AB")
            scale = config["lora_alpha"] / config["r"] ** (0.5 if config["use_rslora"] else 1)
            self.update = (scale * B.astype(float) @ A).ravel()

    def _asked(self, request):
        task, at = request.args[0].split("\n")[-1].split(":")[0].split()[-2:]
        return task, int(at), right(self.update, task, int(at))


FIELDS = ("method", "rank", "learning_rate", "steps")


class Trainer:
    """Trains from the table: counts what it trained, and may end or let another one in."""

    def __init__(self):
        self.trained, self.ends, self.other = Counter(), None, None

    def __call__(self, recipe, folder, **_):
        """As `aurac.train`."""
        other, self.other = self.other, None
        if other:
            other()
        self.ends = self.ends and self.ends - 1
        if self.ends == 0:
            raise EndedError
        rows = (recipe.folder / recipe.data).read_text()
        decides = [{name: getattr(recipe, name) for name in FIELDS}, recipe.seed, rows]
        self.trained[json.dumps(decides, sort_keys=True)] += 1
        if recipe.learning_rate >= 1:
            raise DivergedError("The training diverged: its loss is nan")
        A, B = map(torch.tensor, factors(*decides))
        modules = {MODULE: aurac.adapters.Factors(A, B, alpha=1.0, rule="sqrt")}
        made_by = {"recipe": recipe.to_dict() | {"sha256": recipe.sha256}, "seed": recipe.seed}
        about = {"nesting": recipe.nesting, "base": recipe.base, **made_by}
        aurac.save_adapter(aurac.adapters.Adapter(recipe.name, modules, **about), folder)
        return SimpleNamespace(seconds=0.0, tokens=1, memory=None, losses=())


# The oracle -------------------------------------------------------------------------------------


class Oracle:
    """What a file says, and what follows from it, by the words of docs/howto/study.md."""

    def __init__(self, content, rows):
        self.content, self.rows = content, rows
        self.trained, self.diverged = set(), set()
        self.chosen, self.own, self.scores = {}, {}, {}
        for group in content["recipes"]:
            self._search(group)
        self.pairs = [(task, group) for task in content["tasks"] for group in content["recipes"]]
        limit = content["options"]["limit"]
        for task, group in self.pairs:
            seeds = self._recipe(group).get("seeds", content["seeds"])
            for cut in self.cuts(group) if group in self.own else ():
                setting = self.chosen.get((task, group), {})
                areas = [self._area(task, group, seed, cut, limit, setting) for seed in seeds]
                if None not in areas:
                    self.scores[(task, group, *cut)] = np.mean(areas)

    def _recipe(self, group):
        return self.content["recipes"][group]

    def cuts(self, group):
        about = self._recipe(group)
        if about.get("family"):
            return [("prefix", "rule")]
        return [tuple(cut) for cut in about.get("cuts", [BEST[about["method"]]])]

    def _search(self, group):
        """What is chosen for a recipe; nothing where all trials of a task diverge."""
        search, fixed = self.content.get("search"), "learning_rate" in self._recipe(group)
        cuts = self.cuts(group)
        if not search or (fixed and len(cuts) == 1):
            self.own[group] = cuts[0]
            return
        settings = [{}] if fixed else [{"learning_rate": x} for x in search["learning_rate"]]
        best = {}  # task and cut → the area and the place of the best setting
        for task, cut in itertools.product(self.content["tasks"], cuts):
            how = search["seed"], cut, search["limit"]
            areas = [self._area(task, group, *how, setting) for setting in settings]
            found = [(area, -i) for i, area in enumerate(areas) if area is not None]
            if not found:
                return
            best[task, cut] = max(found)
        tasks = self.content["tasks"]
        self.own[group] = max(cuts, key=lambda cut: sum(best[task, cut][0] for task in tasks))
        for task in tasks:
            self.chosen[task, group] = settings[-best[task, self.own[group]][1]]

    def _made(self, group, seed, rank, setting):
        """The factors of an adapter, of a family at a rank; None where its training diverges."""
        about = self._recipe(group)
        fields = self.content["recipe"] | about | setting
        decides = {name: fields[name] for name in FIELDS}
        if about.get("family"):
            decides |= {"rank": rank}
        decides = [decides, seed, self.rows]
        self.trained.add(key := json.dumps(decides, sort_keys=True))
        if fields["learning_rate"] >= 1:
            self.diverged.add(key)
            return None
        return factors(*decides)

    def _area(self, task, group, seed, cut, limit, setting):
        """AURAC over the ranks of the study, the area over their log2; None if it diverges."""
        found, axis = [], np.log2(self.content["ranks"])
        for rank in self.content["ranks"]:
            made = self._made(group, seed, rank, setting)
            if made is None:
                return None
            update = dense(*made, rank, cut[0])
            found.append(np.mean([right(update, task, at) for at in range(limit)]))
        return np.trapezoid(found, axis) / (axis[-1] - axis[0])

    @property
    def whole(self):
        """Whether every adapter can be had."""
        return {(task, group) for task, group, *_ in self.scores} == {*self.pairs}

    def difference(self, pair):
        """Of a primary: the rows, and the mean over the tasks, in the order of the file."""
        rows = [(name, *(pair.get("cut") or self.own[name])) for name in (pair["a"], pair["b"])]
        one, two = ([self.scores[(task, *row)] for task in self.content["tasks"]] for row in rows)
        return rows, np.mean(one) - np.mean(two)


# Drawn ------------------------------------------------------------------------------------------

RECIPES = {
    "a": {"method": "lora"},
    "b": {"method": "dylora", "nested_ranks": [1, 2, 4]},
    "c": {"method": "lora", "cuts": BOTH, "learning_rate": 0.5},
    "same": {"method": "lora", "learning_rate": 0.25, "seeds": [1]},
    "each": {"method": "lora", "family": True, "learning_rate": 0.125},
    "wild": {"method": "lora", "learning_rate": 2.0},
}


def drawn(rng, root):
    """The file of a study."""
    names = ["a", *rng.sample([*RECIPES][1:], rng.choice((1, 2, 2)))]
    tasks = rng.choice((["colours"], ["colours"], ["colours", "left"]))
    content = {
        "name": "drawn",
        "question": "Which is best?",
        "base": str(root / "base"),
        "seeds": rng.choice(([1], [1, 2])),
        "ranks": [1, 2],
        "recipe": {"rank": 4, "data": "train.jsonl", "steps": 9, "learning_rate": 0.25},
        "recipes": {name: copy.deepcopy(RECIPES[name]) for name in names},
        "tasks": {task: {} for task in tasks},
        "primary": [{"a": "a", "b": names[1]}],
        "labels": {"a": "the first"},
        "options": {"model": "drawn", "include_path": str(root / "tasks"), "limit": 8},
    }
    if rng.random() < 0.4:
        rates = rng.choice(([0.25, 0.5], [0.5, 1.0], [1.0]))
        content["search"] = {"learning_rate": rates, "seed": 7, "split": "test", "limit": 6}
    if rng.random() < 0.3 and {"same", "c"} & {*names} and names[1] in ("same", "c"):
        content["primary"].append({"a": names[1], "b": "a", "cut": ["svd", "keep"]})
    return content


def changed(rng, content):
    """Another file: a limit, a label, a recipe, a seed, a rate."""
    name = rng.choice([*RECIPES])
    changes = {
        "options": {"limit": rng.choice((5, 8, 11))},
        "search": {"limit": rng.choice((4, 6, 7))},
        "labels": {"a": f"called {rng.randrange(99)}"},
        "recipes": {name: RECIPES[name]},
        "recipe": {"learning_rate": rng.choice((0.25, 0.0625))},
        "seeds": sorted({*content["seeds"], rng.randrange(1, 4)}),
        "question": "Which one?",
    }
    key = rng.choice([key for key in changes if key in content])
    both = content[key] | changes[key] if isinstance(content[key], dict) else changes[key]
    return copy.deepcopy({**content, key: both})


BAD = {  # last key of a path → a value that it does not take, and the path that is named
    "seeds": ["many"], "ranks": [0], "margin": 2, "num_fewshot": -1, "base": {}, "recipes": {},
    "reference": "z", "primary": [{"a": "a", "b": "z"}], "rank": "big", "learning_rate": ["fast"],
    "steps": -2, "cuts": [["svd", "kep"]], "family": "maybe", "data": "nothing.jsonl",
    "method": "loar", "limit": -3, "split": 3, "at": "auracc", "seed": "many",
    "labels": {"z": "Z"}, "tasks": {}, "cut": ["svd", "kep"], "b": "z",
}  # fmt: skip
NAMED = dict.fromkeys(("method", "data"), "recipes.") | {"options.limit": "options"}


def places(value, path=""):
    """(mapping, key, path) of each key of a file that is no name of its owner's."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            yield from places(each, f"{path}[{i}]")
    for key, each in value.items() if isinstance(value, dict) else ():
        below = f"{path}.{key}".removeprefix(".")
        if path not in ("recipes", "tasks"):
            yield value, key, below
        if path != "options":
            yield from places(each, below)


def mistaken(rng, content):
    """A file with a misspelt key or a value that cannot be, and the path of its key."""
    new = copy.deepcopy(content)
    of, key, path = rng.choice([*places(new)])
    if path.startswith("labels.") or rng.random() < 0.5 or key not in BAD:
        of[f"{key}x"] = of.pop(key)
        above, _, name = f"{path}x".rpartition(".")
        names = above in ("labels", "options")
        return new, f"{above}: there is no {name}" if names else f"{path}x"
    of[key] = BAD[key]
    around = path.rpartition(".")[0] if key == "b" else path  # the whole comparison
    return new, NAMED.get(path, NAMED.get(key, around))


# Sequences --------------------------------------------------------------------------------------


def program(*words):
    """Run a command line: exit code, standard output and error."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aurac", *map(str, words)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as error:
                status = error.code or 0
    return status, out.getvalue(), err.getvalue()


class Sequence:
    """A study's folder, and what is done to it; `seed` draws all."""

    def __init__(self, seed, root):
        self.rng, self.place = random.Random(seed), Path(tempfile.mkdtemp(dir=root))
        self.file, self.out = self.place / "study.yaml", self.place / "out"
        self.content, self.train = drawn(self.rng, root), Trainer()
        self.ended, self.log = 0, []
        self.data(0)

    def data(self, kind):
        rows = [{"question": f"{kind} + {i}", "answer": str(i)} for i in range(3)]
        self.rows = "".join(json.dumps(row) + "\n" for row in rows)
        (self.place / "train.jsonl").write_text(self.rows)

    def write(self, content):
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))

    def study_folder(self):
        return StudyFolder(load_study(self.file), self.out)

    def run(self, steps):
        """Do some steps, and the study to its end."""
        kinds = self.typo, self.change, self.other_data, self.kill, self.second
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aurac.training.job.train", self.train)
            for _ in range(steps):
                step = self.rng.choice(kinds)
                self.log.append(step.__name__)
                step()
            self.finish()
        shutil.rmtree(self.place)

    def typo(self):
        """A mistake is refused by its key; nothing is trained and nothing written."""
        wrong, path = mistaken(self.rng, self.content)
        self.write(wrong)
        before = {*self.out.rglob("*")}, self.train.trained.copy()
        status, _, said = program("study", self.file, "--out", self.out, "--dry-run")
        assert status == 2, f"{path} should be refused: {status}"
        told = " ".join(said.split())
        assert path.replace(" ", "") in told.replace(" ", ""), f"{path} is not named: {told}"
        assert before == ({*self.out.rglob("*")}, self.train.trained)

    def change(self):
        self.content = changed(self.rng, self.content)

    def other_data(self):
        self.data(self.rng.randrange(3))

    def kill(self):
        """The process ends at a write, or in a training."""
        self.train.ends = self.rng.choice((None, self.rng.randrange(1, 6)))
        writes = None if self.train.ends else self.rng.randrange(1, 150)
        self.write(self.content)
        try:
            with ending(writes or math.inf):
                run_study(self.study_folder())
        except EndedError:
            self.ended += 1
        self.train.ends = None

    def second(self):
        """A second process does the study while the first one trains, and then both end."""
        self.write(self.content)
        study_folder = self.study_folder()
        self.train.other = lambda: run_study(study_folder)
        self.finish()
        self.train.other = None

    def finish(self):
        """The study to its end, and all that it says."""
        self.write(self.content)
        run_study(self.study_folder())
        oracle = Oracle(self.content, self.rows)
        status, told, said = program("study", self.file, "--out", self.out, "--dry-run")
        assert status == 0, said
        lines = [line for line in told.splitlines() if "=" not in line and " of them" not in line]
        states = Counter(line.split()[0] for line in lines)
        assert oracle.whole == (states.keys() <= {"done"}), f"{states}; oracle: {oracle.whole}"
        missing = oracle.trained - self.train.trained.keys()
        assert not missing, f"not trained: {sorted(missing)[:3]}"
        again = [key for key, n in self.train.trained.items() if n > 1]
        assert len(again) <= self.ended, f"trained again: {again[:3]}"
        lines = (self.out / "trainings.jsonl").read_text().splitlines()
        kept = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        assert len(kept) >= len(oracle.trained) - self.ended
        if oracle.scores:
            self.check_report(oracle)

    def check_report(self, oracle):
        scores = pd.read_csv(self.out / "scores.csv").query("task in @self.content['tasks']")
        rows = scores.set_index(["task", "adapter", "basis", "rescale"])["aurac"]
        found = rows.to_dict()
        assert found == pytest.approx(oracle.scores), f"{found}, not {oracle.scores}"
        run = aurac.load_run(self.out)
        primary, pairs = run.question.primary, self.content["primary"]
        there = all({p["a"], p["b"]} <= {row[1] for row in oracle.scores} for p in pairs)
        if oracle.whole:
            assert there
            assert len(primary) == len(pairs) == run.question.family
        else:
            assert there or not primary
        for pair, keys in zip(pairs, primary, strict=False):
            rows, difference = oracle.difference(pair)
            assert [tuple(key) for key in keys] == rows
            frame = run.ask(pairs=(keys,), primary=(), reference=None).pairs
            over = "mean over tasks" if len(self.content["tasks"]) > 1 else "colours"
            told = frame[frame["task"] == over]
            signs = np.where(told["a"] == rows[0][0], 1, -1)  # the better one stands first
            assert [*told["difference"] * signs] == pytest.approx([difference]), f"{frame}"
        if oracle.chosen:
            known = json.loads((self.out / "search.json").read_text()).items()
            tried = ((t, group, x) for group, won in known for t, x in won["tasks"].items())
            assert {(t, group): x["chosen"] for t, group, x in tried} == oracle.chosen
        page = (self.out / "report.md").read_text().replace("\\", "")
        assert self.content["question"] in page
        assert (self.content["labels"]["a"] in page) == any(row[1] == "a" for row in oracle.scores)
        assert ("The training diverged" in page) == bool(oracle.diverged)
        assert ("comparisons are not made yet" in page) == (not primary)
        paths = (path for path in self.out.glob("*.*") if path.suffix != ".jsonl")
        files = {path: path.read_bytes() for path in paths}
        status, _, said = program("report", self.out)
        assert status == 0, said
        different = [path.name for path, content in files.items() if path.read_bytes() != content]
        assert not different, f"made again with other content: {different}"
