"""What the study of small ranks stores, counted again from the answers' texts without aurac."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

STUDY = Path(__file__).parents[2] / "reports/small_ranks"
RUNS = sorted(path.parent for path in STUDY.rglob("results.json"))
READ = {  # what counts of an answer, and of its reference
    "aurac_word_problems": lambda text: re.findall(r"#### (-?\d+)", text)[:1],
    "mawps": lambda text: re.sub(r"[\s()]", "", text.rpartition("=")[0] or text),
}


def accuracies(file, task, targets):
    """The share of answers whose number is the target's, counted and as stored."""
    right, lines = {}, map(json.loads, file.read_text().splitlines())
    contents = {kind: [] for kind in ("cell", "block", "aggregates")}
    for line in lines:
        contents[line["kind"]].append(line["content"])
    for block in contents["block"]:
        for key, text in zip(map(tuple, block["documents"]), block["responses"], strict=True):
            right.setdefault(key, READ[task](text) == targets[key])
    stored = contents["aggregates"][-1]  # after the examples that were added
    assert stored["examples"] == len(right)
    return np.mean(list(right.values())), next(iter(stored["values"].values()))


def targets_of(run, task):
    (file,) = run.glob(f"documents/{task}-*.json")
    documents = json.loads(file.read_text())
    wanted = map(READ[task], documents["targets"])
    return dict(zip(map(tuple, documents["keys"]), wanted, strict=True))


@pytest.mark.parametrize("run", RUNS, ids=lambda path: str(path.relative_to(STUDY)))
def test_accuracies_follow_from_the_texts(run):
    manifest = json.loads((run / "run.json").read_text())
    cells = [
        (task, cell)
        for cut in manifest["cuts"]
        for task, ranks in cut["cells"].items()
        for cell in ranks.values()
        if (run / f"cells/{cell}.jsonl").exists()  # the study goes on
    ]
    targets = {task: targets_of(run, task) for task in dict(cells)}
    pairs = [accuracies(run / f"cells/{cell}.jsonl", task, targets[task]) for task, cell in cells]
    assert pairs
    np.testing.assert_allclose(*zip(*pairs, strict=True))
