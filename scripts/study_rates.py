"""MatryoshkaLoRA at two learning rates, from stored outcomes, for `reports/study/README.md`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aurac.analysis.groups import RecipeGroup, gather
from aurac.analysis.score import score
from aurac.curves.display import percent
from aurac.records.reader import read_run
from aurac.records.results_file import Results

REPORTS = Path(__file__).parents[1] / "reports"
RATES = {"0.004": "longer_training", "0.008": "study"}
"""Learning rate → the study whose test problems it was evaluated on."""
WAYS = {"with P": "prefix · trained", "SVD": "svd · keep", "without P": "prefix · rule"}


def groups_of(study: str, task: str) -> dict[str, RecipeGroup]:
    """Label → the seeds of one curve."""
    curves, groups = read_run(REPORTS / study / "results" / task)
    return {group.label: group for group in gather(curves, groups)}


def rate_rows() -> dict[str, list[str | None]]:
    """What was measured → it at each rate, in percent; of the test problems that both runs have."""
    searched = Results.read(REPORTS / "study/search/word_problems").areas
    runs = [groups_of(study, "word_problems") for study in RATES.values()]
    rows: dict[str, list[float]] = {
        "validation, with P": [searched[f"matryoshka-lr{rate}-seed42"] for rate in RATES]
    }
    number = min(group.first.n_docs or 0 for run in runs for group in run.values())
    for name, way in WAYS.items():
        both = [run[f"matryoshka · {way}"] for run in runs]
        first, second = ((group.first.doc_hashes or ())[:number] for group in both)
        if first != second:
            raise ValueError("the two studies begin with other problems")
        each = [
            np.mean([np.asarray(c.outcomes)[:, :number].mean(axis=1) for c in group.curves], axis=0)
            for group in both
        ]
        known = [dict(zip(both[0].ranks, row.tolist(), strict=True)) for row in each]
        rows[f"test, {name}"] = [score(curve).value for curve in known]
        if name == "with P":
            rows["test, with P, rank 16 alone"] = [curve[16] for curve in known]
    return {name: [percent(value) for value in row] for name, row in rows.items()}
