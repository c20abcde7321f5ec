"""Writes the page of the study of small ranks from what is stored.

python -m scripts.small_ranks        # README.md, appendix.md, tables and figure
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scripts.small_ranks import base, claims, figures, tables
from scripts.small_ranks.page import Page

if TYPE_CHECKING:
    import pandas as pd


def main(out: Path = base.FOLDER) -> None:
    """Write every file of the page below a folder."""
    stored = base.read()
    page = Page(stored, claims.answers(stored), claims.accuracies(stored))
    frames = {
        "differences": tables.differences(stored, page.answers),
        "accuracies": tables.accuracies(stored, page.accuracies),
        "factors": tables.factors(stored),
        "trials": tables.trials(),
        "trainings": tables.trainings(),
        "there": tables.there(stored),
    }
    (out / "tables").mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.round({"p": 6}).to_csv(out / f"tables/{name}.csv", index=False, float_format="%.6g")
    for template, name, said in (
        ("page.md", "README.md", page.written()),
        ("appendix.md", "appendix.md", appended(frames)),
    ):
        text = Path(__file__).with_name(template).read_text(encoding="utf-8")
        (out / name).write_text(text.format(**said), encoding="utf-8")
    figures.draw(page.accuracies, out / "figures/accuracy.png")


def appended(frames: dict[str, pd.DataFrame]) -> dict[str, str]:
    """What stands in the places of appendix.md."""
    every, trainings = frames["differences"], frames["trainings"]
    about = ("tasks", "a", "b", "ranks", "seeds", "points", "bootstrap", "p", "a is", "by text")
    pairs = every["kind"] + every["a"] + every["b"]
    whole = pairs.isin(pairs[every["tasks"] == "both"])  # each task's rows are in the CSV file
    kinds = dict(iter(every[(every["tasks"] == "both") | ~whole].groupby("kind")))
    known = frames["accuracies"]
    wide = tables.pivot(known[known["ranks"] != "1 to 8"], "ranks", "value")
    area = known[known["ranks"] == "1 to 8"].rename(
        columns={
            "value": "AURAC",
            "text": "by text",
            "result": "by result",
            "value low": "AURAC low",
            "value high": "AURAC high",
        }
    )
    wide = wide.merge(area.drop(columns="ranks"), "left")
    first = every[every["kind"] == "first"]
    tokens = sorted(
        {f"{count:,}" for count in trainings["tokens"][trainings["seed"] == base.OLD[0]]}
    )
    return {
        "draws": f"{claims.DRAWS:,}",
        "first": tables.shown(first, *about, "of each seed"),
        "explored": tables.shown(kinds["explored"], *about),
        "family": str(base.ASKED["kinds"]["explored"]["family"]),
        "ranks": tables.shown(kinds["rank"], *about),
        "losses": tables.shown(kinds["loss"], "tasks", "a", "ranks", "seeds", "points"),
        "accuracies": tables.shown(
            wide,
            "tasks",
            "method",
            "cut",
            "seeds",
            "0",
            *claims.EACH,
            claims.TRAINED,
            "AURAC",
            "by text",
            "by result",
        ),
        "factors": tables.shown(frames["factors"]),
        "trials": tables.shown(tables.pivot(frames["trials"], "rate", "AURAC")),
        "tokens": " and ".join(tokens),
        "there": tables.shown(frames["there"]),
    }


if __name__ == "__main__":
    main()
