"""The study's numbers, counted again from the texts of the answers with numpy and scipy alone."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.optimize import brentq
from scipy.stats import t
from support import grader

STUDY = Path(__file__).parents[2] / "reports/small_ranks"
RUNS = [STUDY / "smollm2/run", STUDY / "fresh/smollm2/run"]
TASKS = {"word problems": "aurac_word_problems", "MAWPS": "mawps"}
PAGE = yaml.safe_load(Path(__file__).with_name("page.yaml").read_text("utf-8"))
WAYS = PAGE["ways"]
SEEDS = {"old": range(47, 55), "fresh": range(55, 63), "all": range(47, 63)}
RANKS = {
    "1 to 8": ((1, 2, 4, 8), np.log2),
    "1 to 16": ((1, 2, 4, 8, 16), np.log2),
    "1 to 16, linear": ((1, 2, 4, 8, 16), np.asarray),
}
METHODS = {  # method, learning rate, alpha, draws in a step, whether each rank has an adapter
    ("lora", 0.008, 1, 2, False): "LoRA",
    ("lora", 0.004, 4, 2, False): "LoRA at scale 1",
    ("lora", 0.008, 1, 2, True): "LoRA at each rank",
    ("matryoshka", 0.004, 1, 2, False): "MatryoshkaLoRA",
    ("matryoshka", 0.008, 1, 2, False): "MatryoshkaLoRA at its prefixes' rate",
    ("dylora", 0.008, 1, 2, False): "DyLoRA",
    ("dylora", 0.008, 1, 8, False): "DyLoRA with eight draws",
}
CUTS = {
    ("svd", "keep"): "SVD",
    ("svd", "fit"): "SVD, fitted scale",
    ("prefix", "fit"): "prefix, fitted scale",
    ("prefix", "trained"): "prefix with P",
    ("prefix", "rule"): "prefix",
}
KINDS = {"test": ("fresh", 1), "old seeds": ("old", 1), "estimate": ("all", 1), "first": ("old", 6)}
KINDS |= {"explored": ("all", 22), "rank": ("all", 4), "loss": ("all", 4)}  # seeds and family


@cache
def cells(run):
    """Way, task, seed, rank and cell of every cell of a run."""
    manifest, found = json.loads((run / "run.json").read_text()), []
    made = {each["name"]: each for each in manifest["adapters"]}
    for cut in manifest["cuts"]:
        about = made[cut["adapter"]]
        names = ("method", "learning_rate", "alpha", "accumulation")
        family = about["format"] == "family"
        method = METHODS[(*(about["recipe"][name] for name in names), family)]
        name = "none" if family else CUTS[cut["basis"], cut["rescale"]]
        if (method, name) == ("MatryoshkaLoRA at its prefixes' rate", "prefix"):
            name = "prefix without P"
        for task, ranks in cut["cells"].items():
            for rank, cell in ranks.items():
                found.append((f"{method} ({name})", task, about["seed"], int(rank), cell))
    return found


@cache
def outcomes(grade):
    """Way and task → seed → rank → (n,) whether the answers are right."""
    found = defaultdict(lambda: defaultdict(dict))
    for run in RUNS:
        answers = grader.answers(run)
        wanted = {task: sorted(grader.references(run, task).items()) for task in TASKS.values()}
        for way, task, seed, rank, cell in cells(run):
            right = grade if task == "mawps" else grader.same_number
            pairs = [(answers[cell][key], target) for key, target in wanted[task]]
            found[way, task][seed][rank] = np.array([right(*pair) for pair in pairs], dtype=float)
    return found


@cache
def templates(task):
    """(n,) numbers of the templates of a task's questions."""
    return np.unique(
        [text for _, text in sorted(grader.templates(RUNS[1])[task].items())], return_inverse=True
    )[1]


def area(ranks, over):
    """(n,) AURAC of each example by trapezoids, or the scores at a single rank."""
    if over not in RANKS:
        return ranks[int(over)]
    at, axis = RANKS[over]
    x = axis(np.array(at))
    return np.trapezoid([ranks[rank] for rank in at], x, axis=0) / (x[-1] - x[0])


def values(sides, tasks, seeds, grade=grader.same_value):
    """Task → (S, n) values of a way, or differences of two, and the seeds that all have."""
    tasks = TASKS.values() if tasks == "both" else [TASKS[tasks]]
    known = [(outcomes(grade)[way, task], over) for task in tasks for way, over in sides]
    needed = [{*RANKS.get(over, [[over]])[0]} for _, over in known]
    there = [
        {seed for seed, ranks in found.items() if {*map(int, need)} <= ranks.keys()}
        for (found, _), need in zip(known, needed, strict=True)
    ]
    both = sorted(set.intersection(*there) & {*seeds})
    each = [np.stack([area(found[seed], over) for seed in both]) for found, over in known]
    of = len(sides)
    return {
        task: each[of * i] - (each[of * i + 1] if of > 1 else 0) for i, task in enumerate(tasks)
    }, both


def end(each, furthest, tail, family, clustered=False):
    """An end of the interval of the mean over tasks; `tail` is left outside it.

    Written from docs/explain/statistics.md: CR2 variance over units of examples with one further
    unit and more for a family, crossed with seeds, degrees of freedom between S - 1 and Welch's.
    """
    more, means, total, spread, inside, arms = 1 + np.log(family) / 3, [], 0, 0, 0, []
    for task, D in each.items():
        (S, n), tasks = D.shape, len(each)
        unit = templates(task) if clustered else np.arange(n)
        sizes, sums = np.bincount(unit), np.bincount(unit, D.mean(axis=0))
        size = max(1, 0.8 * np.square(sizes).sum() / n)
        w, m = np.append(np.ones(len(sizes)), more), np.append(sizes, size)
        x, N = np.append(sums, size * furthest), w @ m
        mean, h = w @ x / N, m / N
        variance = w @ (np.square(x - mean * m) / (1 - h)) / (N * tasks) ** 2
        q = h**2 / (1 - h)
        df = 1 / (w @ h**2 + (w @ q) ** 2 - w @ q**2)
        crossed = D - D.mean(0) - D.mean(1, keepdims=True) + D.mean()
        squares = np.square([np.bincount(unit, row) for row in crossed]).sum(axis=0)
        inside += squares @ (1 / (1 - sizes / n)) / (n * n * S * (S - 1) * tasks**2)
        arms.append((D.mean(1).var(ddof=1) + 1 / (12 * n * n)) / S / tasks**2)
        means.append(mean)
        total, spread = total + variance, spread + variance**2 / df
    welch = sum(arms) ** 2 / np.square(arms).sum() * (S - 1)
    of_seeds = S - 1 + max(0, welch - (S - 1)) / (len(arms) + 1)
    df = total**2 / spread if spread else 1
    squares = max(total - inside, 0) * t.isf(tail, df) ** 2
    reach = np.sqrt(squares + sum(arms) * t.isf(tail, of_seeds) ** 2)
    return np.mean(means) + np.sign(furthest - np.mean(means)) * reach


def ends(each, family, least=-1, clustered=False):
    """Both ends of the 95 % interval, where a value is between `least` and 1."""
    low, high = (end(each, x, 0.025 / family, family, clustered) for x in (least, 1))
    return max(low, least), min(high, 1)


def p_of(each, family):
    """The smallest error rate at which the interval leaves out 0."""
    side = -1 if np.mean([D.mean() for D in each.values()]) > 0 else 1

    def zero(tail):
        return end(each, side, tail, family) * side

    if zero(1e-15) < 0 or zero(0.4999) > 0:
        return 0 if zero(1e-15) < 0 else 1
    return min(1, 2 * family * brentq(zero, 1e-15, 0.4999))


def rows_of(name):
    return pd.read_csv(STUDY / f"tables/{name}.csv", dtype={"ranks": str}).to_dict("records")


def mean_of(each):
    return np.mean([D.mean() for D in each.values()])


def close(row, name, each, family, least=-1, clustered=False):
    stored = [row[name], row[f"{name} low"], row[f"{name} high"]]
    again = [mean_of(each), *ends(each, family, least, clustered)]
    assert stored == pytest.approx([100 * number for number in again], abs=2e-3), row


def test_differences():
    rows = rows_of("differences")
    assert len(rows) == 222
    for row in rows:
        seeds, family = KINDS[row["kind"]]
        sides = [(row["a"], "16" if row["kind"] == "loss" else row["ranks"])]
        asked = [*sides, (row["b"], row["ranks"])], row["tasks"], SEEDS[seeds]
        each, both = values(*asked)
        assert row["seeds"] == f"{both[0]}–{both[-1]}"
        assert len(both) == both[-1] - both[0] + 1
        close(row, "points", each, family)
        close(row, "by template", each, family, clustered=True)
        if row["tasks"] != "word problems":
            close(row, "by text", values(*asked, grader.same_text)[0], family)
        low, high = ends(each, family)
        assert row["a is"] == ("better" if low > 0 else "worse" if high < 0 else "neither")
        known = [float(x.replace("−", "-")) for x in row["of each seed"].split(", ")]
        again = 100 * np.mean([D.mean(axis=1) for D in each.values()], axis=0)
        assert known == pytest.approx(again, abs=0.051)
        assert row["p"] == pytest.approx(p_of(each, family), rel=1e-3, abs=1e-6), row


def test_accuracies_and_factors():
    logs, ways = defaultdict(list), set()
    for run in RUNS:
        heads = grader.heads(run)
        for way, task, _, rank, cell in cells(run):
            ways.add(way)
            if "fitted" in way:
                logs[way, task, rank].append(np.log(heads[cell]["factor"]))
    base, *rows = rows_of("accuracies")
    assert (base["way"], base["tasks"], base["accuracy"]) == ("the base alone", "word problems", 0)
    assert {row["way"] for row in rows[1:]} == ways
    for row in rows[1:]:
        seeds = SEEDS["all" if row["seeds"].endswith("62") else "old"]
        each, both = values([(row["way"], row["ranks"])], row["tasks"], seeds)
        assert row["seeds"] == f"{both[0]}–{both[-1]}"
        close(row, "accuracy", each, 1, least=0)
        task = TASKS.get(row["tasks"])
        if found := task and row["ranks"].isdigit() and logs[row["way"], task, int(row["ranks"])]:
            assert row["factor"] == pytest.approx(np.exp(np.mean(found)), rel=1e-4)
        else:
            assert math.isnan(row["factor"])


def test_methods_see_the_same_tokens():
    """Each seed of a task, whatever the method; a family has an adapter for each rank."""
    seen, trained = defaultdict(set), defaultdict(int)
    for path in (STUDY / "trainings.jsonl", STUDY / "fresh/trainings.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            if "tokens" in line and line["seed"] in SEEDS["all"]:
                seen["mawps" in line["recipe"], line["seed"]].add(line["tokens"])
                trained[line["recipe"]] += 1
    assert len(seen) == 2 * len(SEEDS["all"])
    assert all(len(tokens) == 1 for tokens in seen.values())
    assert sum(count for name, count in trained.items() if "fresh" in name) == 32


class Number(NamedTuple):
    """A difference as the page writes it: the ends are rounded outwards."""

    value: float
    low: float
    high: float

    @property
    def mean(self):
        return f"{100 * self.value + math.copysign(1e-9, self.value):z.1f}".replace("-", "−")

    @property
    def most(self):
        return f"{math.ceil(1000 * self.high) / 10:z.1f}".replace("-", "−")

    @property
    def ends(self):
        return f"[{math.floor(1000 * self.low) / 10:z.1f}, ".replace("-", "−") + f"{self.most}]"

    @property
    def cell(self):
        return f"{self.mean} {self.ends}"

    @property
    def points(self):
        return f"{self.mean} points {self.ends}"

    @property
    def says(self):
        if self.low > 0:
            return "is better"
        return "is worse" if self.high < 0 else "is not shown to be better"

    @property
    def zero(self):
        return {"is better": "is above 0", "is worse": "is below 0"}.get(self.says, "includes 0")


def number(a, b, tasks, over, seeds, family, grade="same_value", clustered=False):
    sides = [(WAYS[a], "16" if a == b else over), *([(WAYS[b], over)] if b else [])]
    each, _ = values(sides, tasks, SEEDS[seeds], getattr(grader, grade))
    return Number(mean_of(each), *ends(each, family, -1 if b else 0, clustered))


def test_every_number_and_verdict_of_the_page():
    text = " ".join((STUDY / "README.md").read_text("utf-8").split())
    for sentence, asked in PAGE["said"].items():
        said = sentence.format(*(number(*each) for each in asked))
        assert text.count(said) == 1, said
        text = text.replace(said, "")
    said = r"\d\.\d(?!\d)|is (better|worse|not shown|above|below)|includes 0"
    assert not re.search(said, text)  # nothing else is said


def test_intervals_by_template_stand_where_they_change_a_statement():
    said = [tuple(asked) for each in PAGE["said"].values() for asked in each if asked[1]]
    for asked in said:
        if len(asked) == 6:
            by_template = (*asked, "same_value", True)
            same = number(*asked).says == number(*by_template).says
            assert same or by_template in said, asked


def test_digits_behind_a_decimal_point_hardly_matter():
    """The appendix says for how many stored answers they do."""
    gained = 0
    for run in RUNS:
        wanted = grader.references(run, TASKS["word problems"])
        for answers in grader.answers(run).values():
            for key in answers.keys() & wanted.keys():
                right = grader.same_number(answers[key], wanted[key])
                gained += right and bool(re.search(r"#### -?\d+\.\d", answers[key]))
    assert gained == 6
    assert "Six of all stored answers" in (STUDY / "appendix.md").read_text("utf-8")
