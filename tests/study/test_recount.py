"""Every number of the study's tables, counted again from the answers' texts without aurac."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.optimize import brentq
from scipy.stats import t
from support import grader

STUDY = Path(__file__).parents[2] / "reports/small_ranks"
TASKS = {"word problems": "aurac_word_problems", "MAWPS": "mawps"}
RANKS = {
    "1 to 8": ((1, 2, 4, 8), np.log2),
    "1 to 16": ((1, 2, 4, 8, 16), np.log2),
    "1 to 16, linear": ((1, 2, 4, 8, 16), np.asarray),
    **{str(rank): ((rank,), None) for rank in (1, 2, 4, 8, 16)},
}
CUTS = {
    "SVD": ("svd", "keep"),
    "SVD, fitted scale": ("svd", "fit"),
    "prefix, fitted scale": ("prefix", "fit"),
    "prefix with P": ("prefix", "trained"),
    "prefix": ("prefix", "rule"),
    "prefix without P": ("prefix", "rule"),
    "none": ("prefix", "rule"),  # an adapter for each rank
}
FAMILIES = {"test": 1, "old seeds": 1, "estimate": 1, "first": 6, "rank": 4, "loss": 4}
OLD, FRESH = range(47, 55), range(55, 63)
SEARCHED = "LoRA at a rank, rate searched"  # of rank_1.yaml and rank_4.yaml


def rows_of(name):
    with (STUDY / f"tables/{name}.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def settings(recipe):
    names = ("method", "learning_rate", "alpha", "steps", "accumulation", "family")
    return tuple(recipe[name] for name in names)


@cache
def graded(run, grade):
    """Cell → (n,) whether the answers to the examples, in one order for all runs, are right."""
    found = {}
    wanted = {task: dict(sorted(grader.references(run, task).items())) for task in TASKS.values()}
    for cell, answers in grader.answers(run).items():
        task = next(name for name, refs in wanted.items() if answers.keys() <= refs.keys())
        right = grade if task == "mawps" else grader.same_number
        if answers.keys() == wanted[task].keys():
            pairs = [(answers[key], target) for key, target in wanted[task].items()]
            found[cell] = np.array([right(*pair) for pair in pairs], dtype=float)
    return found


@cache
def cells_of(grade=grader.same_value, where="run"):
    """Settings, task, basis, rescale → seed → rank → (n,) outcomes, of all runs."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in sorted(STUDY.rglob(f"smollm2/{where}/run.json")):
        outcomes, manifest = graded(path.parent, grade), json.loads(path.read_text())
        made = {a["name"]: a for a in manifest["adapters"]}
        for cut in manifest["cuts"]:
            about = made[cut["adapter"]]
            recipe = about["recipe"] | {"family": about["format"] == "family"}
            rank = recipe["rank"] if recipe["rank"] != 16 and not recipe["family"] else None
            for task, ranks in cut["cells"].items():
                key = (settings(recipe), rank is not None, task, cut["basis"], cut["rescale"])
                here = {int(r): outcomes[cell] for r, cell in ranks.items() if cell in outcomes}
                found[key][about["seed"]] |= here
    return found


@cache
def recipe_of(method, task):
    """What a method of the tables was trained with: as the study says, at the rate it chose."""
    for name in ("study.yaml", "more.yaml"):
        study = yaml.safe_load((STUDY / name).read_text())
        groups = [group for group, label in study["labels"].items() if label == method]
        for group in groups:
            if group in study["tasks"][task].get("recipes", study["recipes"]):
                common = {"family": False} | study["recipe"] | study["tasks"][task]["recipe"]
                chosen = json.loads((STUDY / "smollm2/search.json").read_text()).get(group)
                rate = chosen["tasks"][task]["chosen"] if chosen else {}
                return settings(common | study["recipes"][group] | rate)
    return None


def seeds_of(label, task, grade):
    """Seed → rank → outcomes of a method and cut."""
    method, cut = label.removesuffix(")").split(" (", 1)
    if method == SEARCHED:
        runs = [s for key, s in cells_of(grade).items() if key[1:4] == (True, task, "svd")]
        return {seed: {k: v for run in runs for k, v in run[seed].items()} for seed in OLD}
    return cells_of(grade)[(recipe_of(method, task), False, task, *CUTS[cut])]


def area(ranks, over):
    """(n,) AURAC of each example, by trapezoids; the accuracy at a single rank."""
    at, axis = RANKS[over]
    scores = np.stack([ranks[rank] for rank in at])
    if axis is None:
        return scores[0]
    x = axis(np.array(at))
    return np.trapezoid(scores, x, axis=0) / (x[-1] - x[0])


def end(each, furthest, tail, family):
    """An end of the interval of the mean over tasks of (S, n) values; `tail` is left outside it.

    Examples crossed with seeds, one further example and more for a family, Welch's degrees of
    freedom between S - 1 and his own (docs/explain/statistics.md).
    """
    more = 1 + np.log(family) / 3
    means, variances, dfs, V = [], [], [], []
    for D in each:
        (S, n), rest = D.shape, D - D.mean(0) - D.mean(1, keepdims=True) + D.mean()
        x, w = np.append(D.mean(0), furthest), np.append(np.ones(n), more)
        N, mean = n + more, np.average(x, weights=w)
        means.append(mean)
        variances.append(w @ np.square(x - mean) / (N - 1) / N)
        variances[-1] -= np.square(rest).sum() / (n * n * S * (S - 1))
        dfs.append(N - 1)
        V.append(D.mean(1).var(ddof=1) / S + 1 / (12 * n * n * S))
    variances = np.maximum(variances, 0)
    df = variances.sum() ** 2 / (variances**2 / dfs).sum() if variances.sum() else 1
    welch = sum(V) ** 2 / np.square(V).sum() * (S - 1)
    of_seeds = S - 1 + max(0, welch - (S - 1)) / (len(V) + 1)
    squares = variances.sum() * t.isf(tail, df) ** 2 + sum(V) * t.isf(tail, of_seeds) ** 2
    return np.mean(means) + np.sign(furthest - np.mean(means)) * np.sqrt(squares) / len(V)


def shared(sides, tasks, seeds, grade):
    """For each task (S, n) values of one side, or differences of two, of the seeds of all."""
    found = [[seeds_of(label, task, grade) for label, _ in sides] for task in tasks]
    needed = [{*RANKS[over][0]} for _, over in sides]
    known = [
        {seed for seed, ranks in side.items() if need <= ranks.keys()}
        for some in found
        for side, need in zip(some, needed, strict=True)
    ]
    both = sorted(set.intersection(*known) & {*seeds})
    each = []
    for some in found:
        first, *second = (
            np.stack([area(side[seed], over) for seed in both])
            for side, (_, over) in zip(some, sides, strict=True)
        )
        each.append(first - second[0] if second else first)
    return each


def whole_test():
    """Whether every fresh seed is there."""
    labels = ("LoRA (SVD)", "MatryoshkaLoRA (SVD)")
    found = [
        seeds_of(label, task, grader.same_value) for label in labels for task in TASKS.values()
    ]
    return all({1, 2, 4, 8} <= some.get(seed, {}).keys() for some in found for seed in FRESH)


def sides_of(row):
    tasks = [*TASKS.values()] if row["tasks"] == "both" else [TASKS[row["tasks"]]]
    known = [*OLD, *FRESH] if whole_test() else OLD
    seeds = {"test": FRESH, "old seeds": OLD, "first": OLD}.get(row.get("kind"), known)
    return tasks, seeds


def compared(row, grade=grader.same_value):
    """For each task (S, n) values of a difference in the tables."""
    tasks, seeds = sides_of(row)
    whole = "16" if row["kind"] == "loss" else row["ranks"]
    return shared([(row["a"], whole), (row["b"], row["ranks"])], tasks, seeds, grade)


def close(text, number, within):
    assert float(text) == pytest.approx(100 * number, abs=within)


def test_differences_with_their_ends_p_and_verdict():
    rows = rows_of("differences")
    assert len(rows) > 150
    explored = len({(row["a"], row["b"]) for row in rows if row["kind"] == "explored"})
    for row in rows:
        each = compared(row)
        assert len(each[0]) == int(row["seeds"])
        family = FAMILIES.get(row["kind"]) or max(explored, 22)  # two wait for LoRA-Squeeze
        low, high = (end(each, x, 0.025 / family, family) for x in (-1, 1))
        close(row["points"], np.mean([D.mean() for D in each]), 0.001)
        close(row["points low"], low, 0.02)
        close(row["points high"], high, 0.02)
        assert row["a is"] == ("better" if low > 0 else "worse" if high < 0 else "not shown")
        known = [float(x.replace("−", "-")) for x in row["of each seed"].split(", ")]
        assert known == pytest.approx(100 * np.mean([D.mean(1) for D in each], axis=0), abs=0.051)
        assert float(row["p"]) == pytest.approx(p_of(each, family), rel=0.03, abs=1e-4)


def p_of(each, family):
    """The smallest error rate at which the interval leaves out 0."""
    furthest = -1 if np.mean([D.mean() for D in each]) > 0 else 1

    def zero(tail):
        return end(each, furthest, tail, family)

    if zero(1e-12) * furthest < 0:
        return 0.0
    if zero(0.4999) * furthest > 0:
        return 1.0
    return min(1.0, 2 * family * brentq(zero, 1e-12, 0.4999))


def test_differences_by_text():
    rows = [row for row in rows_of("differences") if row["by text"]]
    assert len(rows) > 50
    for row in rows[:40]:
        each = compared(row, grader.same_text)
        close(row["by text"], np.mean([D.mean() for D in each]), 0.001)


def test_bootstrap():
    """Beside one of other draws, a loop over seeds and templates: two thousand draws vary."""
    random, templates = np.random.default_rng(1), grader.templates(STUDY / "smollm2/run")
    for row in rows_of("differences")[:1]:
        means = []
        for task, D in zip(sides_of(row)[0], compared(row), strict=True):
            groups = defaultdict(list)
            for place, key in enumerate(sorted(templates[task])):
                groups[templates[task][key]].append(place)
            members, draws = [*groups.values()], []
            for _ in range(3000):
                rows = random.integers(len(D), size=len(D))
                picked = random.integers(len(members), size=len(members))
                draws.append(D[np.ix_(rows, [*chain(*(members[at] for at in picked))])].mean())
            means.append(draws)
        low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
        close(row["bootstrap low"], low, 0.25)
        close(row["bootstrap high"], high, 0.25)


def test_accuracies_by_each_grade():
    grades = {"value": grader.same_value, "text": grader.same_text, "result": grader.same_result}
    rows = [row for row in rows_of("accuracies") if row["cut"]]
    assert len(rows) > 250
    for row in rows:
        tasks, seeds = sides_of(row)
        sides = [(f"{row['method']} ({row['cut']})", row["ranks"])]
        for name, grade in grades.items():
            if row[name]:
                each = shared(sides, tasks, seeds, grade)
                close(row[name], np.mean([D.mean() for D in each]), 0.001)
                if name == "value":
                    assert len(each[0]) == int(row["seeds"])
                    close(row["value low"], max(0, end(each, 0, 0.025, 1)), 0.02)
                    close(row["value high"], end(each, 1, 0.025, 1), 0.02)


def test_the_base_alone():
    (run,) = (STUDY / "smollm2/run",)
    base = json.loads((run / "run.json").read_text())["base"]
    rows = {row["tasks"]: row for row in rows_of("accuracies") if not row["cut"]}
    for name, task in TASKS.items():
        for column in ("value", "text", "result"):
            grade = getattr(grader, f"same_{column}")
            close(rows[name][column], graded(run, grade)[base[task]].mean(), 0.001)


def test_trials_of_the_search():
    rows = rows_of("trials")
    assert len(rows) > 100
    cells = cells_of(grader.same_text, "search")
    for row in rows:
        task, cut = TASKS[row["tasks"]], row["cut"].removesuffix(" *")
        label = "MatryoshkaLoRA" if row["method"].startswith("Matryoshka") else row["method"]
        recipe = recipe_of(label, task)
        recipe = (recipe[0], float(row["rate"]), *recipe[2:])
        (ranks,) = cells[(recipe, False, task, *CUTS[cut])].values()
        close(row["AURAC"], area(ranks, "1 to 8").mean(), 0.001)
        chosen = recipe_of(row["method"], task) or recipe_of(
            "MatryoshkaLoRA at its prefixes' rate", task
        )
        assert float(row["chosen"]) == chosen[1]


def test_factors_and_tokens():
    run, logs = STUDY / "smollm2/run", defaultdict(list)
    manifest = json.loads((run / "run.json").read_text())
    made, heads = {a["name"]: a for a in manifest["adapters"]}, grader.heads(run)
    for cut in manifest["cuts"]:
        recipe = made[cut["adapter"]]["recipe"]
        for task, ranks in cut["cells"].items() if cut["rescale"] == "fit" else ():
            for rank, cell in ranks.items():
                key = (settings(recipe | {"family": False}), task, cut["basis"], rank)
                logs[key].append(np.log(heads[cell]["factor"]))
    rows = rows_of("factors")
    assert len(rows) > 10
    for row in rows:
        task, basis = TASKS[row["tasks"]], CUTS[row["cut"]][0]
        for rank in ("1", "2", "4", "8"):
            mean = np.mean(logs[recipe_of(row["method"], task), task, basis, rank])
            assert float(row[rank]) == pytest.approx(np.exp(mean), abs=0.006)
    lines = [
        json.loads(line)
        for path in sorted(STUDY.rglob("trainings.jsonl"))
        for line in path.read_text().splitlines()
    ]
    known = [(x["recipe"], str(x["seed"]), str(x["tokens"])) for x in lines if "tokens" in x]
    assert known == [(x["recipe"], x["seed"], x["tokens"]) for x in rows_of("trainings")]
