"""The answers that a reader of a report can look through, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aurac.errors import RunFolderError
from aurac.show.escape import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pandas import DataFrame

    from aurac.records.run import StoredRun
    from aurac.show.views import TaskView

MOST_ADAPTERS: Final = 8
MOST_EXAMPLES: Final = 200
MOST_TEXT: Final = 800  # characters of a question or an answer
MOST_ALL: Final = 400_000  # characters of a task
RIGHT: Final = 0.5


@dataclass(frozen=True)
class Answers:
    """Questions of a task and the answers of several adapters to them.

    Attributes:
        examples: `id`, `question` and `target` of each of n examples.
        adapters: `name`, `ranks` (0 is the base), and for each rank `scores` and `answers` (n).
        total: Examples of the task.
    """

    examples: Sequence[Mapping[str, str]]
    adapters: Sequence[Mapping[str, Any]]
    total: int

    @property
    def start(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What is compared first, as places of adapter and rank: two adapters, or rank and base."""
        first = len(self.adapters[0]["ranks"]) - 1
        if len(self.adapters) > 1:
            return (0, first), (1, len(self.adapters[1]["ranks"]) - 1)
        return (0, first), (0, 0)

    def differing(self, most: int) -> list[dict[str, Any]]:
        """The first examples that one of the two answers right and the other wrong, both ways."""
        sides = [(self.adapters[a], r) for a, r in self.start]
        scores = [one["scores"][r] for one, r in sides]
        kept: dict[bool, list[int]] = {True: [], False: []}
        for i, (x, y) in enumerate(zip(*scores, strict=True)):
            if (x >= RIGHT) != (y >= RIGHT):
                kept[x > y].append(i)
        half = max(1, most // 2)
        places = sorted([*kept[True][:half], *kept[False][:half]])
        return [
            {
                **self.examples[i],
                "answers": [
                    (_named(one, r), one["answers"][r][i], one["scores"][r][i]) for one, r in sides
                ],
            }
            for i in places
        ]


def _named(adapter: Mapping[str, Any], place: int) -> str:
    rank = adapter["ranks"][place]
    return f"{adapter['name']} at rank {rank}" if rank else "base"


def answers(of: TaskView, run: StoredRun) -> Answers | None:
    """The first examples of a task with the answers of the first adapters at each rank.

    Of several training seeds the first one answers. Nothing where the answers are not stored, and
    of perplexities.
    """
    if of.rolling:
        return None
    questions = run.questions(of.task).set_index("example")
    ids: Sequence[str] | None = None
    adapters: list[dict[str, Any]] = []
    texts, spent = [], 0
    asked = {key: dict(questions[key]) for key in ("question", "target")}
    choices = dict(questions["choices"])
    for name in of.names[:MOST_ADAPTERS]:
        cells = dict(_cells(of, run, name))
        if not cells:
            continue
        if ids is None:
            ids = list(next(iter(cells.values()))["example"])
        cells = {rank: cell for rank, cell in cells.items() if list(cell["example"]) == ids}
        columns = [
            [shorten(answer_text(r, choices.get(i)), MOST_TEXT) for i, r in _responses(cell)]
            for cell in cells.values()
        ]
        scores = [cell["score"][:MOST_EXAMPLES].round(4).tolist() for cell in cells.values()]
        adapters.append({"name": name, "ranks": list(cells), "scores": scores, "answers": columns})
        texts += columns
    if ids is None:
        return None
    examples = []
    for at, example in enumerate(ids[:MOST_EXAMPLES]):
        row = {key: shorten(asked[key].get(example) or "", MOST_TEXT) for key in asked}
        spent += sum(map(len, row.values())) + sum(len(column[at]) for column in texts)
        if spent > MOST_ALL:
            break
        examples.append({"id": shorten(example, 80), **row})
    for adapter in adapters:
        for key in ("scores", "answers"):
            adapter[key] = [column[: len(examples)] for column in adapter[key]]
    return Answers(examples, adapters, len(ids)) if examples else None


def _cells(of: TaskView, run: StoredRun, name: str) -> list[tuple[int, DataFrame]]:
    """Rank → the answers of an adapter there, of those ranks that are stored."""
    row = of.analysis.rows.get((of.task, name))
    if row is None:
        return []
    curve = row.curves[0]
    found = []
    for rank in (int(rank) for rank in of.of(name)["rank"]):
        with suppress(RunFolderError):  # a cell of the first seed that is not whole
            cell = run.samples(of.task, curve.adapter, curve.basis, curve.rescale, rank)
            found.append((rank, cell))
    return found


def _responses(cell: DataFrame) -> list[tuple[str, Any]]:
    shown = cell[:MOST_EXAMPLES]
    return list(zip(shown["example"], shown["response"], strict=True))


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
