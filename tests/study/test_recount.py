"""What the study of small ranks stores, counted again from the answers' texts without aurac."""

from __future__ import annotations

import json
import re
import tarfile
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import t

STUDY = Path(__file__).parents[2] / "reports/small_ranks"
RUNS = sorted(path.parent for path in STUDY.rglob("run.json"))
READ = {  # what counts of an answer, and of its reference
    "aurac_word_problems": lambda text: re.findall(r"#### (-?\d+)", text)[:1],
    "mawps": lambda text: re.sub(r"[\s()]", "", text.rpartition("=")[0] or text),
}


def value(text):
    """Of the equation of an answer; nothing that is equal to itself where it has none."""
    equation = text.rpartition("=")[0] or text
    if "**" in equation or "//" in equation or not re.fullmatch(r"[\d.\s()*/+-]+", equation):
        return float("nan")
    try:
        return round(float(eval(equation)), 6)  # digits and operators alone
    except (SyntaxError, TypeError, ZeroDivisionError):
        return float("nan")


BY_VALUE = READ | {"mawps": value}
FAMILY = 6  # declared comparisons
TASKS = {"word problems": "aurac_word_problems", "MAWPS": "mawps"}
CUTS = {
    "SVD": ("svd", "keep"),
    "SVD, fitted scale": ("svd", "fit"),
    "prefix, fitted scale": ("prefix", "fit"),
    "prefix with P": ("prefix", "trained"),
    "prefix, own scale": ("prefix", "rule"),
    "prefix without P": ("prefix", "rule"),
    "trained at each rank": ("prefix", "rule"),
}


def lines_of(run):
    """Cell → its lines: those that are packed, and after them those of its file."""
    lines = defaultdict(list)
    if (packed := run / "cells.tar.xz").exists():
        with tarfile.open(packed) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                lines[Path(member.name).stem] += archive.extractfile(member).readlines()
    for path in run.glob("cells/*.jsonl"):
        lines[path.stem] += path.read_bytes().splitlines()
    return lines


def outcomes(lines, read, targets):
    """Whether each answer is right; as many, and as large a share of them, as is stored."""
    right, lines = {}, map(json.loads, lines)
    contents = {kind: [] for kind in ("cell", "block", "aggregates")}
    for line in lines:
        contents[line["kind"]].append(line["content"])
    for block in contents["block"]:
        for key, text in zip(map(tuple, block["documents"]), block["responses"], strict=True):
            right.setdefault(key, read(text) == targets[key])
    stored = contents["aggregates"][-1]  # after the examples that were added
    assert stored["examples"] == len(right)
    if read is not value:
        np.testing.assert_allclose(
            np.mean([*right.values()]), next(iter(stored["values"].values()))
        )
    return right


def targets_of(run, task, read):
    (file,) = run.glob(f"documents/{task}-*.json")
    documents = json.loads(file.read_text())
    wanted = map(read, documents["targets"])
    return dict(zip(map(tuple, documents["keys"]), wanted, strict=True))


@cache
def cells_of(run, by_value=False):
    """Settings, seed, task, cut and rank → the outcomes."""
    manifest = json.loads((run / "run.json").read_text())
    made = {
        a["name"]: (settings(a["recipe"] | {"family": a["format"] == "family"}), a["seed"])
        for a in manifest["adapters"]
    }
    read = BY_VALUE if by_value else READ
    targets = {t["name"]: targets_of(run, t["name"], read[t["name"]]) for t in manifest["tasks"]}
    lines = lines_of(run)
    return {
        (*made[cut["adapter"]], task, cut["basis"], cut["rescale"], int(rank)): outcomes(
            lines[cell], read[task], targets[task]
        )
        for cut in manifest["cuts"]
        for task, ranks in cut["cells"].items()
        for rank, cell in ranks.items()
        if cell in lines  # the study goes on
    }


@pytest.mark.parametrize("run", RUNS, ids=lambda path: str(path.relative_to(STUDY)))
def test_accuracies_follow_from_the_texts(run):
    assert cells_of(run)


def settings(recipe):
    names = ("method", "learning_rate", "alpha", "steps", "accumulation", "family")
    return tuple(recipe[name] for name in names)


def settings_of(folder, label, task):
    """What a recipe of the page was trained with: as the study says, at the rate it chose."""
    study = yaml.safe_load((STUDY / "study.yaml").read_text())
    group = next(name for name, text in study["labels"].items() if text == label)
    common = {"family": False} | study["recipe"] | study["tasks"][task]["recipe"]
    recipe = common | study["recipes"][group]
    chosen = json.loads((folder / "search.json").read_text()).get(group)
    rate = chosen["tasks"][task]["chosen"] if chosen else {}
    return settings(recipe | rate)


def areas(cells, folder, task, label, ranks, axis=np.log2):
    """(S, n) AURAC of a method and cut: trapezoids."""
    method, cut = label.removesuffix(")").split(" (")
    ours = (settings_of(folder, method, task), task, *CUTS[cut])
    seeds = sorted({key[1] for key in cells if (key[0], *key[2:5]) == ours})
    each = [[cells[(ours[0], s, *ours[1:], rank)] for rank in ranks] for s in seeds]
    scores = np.array([[[cell[doc] for doc in each[0][0]] for cell in ranks] for ranks in each])
    widths = np.diff(axis(ranks))
    weights = np.append(widths, 0) + np.insert(widths, 0, 0) if any(widths) else np.ones(len(ranks))
    return np.tensordot(scores, weights / weights.sum(), axes=(1, 0))


def end(each, furthest, family):
    """An end of the interval of the mean over tasks of (S, n) differences D, in points.

    Examples crossed with seeds, one further example and more for a family, Welch's degrees of
    freedom between S - 1 and his own.
    """
    examples, means, V, more = 0, [], [], 1 + np.log(family) / 3
    for D in each:
        (S, n), rest = D.shape, D - D.mean(0) - D.mean(1, keepdims=True) + D.mean()
        x, w = np.append(D.mean(0), furthest), np.append(np.ones(n), more)
        N, mean = n + more, np.average(x, weights=w)
        variance = w @ np.square(x - mean) / (N - 1) / N
        variance -= np.square(rest).sum() / (n * n * S * (S - 1))
        examples += max(variance, 0) * t.isf(0.025 / family, N - 1) ** 2
        means.append(mean)
        V.append(D.mean(1).var(ddof=1) / S)
    welch = sum(V) ** 2 / np.square(V).sum() * (S - 1)
    df = S - 1 + max(0, welch - (S - 1)) / (len(V) + 1)
    reach = np.sqrt(examples + sum(V) * t.isf(0.025 / family, df) ** 2) / len(V)
    return 100 * (np.mean(means) + np.sign(furthest) * reach)


def rows_of(before):
    """Of the table after a line of the page, each row as a dictionary."""
    text = (STUDY / "README.md").read_text().partition(f"{before}\n")[2].strip()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    end = next((at for at, line in enumerate(lines) if not line), len(lines))
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:end]]


def folder_of(base):
    return STUDY / base.partition("-")[0].lower()


def differences(base, pair, task, ranks=(1, 2, 4, 8), axis=np.log2, by_value=False):
    """(S, n) differences of the AURAC of two rows, of the seeds that both have: the first ones."""
    cells = cells_of(folder_of(base) / "run", by_value)
    a, b = (areas(cells, folder_of(base), task, x, ranks, axis) for x in pair.split(" − "))
    return a[: len(b)] - b[: len(a)]


def numbers_of(text):
    return [float(x) for x in re.findall(r"-?\d+\.\d", text.replace("−", "-"))]


def check(each, numbers, family):
    value, *ends = numbers_of(numbers)
    assert abs(100 * np.mean([D.mean() for D in each]) - value) < 0.051
    assert ends == pytest.approx([end(each, x, family) for x in (-1, 1)], abs=0.15)


def test_declared_comparisons_follow_from_the_texts():
    rows = rows_of("## Comparisons that were declared")
    assert rows
    for row in rows:
        base, pair, numbers = list(row.values())[:3]
        check([differences(base, pair, task) for task in TASKS.values()], numbers, FAMILY)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_differences_by_value_follow_from_the_texts():
    text = (STUDY / "README.md").read_text().partition("order, ")[2]
    rows = rows_of("## Comparisons that were declared")
    found = [differences(*[*row.values()][:2], "mawps", by_value=True).mean() for row in rows]
    assert numbers_of(text)[: len(found)] == pytest.approx(100 * np.array(found), abs=0.051)


def test_declared_comparisons_of_each_task_and_seed_follow_from_the_texts():
    rows = rows_of("On each task, with intervals as wide, and of each seed:")
    assert rows
    for place, pair, numbers, seeds in map(dict.values, rows):
        base, task = place.split(", ")
        D = differences(base, pair, TASKS[task])
        check([D], numbers, FAMILY)
        assert numbers_of(seeds) == pytest.approx(100 * D.mean(1), abs=0.051)


def test_exploratory_comparisons_follow_from_the_texts():
    rows = rows_of("## Exploratory comparisons")
    assert rows
    for row in rows:
        for name, numbers in [*row.items()][2:]:
            tasks = [TASKS[name]] if name in TASKS else TASKS.values()
            ranks = (1, 2, 4, 8, 16) if "16" in name else (1, 2, 4, 8)
            axis = np.asarray if name.endswith("over rank") else np.log2
            if numbers != "–":
                pair = row["base"], row["difference"]
                each = [differences(*pair, task, ranks, axis) for task in tasks]
                check(each, numbers, len(rows))


def test_differences_at_each_rank_follow_from_the_texts():
    rows = rows_of("At each rank, the intervals of a row together:")
    assert rows
    for base, pair, *cells in map(dict.values, rows):
        tasks = ["aurac_word_problems"] if "each rank" in pair else TASKS.values()
        for rank, numbers in zip((1, 2, 4, 8), cells, strict=True):
            check([differences(base, pair, task, (rank,) * 2) for task in tasks], numbers, 4)


def test_aurac_and_accuracies_follow_from_the_texts():
    found = {}
    for row in rows_of("## AURAC of every way and cut"):
        label = f"{row.pop('method')} ({row.pop('cut')})"
        for name, numbers in row.items():
            if numbers and not name.startswith("rank") and label[-2:] != "()":
                found[name, label, (1, 2, 4, 8)] = numbers_of(numbers)[0]
    for row in rows_of(
        "Accuracy in percent at each rank, of eight seeds or five, each method under its own cut:"
    ):
        place, label = row.pop("task"), row.pop("method")
        found |= {(place, label, (int(r),) * 2): float(x) for r, x in row.items() if x}
    assert len(found) > 50
    for (place, label, ranks), value in found.items():
        base, task = place.split(", ")
        cells = cells_of(folder_of(base) / "run")
        area = areas(cells, folder_of(base), TASKS[task], label, ranks).mean()
        assert abs(100 * area - value) < 0.051


def test_the_answer_has_the_numbers_of_the_tables():
    said, _, below = (STUDY / "README.md").read_text().replace("\\[", "[").partition("\n## ")
    numbers = re.findall(r"−?\d+\.\d \[[^\]]+\]", said)
    assert numbers
    assert [text for text in numbers if text not in below.replace("\\]", "]")] == []
