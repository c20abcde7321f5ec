"""The answers that a reader of a report can look through, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aurac.curves.metrics import TOKENS, WHOLE
from aurac.errors import RunFolderError
from aurac.show.escape import shorten
from aurac.show.views import OWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pandas import DataFrame

    from aurac.curves.question import Key
    from aurac.records.run import StoredRun
    from aurac.show.views import View

MOST_ADAPTERS: Final = 8
MOST_EXAMPLES: Final = 200
MOST_TEXT: Final = 800  # characters of a question or an answer
MOST_ALL: Final = 400_000  # characters of a task
RIGHT: Final = 0.5


def judged(score: float) -> str:
    """A score in a word, or one that is neither 0 nor 1 as a number."""
    return {0.0: "wrong", 1.0: "right"}.get(score, f"score {score:.2f}")


@dataclass(frozen=True)
class Answers:
    """Questions of a task and the answers of several adapters to them.

    Attributes:
        examples: `id`, `question` and `target` of each of n examples.
        adapters: `name`, `ranks` (0 is the base), and for each rank `scores` and `answers` (n).
        total: Examples of the task.
        smaller: Of one adapter the rank beside its trained one: the one to ship, or 0.
    """

    examples: Sequence[Mapping[str, str]]
    adapters: Sequence[Mapping[str, Any]]
    total: int
    smaller: int = 0

    @property
    def start(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What is compared first, as places of adapter and rank: two adapters, or two ranks."""
        ranks = self.adapters[0]["ranks"]
        if len(self.adapters) > 1:
            return (0, len(ranks) - 1), (1, len(self.adapters[1]["ranks"]) - 1)
        return (0, len(ranks) - 1), (0, ranks.index(self.smaller) if self.smaller in ranks else 0)

    def differing(self, most: int) -> list[dict[str, Any]]:
        """The first examples to which one of the two answers is better, both ways.

        Where there is none, the first example.
        """
        sides = [(self.adapters[a], r) for a, r in self.start]
        scores = [one["scores"][r] for one, r in sides]
        kept: dict[bool, list[int]] = {True: [], False: []}
        for i, (x, y) in enumerate(zip(*scores, strict=True)):
            if x != y:
                kept[x > y].append(i)
        half, found = max(1, most // 2), []
        for i in sorted([*kept[True][:half], *kept[False][:half]]) or [0]:
            shown = [
                (_named(one, r), one["answers"][r][i], one["scores"][r][i]) for one, r in sides
            ]
            found.append({**self.examples[i], "answers": shown})
        return found


def row_number(example: str) -> str:
    """An example as people count rows, from 1; lm-eval counts its ``doc_id`` from 0."""
    task, sign, doc_id = example.rpartition(":")
    return f"{task}{sign}{int(doc_id) + 1}"


def _named(adapter: Mapping[str, Any], place: int) -> str:
    rank = adapter["ranks"][place]
    return f"{adapter['name']} at rank {rank}" if rank else "base"


def answers(of: View, run: StoredRun) -> Answers | None:
    """The first examples of a task with the answers of the first adapters at each rank.

    Of several training seeds the first one answers. Nothing where the answers are not stored, and
    of perplexities.
    """
    shown = () if of.rolling else of.keys[:MOST_ADAPTERS]
    stored = {key: _cells(of, run, key) for key in shown}
    every = [cell for cells in stored.values() for cell in cells.values()]
    if not every:
        return None
    ids = every[0]["example"].tolist()
    asked = every[0].set_index("example")
    choices = dict(asked["choices"])
    adapters: list[dict[str, Any]] = []
    for key, cells in stored.items():
        same = {rank: cell for rank, cell in cells.items() if cell["example"].tolist() == ids}
        if same:
            first = [cell[:MOST_EXAMPLES] for cell in same.values()]
            scores = [cell["score"].round(4).tolist() for cell in first]
            texts = [
                [*map(_shown, c["response"], map(choices.get, c["example"]), c["read"])]
                if of.metric not in OWN
                else [*map(_written, c["score"], c["response"])]
                for c in first
            ]
            named = {"name": of.names[key], "ranks": list(same)}
            adapters.append(named | {"scores": scores, "answers": texts})
    columns = [texts for adapter in adapters for texts in adapter["answers"]]
    examples, spent = [], 0
    for place, example in enumerate(ids[:MOST_EXAMPLES]):
        row = asked.loc[example] if example in asked.index else {}
        about = {name: shorten(row.get(name) or "", MOST_TEXT) for name in ("question", "target")}
        spent += sum(map(len, about.values())) + sum(len(column[place]) for column in columns)
        if spent > MOST_ALL:
            break
        examples.append({"id": shorten(row_number(example), 80), **about})
    for adapter in adapters:
        for name in ("scores", "answers"):
            adapter[name] = [column[: len(examples)] for column in adapter[name]]
    advice = of.recommended.get(of.keys[0])
    smaller = advice.rank if advice and advice.rank != advice.reference else None
    return Answers(examples, adapters, len(ids), smaller or 0) if examples else None


def one_answer(of: View, run: StoredRun | None) -> str:
    """A wrong answer of the first adapter at its largest rank, in a sentence, if one is stored.

    Whole completions have none: the sentence names the score that counts tokens.
    """
    if of.metric == f"{WHOLE},none":
        return (
            "Long completions are rarely right as a whole: --metric token_accuracy counts tokens, "
            "with a tenth of the margin."
        )
    ranks = [point.rank for point in of.of(of.keys[0])][-1:]
    none = of.rolling or of.metric == f"{TOKENS},none"
    cell = _cell(of, run, of.keys[0], ranks[0]) if run and ranks and not none else None
    wrong = None if cell is None else cell[cell["score"] < RIGHT]
    if wrong is None or wrong.empty:
        return ""
    example, response, read, target = wrong.iloc[0][["example", "response", "read", "target"]]
    said, right = (shorten(repr(answer_text(x)), 200) for x in (response, target))
    said += "" if read is None else f", {_taken(read)}"
    where = f"example {row_number(example)} at rank {ranks[0]} counts as wrong"
    return f"To check how answers are read: {where}; its answer: {said}; its reference: {right}."


def _cell(of: View, run: StoredRun, key: Key, rank: int) -> DataFrame | None:
    """The answers of an adapter's first seed at a rank, where they are stored as a whole."""
    curve = of.rows[key].curves[0]
    with suppress(RunFolderError):
        found = run.samples(of.task, curve.adapter, curve.basis, curve.rescale, rank)
        return found[found["example"].isin({*(curve.doc_ids or ())})]
    return None


def _cells(of: View, run: StoredRun, key: Key) -> dict[int, DataFrame]:
    found = {point.rank: _cell(of, run, key, point.rank) for point in of.of(key)}
    return {rank: cell for rank, cell in found.items() if cell is not None}


def _taken(read: str) -> str:
    """What a filter took of an answer; lm-eval's word for nothing is "[invalid]"."""
    if read == "[invalid]":
        return "in which the filter found nothing"
    return f"read as {shorten(repr(read), 80)}"


def _shown(response: Any, choices: Sequence[str] | None, read: str | None) -> str:
    told = "" if read is None else f"\n\n{_taken(read)}"
    return shorten(answer_text(response, choices), MOST_TEXT) + told


def _written(score: float, response: Any) -> str:
    """Whether a completion is what greedy decoding would write, all of its tokens."""
    said = "the reference" if score == 1 else "another text, which is not generated"
    return f"greedy decoding writes {said}\n({answer_text(response)})"


def answer_text(response: Any, choices: Sequence[str] | None = None) -> str:
    """One stored response as text: what was generated, or the choice with its likelihoods."""
    if isinstance(response, str):
        return response
    if isinstance(response, Sequence) and response:
        if all(isinstance(value, (int, float)) for value in response):
            best = max(range(len(response)), key=lambda i: response[i])
            named = f": {choices[best]}" if choices and len(choices) == len(response) else ""
            values = ", ".join(f"{value:.2f}" for value in response).replace("-", "\u2212")
            if not choices:
                return f"log-likelihood {values}"
            return f"choice {best + 1}{named}\n(log-likelihoods {values})"
        return "\n".join(answer_text(item) for item in response)
    return "" if response is None or response == [] else str(response)
