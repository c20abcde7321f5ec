"""The sentences and tables of the page: every number and every verdict comes from a claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from aurac.show import numbers
from scripts.small_ranks.base import ASKED, FRESH, OLD, WAYS, Stored, Way
from scripts.small_ranks.claims import (
    DECLARED,
    EACH,
    TRAINED,
    Asked,
    Claim,
    asked,
    fresh_seeds,
    power,
    verdict,
)
from scripts.small_ranks.tables import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

ALONE, ABSENT = "word problems", "not there yet"
SAID = {  # the verdict on a method, in a sentence
    "better": "is better",
    "worse": "is worse",
    "not shown": "is not shown to be better",
}


@dataclass
class Page:
    """What the page says of what is there."""

    stored: Stored
    answers: Mapping[Asked, Claim]
    accuracies: Mapping[tuple[str, Way, str], Claim]

    def __call__(
        self, kind: str, a: str, b: str, tasks: str = "both", ranks: str = "1 to 8"
    ) -> Claim | None:
        """The claim on a question, None where its adapters are not there; it must be asked."""
        question = Asked(kind, a, b, tasks, ranks)
        return self.answers.get(question) if asked()[question] else None

    def written(self) -> dict[str, str]:
        """What stands in the places of page.md."""
        test, nested = self("test", *DECLARED), self("estimate", *DECLARED)
        way = "nested" if verdict(test) == "better" else "lora"
        beaten = [r for r in EACH if verdict(self("rank", "each", way, ALONE, r)) == "better"]
        lost = [f"{inline(self('loss', way, way, 'both', r))} at {r}" for r in EACH[::-1]]
        said = SAID[verdict(test or nested)]
        count, of = len(fresh_seeds(self.stored)), len(FRESH)
        tasks = "both" if self("explored", "with P", "eight") else ALONE
        searched = [r for r in EACH if (ALONE, WAYS["searched"], r) in self.accuracies]
        own_rate = f" (rank {numbers.listed(searched)}: its own one, too)"
        return {
            "cut": numbers.listed([rank for rank in EACH if rank not in beaten]),
            "first": "plain LoRA" if way == "lora" else "MatryoshkaLoRA",
            "lost": numbers.listed(lost),
            "nested": said,
            "over": inline(nested),
            "at_four": inline(self("rank", *DECLARED, "both", "4")),
            "alone": f"For rank {numbers.listed(beaten)}" if beaten else "For none of them",
            "at_ranks": self.at_ranks("each", way),
            "fitted_lora": self.fitted("lora", "LoRA"),
            "fitted_nested": self.fitted("nested", "MatryoshkaLoRA"),
            "declared": self.declared(),
            "test": f"On the fresh seeds MatryoshkaLoRA {said}: {inline(test)}."
            if test
            else f"Of the test {count} of {of} seeds are whole: nothing is concluded from it yet.",
            "power": numbers.percent(power(self.stored)),
            "gain": numbers.upper(nested.high) if nested else ABSENT,
            "loss": numbers.upper(-nested.low) if nested else ABSENT,
            "by_rank": self.by_rank(),
            "fitted": inline(self("first", "nested fitted", "lora fitted")),
            "paper_tasks": "both tasks" if tasks == "both" else "the word problems",
            "paper": self.paper(tasks),
            "family": str(ASKED["kinds"]["explored"]["family"]),
            "base": numbers.percent(self.stored.base["aurac_word_problems"][0].mean()),
            "searched": own_rate if searched else "",
            "scaled": inline(self("explored", "nested fitted", "scaled", ALONE)),
        }

    def at_ranks(self, a: str, b: str) -> str:
        """What is shown of a way against another at each rank, ranks of one verdict together."""
        known = {rank: self("rank", a, b, ALONE, rank) for rank in EACH}
        said = []
        for word, text in SAID.items():
            ranks = [f"{rank} ({inline(c)})" for rank, c in known.items() if verdict(c) == word]
            said += [f"{text} at rank {numbers.listed(ranks)}"] if ranks else []
        return numbers.listed(said)

    def fitted(self, way: str, name: str) -> str:
        """What is shown at rank 1 of training there against a cut with a fitted scale."""
        claim = self("rank", "each", f"{way} fitted", ALONE, "1")
        return f"{SAID.get(verdict(claim), ABSENT)} than {name}'s ({inline(claim)})"

    def declared(self) -> str:
        """The table of the declared comparison: the test, and what was known."""
        rows, count = [], len(fresh_seeds(self.stored))
        for kind, name in (
            ("test", f"{FRESH[0]} to {FRESH[-1]}: the test"),
            ("old seeds", f"{OLD[0]} to {OLD[-1]}: known before"),
            ("estimate", "all of these: the estimate"),
        ):
            row, claim = {"seeds": name}, self(kind, *DECLARED)
            row["points [95 %]"] = ends(claim) or f"{count} of {len(FRESH)} seeds"
            drawn = numbers.interval(claim.value, *claim.drawn) if claim else ""
            row["bootstrap"] = drawn.partition(" ")[2] or numbers.NONE
            row["p "] = numbers.p_value(claim.p if claim else None)
            rows.append(row | {"MatryoshkaLoRA is": verdict(claim)})
        return shown(pd.DataFrame(rows[: 2 + (count == len(FRESH))]))

    def by_rank(self) -> str:
        """The table of accuracies, with the intervals of the main differences."""
        rows = []
        for tasks, scale, text, way in ASKED["main"]:
            if isinstance(way, str):
                every = (self.accuracies.get((tasks, WAYS[way], r)) for r in (*EACH, TRAINED))
            else:
                every = (self("rank", way[0], way[1], tasks, rank) for rank in EACH)
            known = dict(zip((*EACH, TRAINED), every, strict=False))
            if there := [claim for claim in known.values() if claim]:
                cells = {rank: ends(claim) for rank, claim in known.items()}
                if isinstance(way, str):
                    cells = {rank: text.partition(" ")[0] for rank, text in cells.items()}
                row = {"tasks": tasks, "scale": scale, " ": text, "seeds": len(there[0].seeds)}
                rows.append(row | cells)
        return shown(pd.DataFrame(rows))

    def paper(self, tasks: str) -> str:
        """The comparisons of the paper on its axes."""
        rows = []
        for name, (a, b) in ASKED["paper"]:
            row = {"MatryoshkaLoRA": name}
            for over in ASKED["kinds"]["explored"]["ranks"]:
                claim = self("explored", a, b, tasks, over)
                row[over] = f"{ends(claim)} {verdict(claim)}"
            rows.append(row)
        return shown(pd.DataFrame(rows))


def ends(found: Claim | None) -> str:
    """A value with its interval in points."""
    return "" if found is None else numbers.interval(found.value, found.low, found.high)


def inline(found: Claim | None) -> str:
    """The same in the text of a page."""
    return ends(found).replace("[", "\\[").replace("]", "\\]") or ABSENT
