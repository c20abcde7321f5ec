"""Greedy generation until a stop string: the answers of lm-eval's ``HFLM``, without its waiting."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aurac.engine.counts import answered_by, current
from aurac.engine.options import EngineOptions, UnsupportedRequestError
from aurac.engine.prefix_tree import PrefixTree
from aurac.engine.tokens import encode_texts, resolve_max_length
from aurac.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aurac.engine.header import Header

__all__ = ["GenerationLayout", "GenerationRequest", "generate", "generation_layout"]

log = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 256
_SIMILAR_LENGTH = 64  # prompts that differ by less may be taken in any order
_LIMIT_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SILENT = frozenset({"until", "do_sample", "temperature", "top_p", "top_k", *_LIMIT_NAMES})


def most_new_tokens(kwargs: Mapping[str, Any]) -> int:
    """The token limit in a task's ``generation_kwargs``, by whichever name it goes there."""
    limits = [kwargs[name] for name in _LIMIT_NAMES if kwargs.get(name) is not None]
    return int(limits[0]) if limits else DEFAULT_NEW_TOKENS


@dataclass(frozen=True)
class GenerationRequest:
    """Continue a context greedily.

    Attributes:
        context: The prompt.
        until: Stop strings; the text ends before the first of them. EOS is always added.
        max_new_tokens: Most tokens to generate.
    """

    context: str
    until: tuple[str, ...] = ()
    max_new_tokens: int = DEFAULT_NEW_TOKENS

    @classmethod
    def from_kwargs(cls, context: str, kwargs: Mapping[str, Any]) -> GenerationRequest:
        """From a task's ``generation_kwargs``, by the rules of lm-eval 0.4.13.

        Raises:
            UnsupportedRequestError: The request samples, or asks for a decoding that is not greedy.
        """
        sample = kwargs.get("do_sample")
        if sample or (sample is None and float(kwargs.get("temperature") or 0.0) > 0.0):
            raise UnsupportedRequestError("a request that samples", expected="greedy decoding")
        if most_new_tokens(kwargs) < 1:
            raise UnsupportedRequestError("a limit of no new token", expected="at least 1")
        unknown = sorted(set(kwargs) - _SILENT)
        if unknown:
            raise UnsupportedRequestError(
                f"generation settings {', '.join(unknown)}", expected="until and a token limit"
            )
        until = kwargs.get("until") or []
        stops = (until,) if isinstance(until, str) else tuple(until)
        return cls(context, stops, most_new_tokens(kwargs))


@dataclass(frozen=True)
class Prompt:
    """A distinct request, tokenised: what the decoders work on."""

    tokens: tuple[int, ...]
    until: tuple[str, ...]
    max_new_tokens: int

    @property
    def order(self) -> tuple[int, tuple[int, ...]]:
        """Longest first, so that slots are made wide once; similar ones as they begin.

        A beginning that neighbours share is computed once.
        """
        return -(len(self.tokens) // _SIMILAR_LENGTH), self.tokens


@dataclass(frozen=True, eq=False)
class GenerationLayout:
    """Generation requests tokenised once, duplicates merged.

    Attributes:
        prompts: Distinct requests, left-truncated to leave room for the new tokens.
        index: For each request, its prompt.
    """

    prompts: tuple[Prompt, ...]
    index: tuple[int, ...]

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> GenerationLayout:
        """One prompt for each request, repeats allowed."""
        found: dict[Prompt, int] = {}
        index = tuple(found.setdefault(prompt, len(found)) for prompt in prompts)
        return cls(tuple(found), index)

    def __len__(self) -> int:
        return len(self.index)


def tokenise(
    tokenizer: Any, requests: Sequence[GenerationRequest], max_length: int
) -> list[Prompt]:
    """A prompt for each request, cut on the left to leave room for its new tokens.

    Raises:
        TaskError: No room for a prompt beside its new tokens, or a prompt without tokens.
    """
    eos = tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
    tokens = encode_texts(tokenizer, (r.context for r in requests), tokenizer.bos_token)
    prompts = []
    for request in requests:
        room = max_length - request.max_new_tokens
        if room < 1:
            raise TaskError(
                f"{request.max_new_tokens} new tokens with a model length of {max_length}",
                expected="room for a prompt",
                fix="raise the length or lower the task's limit",
            )
        context = tuple(tokens[request.context][-room:])
        if not context:
            raise TaskError("a prompt without tokens", expected="a non-empty context")
        until = request.until if eos in request.until else (*request.until, eos)
        prompts.append(Prompt(context, until, request.max_new_tokens))
    return prompts


def generation_layout(
    model: Any, tokenizer: Any, requests: Sequence[GenerationRequest], options: EngineOptions
) -> GenerationLayout:
    """Lay the requests out for this model's length limit; reuse it for every rank and adapter."""
    limit = resolve_max_length(model, tokenizer, options.max_length)
    return GenerationLayout.of(tokenise(tokenizer, requests, limit))


def _note(
    layout: GenerationLayout,
    tokens: Sequence[Sequence[int]],
    near_ties: int,
    counted_before: int,
) -> None:
    """Into the record in force: the distinct prefixes of prompts and answers, and near ties."""
    record = current()
    if record is None:
        return
    # The newest token of an answer is never put in again.
    fed = [(*p.tokens, *new[:-1]) for p, new in zip(layout.prompts, tokens, strict=True)]
    record.distinct += PrefixTree.build(fed)[0].n_nodes - counted_before
    record.near_ties += near_ties


def finish_text(text: str, until: Sequence[str]) -> str:
    """The text before its stop strings, applied one after another as lm-eval does."""
    for stop in until:
        if stop:
            text = text.split(stop, maxsplit=1)[0]
    return text


def generate(
    model: Any,
    tokenizer: Any,
    requests: Sequence[GenerationRequest] | GenerationLayout,
    *,
    options: EngineOptions | None = None,
    progress: Callable[[int], None] | None = None,
    header: Header | None = None,
) -> list[str]:
    """Continue every request greedily until a stop string, EOS or its token limit.

    Args:
        model: A transformers causal language model, possibly with PEFT layers in it.
        tokenizer: Its tokenizer.
        requests: The requests, or their ``GenerationLayout``.
        options: Budgets.
        progress: Called with the number of requests newly finished; the calls sum to their number.
        header: What all prompts begin with, kept from one call to the next for the same state of
            the model; ``None`` looks for one among these prompts.

    Returns:
        The generated texts, in the order given, without their stop strings.

    Raises:
        TaskError: A request that cannot be served by this model's length.
        UnsupportedRequestError: The model is no causal language model.
    """
    from aurac.engine.running import evaluating, require_causal

    require_causal(model)
    options = options or EngineOptions()
    layout = requests
    if not isinstance(layout, GenerationLayout):
        layout = generation_layout(model, tokenizer, layout, options)
    if not len(layout):
        return []
    with evaluating(model):
        tokens = _decoded(model, tokenizer, layout, options, progress, header)
    texts = [
        finish_text(tokenizer.decode(t, skip_special_tokens=True), p.until)
        for t, p in zip(tokens, layout.prompts, strict=True)
    ]
    return [texts[i] for i in layout.index]


def _decoded(
    model: Any,
    tokenizer: Any,
    layout: GenerationLayout,
    options: EngineOptions,
    progress: Callable[[int], None] | None,
    header: Header | None,
) -> list[list[int]]:
    """New tokens of every prompt."""
    from aurac.engine.decoding import Decoder
    from aurac.engine.header import Header
    from aurac.engine.plain_decoding import decode_plain, plainly_greedy
    from aurac.engine.probe import probe
    from aurac.engine.running import pass_tokens

    prompts, counts = layout.prompts, Counter(layout.index)
    longest = max(len(p.tokens) + p.max_new_tokens for p in prompts)
    greedy = plainly_greedy(model)
    if options.packed and not greedy:
        log.info("the model's own generation answers: its settings are more than greedy decoding")
    packed = options.packed and greedy and probe(model).serves(longest)
    answered_by("packed" if packed else "generate")

    def finished(number: int) -> None:
        if progress is not None:
            progress(counts[number])

    if not packed:
        return decode_plain(model, tokenizer, prompts, options=options, finished=finished)
    if header is None:
        header = Header(shared_header(prompts))
    counted_before = len(header) if header.computed else 0
    decoder = Decoder(
        model,
        tokenizer,
        prompts,
        header,
        options=options,
        batch_tokens=options.batch_tokens or pass_tokens(model),
        finished=finished,
    )
    tokens = decoder.run()
    near_ties = sum(counts[number] for number in decoder.near_ties)
    _note(layout, tokens, near_ties, counted_before)
    return tokens


def shared_header(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """The tokens with which all prompts begin, if they are worth a pass of their own."""
    from aurac.engine.header import header_tokens

    return header_tokens([p.tokens for p in prompts], min(len(p.tokens) for p in prompts) - 1)
