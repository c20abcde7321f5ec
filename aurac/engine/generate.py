"""Greedy generation until a stop string: the answers of lm-eval's ``HFLM``, without its waiting."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from aurac.engine import EngineOptions
from aurac.engine.counts import answered_by, current
from aurac.engine.prefix_tree import PrefixTree
from aurac.engine.tokens import GenerationLayout, resolve_max_length, tokenise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aurac.engine.kv_cache import Header
    from aurac.engine.tokens import GenerationRequest, Prompt

log = logging.getLogger(__name__)


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
    from aurac.engine.kv_cache import Header
    from aurac.engine.probe import probe
    from aurac.engine.reference import decode_plain, plainly_greedy
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
    from aurac.engine.kv_cache import header_tokens

    return header_tokens([p.tokens for p in prompts], min(len(p.tokens) for p in prompts) - 1)
