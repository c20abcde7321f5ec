"""Writes the two tables of `reports/study/README.md` from the study's `analysis.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aurac.curves.display import percent
from aurac.stats.sentences import show_p

STUDY = Path(__file__).parents[1] / "reports/study"
TASKS = ("aurac_word_problems", "mawps", "arc_easy")  # columns, by their names in the analysis

SCORES = {
    "lora": "LoRA | prefix",
    "lora · svd · keep": "LoRA | SVD",
    "dylora": "DyLoRA | prefix",
    "matryoshka": "MatryoshkaLoRA | with P",
    "matryoshka · prefix · rule": "MatryoshkaLoRA | as published",
    "matryoshka · svd · keep": "MatryoshkaLoRA | SVD",
    "lora_long": "LoRA, 360 steps | prefix",
    "lora_long · prefix · keep": "LoRA, 360 steps | prefix, kept",
    "lora_long · prefix · fit": "LoRA, 360 steps | prefix, fitted",
    "lora_long · svd · keep": "LoRA, 360 steps | SVD",
    "lora_long · svd · fit": "LoRA, 360 steps | SVD, fitted",
    "dylora_long": "DyLoRA, 360 steps | prefix",
    "matryoshka_long": "MatryoshkaLoRA, 360 steps | with P",
    "matryoshka_long · prefix · rule": "MatryoshkaLoRA, 360 steps | as published",
    "matryoshka_long · prefix · fit": "MatryoshkaLoRA, 360 steps | prefix, fitted",
    "lora_per_rank": "LoRA at each rank | –",
    "nested_loss": "nested losses | prefix",
    "nested_loss_half": "nested losses, 60 steps | prefix",
}
"""Curve → method | truncation."""

DIFFERENCES = {
    ("matryoshka", "lora"): "MatryoshkaLoRA − LoRA",
    ("matryoshka", "dylora"): "MatryoshkaLoRA − DyLoRA",
    ("dylora", "lora"): "DyLoRA − LoRA",
    ("matryoshka_long", "lora_long"): "360 steps: MatryoshkaLoRA − LoRA",
    ("matryoshka_long", "dylora_long"): "360 steps: MatryoshkaLoRA − DyLoRA",
    ("dylora_long", "lora_long"): "360 steps: DyLoRA − LoRA",
    ("lora_long", "lora"): "LoRA: 360 steps − 120",
    ("dylora_long", "dylora"): "DyLoRA: 360 steps − 120",
    ("matryoshka_long", "matryoshka"): "MatryoshkaLoRA: 360 steps − 120",
    ("lora_per_rank", "lora"): "LoRA at each rank − LoRA",
    ("nested_loss", "lora"): "nested losses − LoRA",
    ("nested_loss_half", "lora"): "nested losses, 60 steps − LoRA",
    ("lora · svd · keep", "lora · prefix · rule"): "LoRA: SVD − prefix",
    (
        "matryoshka · prefix · rule",
        "matryoshka · prefix · trained",
    ): "MatryoshkaLoRA: as published − with P",
    ("lora_long · svd · keep", "lora_long · prefix · rule"): "360 steps, LoRA: SVD − prefix",
    ("lora_long · prefix · fit", "lora_long · prefix · rule"): "360 steps, LoRA: fitted − rule",
    (
        "matryoshka_long · prefix · rule",
        "matryoshka_long · prefix · trained",
    ): "360 steps, MatryoshkaLoRA: as published − with P",
    (
        "matryoshka_long · prefix · fit",
        "matryoshka_long · prefix · trained",
    ): "360 steps, MatryoshkaLoRA: fitted − with P",
}
"""(b, a) of the difference b − a → its row."""


def with_tables(page: str, analysis: dict[str, Any]) -> str:
    """The page with the numbers of an analysis in its tables."""
    areas = {(row["adapter"], row["task"]): row["log2"] for row in analysis["scores"]}
    page = _replaced(page, "| method | truncation |", _score_rows(areas))
    return _replaced(page, "| difference of AURAC", _difference_rows(analysis))


def _score_rows(areas: dict[tuple[str, str], dict[str, float]]) -> list[str]:
    rows = []
    for curve, label in SCORES.items():
        cells = [
            _shown(a["low"], a["value"], a["high"]) if a else ""
            for a in (areas.get((curve, task)) for task in TASKS)
        ]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return rows


def _difference_rows(analysis: dict[str, Any]) -> list[str]:
    found = {}
    for row in (*analysis["pairs"], *analysis["variants"]):
        low, value, high = (row[name] for name in ("low", "difference", "high"))
        p = show_p(row["p_holm"]).removeprefix("= ")
        found[row["b"], row["a"], row["task"]] = _difference(low, value, high, p)
        found[row["a"], row["b"], row["task"]] = _difference(-high, -value, -low, p)
    rows = []
    for (b, a), label in DIFFERENCES.items():
        cells = " |".join(found.get((b, a, task), " |") for task in TASKS)
        rows.append(f"| {label} |{cells} |")
    return rows


def _difference(low: float, value: float, high: float, p: str) -> str:
    return f" {_shown(low, value, high)} | {p}"


def _shown(low: float, value: float, high: float) -> str:
    return f"{percent(value)} [{percent(low)}, {percent(high)}]"


def _replaced(page: str, head: str, rows: list[str]) -> str:
    """The page with these rows below the line that begins with `head` and the one after it."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head)) + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return "\n".join([*lines[:start], *rows, *lines[end:]]) + "\n"


if __name__ == "__main__":
    place = STUDY / "README.md"
    content = json.loads((STUDY / "analysis.json").read_text(encoding="utf-8"))
    place.write_text(with_tables(place.read_text(encoding="utf-8"), content), encoding="utf-8")
