"""What is asked of a model: lm-eval's requests, sorted by who answers them, and their identity.

The prompts of a task are built once and tokenised once; the answers are computed anew for every
state of the model. Nothing that is kept between two evaluations depends on the model's weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from aurac.engine.counts import answered_by
from aurac.engine.options import EngineOptions, UnsupportedRequestError
from aurac.errors import AuracError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.engine.generate import GenerationRequest

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
_Engine = tuple[Any, Any, EngineOptions]  # model, tokenizer, options
Reference = Callable[[str, list[Any], Any, Any, EngineOptions], list[Any]]
"""lm-eval's own model: (kind of request, requests, model, tokenizer, options) to responses."""

_READ_FOR_ONE_WRITTEN, _CHARACTERS = 4, 4  # tokens read in the time of one written; of a token


class CellError(AuracError):
    """A cell that has no value: the model's answers are no numbers, or cannot be judged."""


class Requests:
    """The requests of one task or of several, in order.

    Args:
        instances: lm-eval's ``Instance`` objects.
        reference: Answers what is neither a log-likelihood nor greedy generation, and what the
            engine says that it does not serve.
    """

    def __init__(self, instances: Sequence[Any], reference: Reference) -> None:
        self.instances = tuple(instances)
        self._reference = reference
        self._layouts: dict[str, tuple[Any, int, Any]] = {}
        self._kinds: dict[str, list[int]] = {}
        self._greedy: list[GenerationRequest] = []
        for index, instance in enumerate(self.instances):
            self._kinds.setdefault(self._kind(instance), []).append(index)

    def __len__(self) -> int:
        return len(self.instances)

    def _kind(self, instance: Any) -> str:
        kind = str(instance.request_type)
        if kind != "generate_until":
            return kind
        from aurac.engine.generate import GenerationRequest

        try:
            self._greedy.append(GenerationRequest.from_kwargs(*instance.args))
        except UnsupportedRequestError:
            return kind
        return "greedy"

    def effort(self) -> float:
        """About how long one evaluation takes, in characters read: tells tasks of one run apart.

        What a text shares with the one before is read once. Of a generated answer half of what it
        may have is counted, each token like so many read ones.
        """
        from aurac.engine.generate import most_new_tokens

        total, before = 0.0, ""
        for instance in self.instances:
            context = str(instance.args[0])
            total += len(context) - _shared(before, context)
            before = context
            if instance.request_type == "loglikelihood":
                total += len(instance.args[1])
            elif instance.request_type == "generate_until":
                total += most_new_tokens(instance.args[1]) / 2 * _READ_FOR_ONE_WRITTEN * _CHARACTERS
        return total

    def answers(
        self, model: Any, tokenizer: Any, options: EngineOptions, progress: Progress | None
    ) -> list[list[Any]]:
        """For each request the list of its responses, as many as the task repeats it.

        A deterministic request is put to the model once, however often it is repeated.

        Args:
            model: The model in its present state.
            tokenizer: Its tokenizer.
            options: The engine's.
            progress: Called with the number of requests newly answered; sums to their number.

        Raises:
            CellError: A log-likelihood is not a finite number.
        """
        answers: list[list[Any]] = [[] for _ in self.instances]
        engine = (model, tokenizer, options)
        for kind, indices in self._kinds.items():
            asked = [self.instances[index] for index in indices]
            found = self._engine_answers(kind, asked, engine, progress)
            if found is None:
                found = self._reference_answers(asked, engine)
                if progress is not None:
                    progress(len(asked))
            for index, responses in zip(indices, found, strict=True):
                answers[index] = responses
        self._check_finite(answers)
        return answers

    def _engine_answers(
        self, kind: str, asked: list[Any], engine: _Engine, progress: Progress | None
    ) -> list[list[Any]] | None:
        """The engine's answers, or None for what it does not serve."""
        model, tokenizer, options = engine
        found: list[Any]
        try:
            if kind == "loglikelihood":
                from aurac.engine.loglikelihood import loglikelihoods, scoring_layout

                pairs = [instance.args for instance in asked]
                layout = self._layout(kind, partial(scoring_layout, pairs=pairs), engine)
                found = loglikelihoods(model, tokenizer, layout, options=options, progress=progress)
            elif kind == "greedy":
                from aurac.engine.generate import generate, generation_layout

                layout = self._layout(
                    kind, partial(generation_layout, requests=self._greedy), engine
                )
                found = generate(model, tokenizer, layout, options=options, progress=progress)
            else:
                return None
        except UnsupportedRequestError as error:
            log.info("lm-eval's own loop answers: %s", error)
            return None
        return [[r] * _repeats(instance) for r, instance in zip(found, asked, strict=True)]

    def _reference_answers(self, asked: list[Any], engine: _Engine) -> list[list[Any]]:
        answered_by("lm-eval")
        repeated = [instance for instance in asked for _ in range(_repeats(instance))]
        kind = str(asked[0].request_type)
        try:
            found = iter(self._reference(kind, repeated, *engine))
        except Exception as error:
            raise CellError(
                f"lm-eval's own model could not answer the {kind} requests of task "
                f"{asked[0].task_name!r} ({type(error).__name__}: {error})"
            ) from error
        return [[next(found) for _ in range(_repeats(instance))] for instance in asked]

    def _layout(self, kind: str, build: Callable[..., Any], engine: _Engine) -> Any:
        """The tokens of the requests, made once for a tokenizer and a length limit."""
        from aurac.engine.tokens import resolve_max_length

        model, tokenizer, options = engine
        limit = resolve_max_length(model, tokenizer, options.max_length)
        held = self._layouts.get(kind)
        if held is None or held[0] is not tokenizer or held[1] != limit:
            held = (tokenizer, limit, build(model, tokenizer, options=options))
            self._layouts[kind] = held
        return held[2]

    def _check_finite(self, answers: list[list[Any]]) -> None:
        """NaN compares false with everything, so an argmax would quietly call a document wrong."""
        for instance, responses in zip(self.instances, answers, strict=True):
            for response in responses:
                value = response[0] if isinstance(response, tuple) else response
                if isinstance(value, Real) and not math.isfinite(value):
                    raise CellError(
                        f"the model gave document {instance.doc_id} of task "
                        f"{instance.task_name!r} the log-likelihood {float(value)}",
                        fix="look for overflow in the adapter or try --dtype float32",
                    )


def documents_sha256(doc_ids: Iterable[str], doc_hashes: Iterable[str]) -> str:
    """One hash of documents and their order."""
    digest = hashlib.sha256()
    for doc_id, doc_hash in zip(doc_ids, doc_hashes, strict=True):
        digest.update(f"{doc_id} {doc_hash}\n".encode())
    return digest.hexdigest()


def prompts_sha256(instances: Iterable[Any]) -> str:
    """One hash of every request: its kind, context, continuation or generation settings, order."""
    digest = hashlib.sha256()
    for instance in instances:
        asked = [instance.request_type, _repeats(instance), list(instance.args)]
        digest.update(json.dumps(asked, sort_keys=True, default=str).encode() + b"\n")
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


def _shared(one: str, other: str) -> int:
    """Length of the beginning that two texts share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
