"""The reference path of scoring: distinct inputs as right-padded rows, like lm-eval's ``HFLM``.

It asks nothing of a model but causality (padding comes after every scored position), so it also
serves recurrent models and custom code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aurac.evaluation.checkpoint import KeptScores
from aurac.evaluation.counting import counted_pass
from aurac.evaluation.running import Progress, accepts, device_of, score_logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aurac.evaluation.layout import PrefixTree, ScoringLayout

IntArray = NDArray[np.int64]


def leaf_rows(tree: PrefixTree) -> IntArray:
    """Rows that are no prefix of another row: a forward over these covers every node."""
    lengths = np.asarray([len(r) for r in tree.rows], dtype=np.int64)
    inner = np.zeros(len(lengths), dtype=bool)
    inner[:-1] = tree.shared[1:] == lengths[:-1]
    return np.flatnonzero(~inner)


def covering_rows(tree: PrefixTree) -> IntArray:
    """(n_rows,) for each row the leaf row that contains it; sorted order puts it at or after it."""
    leaves = leaf_rows(tree)
    return leaves[np.searchsorted(leaves, np.arange(len(tree.rows)))]


def row_batches(
    lengths: IntArray, batch_tokens: int, batch_size: int | None
) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, within a budget of padded tokens."""
    batch: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        width = int(lengths[batch[0]]) if batch else 0
        full = (len(batch) + 1) * width > batch_tokens or len(batch) == batch_size
        if batch and full:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def score_rows(
    model: Any,
    layout: ScoringLayout,
    *,
    batch_tokens: int,
    batch_size: int | None,
    progress: Progress | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score every pair of the layout.

    Returns:
        (n_pairs,) float32 log-probabilities and (n_pairs,) bool argmax hits, on the CPU.
    """
    tree = layout.tree
    device = device_of(model)
    logprob = torch.zeros(len(layout.pair_node))
    hit = torch.zeros(len(layout.pair_node), dtype=torch.bool)
    owner = np.searchsorted(tree.offsets, layout.pair_node, side="right") - 1
    position = layout.pair_node - tree.offsets[owner] + tree.shared[owner]
    cover = covering_rows(tree)[owner]
    used = np.unique(cover)
    lengths = np.asarray([len(tree.rows[r]) for r in used], dtype=np.int64)
    selects = accepts(model, "logits_to_keep")
    waiting, unfinished = np.ones(len(layout.pair_node), dtype=bool), len(layout)
    batches = list(row_batches(lengths, batch_tokens, batch_size))
    kept_scores = KeptScores(len(batches), len(layout.pair_node), batch_tokens)
    done = kept_scores.restore(logprob, hit)
    if progress is not None and done:
        waiting = ~np.isin(cover, used[np.concatenate(batches[:done])])
        left = sum(bool(waiting[index].any()) for index in layout.request_pairs)
        progress(unfinished - left)
        unfinished = left
    for number, batch in enumerate(batches[done:], start=done + 1):
        rows = used[batch]
        tokens = torch.zeros(len(rows), int(lengths[batch].max()), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(tree.rows[row])] = torch.from_numpy(tree.rows[row])
        place = {int(row): i for i, row in enumerate(rows)}
        pairs = np.flatnonzero(np.isin(cover, rows))
        kept = np.unique(position[pairs])
        extra = {"logits_to_keep": torch.from_numpy(kept).to(device)} if selects else {}
        kept_rows = len(kept) if selects else tokens.shape[1]
        with counted_pass(model, tokens.numel(), len(rows) * kept_rows):
            logits = model(input_ids=tokens.to(device), use_cache=False, **extra).logits
        column = np.searchsorted(kept, position[pairs]) if selects else position[pairs]
        flat = np.asarray([place[int(r)] for r in cover[pairs]]) * logits.shape[1] + column
        nodes, row_of_pair = np.unique(flat, return_inverse=True)
        values, hits = score_logits(
            logits.reshape(-1, logits.shape[-1])[torch.from_numpy(nodes).to(device)],
            torch.from_numpy(row_of_pair).to(device),
            torch.from_numpy(layout.pair_token[pairs]).to(device),
        )
        logprob[pairs] = values.cpu()
        hit[pairs] = hits.cpu()
        if progress is not None:
            waiting[pairs] = False
            left = sum(bool(waiting[index].any()) for index in layout.request_pairs)
            progress(unfinished - left)
            unfinished = left
        kept_scores.after(number, logprob, hit)
    return logprob, hit
