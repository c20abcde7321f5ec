"""Log-likelihoods: the answers of lm-eval's ``HFLM``, each distinct token computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aurac.engine import EngineOptions
from aurac.engine.attention import pass_metadata
from aurac.engine.counts import answered_by
from aurac.engine.kv_cache import Header
from aurac.engine.passes import plan_scoring
from aurac.engine.prefix_tree import ScoringLayout
from aurac.engine.probe import probe
from aurac.engine.reference import score_rows
from aurac.engine.running import (
    Progress,
    evaluating,
    forward,
    packed_model,
    pass_tokens,
    require_causal,
    score_logits,
)
from aurac.engine.tokens import resolve_max_length
from aurac.models.device import device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ScoringLayout", "loglikelihoods", "scoring_layout"]

_ROW_TOKENS = 4096


def scoring_layout(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], options: EngineOptions
) -> ScoringLayout:
    """Lay the pairs out for this model's length; reuse the result for every rank and adapter."""
    limit = resolve_max_length(model, tokenizer, options.max_length)
    return ScoringLayout.build(tokenizer, pairs, limit)


def loglikelihoods(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]] | ScoringLayout,
    *,
    options: EngineOptions | None = None,
    progress: Callable[[int], None] | None = None,
    header: Header | None = None,
) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation given its context, and whether greedy decoding gives it.

    Args:
        model: A transformers causal language model, possibly with PEFT layers in it.
        tokenizer: Its tokenizer.
        pairs: (context, continuation) texts, or their ``ScoringLayout``.
        options: Budgets.
        progress: Called with the number of requests newly finished; the calls sum to their number.
        header: What all inputs begin with, kept from one call to the next for the same state of
            the model; none of its tokens is scored.

    Returns:
        One (log-likelihood, greedy) per pair, in the order given. Log-softmax is in float32.

    Raises:
        TaskError: A pair that cannot be scored.
        UnsupportedRequestError: The model is no causal language model.
    """
    require_causal(model)
    options = options or EngineOptions()
    layout = pairs
    if not isinstance(layout, ScoringLayout):
        layout = scoring_layout(model, tokenizer, layout, options)
    if not len(layout):
        return []
    longest = max(len(row) for row in layout.tree.rows)
    with evaluating(model):
        if options.packed and probe(model).serves(longest):
            budget = options.batch_tokens or pass_tokens(model)
            header = header or Header()
            counted_before = len(header) if header.computed else 0
            answered_by("packed", layout.tree.n_nodes - counted_before)
            logprob, hit = score_packed(
                model, layout, header, batch_tokens=budget, progress=progress
            )
        else:
            answered_by("rows", layout.tree.n_nodes)
            logprob, hit = score_rows(
                model,
                layout,
                batch_tokens=options.batch_tokens or _ROW_TOKENS,
                batch_size=options.batch_size,
                progress=progress,
            )
    results = []
    for index in layout.request_pairs:
        at = torch.from_numpy(index)
        results.append((float(logprob[at].double().sum()), bool(hit[at].all())))
    return results


def score_packed(
    model: Any,
    layout: ScoringLayout,
    header: Header,
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score every pair of the layout, whose inputs all begin with the header.

    Returns:
        (n_pairs,) float32 log-probabilities and (n_pairs,) bool argmax hits, on the CPU.
    """
    device = device_of(model)
    plan = plan_scoring(layout, batch_tokens, len(header))
    header.cache.reserve(plan.held)
    logprob = torch.zeros(len(layout.pair_node), device=device)
    hit = torch.zeros(len(layout.pair_node), dtype=torch.bool, device=device)
    with packed_model(model):
        header.compute(model)
        for step, finished in zip(plan.steps, plan.finished, strict=True):
            tokens = torch.from_numpy(step.tokens).to(device)
            # A pass that only extends the cached prefix still has to name a position.
            select = step.select if len(step.select) else step.positions[:1] * 0
            metadata = pass_metadata(step, header.cache, device)
            logits = forward(model, tokens, metadata, torch.from_numpy(select).to(device))
            if len(step.pair):
                pair = torch.from_numpy(step.pair).to(device)
                logprob[pair], hit[pair] = score_logits(
                    logits,
                    torch.from_numpy(step.pair_row).to(device),
                    torch.from_numpy(layout.pair_token[step.pair]).to(device),
                )
            if progress is not None and finished:
                progress(finished)
    return logprob.cpu(), hit.cpu()
