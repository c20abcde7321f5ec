"""The fast path of scoring: the planned passes of a layout, each distinct token computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aurac.engine.attention import forward, packed_model, step_frame
from aurac.engine.passes import plan_scoring
from aurac.engine.running import Progress, device_of, score_logits

if TYPE_CHECKING:
    from aurac.engine.header import Header
    from aurac.engine.prefix_tree import ScoringLayout


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
            frame = step_frame(step, header.cache, device)
            logits = forward(model, tokens, frame, torch.from_numpy(select).to(device))
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
