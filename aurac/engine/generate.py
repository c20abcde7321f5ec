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
    def build(
        cls, tokenizer: Any, requests: Sequence[GenerationRequest], max_length: int
    ) -> GenerationLayout:
        """Tokenise the requests.

        Raises:
            TaskError: No room for a prompt beside its new tokens, or a prompt without tokens.
        """
        eos = tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
        tokens = encode_texts(tokenizer, (r.context for r in requests), tokenizer.bos_token)
        found: dict[Prompt, int] = {}
        index = []
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
            prompt = Prompt(context, until, request.max_new_tokens)
            index.append(found.setdefault(prompt, len(found)))
        return cls(tuple(found), tuple(index))

    def __len__(self) -> int:
        return len(self.index)


def generation_layout(
    model: Any, tokenizer: Any, requests: Sequence[GenerationRequest], options: EngineOptions
) -> GenerationLayout:
    """Lay the requests out for this model's length limit; reuse it for every rank and adapter."""
    limit = resolve_max_length(model, tokenizer, options.max_length)
    return GenerationLayout.build(tokenizer, requests, limit)


def _note(layout: GenerationLayout, tokens: Sequence[Sequence[int]], near_ties: int) -> None:
    """Into the record in force: the distinct prefixes of prompts and answers, and near ties."""
    record = current()
    if record is None:
        return
    # The newest token of an answer is never put in again.
    fed = [(*p.tokens, *new[:-1]) for p, new in zip(layout.prompts, tokens, strict=True)]
    record.distinct += PrefixTree.build(fed)[0].n_nodes
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
) -> list[str]:
    """Continue every request greedily until a stop string, EOS or its token limit.

    Args:
        model: A transformers causal language model, possibly with PEFT layers in it.
        tokenizer: Its tokenizer.
        requests: The requests, or their ``GenerationLayout``.
        options: Budgets.
        progress: Called with the number of requests newly finished; the calls sum to their number.

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
        tokens = _decoded(model, tokenizer, layout, options, progress)
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
) -> list[list[int]]:
    """New tokens of every prompt, piece by piece; a piece that was kept is not decoded again."""
    from aurac.engine.checkpoint import KeptAnswers, pieces
    from aurac.engine.decoding import MOST_SLOTS, shared_header
    from aurac.engine.plain_decoding import plainly_greedy
    from aurac.engine.probe import probe
    from aurac.engine.running import held_tokens

    prompts, counts = layout.prompts, Counter(layout.index)
    longest = max(len(p.tokens) + p.max_new_tokens for p in prompts)
    greedy = plainly_greedy(model)
    if options.packed and not greedy:
        log.info("the model's own generation answers: its settings are more than greedy decoding")
    packed = options.packed and greedy and probe(model).serves(longest)
    answered_by("packed" if packed else "generate")
    slots = options.batch_size or MOST_SLOTS
    budget = options.cache_tokens or held_tokens(model)
    parts = pieces(prompts, shared_header(prompts), model, slots, budget)
    kept = KeptAnswers(*map(len, parts), slots, budget)
    before = kept.restore()
    tokens: list[list[int]] = [[] for _ in prompts]
    near_ties = 0
    for place, part in enumerate(parts):

        def finished(number: int, part: Sequence[int] = part) -> None:
            if progress is not None:
                progress(counts[part[number]])

        if place < len(before):
            found, ties = before[place]
            for number in range(len(part)):
                finished(number)
        else:
            mine = [prompts[number] for number in part]
            found, ties = _piece(model, tokenizer, mine, options, finished, packed=packed)
            kept.add(found, ties)
        for number, new in zip(part, found, strict=True):
            tokens[number] = new
        near_ties += sum(counts[part[number]] for number in ties)
    if packed:
        _note(layout, tokens, near_ties)
    return tokens


def _piece(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    options: EngineOptions,
    finished: Callable[[int], None],
    *,
    packed: bool,
) -> tuple[list[list[int]], list[int]]:
    """New tokens of some prompts, and the numbers of those that hung on a near tie."""
    from aurac.engine.decoding import Decoder
    from aurac.engine.plain_decoding import decode_plain
    from aurac.engine.running import pass_tokens

    if not packed:
        return decode_plain(model, tokenizer, prompts, options=options, finished=finished), []
    decoder = Decoder(
        model,
        tokenizer,
        prompts,
        options=options,
        batch_tokens=options.batch_tokens or pass_tokens(model),
        finished=finished,
    )
    return decoder.run(), sorted(decoder.near_ties)
