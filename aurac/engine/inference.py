"""The answers of lm-eval's ``HFLM``: log-likelihoods, and text until a stop string.

Each distinct token of log-likelihoods is computed once, and no generated text waits for another.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from aurac.engine import EngineOptions, UnsupportedRequestError
from aurac.engine.counts import answered_by, current
from aurac.engine.decoding import Decoder
from aurac.engine.passes import PrefixTree
from aurac.engine.probe import serves_packed
from aurac.engine.reference import decode_plain, plainly_greedy, score_rows
from aurac.engine.running import (
    Header,
    Progress,
    evaluating,
    header_tokens,
    laid_out,
    packed_model,
    pass_tokens,
    run_pass,
    score_logits,
)
from aurac.engine.sampling import plainly_sampling
from aurac.engine.tokens import GenerationLayout, GenerationRequest, Prompt, ScoringLayout
from aurac.models.device import device_of

log = logging.getLogger(__name__)


def loglikelihoods(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]] | ScoringLayout,
    *,
    options: EngineOptions | None = None,
    progress: Progress | None = None,
    header: Header | None = None,
) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation given its context, and whether it is the greedy one.

    Args:
        model: A transformers causal language model, possibly with PEFT layers in it.
        tokenizer: Its tokenizer.
        pairs: (context, continuation) texts, or their ``ScoringLayout``.
        options: Budgets.
        progress: Called with the number of requests newly finished; the calls sum to their number.
        header: What all inputs begin with, kept from one call to the next for the same state of
            the model; none of its tokens is scored.

    Returns:
        One (log-likelihood, greedy) per pair, in their order. Log-softmax is in float32.

    Raises:
        TaskError: A request that cannot be served by this model's length.
        UnsupportedRequestError: The model is no causal language model.
    """
    options = options or EngineOptions()
    layout = laid_out(ScoringLayout, model, tokenizer, pairs, options)
    if not len(layout):
        return []
    with evaluating(model):
        if serves_packed(model, layout.longest, options):
            logprob, hit = score_packed(model, layout, header or Header(), options, progress)
        else:
            logprob, hit = score_rows(model, layout, options, progress)
    answers = []
    for index in layout.request_pairs:
        at = torch.from_numpy(index)
        answers.append((float(logprob[at].double().sum()), bool(hit[at].all())))
    return answers


def score_packed(
    model: Any,
    layout: ScoringLayout,
    header: Header,
    options: EngineOptions,
    progress: Progress | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n_pairs,) float32 log-probabilities and (n_pairs,) bool argmax hits, on the CPU.

    All inputs of the layout begin with the header.
    """
    answered_by("packed", layout.tree.n_nodes - header.computed_tokens)
    plan = layout.plan(options.batch_tokens or pass_tokens(model), len(header))
    header.cache.reserve(plan.cached)
    device = device_of(model)
    logprob = torch.zeros(len(layout.pair_node), device=device)
    hit = torch.zeros(len(layout.pair_node), dtype=torch.bool, device=device)
    with packed_model(model):
        header.compute(model)
        for step, finished in zip(plan.steps, plan.finished, strict=True):
            logits = run_pass(model, step, header.cache)
            if len(step.pair):
                logprob[step.pair], hit[step.pair] = score_logits(
                    logits, step.pair_row, layout.pair_token[step.pair]
                )
            if progress is not None and finished:
                progress(finished)
    return logprob.cpu(), hit.cpu()


def generate(
    model: Any,
    tokenizer: Any,
    requests: Sequence[GenerationRequest] | GenerationLayout,
    *,
    options: EngineOptions | None = None,
    progress: Progress | None = None,
    header: Header | None = None,
) -> list[str]:
    """Continue every request, greedily or sampled, until a stop string, EOS or its token limit.

    Arguments and errors are those of `loglikelihoods`, with requests in the place of pairs; samples
    that packed passes do not serve are an UnsupportedRequestError, too. Without a ``header`` one is
    looked for among the prompts.

    Returns:
        The generated texts, in the order of the requests, without their stop strings.
    """
    options = options or EngineOptions()
    layout = laid_out(GenerationLayout, model, tokenizer, requests, options)
    if not len(layout):
        return []
    repeats = Counter(layout.index)

    def finished(prompt: int) -> None:
        if progress is not None:
            progress(repeats[prompt])

    with evaluating(model):
        sampled = any(prompt.sampling for prompt in layout.prompts)
        greedy = plainly_greedy(model) and (not sampled or plainly_sampling(model))
        if options.packed and not greedy:
            log.info(
                "the model's own generation answers: its settings are more than greedy decoding"
            )
        if greedy and serves_packed(model, layout.longest, options):
            answers = _decode_packed(model, tokenizer, layout, header, options, finished)
        elif sampled:
            raise UnsupportedRequestError("samples of a model that packed passes do not serve")
        else:
            answered_by("generate")
            answers = decode_plain(model, tokenizer, layout.prompts, options, finished)
    texts = [
        _before_stops(tokenizer.decode(tokens, skip_special_tokens=True), prompt.until)
        for tokens, prompt in zip(answers, layout.prompts, strict=True)
    ]
    return [texts[prompt] for prompt in layout.index]


def _decode_packed(
    model: Any,
    tokenizer: Any,
    layout: GenerationLayout,
    header: Header | None,
    options: EngineOptions,
    finished: Callable[[int], None],
) -> list[list[int]]:
    """The new tokens of each prompt; distinct prefixes and near ties are counted."""
    prompts = layout.prompts
    header = Header(shared_header(prompts)) if header is None else header
    computed = header.computed_tokens
    decoder = Decoder(model, tokenizer, prompts, header, options, finished)
    answers = decoder.run()
    answered_by("packed")
    if (record := current()) is not None:
        # The newest token of an answer is never put in again.
        fed = [(*p.tokens, *new[:-1]) for p, new in zip(prompts, answers, strict=True)]
        record.distinct += PrefixTree.build(fed)[0].n_nodes - computed
        sampled = {i: prompts[i].tokens for i in decoder.near_ties if prompts[i].sampling}
        record.near_ties += sum(i in decoder.near_ties - set(sampled) for i in layout.index)
        record.near_ties += len(set(sampled.values()))  # the samples of a document are one
    return answers


def _before_stops(text: str, until: Sequence[str]) -> str:
    """The text before its stop strings, applied one after another as lm-eval does."""
    for stop in until:
        if stop:
            text = text.split(stop, maxsplit=1)[0]
    return text


def shared_header(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """The tokens with which all prompts begin, if they are worth a pass of their own."""
    return header_tokens([p.tokens for p in prompts], min(len(p.tokens) for p in prompts) - 1)
