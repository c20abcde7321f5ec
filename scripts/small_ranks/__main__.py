"""Writes the page of the study of small ranks from what is stored.

python -m scripts.small_ranks        # README.md, appendix.md, tables and figure
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.show import numbers
from scripts.small_ranks import base, claims, figures, page, tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HERE = Path(__file__).parent


def main(out: Path = base.FOLDER) -> None:
    """Write every file of the page below a folder."""
    stored = base.read()
    by_value, known = claims.answers(stored), claims.accuracies(stored)
    found = page.Found(by_value, known, len(claims.fresh_seeds(stored)))
    made = {
        "differences": tables.differences(by_value, claims.answers(stored, "text")),
        "accuracies": tables.accuracies(stored, known),
        "factors": tables.factors(stored),
        "trials": tables.trials(),
        "trainings": tables.costs(),
        "there": tables.there(stored),
    }
    texts = {f"tables/{name}.csv": as_csv(rows) for name, rows in made.items()}
    texts["README.md"] = _template("page.md", written(found, stored, made))
    texts["appendix.md"] = _template("appendix.md", appended(made))
    for name, text in texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    figures.draw(known, out / "figures/accuracy.png")


def _template(name: str, said: Mapping[str, str]) -> str:
    return (HERE / name).read_text(encoding="utf-8").format(**said)


def written(found: page.Found, stored: base.Stored, made: Mapping[str, Any]) -> dict[str, str]:
    """What the page says."""
    estimate = found("estimate", *claims.DECLARED)
    alone = (r for r in made["accuracies"] if r["ranks"] == "0" and r["tasks"] == page.ALONE)
    return page.leads(found) | {
        "declared": page.declared(found),
        "test": page.test_said(found),
        "power": numbers.percent(claims.power(stored)),
        "gain": numbers.upper(estimate.high) if estimate else page.ABSENT,
        "loss": numbers.upper(-estimate.low) if estimate else page.ABSENT,
        "by_rank": page.by_rank(found),
        "fitted": page.difference(found("first", "nested fitted", "lora fitted")),
        "paper_tasks": {"both": "both tasks"}.get(page.paper_tasks(found), "the word problems"),
        "paper": page.paper(found),
        "family": str(len(claims.EXPLORED)),
        "base": numbers.percent(next(alone)["value"]),
        "searched": page.searched(found),
        "scaled": page.difference(found("explored", "nested fitted", "scaled", page.ALONE)),
    }


def appended(made: Mapping[str, list[tables.Record]]) -> dict[str, str]:
    """What the appendix shows of the tables."""
    about = ("a", "b", "ranks", "seeds", "points [95 %]", "bootstrap", "p", "a is", "by text")
    whole = {(row["a"], row["b"]) for row in made["differences"] if row["tasks"] == "both"}
    kinds: dict[str, list[tables.Record]] = {}
    for row in made["differences"]:  # what is there on both tasks stands in the CSV file for each
        if row["kind"] == "first" or row["tasks"] == "both" or (row["a"], row["b"]) not in whole:
            kinds.setdefault(row["kind"], []).append(row)
    tokens = {f"{row['tokens']:,}" for row in made["trainings"] if row["seed"] == base.OLD[0]}
    return {
        "draws": f"{claims.DRAWS:,}",
        "first": tables.table(kinds["first"], "tasks", *about, "of each seed"),
        "explored": tables.table(kinds["explored"], "tasks", *about),
        "family": str(len(claims.EXPLORED)),
        "ranks": tables.table(kinds["rank"], "tasks", *about),
        "losses": tables.table(kinds["loss"], "tasks", "a", "ranks", "seeds", "points [95 %]"),
        "accuracies": tables.table(tables.wide(made["accuracies"])),
        "factors": tables.table(made["factors"]),
        "trials": tables.table(tables.by_rate(made["trials"])),
        "tokens": " and ".join(sorted(tokens)),
        "there": tables.table(made["there"]),
    }


def as_csv(rows: Iterable[tables.Record]) -> str:
    """Records as a CSV file."""
    kept, text = [tables.flat(row) for row in rows], io.StringIO()
    names = dict.fromkeys(name for row in kept for name in row)
    writer = csv.DictWriter(text, [*names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    return text.getvalue()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
