"""What is asked of a model: lm-eval's requests, sorted by who answers them, and their identity.

Prompts are built and tokenised once; nothing that is kept depends on the model's weights.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from aurac.engine.tokens import most_new_tokens, samples_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_READ_FOR_ONE_WRITTEN, _CHARACTERS = 4, 4  # tokens read in the time of one written; of a token


class Requests:
    """The requests of one task or of several, in order: lm-eval's ``Instance`` objects."""

    def __init__(self, instances: Sequence[Any]) -> None:
        self.instances = tuple(instances)

    def __len__(self) -> int:
        return len(self.instances)

    def effort(self) -> float:
        """About how long one evaluation takes, in characters read: tells tasks of one run apart.

        What a text shares with the one before is read once; half of the longest answer is written.
        """
        total, before = 0.0, ""
        for instance in self.instances:
            context = str(instance.args[0])
            total += len(context) - _shared(before, context)
            before = context
            if instance.request_type == "loglikelihood":
                total += len(instance.args[1])
            elif instance.request_type == "generate_until":
                kwargs = instance.args[1]
                samples = _repeats(instance) if samples_text(kwargs) else 1
                half = most_new_tokens(kwargs) / 2 * samples
                total += half * _READ_FOR_ONE_WRITTEN * _CHARACTERS
        return total


def answers_of(lm: Any, requests: Requests, indices: Sequence[int]) -> list[list[Any]]:
    """For each of these requests the list of its responses, as many as the task repeats it."""
    kinds: dict[str, list[int]] = {}
    for index in indices:
        kind = str(requests.instances[index].request_type)
        kinds.setdefault(kind, []).extend([index] * _repeats(requests.instances[index]))
    answers: dict[int, list[Any]] = {}
    for kind, places in kinds.items():
        asked = [requests.instances[place] for place in places]
        for place, answer in zip(places, getattr(lm, kind)(asked), strict=True):
            answers.setdefault(place, []).append(answer)
    return [answers[index] for index in indices]


def prompts_sha256(instances: Iterable[Any]) -> str:
    """One hash of every request: its kind, context, continuation or generation settings, order."""
    digest = hashlib.sha256()
    for instance in instances:
        request = [instance.request_type, _repeats(instance), list(instance.args)]
        digest.update(json.dumps(request, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def chat_text(
    tokenizer: Any,
    history: list[dict[str, str]],
    add_generation_prompt: bool = True,  # noqa: FBT001, FBT002 - lm-eval's signature
) -> str:
    """A conversation through the tokenizer's chat template, as lm-eval's Hugging Face model does.

    A template that knows no system role gets the history without it.
    """
    from jinja2.exceptions import TemplateError

    render = partial(
        tokenizer.apply_chat_template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    try:
        return str(render(history))
    except TemplateError:
        return str(render([turn for turn in history if turn["role"] != "system"]))


def _repeats(instance: Any) -> int:
    return int(instance.repeats or 1)


def _shared(text: str, other: str) -> int:
    """Length of the beginning that two texts share."""
    low, high = 0, min(len(text), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if text[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
