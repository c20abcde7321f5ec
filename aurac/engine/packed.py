"""The fast path of scoring: the planned passes of a layout, each distinct token computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aurac.engine.attention import forward, packed_model, step_frame
from aurac.engine.checkpoint import KeptScores, held_before
from aurac.engine.kv_cache import PrefixStore
from aurac.engine.passes import plan_scoring
from aurac.engine.running import Progress, device_of, score_logits

if TYPE_CHECKING:
    from aurac.engine.prefix_tree import ScoringLayout


def score_packed(
    model: Any, layout: ScoringLayout, *, batch_tokens: int, progress: Progress | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score every pair of the layout.

    Returns:
        (n_pairs,) float32 log-probabilities and (n_pairs,) bool argmax hits, on the CPU.
    """
    device = device_of(model)
    plan = plan_scoring(layout, batch_tokens)
    store = PrefixStore(plan.held)
    logprob = torch.zeros(len(layout.pair_node), device=device)
    hit = torch.zeros(len(layout.pair_node), dtype=torch.bool, device=device)
    kept = KeptScores(len(plan.steps), len(layout.pair_node), batch_tokens)
    done = kept.restore(logprob, hit)
    again = held_before(plan.steps, done)
    with packed_model(model):
        for number, (step, finished) in enumerate(zip(plan.steps, plan.finished, strict=True)):
            if progress is not None and finished and number < done:
                progress(finished)
            if number < done and number not in again:
                continue
            tokens = torch.from_numpy(step.tokens).to(device)
            # A pass that only extends the held prefix still has to name a position.
            select = step.select if len(step.select) else step.positions[:1] * 0
            frame = step_frame(step, store, device)
            logits = forward(model, tokens, frame, torch.from_numpy(select).to(device))
            if len(step.pair):
                pair = torch.from_numpy(step.pair).to(device)
                logprob[pair], hit[pair] = score_logits(
                    logits,
                    torch.from_numpy(step.pair_row).to(device),
                    torch.from_numpy(layout.pair_token[step.pair]).to(device),
                )
            if number < done:
                continue
            if progress is not None and finished:
                progress(finished)
            kept.after(number + 1, logprob, hit)
    return logprob.cpu(), hit.cpu()
