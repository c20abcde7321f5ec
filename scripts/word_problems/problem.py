"""A situation template, and one problem drawn from it: numbers, steps, question, answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.word_problems.english import NOUNS, PEOPLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.word_problems.stream import Stream

LARGEST = 200
"""No result of any step is above this, unless a task sets itself a lower limit."""
RESULTS = "xyz"
_TRIES = 2000


@dataclass(frozen=True)
class Template:
    """A situation: what the numbers are, how the answer follows, how it can be told.

    Args:
        name: Identifies the template.
        numbers: Ranges of the given numbers, "a 5-60, b 2-9".
        steps: "a * b, x - c": the results are called x, y, z in this order, the last is the answer.
            A literal number in a step is one that the wording implies (twice, half).
        texts: The phrasings, in `str.format` syntax over numbers (`{a}`), people (`{A}`,
            `{A.he}`), and nouns (`{t}`, `{t.one}`, `{t.a}`).
        nouns: Which noun slots the phrasings use, "t small, u small, box box": slot and category.
    """

    name: str
    numbers: str
    steps: str
    texts: tuple[str, ...]
    nouns: str = ""

    def ranges(self) -> dict[str, tuple[int, int]]:
        """The given numbers' names with their inclusive ranges."""
        ranges = {}
        for part in self.numbers.split(","):
            name, bounds = part.split()
            low, high = bounds.split("-")
            ranges[name] = (int(low), int(high))
        return ranges

    def plan(self) -> tuple[tuple[str, str, str], ...]:
        """The steps as (left, operation, right)."""
        return tuple(_triple(step) for step in self.steps.split(","))

    def slots(self) -> dict[str, list[str]]:
        """The noun slots of each category."""
        slots: dict[str, list[str]] = {}
        for part in filter(None, self.nouns.split(",")):
            slot, kind = part.split()
            slots.setdefault(kind, []).append(slot)
        return slots


def _triple(step: str) -> tuple[str, str, str]:
    left, operation, right = step.split()
    return left, operation, right


@dataclass(frozen=True)
class Compiled:
    """A template with its small languages parsed once."""

    template: Template
    ranges: Mapping[str, tuple[int, int]]
    plan: tuple[tuple[str, str, str], ...]
    slots: Mapping[str, list[str]]
    largest: int = LARGEST

    @classmethod
    def of(cls, template: Template, given: int = LARGEST, largest: int = LARGEST) -> Compiled:
        """Parse a template; no given number is above `given`, no result above `largest`."""
        ranges = {name: (low, min(high, given)) for name, (low, high) in template.ranges().items()}
        return cls(template, ranges, template.plan(), template.slots(), largest)


@dataclass(frozen=True)
class Step:
    """One equation, `left operation right = result`, all non-negative integers."""

    left: int
    operation: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operation} {self.right} = {self.result}"


def apply(left: int, operation: str, right: int) -> int | None:
    """The result, or None where it would be negative or not an integer."""
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right if left >= right else None
    if operation == "*":
        return left * right
    return left // right if right and left % right == 0 else None


def work_out(
    plan: tuple[tuple[str, str, str], ...], given: Mapping[str, int], largest: int = LARGEST
) -> list[Step] | None:
    """Carry out a plan on given numbers.

    Returns:
        The equations, or None where a result is not an integer from 2 to `largest`.
    """
    known = dict(given)
    steps = []
    for name, (left, operation, right) in zip(RESULTS, plan, strict=False):
        first = known[left] if left in known else int(left)
        second = known[right] if right in known else int(right)
        result = apply(first, operation, second)
        if result is None or not 2 <= result <= largest:
            return None
        known[name] = result
        steps.append(Step(first, operation, second, result))
    return steps


def solution(steps: list[Step]) -> str:
    """The worked answer: an equation a line, then `#### N`."""
    return "\n".join([*map(str, steps), f"#### {steps[-1].result}"])


def operands(plan: tuple[tuple[str, str, str], ...], given: Mapping[str, int]) -> tuple[int, ...]:
    """The sorted multiset of a problem's numbers: the given ones and those implied (twice)."""
    implied = [int(s) for left, _, right in plan for s in (left, right) if s.isdigit()]
    return tuple(sorted([*given.values(), *implied]))


def draw_numbers(compiled: Compiled, stream: Stream) -> tuple[dict[str, int], list[Step]]:
    """Different numbers within the template's ranges for which every step comes out.

    Raises:
        ValueError: The ranges hardly ever work: the template is faulty.
    """
    for _ in range(_TRIES):
        given = {name: stream.between(*bounds) for name, bounds in compiled.ranges.items()}
        steps = work_out(compiled.plan, given, compiled.largest)
        if steps is not None and len(set(given.values())) == len(given):
            return given, steps
    raise ValueError(f"template {compiled.template.name}: its ranges hardly ever fit its steps")


def tell(compiled: Compiled, given: Mapping[str, int], stream: Stream) -> str:
    """The question: one phrasing, with people and things of its own.

    Slots of one category get different nouns, days in the order of the week, and the people are
    different people.
    """
    words: dict[str, Any] = dict(zip("ABC", stream.sample(PEOPLE, 3), strict=True))
    for kind, slots in compiled.slots.items():
        nouns = stream.sample(NOUNS[kind], len(slots))
        if kind == "day":
            nouns.sort(key=NOUNS[kind].index)
        words.update(zip(slots, nouns, strict=True))
    return stream.choice(compiled.template.texts).format(**words, **given)
