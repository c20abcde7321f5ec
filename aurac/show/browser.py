"""The answers that a reader of a report can look through, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from aurac.curves.metrics import TOKENS, WHOLE
from aurac.curves.numbers import points
from aurac.errors import RunFolderError
from aurac.show.escape import shorten
from aurac.show.views import OWN
from aurac.stats.planning import examples_for_margin
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pandas import DataFrame

    from aurac.curves.question import Key
    from aurac.records.run import StoredRun
    from aurac.show.tabular import Columns
    from aurac.show.views import View

MOST_ADAPTERS: Final = 8
MOST_EXAMPLES: Final = 200
MOST_TEXT: Final = 800  # characters of a question or an answer
MOST_ALL: Final = 400_000  # characters of a task
LONG: Final = 200  # characters, about fifty tokens: most of such completions have a wrong one
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
        start: What is compared first, as places of adapter and rank: the first two adapters, or
            two ranks of the only one, the rank to ship (or the base) beside the trained one.
    """

    examples: Sequence[Mapping[str, str]]
    adapters: Sequence[Mapping[str, Any]]
    total: int
    start: tuple[tuple[int, int], tuple[int, int]]

    def differing(self, most: int) -> list[dict[str, Any]]:
        """The first examples to which one of the two answers is better, both ways.

        Where there is none, the first example.
        """
        sides = [(self.adapters[a], r) for a, r in self.start]
        scores = [one["scores"][r] for one, r in sides]
        both, found = list(enumerate(zip(*scores, strict=True))), []
        better = [i for i, (x, y) in both if x > y][: most // 2]
        worse = [i for i, (x, y) in both if x < y][: most // 2]
        for i in sorted([*better, *worse]) or [0]:
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
    cells = {(key, p.rank): _cell(of, run, key, p.rank) for key in shown for p in of.of(key)}
    stored = {place: cell for place, cell in cells.items() if cell is not None}
    if not stored:
        return None
    asked, *_ = stored.values()
    same = {place: cell for place, cell in stored.items() if [*cell.example] == [*asked.example]}
    questions, targets = (
        [shorten(text or "", MOST_TEXT) for text in asked[name][:MOST_EXAMPLES]]
        for name in ("question", "target")
    )
    texts = {place: _texts(of, cell[:MOST_EXAMPLES]) for place, cell in same.items()}
    lengths = [sum(map(len, row)) for row in zip(questions, targets, *texts.values(), strict=True)]
    n = sum(spent <= MOST_ALL for spent in accumulate(lengths))
    adapters = []
    for key in dict.fromkeys(key for key, _ in same):
        ranks = [rank for other, rank in same if other == key]
        scores = [same[key, rank]["score"][:n].round(4).tolist() for rank in ranks]
        each = [texts[key, rank][:n] for rank in ranks]
        adapters.append({"name": of.names[key], "ranks": ranks, "scores": scores, "answers": each})
    ids = [shorten(row_number(example), 80) for example in asked["example"][:n]]
    told = zip(ids, questions, targets, strict=False)
    examples = [{"id": name, "question": asks, "target": right} for name, asks, right in told]
    first, other = adapters[0]["ranks"], adapters[:2][-1]["ranks"]
    advice = of.recommended.get(of.keys[0])
    ship = advice.rank if advice and advice.rank != advice.reference else 0
    beside = len(other) - 1 if len(adapters) > 1 else other.index(ship) if ship in other else 0
    start = (0, len(first) - 1), (min(1, len(adapters) - 1), beside)
    return Answers(examples, adapters, len(asked), start) if examples else None


def _texts(of: View, cell: DataFrame) -> list[str]:
    """What a cell's answers are shown as."""
    if of.metric in OWN:
        return [*map(_written, cell["score"], cell["response"])]
    return [*map(_shown, cell["response"], cell["choices"], cell["read"])]


def one_answer(of: View, run: StoredRun | None) -> str:
    """A wrong answer of the first adapter at its largest rank, in a sentence, if one is stored.

    Where a user's own completions are long, there is also the score that counts tokens.
    """
    ranks = [point.rank for point in of.of(of.keys[0])][-1:]
    none = of.rolling or of.metric == f"{TOKENS},none"
    cell = _cell(of, run, of.keys[0], ranks[0]) if run and ranks and not none else None
    if cell is None:
        return ""
    told, wrong = [], cell[(cell["score"] < RIGHT) & cell["response"].notna()]
    if not wrong.empty:
        example, response, read, target = wrong.iloc[0][["example", "response", "read", "target"]]
        said, right = (shorten(repr(answer_text(x)), 200) for x in (response, target))
        said += f" ({_taken(read)})" if isinstance(read, str) else ""
        where = f"example {row_number(example)} at rank {ranks[0]} counts as wrong"
        told.append(
            f"To check how answers are read: {where}; its answer: {said}; its reference: {right}."
        )
    if of.metric == f"{WHOLE},none" and cell["target"].str.len().median() > LONG:
        margin = (of.analysis.question.margin or 0.05) / 10
        needs = f"{points(margin)} needs {examples_for_margin(margin):,} examples or more"
        told.append(
            "Long completions are rarely right as a whole: --metric token_accuracy counts tokens, "
            f"with a tenth of the margin; one of {needs}."
        )
    return " ".join(told)


def written_instead(of: View, run: StoredRun | None, most: int) -> Iterator[tuple[str, Columns]]:
    """Of a user's own examples a table for each adapter, with its caption.

    It shows what the adapter writes at its largest rank in the place of references; texts are cut
    to `most` characters.
    """
    for key in of.keys if run and of.metric in OWN else ():
        rank = of.of(key)[-1].rank
        cell = _cell(of, run, key, rank)
        if cell is None or (wrong := cell[(cell["score"] < 1) & cell["response"].notna()]).empty:
            continue
        columns = {"example": [*map(row_number, wrong["example"])]}
        for head, name in (("reference", "target"), ("written instead", "response")):
            columns[head] = [one_line(repr(text), most) for text in wrong[name]]
        yield f"What {of.names[key]} at rank {rank} writes, of its first wrong examples", columns


def _cell(of: View, run: Any, key: Key, rank: int) -> DataFrame | None:
    """The answers of an adapter's first seed at a rank, where they are stored as a whole."""
    curve = of.rows[key].curves[0]
    with suppress(RunFolderError):
        found: DataFrame = run.answers(of.task, curve.adapter, curve.basis, curve.rescale, rank)
        return found
    return None


def _taken(read: str) -> str:
    """What a filter took of an answer; lm-eval's word for nothing is "[invalid]"."""
    if read == "[invalid]":
        return "the task's filter found nothing"
    return f"read as {shorten(repr(read), 80)}"


def _shown(response: Any, choices: Sequence[str] | None, read: str | None) -> str:
    told = "" if read is None else f"\n\naurac: {_taken(read)}"
    return shorten(answer_text(response, choices), MOST_TEXT) + told


def _written(score: float, text: Any) -> str:
    """What greedy decoding writes, as far as it is known."""
    if score == 1:
        return "greedy decoding writes the reference"
    if not isinstance(text, str):
        return "greedy decoding writes another text; those of the first wrong examples are known"
    return f"greedy decoding writes:\n{shorten(text, MOST_TEXT)}"


def answer_text(response: Any, choices: Sequence[str] | None = None) -> str:
    """One stored response as text: what was generated, or the choice with its likelihoods."""
    if isinstance(response, str):
        return response
    if isinstance(response, Sequence) and response:
        if all(isinstance(value, (int, float)) for value in response):
            best = max(range(len(response)), key=lambda i: response[i])
            named = f": {choices[best]}" if choices and len(choices) == len(response) else ""
            values = ", ".join(f"{value:.2f}" for value in response).replace("-", "\u2212")
            return f"choice {best + 1}{named}\n(log-likelihoods {values})"
        return "\n".join(answer_text(item) for item in response)
    return "" if response is None or response == [] else str(response)
