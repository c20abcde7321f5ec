"""What is asked of a model: lm-eval's requests, sorted by who answers them, and their identity.

Prompts are built and tokenised once; nothing that is kept depends on the model's weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from numbers import Real
from typing import TYPE_CHECKING, Any

from aurac.engine import EngineOptions, UnsupportedRequestError
from aurac.engine.counts import answered_by
from aurac.engine.tokens import (
    GenerationLayout,
    GenerationRequest,
    ScoringLayout,
    encode_pairs,
    model_input,
    most_new_tokens,
    resolve_max_length,
    samples_text,
    tokenise,
)
from aurac.errors import CellError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aurac.engine.running import Header, Progress

log = logging.getLogger(__name__)


SAMPLE_SEED = 1234  # of torch, by which ``lm_eval.simple_evaluate`` samples

_READ_FOR_ONE_WRITTEN, _CHARACTERS = 4, 4  # tokens read in the time of one written; of a token


class Requests:
    """The requests of one task or of several, in order: lm-eval's ``Instance`` objects."""

    def __init__(self, instances: Sequence[Any]) -> None:
        self.instances = tuple(instances)
        # As the engine takes them: one for each request, or one for each sample.
        self.generations: dict[int, list[GenerationRequest]] = {}
        self.kinds = [self._kind(index, asked) for index, asked in enumerate(self.instances)]
        self._tokens: dict[str, _Tokens] = {}

    def __len__(self) -> int:
        return len(self.instances)

    def _kind(self, index: int, instance: Any) -> str:
        kind = str(instance.request_type)
        if kind != "generate_until":
            return kind
        context, kwargs = instance.args
        samples = _repeats(instance) if samples_text(kwargs) else 0
        seeds: list[int | None] = [sample_seed(instance, j) for j in range(samples)]
        try:
            self.generations[index] = [
                GenerationRequest.from_kwargs(context, kwargs, seed) for seed in seeds or [None]
            ]
        except UnsupportedRequestError:
            return kind
        return "generation"

    def effort(self) -> float:
        """About how long one evaluation takes, in characters read: tells tasks of one run apart.

        What a text shares with the one before is read once; half of the longest answer is written.
        """
        total, before = 0.0, ""
        for index, instance in enumerate(self.instances):
            context = str(instance.args[0])
            total += len(context) - _shared(before, context)
            before = context
            if instance.request_type == "loglikelihood":
                total += len(instance.args[1])
            elif instance.request_type == "generate_until":
                samples = len(self.generations.get(index, ())) or 1
                half = most_new_tokens(instance.args[1]) / 2 * samples
                total += half * _READ_FOR_ONE_WRITTEN * _CHARACTERS
        return total

    def tokens(self, kind: str, model: Any, tokenizer: Any, options: EngineOptions) -> _Tokens:
        """The tokens of all requests of a kind, made once for a tokenizer and a length limit."""
        limit = resolve_max_length(model, tokenizer, options.max_length)
        known = self._tokens.get(kind)
        if known is None or known.tokenizer is not tokenizer or known.max_length != limit:
            indices = [index for index, name in enumerate(self.kinds) if name == kind]
            known = _Tokens.of(kind, self, indices, tokenizer, limit)
            self._tokens[kind] = known
        return known


@dataclass(eq=False)
class _Tokens:
    """Requests of one kind, tokenised with a tokenizer and a length limit."""

    kind: str
    tokenizer: Any
    max_length: int
    # Request number to its one (context, continuation) pair of tokens, or to its `Prompt`s
    encoded: dict[int, list[Any]]
    header: tuple[int, ...]  # the beginning that all inputs share
    # Blocks of requests, laid out; kept for the next state of the model
    layouts: dict[tuple[int, ...], Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, kind: str, requests: Requests, indices: list[int], tokenizer: Any, limit: int
    ) -> _Tokens:
        from aurac.engine.inference import shared_header
        from aurac.engine.running import header_tokens

        encoded: dict[int, list[Any]]
        if kind == "generation":
            generations = [requests.generations[index] for index in indices]
            prompts = tokenise(tokenizer, list(chain.from_iterable(generations)), limit)
            rest = iter(prompts)
            several = zip(indices, generations, strict=True)
            encoded = {index: [next(rest) for _ in samples] for index, samples in several}
            return cls(kind, tokenizer, limit, encoded, shared_header(prompts))
        pairs = encode_pairs(tokenizer, [requests.instances[index].args for index in indices])
        inputs = [model_input(*pair, limit) for pair in pairs]
        scored = min(len(i) - len(pair[1]) for i, pair in zip(inputs, pairs, strict=True))
        encoded = {index: [pair] for index, pair in zip(indices, pairs, strict=True)}
        return cls(kind, tokenizer, limit, encoded, header_tokens(inputs, scored))

    def layout(self, indices: Sequence[int]) -> Any:
        """The layout of some of the requests."""
        key = tuple(indices)
        if key not in self.layouts:
            encoded = list(chain.from_iterable(self.encoded[index] for index in indices))
            if self.kind == "generation":
                self.layouts[key] = GenerationLayout.of(encoded)
            else:
                self.layouts[key] = ScoringLayout.from_tokens(encoded, self.max_length)
        return self.layouts[key]


class Answers:
    """Puts requests to one state of a model, block by block; what inputs share is computed once."""

    def __init__(
        self, requests: Requests, model: Any, tokenizer: Any, options: EngineOptions
    ) -> None:
        self._requests, self._options = requests, options
        self._model, self._tokenizer = model, tokenizer
        self._headers: dict[str, Header] = {}

    def to(self, indices: Sequence[int], progress: Progress | None = None) -> list[list[Any]]:
        """For each of these requests the list of its responses, as many as the task repeats it.

        A deterministic request is put to the model once. ``progress`` is called with the number of
        requests newly answered. A log-likelihood that is no finite number is a CellError.
        """
        by_kind: dict[str, list[int]] = {}
        for index in indices:
            by_kind.setdefault(self._requests.kinds[index], []).append(index)
        answers: dict[int, list[Any]] = {}
        for kind, numbers in by_kind.items():
            responses = self._from_engine(kind, numbers, progress)
            if responses is None:
                responses = self._from_reference(numbers)
                if progress is not None:
                    progress(len(numbers))
            answers.update(zip(numbers, responses, strict=True))
        result = [answers[index] for index in indices]
        self._check_finite(indices, result)
        return result

    def _from_engine(
        self, kind: str, numbers: list[int], progress: Progress | None
    ) -> list[list[Any]] | None:
        """The engine's answers, or None for what it does not serve."""
        from aurac.engine.inference import generate, loglikelihoods
        from aurac.engine.running import Header, require_causal

        if kind not in ("loglikelihood", "generation"):
            return None
        answer: Callable[..., list[Any]] = loglikelihoods if kind == "loglikelihood" else generate
        try:
            require_causal(self._model)
            tokens = self._requests.tokens(kind, self._model, self._tokenizer, self._options)
            parts = [len(tokens.encoded[number]) for number in numbers]
            responses = answer(
                self._model,
                self._tokenizer,
                tokens.layout(numbers),
                options=self._options,
                progress=progress and _whole_requests(progress, max(parts)),
                header=self._headers.setdefault(kind, Header(tokens.header)),
            )
        except UnsupportedRequestError as error:
            log.info("lm-eval's own loop answers: %s", error)
            return None
        rest = iter(responses)
        answers = [[next(rest) for _ in range(count)] for count in parts]
        repeats = [_repeats(self._requests.instances[number]) for number in numbers]
        return [a * (n // len(a)) for a, n in zip(answers, repeats, strict=True)]

    def _from_reference(self, numbers: list[int]) -> list[list[Any]]:
        """The answers of lm-eval's own model, to what the engine does not serve."""
        from aurac.tasks.upstream import reference_answers

        answered_by("lm-eval")
        instances = [self._requests.instances[number] for number in numbers]
        repeated = [(i, sample_seed(i, j)) for i in instances for j in range(_repeats(i))]
        kind = str(instances[0].request_type)
        engine = (self._model, self._tokenizer, self._options)
        try:
            responses = iter(reference_answers(kind, repeated, *engine))
        except Exception as error:
            raise CellError(
                f"lm-eval's own model could not answer the {kind} requests of task "
                f"{instances[0].task_name!r} ({type(error).__name__}: {error})"
            ) from error
        return [[next(responses) for _ in range(_repeats(instance))] for instance in instances]

    def _check_finite(self, indices: Sequence[int], answers: list[list[Any]]) -> None:
        """NaN compares false with everything, so an argmax would quietly call a document wrong."""
        for index, responses in zip(indices, answers, strict=True):
            for response in responses:
                value = response[0] if isinstance(response, tuple) else response
                if isinstance(value, Real) and not math.isfinite(value):
                    instance = self._requests.instances[index]
                    raise CellError(
                        f"the model gave document {instance.doc_id} of task "
                        f"{instance.task_name!r} the log-likelihood {float(value)}",
                        fix="look for overflow in the adapter or try --dtype float32",
                    )


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


def sample_seed(instance: Any, sample: int) -> int:
    """The seed of a document's sample, in 32 bits; that of the first is by the document alone."""
    first = SAMPLE_SEED + int(instance.doc_id or 0)
    if sample == 0:
        return first
    digest = hashlib.sha256(f"{first} {sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _whole_requests(progress: Progress, parts: int) -> Progress:
    """Counts requests where the engine counts samples, of which each has `parts`."""
    done = 0

    def count(samples: int) -> None:
        nonlocal done
        before, done = done // parts, done + samples
        if done // parts > before:
            progress(done // parts - before)

    return count


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
