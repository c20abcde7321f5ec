"""Log-likelihoods: the answers of lm-eval's ``HFLM``, each distinct token computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aurac.engine import EngineOptions
from aurac.engine.counts import answered_by
from aurac.engine.kv_cache import Header
from aurac.engine.passes import plan_scoring
from aurac.engine.prefix_tree import ScoringLayout
from aurac.engine.probe import serves_packed
from aurac.engine.reference import score_rows
from aurac.engine.running import (
    evaluating,
    laid_out,
    packed_model,
    pass_tokens,
    run_pass,
    score_logits,
)
from aurac.models.device import device_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.engine.running import Progress


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
    """Score every pair of the layout, whose inputs all begin with the header.

    Returns:
        (n_pairs,) float32 log-probabilities and (n_pairs,) bool argmax hits, on the CPU.
    """
    answered_by("packed", layout.tree.n_nodes - header.computed_tokens)
    plan = plan_scoring(layout, options.batch_tokens or pass_tokens(model), len(header))
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
