"""The documents of `aurac_word_problems_mc`: which of four worked answers is the right one?

Every choice is a worked answer with correct arithmetic and as many steps as the right one, so the
choices can be told apart only by reading the question. Two plausible mistakes m and n (a wrong
operation in one step, two numbers exchanged) make the four choices: neither, m, n, both. In such a
square each choice stands to the other three as any other does, so "the one most like the others"
says nothing; and among the squares that a problem admits, the one is taken that keeps the right
answer from being the largest, the shortest, or the one with a certain operation more often than
chance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

from scripts.word_problems.documents import compiled_templates, fill
from scripts.word_problems.problem import solution, tell, work_out
from scripts.word_problems.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scripts.word_problems.documents import Draft, Splits
    from scripts.word_problems.problem import Step

    Plan = tuple[tuple[str, str, str], ...]
    Worked = list[Step]
    Mistake = tuple[str, int | str, str]

SIZES: dict[str, int] = {"train": 2000, "validation": 500, "test": 1000}
_MIX = {2: 60, 3: 40}
_KEY = "aurac_word_problems_mc/1"
_OPTIONS = 8
TEMPLATES = compiled_templates()
_SLACK = 100
_SIGNS = {
    "".join(operation for _, operation, _ in compiled.plan)
    for k in _MIX
    for compiled in TEMPLATES[k]
}
_MISTAKEN = {"+": "-*", "-": "+*", "*": "+-/", "/": "-*+"}


def mistakes(plan: Plan, given: Mapping[str, int]) -> Iterator[Mistake]:
    """The single mistakes: ("operation", step, wrong sign) and ("exchange", name, other name)."""
    for index, (_, operation, _) in enumerate(plan):
        for wrong in _MISTAKEN[operation]:
            yield "operation", index, wrong
    for one, other in combinations(given, 2):
        yield "exchange", one, other


def make(mistake: Mistake, plan: Plan, given: Mapping[str, int]) -> tuple[Plan, Mapping[str, int]]:
    """A plan and numbers with the mistake made in them."""
    kind, where, what = mistake
    if kind == "exchange":
        return plan, {**given, str(where): given[what], what: given[str(where)]}
    steps = list(plan)
    left, _, right = steps[int(where)]
    steps[int(where)] = (left, what, right)
    return tuple(steps), given


def signs(steps: Worked) -> str:
    """The operations in order, such as "*-"."""
    return "".join(step.operation for step in steps)


def squares(plan: Plan, given: Mapping[str, int]) -> list[list[Worked]]:
    """All sets of four worked answers (the right one first) that two mistakes make.

    Only sets whose every step comes out as an integer within bounds, with four different results,
    and with rows of signs that are right for some situation.
    """
    right = work_out(plan, given)
    if right is None:
        return []
    single = []
    for mistake in mistakes(plan, given):
        wrong = work_out(*make(mistake, plan, given))
        if wrong is not None and wrong[-1].result != right[-1].result:
            single.append((mistake, wrong))
    result = []
    for (m, with_m), (n, with_n) in combinations(single, 2):
        if m[:2] == n[:2] and m[0] == "operation":
            continue
        both = work_out(*make(n, *make(m, plan, given)))
        if both is None:
            continue
        four = [right, with_m, with_n, both]
        if len({steps[-1].result for steps in four}) == 4 and set(map(signs, four)) <= _SIGNS:
            result.append(four)
    return result


def features(four: Sequence[Worked]) -> list[set[str]]:
    """What can be seen of each choice without the question: its rank by size, its signs, ..."""
    results = [steps[-1].result for steps in four]
    order = sorted(results)
    apart = [abs(4 * result - sum(results)) for result in results]
    lengths = [len(solution(steps)) for steps in four]
    seen = []
    for i, steps in enumerate(four):
        marks = {f"rank {order.index(results[i])}", f"signs {signs(steps)}"}
        marks |= {f"sign {k} {sign}" for k, sign in enumerate(signs(steps))}
        marks |= {f"falls {k}" for k, step in enumerate(steps) if step.left > step.right}
        for name, values in (("apart", apart), ("long", lengths)):
            marks |= {f"most {name}"} if values[i] == max(values) else set()
            marks |= {f"least {name}"} if values[i] == min(values) else set()
        seen.append(marks)
    return seen


class Balance:
    """Picks squares such that no feature marks the right answer more often than chance does."""

    def __init__(self) -> None:
        self._excess: Counter[str] = Counter()

    def pick(self, options: Sequence[list[Worked]]) -> list[Worked] | None:
        """The square that best makes up for the excess so far, or None if even that adds to it.

        The excess of a feature, in quarters of a document: how often the right answer had it,
        less how often it would have, were it drawn from the four choices. The sum of the squares
        of all excesses may grow by `_SLACK` at most.
        """
        best, effect, cost = None, Counter[str](), _SLACK + 1
        for four in options:
            candidate = self._effect(four)
            rise = sum(size * (2 * self._excess[mark] + size) for mark, size in candidate.items())
            if rise < cost:
                best, effect, cost = four, candidate, rise
        self._excess.update(effect)
        return best

    @staticmethod
    def _effect(four: Sequence[Worked]) -> Counter[str]:
        seen = features(four)
        effect: Counter[str] = Counter()
        for marks in seen:
            for mark in marks:
                effect[mark] -= 1
        for mark in seen[0]:
            effect[mark] += 4
        return effect


class _Drafter:
    """Finishes the drafts for which a square can be had that keeps their part in balance."""

    def __init__(self) -> None:
        self._balances: defaultdict[tuple[str, int], Balance] = defaultdict(Balance)

    def __call__(self, draft: Draft) -> dict[str, Any] | None:
        options = draft.stream.shuffled(squares(draft.compiled.plan, draft.given))[:_OPTIONS]
        four = self._balances[draft.part].pick(options)
        if four is None:
            return None
        return {
            "question": tell(draft.compiled, draft.given, draft.stream),
            "steps": len(draft.compiled.plan),
            "template": draft.compiled.template.name,
            "four": [solution(steps) for steps in four],
        }


def _finish(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Place the right answers, each position equally often."""
    stream = Stream(key)
    positions = stream.shuffled([i % 4 for i in range(len(rows))])
    finished = []
    for row, position in zip(rows, positions, strict=True):
        right, *wrong = row["four"]
        choices = stream.shuffled(wrong)
        choices.insert(position, right)
        finished.append(
            {
                "id": row["id"],
                "question": row["question"],
                "choices": choices,
                "gold": position,
                "answer": right,
                "steps": row["steps"],
                "template": row["template"],
            }
        )
    return finished


def generate() -> Splits:
    """All splits, in `SIZES`' sizes; a few seconds of work.

    A document is {"id", "question", "choices", "gold", "answer", "steps", "template"}.
    """
    filled = fill(_KEY, _MIX, SIZES, _Drafter(), TEMPLATES)
    return {split: _finish(rows, f"{_KEY}/choices/{split}") for split, rows in filled.items()}
