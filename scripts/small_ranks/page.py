"""The sentences and tables of the page: every number and every verdict comes from a claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.show import numbers
from scripts.small_ranks.base import FRESH, OLD, Way
from scripts.small_ranks.claims import (
    DECLARED,
    PAPER,
    RANKS,
    TRAINED,
    WAYS,
    Asked,
    Claim,
    asked,
    verdict,
)
from scripts.small_ranks.tables import bracketed, ends, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.small_ranks.claims import Kind

ABSENT = "not there yet"
SAID = {  # the verdict on a method, in a sentence
    "better": "is better",
    "worse": "is worse",
    "not shown": "is not shown to be better",
}
ALONE, EACH = "word problems", tuple(map(str, RANKS))
MAIN = (  # tasks, scale, what is shown, its way or pair of ways
    ("both", "own", "LoRA by SVD", "lora"),
    ("both", "own", "MatryoshkaLoRA by SVD", "nested"),
    ("both", "own", "their difference", DECLARED),
    ("both", "fitted", "LoRA by SVD", "lora fitted"),
    ("both", "fitted", "MatryoshkaLoRA by SVD", "nested fitted"),
    ("both", "fitted", "their difference", ("nested fitted", "lora fitted")),
    (ALONE, "own", "LoRA by SVD", "lora"),
    (ALONE, "own", "LoRA trained at the rank", "each"),
    (ALONE, "own", "their difference", ("each", "lora")),
    (ALONE, "own", "LoRA at the rank, rate searched", "searched"),
)


class Found:
    """What is there, by the names of `claims`; a question that nobody asked is an error."""

    def __init__(
        self,
        answers: Mapping[Asked, Claim],
        accuracies: Mapping[tuple[str, Way, str], Claim],
        fresh: int,
    ) -> None:
        self.answers, self.accuracies, self.fresh = answers, accuracies, fresh
        self.asked = {each for each, _ in asked()}

    def __call__(
        self, kind: Kind, a: str, b: str, tasks: str = "both", ranks: str = "1 to 8"
    ) -> Claim | None:
        """The claim on a question, or None where its adapters are not there."""
        question = Asked(kind, a, b, tasks, ranks)
        if question not in self.asked:
            raise KeyError(question)
        return self.answers.get(question)


def value(found: Claim | None) -> str:
    """An accuracy, or nothing."""
    return numbers.percent(found.value) if found else ""


def difference(found: Claim | None) -> str:
    """A difference with its interval, in the text of a page."""
    return ends(found).replace("[", "\\[").replace("]", "\\]") or ABSENT


def leads(found: Found) -> dict[str, str]:
    """The first three lines: what to do for each rank."""
    first = "MatryoshkaLoRA" if verdict(found("test", *DECLARED)) == "better" else "plain LoRA"
    way = "lora" if first == "plain LoRA" else "nested"
    known = {rank: verdict(found("rank", "each", way, ALONE, rank)) for rank in EACH}
    alone = [rank for rank, word in known.items() if word == "better"]
    cut = numbers.listed([rank for rank in EACH if rank not in alone])
    lost = [f"{difference(found('loss', way, way, 'both', r))} at {r}" for r in EACH[::-1]]
    nested, four = found("estimate", *DECLARED), found("rank", *DECLARED, "both", "4")
    shown = verdict(found("test", *DECLARED) or nested)
    itself = (
        f"For rank {numbers.listed(alone)}, train at that rank"
        if alone
        else "Train at rank 16 for all"
    )
    return {
        "cut": f"**For rank {cut}, train {first} at rank {TRAINED} and cut it by SVD.** Of rank "
        f"{TRAINED}'s accuracy this loses {numbers.listed(lost)}.",
        "nested": f"**Nested training (MatryoshkaLoRA), cut likewise, {SAID[shown]}** "
        f"than LoRA: {difference(nested)} over the ranks, {difference(four)} at rank 4.",
        "alone": f"**{itself}.** Against that cut it {at_ranks(found, 'each', way)} At rank 1, "
        f"against cuts with a fitted scale, it {fitted(found, 'lora', 'LoRA')} and "
        f"{fitted(found, 'nested', 'MatryoshkaLoRA')}.",
    }


def fitted(found: Found, way: str, name: str) -> str:
    """What is shown at rank 1 of training there against a cut with a fitted scale."""
    claim = found("rank", "each", f"{way} fitted", ALONE, "1")
    return f"{SAID.get(verdict(claim), ABSENT)} than {name}'s ({difference(claim)})"


def at_ranks(found: Found, a: str, b: str) -> str:
    """What is shown of a way against another at each rank, ranks of one verdict together."""
    known = {rank: found("rank", a, b, ALONE, rank) for rank in EACH}
    said = []
    for word, text in SAID.items():
        ranks = [f"{rank} ({difference(c)})" for rank, c in known.items() if verdict(c) == word]
        said += [f"{text} at rank {numbers.listed(ranks)}"] if ranks else []
    return numbers.listed(said) + "."


def declared(found: Found) -> str:
    """The table of the declared comparison: the test, and what was known."""
    named: dict[Kind, str] = {
        "test": f"{FRESH[0]} to {FRESH[-1]}: the test",
        "old seeds": f"{OLD[0]} to {OLD[-1]}: known before",
        "estimate": "all of these: the estimate",
    }
    if found.fresh < len(FRESH):
        del named["estimate"]
    rows = []
    for kind, name in named.items():
        claim = found(kind, *DECLARED)
        there = ends(claim) or f"{found.fresh} of {len(FRESH)} seeds"
        row = {"seeds": name, "points [95 %]": there}
        row |= {"bootstrap": bracketed(claim.drawn) if claim else numbers.NONE}
        row |= {"p": numbers.p_value(claim.p if claim else None)}
        rows.append(row | {"MatryoshkaLoRA is": verdict(claim) if claim else ABSENT})
    return table(rows)


def by_rank(found: Found) -> str:
    """The table of accuracies, with the intervals of the main differences."""
    rows = []
    for tasks, scale, text, way in MAIN:
        known = {}
        for rank in (*EACH, str(TRAINED)):
            if isinstance(way, str):
                known[rank] = found.accuracies.get((tasks, WAYS[way], rank))
            elif rank in EACH:
                known[rank] = found("rank", *way, tasks, rank)
        if there := [claim for claim in known.values() if claim]:
            read = value if isinstance(way, str) else ends
            row = {"tasks": tasks, "scale": scale, "": text, "seeds": str(len(there[0].seeds))}
            rows.append(row | {rank: read(claim) for rank, claim in known.items()})
    return table(rows)


def paper_tasks(found: Found) -> str:
    """Both tasks where DyLoRA with eight draws is there on both; else the word problems."""
    return "both" if all(found("explored", *pair) for pair in PAPER) else ALONE


def paper(found: Found) -> str:
    """The comparisons of the paper on its axes."""
    heads = {
        "1 to 8": "1 to 8, log2",
        "1 to 16": "1 to 16, log2",
        "1 to 16, linear": "1 to 16, linear",
    }
    names = ("without P", "with P", "with a fitted scale, both")
    rows = []
    for name, pair in zip(names, PAPER, strict=True):
        row = {"MatryoshkaLoRA": name}
        for over, head in heads.items():
            claim = found("explored", *pair, paper_tasks(found), over)
            row[head] = f"{ends(claim)} {verdict(claim)}"
        rows.append(row)
    return table(rows)


def test_said(found: Found) -> str:
    """What the test on fresh seeds says, or how much of it is there."""
    claim = found("test", *DECLARED)
    if claim is None:
        return (
            f"**Of the test {found.fresh} of {len(FRESH)} seeds are whole: nothing is concluded "
            "from it yet.**"
        )
    return f"**On the fresh seeds MatryoshkaLoRA {SAID[verdict(claim)]}: {difference(claim)}.**"


def searched(found: Found) -> str:
    """Whether a rate was searched for LoRA at a rank."""
    ranks = [rank for rank in EACH if (ALONE, WAYS["searched"], rank) in found.accuracies]
    return f" (rank {numbers.listed(ranks)}: its own one, too)" if ranks else ""
