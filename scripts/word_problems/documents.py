"""The documents of `aurac_word_problems`, and the split that a document belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from scripts.word_problems import one_step, three_steps, two_steps
from scripts.word_problems.problem import Compiled, draw_numbers, operands, solution, tell, work_out
from scripts.word_problems.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SIZES: dict[str, int] = {"train": 6000, "validation": 500, "test": 1000}
Templates = dict[int, tuple[Compiled, ...]]


def compiled_templates(**limits: int) -> Templates:
    """The situations by their number of steps, within limits for given numbers and results."""
    return {
        steps: tuple(Compiled.of(template, **limits) for template in module.TEMPLATES)
        for steps, module in ((1, one_step), (2, two_steps), (3, three_steps))
    }


TEMPLATES = compiled_templates(given=48, largest=60)
"""Small numbers: a small model has to be able to learn the arithmetic from a few thousand."""
_MIX = {1: 35, 2: 40, 3: 25}
_SPLIT_OF_FIFTEEN = ("train",) * 12 + ("validation",) + ("test",) * 2
_KEY = "aurac_word_problems/1"

Splits = dict[str, list[dict[str, Any]]]


def split_of(numbers: Sequence[int]) -> str:
    """The split of a problem: a function of its sorted operands and of nothing else.

    The same numbers therefore never occur in two splits, whatever the situation, the wording, or
    the task: the multiple-choice task uses the same function.
    """
    text = "operands/" + ",".join(map(str, sorted(numbers)))
    word = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return _SPLIT_OF_FIFTEEN[word % 15]


@dataclass(frozen=True)
class Draft:
    """A template with numbers, not yet told; `stream` supplies the choices that remain."""

    compiled: Compiled
    given: dict[str, int]
    stream: Stream

    @property
    def part(self) -> tuple[str, int]:
        """The split, and the number of steps."""
        return split_of(operands(self.compiled.plan, self.given)), len(self.compiled.plan)


def drafts(key: str, step_counts: Sequence[int], templates: Templates) -> Iterator[Draft]:
    """Endless drafts, of which no two have the same template and numbers.

    Args:
        key: Names the supply; draft i has a random stream of its own, `key/i`.
        step_counts: Numbers of steps to draw from.
        templates: The situations to draw from.
    """
    seen: set[tuple[Any, ...]] = set()
    for index in count():
        stream = Stream(f"{key}/{index}")
        compiled = stream.choice(templates[stream.choice(step_counts)])
        given, _ = draw_numbers(compiled, stream)
        identity = (compiled.template.name, *given.values())
        if identity not in seen:
            seen.add(identity)
            yield Draft(compiled, given, stream)


def fill(
    key: str,
    mix: Mapping[int, int],
    sizes: Mapping[str, int],
    finish: Callable[[Draft], dict[str, Any] | None],
    templates: Templates,
) -> Splits:
    """Fill the splits with finished drafts; no question comes twice.

    Args:
        key: Names the supply of drafts, and the random order in which a split's documents end up.
        mix: Percent of the documents for each number of steps; every split has this mix.
        sizes: Documents in each split.
        finish: Makes a draft a document (without an id), or None to pass it over. It sees only
            drafts for which there is still room.
        templates: The situations to draw from.
    """
    room = {
        (name, k): size * share // 100 for name, size in sizes.items() for k, share in mix.items()
    }
    questions: set[str] = set()
    splits: Splits = {name: [] for name in sizes}
    supply = drafts(key, tuple(mix), templates)
    while any(room.values()):
        draft = next(supply)
        document = finish(draft) if room[draft.part] else None
        if document is not None and document["question"] not in questions:
            questions.add(document["question"])
            splits[draft.part[0]].append(document)
            room[draft.part] -= 1
    return {
        name: [
            {"id": f"{name}-{i:05d}", **document}
            for i, document in enumerate(Stream(f"{key}/order/{name}").shuffled(documents))
        ]
        for name, documents in splits.items()
    }


def _document(draft: Draft) -> dict[str, Any]:
    steps = work_out(draft.compiled.plan, draft.given) or []
    return {
        "question": tell(draft.compiled, draft.given, draft.stream),
        "answer": solution(steps),
        "steps": len(steps),
        "template": draft.compiled.template.name,
    }


def generate() -> Splits:
    """All splits, in `SIZES`' sizes; well below a second of work.

    A document is {"id", "question", "answer", "steps", "template"}.
    """
    return fill(_KEY, _MIX, SIZES, _document, TEMPLATES)
