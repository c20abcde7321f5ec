"""Writes the tables of `reports/study/README.md` from the analyses of its two studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aurac.analysis.comparisons import compare_pair, finished
from aurac.analysis.groups import RecipeGroup, gather, together
from aurac.analysis.pairing import difference_at
from aurac.analysis.rows import Options
from aurac.analysis.sentences import show_p
from aurac.curves.display import interval, percent
from aurac.records.reader import read_run
from aurac.stats.multiplicity import holm

REPORTS = Path(__file__).parents[1] / "reports"
PAGE = REPORTS / "study/README.md"
TASKS = ("aurac_word_problems", "mawps", "arc_easy")  # columns, by their names in the analysis

_P, _TRAINED, _FIT = "prefix · rule", "prefix · trained", "prefix · fit"

SCORES = {
    "LoRA | SVD": "lora · svd · keep",
    "LoRA | prefix": "lora",
    "DyLoRA | prefix": "dylora",
    "MatryoshkaLoRA | with P": "matryoshka",
    "MatryoshkaLoRA | without P": f"matryoshka · {_P}",
    "MatryoshkaLoRA | SVD": "matryoshka · svd · keep",
    "LoRA at each rank | –": "lora_per_rank",
    "DyLoRA 360 steps | prefix": "dylora_long",
    "nested losses | prefix": "nested_loss",
    "nested losses 60 steps | prefix": "nested_loss_half",
}
"""Row → curve, of the table over all tasks."""

DIFFERENCES = {
    "MatryoshkaLoRA − LoRA": ("matryoshka", "lora"),
    "MatryoshkaLoRA − DyLoRA": ("matryoshka", "dylora"),
    "DyLoRA − LoRA": ("dylora", "lora"),
    "LoRA at each rank − LoRA": ("lora_per_rank", "lora"),
    "LoRA at each rank − MatryoshkaLoRA": ("lora_per_rank", "matryoshka"),
    "DyLoRA 360 steps − DyLoRA": ("dylora_long", "dylora"),
    "nested losses − LoRA": ("nested_loss", "lora"),
    "nested losses 60 steps − LoRA": ("nested_loss_half", "lora"),
    "LoRA: SVD − prefix": ("lora · svd · keep", f"lora · {_P}"),
    "MatryoshkaLoRA: SVD − with P": ("matryoshka · svd · keep", f"matryoshka · {_TRAINED}"),
    "MatryoshkaLoRA: without P − with P": (f"matryoshka · {_P}", f"matryoshka · {_TRAINED}"),
}
"""Row → b and a of the difference b − a."""

LONGER = {
    "LoRA | SVD": ("lora · svd · keep", "lora_long · svd · keep"),
    "LoRA | prefix": ("lora", "lora_long"),
    "LoRA | prefix, fitted": (None, f"lora_long · {_FIT}"),
    "DyLoRA | prefix": ("dylora", "dylora_long"),
    "MatryoshkaLoRA | with P": ("matryoshka", "matryoshka_long"),
    "MatryoshkaLoRA | prefix, fitted": (None, f"matryoshka_long · {_FIT}"),
}
"""Row → the curves after 120 and 360 steps."""

LONGER_DIFFERENCES = {
    "MatryoshkaLoRA − LoRA": ("matryoshka_long", "lora_long"),
    "MatryoshkaLoRA − DyLoRA": ("matryoshka_long", "dylora_long"),
    "DyLoRA − LoRA": ("dylora_long", "lora_long"),
    "LoRA: 360 steps − 120": ("lora_long", "lora"),
    "DyLoRA: 360 steps − 120": ("dylora_long", "dylora"),
    "MatryoshkaLoRA: 360 steps − 120": ("matryoshka_long", "matryoshka"),
    "LoRA: SVD − prefix": ("lora_long · svd · keep", f"lora_long · {_P}"),
    "LoRA: fitted − rule": (f"lora_long · {_FIT}", f"lora_long · {_P}"),
    "MatryoshkaLoRA: fitted − with P": (
        f"matryoshka_long · {_FIT}",
        f"matryoshka_long · {_TRAINED}",
    ),
}
"""Row → b and a of the difference b − a, after 360 steps where nothing is said."""

AFTERWARDS = {
    "LoRA by SVD − MatryoshkaLoRA with P": (
        "study", "lora · svd · keep", f"matryoshka · {_TRAINED}",
    ),
    "LoRA by SVD − LoRA at each rank": ("study", "lora · svd · keep", f"lora_per_rank · {_P}"),
    "360 steps: LoRA by SVD − DyLoRA": (
        "longer_training", "lora_long · svd · keep", f"dylora_long · {_P}",
    ),
    "360 steps: LoRA by SVD − MatryoshkaLoRA with P": (
        "longer_training", "lora_long · svd · keep", f"matryoshka_long · {_TRAINED}",
    ),
    "360 steps: LoRA by SVD − MatryoshkaLoRA, fitted": (
        "longer_training", "lora_long · svd · keep", f"matryoshka_long · {_FIT}",
    ),
    "360 steps: MatryoshkaLoRA − LoRA, both fitted": (
        "longer_training", f"matryoshka_long · {_FIT}", f"lora_long · {_FIT}",
    ),
}  # fmt: skip
"""Row → study, b and a of a difference on the word problems that no family has."""


AT_RANKS = {
    "MatryoshkaLoRA with P − LoRA by prefix": (f"matryoshka · {_TRAINED}", f"lora · {_P}"),
    "MatryoshkaLoRA with P − LoRA by SVD": (f"matryoshka · {_TRAINED}", "lora · svd · keep"),
}
"""Row → b and a of the differences of accuracy at each rank of the word problems."""


def with_tables(page: str) -> str:
    """The page with the numbers of the stored analyses in its tables."""
    whole, longer = (_analysis(name) for name in ("study", "longer_training"))
    areas, pairs = _areas(whole), _differences(whole)
    rows = [_row(label, [areas.get((curve, t)) for t in TASKS]) for label, curve in SCORES.items()]
    page = _replaced(page, "| method | truncation | word problems", rows)
    none = " | "
    rows = [
        _row(label, [pairs.get((*pair, t), none) for t in TASKS])
        for label, pair in DIFFERENCES.items()
    ]
    page = _replaced(page, "| difference | word problems", rows)
    areas, pairs = _areas(longer), _differences(longer)
    rows = [
        _row(label, [areas.get((curve or "", TASKS[0])) for curve in both])
        for label, both in LONGER.items()
    ]
    page = _replaced(page, "| method | truncation | 120 steps", rows)
    rows = [
        _row(label, [pairs.get((*pair, TASKS[0]))]) for label, pair in LONGER_DIFFERENCES.items()
    ]
    page = _replaced(page, "| difference after 360 steps", rows)
    adjusted = afterwards()
    rows = [_row(label, [_afterwards_cells(row, p)]) for label, (row, p) in adjusted.items()]
    page = _replaced(page, "| compared afterwards", rows)
    rows = [_row(label, _at_ranks(*pair)) for label, pair in AT_RANKS.items()]
    return _replaced(page, "| accuracy, compared afterwards", rows)


def _analysis(study: str) -> dict[str, Any]:
    text = (REPORTS / study / "analysis.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _areas(analysis: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Curve and task → AURAC with its interval."""
    areas = {}
    for row in analysis["scores"]:
        area = row["log2"]
        areas[row["label"], row["task"]] = _shown(area["low"], area["value"], area["high"])
    return areas


def _differences(analysis: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    """b, a and task → the difference b − a with its interval, and its adjusted p value."""
    found = {}
    for row in (*analysis["pairs"], *analysis["variants"]):
        if row["estimate"] is None:
            continue
        low, value, high = (row["estimate"][name] for name in ("low", "value", "high"))
        p = show_p(row["p_holm"]).removeprefix("= ")
        found[row["b"], row["a"], row["task"]] = f"{_shown(low, value, high)} | {p}"
        found[row["a"], row["b"], row["task"]] = f"{_shown(-high, -value, -low)} | {p}"
    return found


def afterwards() -> dict[str, tuple[dict[str, Any], float]]:
    """Label → a difference of the word problems that no family has, and its p value adjusted.

    Holm goes over what the study explored and all that was compared afterwards in it.
    """
    found: dict[str, tuple[dict[str, Any], float]] = {}
    for study in ("study", "longer_training"):
        every, analysis = _word_problems(study), _analysis(study)
        tested = [*analysis["pairs"], *analysis["variants"]]
        family = [row["p"] for row in tested if row.get("exploratory") is not False]
        rows: dict[str, dict[str, Any]] = {}
        for label, (of, b, a) in AFTERWARDS.items():
            if of == study:
                pair = finished(compare_pair(every[a], every[b], Options()))
                rows[label] = pair.to_dict(details=True)
        adjusted = holm([*family, *(row["p"] for row in rows.values())])[len(family) :]
        found |= {k: (rows[k], p) for k, p in zip(rows, adjusted, strict=True) if p is not None}
    return found


def _afterwards_cells(row: dict[str, Any], adjusted: float) -> str:
    p, q = (show_p(value).removeprefix("= ") for value in (row["p"], adjusted))
    return f"{_shown(row['low'], row['difference'], row['high'])} | {p} | {q}"


def _at_ranks(b: str, a: str) -> list[str | None]:
    """The difference b − a of the study's accuracies at each rank."""
    every = _word_problems("study")
    one, other = together([every[a], every[b]])
    return [interval(difference_at(one, other, rank, 0.95).estimate) for rank in one.ranks]


def _word_problems(study: str) -> dict[str, RecipeGroup]:
    """Label → the seeds of one curve."""
    curves, groups = read_run(REPORTS / study / "results/word_problems")
    return {group.label: group for group in gather(curves, groups)}


def _shown(low: float, value: float, high: float) -> str:
    return f"{percent(value)} [{percent(low)}, {percent(high)}]"


def _row(label: str, cells: list[str | None]) -> str:
    return f"| {label} | {' | '.join(cell or '' for cell in cells)} |"


def _replaced(page: str, head: str, rows: list[str]) -> str:
    """The page with these rows below the line that begins with `head` and the one after it."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head)) + 2
    rest = (i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    end = next(rest, len(lines))
    return "\n".join([*lines[:start], *rows, *lines[end:]]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
