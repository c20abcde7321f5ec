"""The reference path of scoring: distinct inputs as right-padded rows, like lm-eval's ``HFLM``.

It asks nothing of a model but causality (padding comes after every scored position), so it also
serves recurrent models and custom code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aurac.engine.counts import counted_pass
from aurac.engine.running import Progress, accepts, device_of, score_logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aurac.engine.prefix_tree import PrefixTree, ScoringLayout

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


class _Rows:
    """The batches of a layout for one model, and how each is scored.

    Args:
        model: The model.
        layout: What to score.
        batch_tokens: Most padded tokens of a batch.
        batch_size: Most rows of a batch.
    """

    def __init__(
        self, model: Any, layout: ScoringLayout, batch_tokens: int, batch_size: int | None
    ) -> None:
        tree = layout.tree
        self._model, self._layout, self._device = model, layout, device_of(model)
        self._selects = accepts(model, "logits_to_keep")
        owner = np.searchsorted(tree.offsets, layout.pair_node, side="right") - 1
        self._position = layout.pair_node - tree.offsets[owner] + tree.shared[owner]
        self._cover = covering_rows(tree)[owner]
        used = np.unique(self._cover)
        lengths = np.asarray([len(tree.rows[row]) for row in used], dtype=np.int64)
        self.batches = [used[batch] for batch in row_batches(lengths, batch_tokens, batch_size)]

    def pairs(self, rows: IntArray) -> IntArray:
        """The scored pairs that lie in these rows."""
        return np.flatnonzero(np.isin(self._cover, rows))

    def score(self, rows: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and hits of the rows' pairs, on the CPU."""
        tree, pairs = self._layout.tree, self.pairs(rows)
        tokens = torch.zeros(len(rows), max(len(tree.rows[r]) for r in rows), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(tree.rows[row])] = torch.from_numpy(tree.rows[row])
        column, extra, width = self._position[pairs], {}, tokens.shape[1]
        if self._selects:
            kept = np.unique(column)
            column, width = np.searchsorted(kept, column), len(kept)
            extra = {"logits_to_keep": torch.from_numpy(kept).to(self._device)}
        with counted_pass(self._model, tokens.numel(), len(rows) * width):
            logits = self._model(input_ids=tokens.to(self._device), use_cache=False, **extra).logits
        place = {int(row): i for i, row in enumerate(rows)}
        flat = np.asarray([place[int(r)] for r in self._cover[pairs]]) * width + column
        nodes, row_of_pair = np.unique(flat, return_inverse=True)
        values, hits = score_logits(
            logits.reshape(-1, logits.shape[-1])[torch.from_numpy(nodes).to(self._device)],
            torch.from_numpy(row_of_pair).to(self._device),
            torch.from_numpy(self._layout.pair_token[pairs]).to(self._device),
        )
        return values.cpu(), hits.cpu()


class _Unfinished:
    """Requests that still wait for a pair of theirs."""

    def __init__(self, layout: ScoringLayout, progress: Progress | None) -> None:
        self._requests, self._progress = layout.request_pairs, progress
        self._waiting = np.ones(len(layout.pair_node), dtype=bool)
        self._left = len(layout)

    def without(self, pairs: IntArray) -> None:
        """These pairs are scored: tell how many requests that finishes."""
        if self._progress is None:
            return
        self._waiting[pairs] = False
        left = sum(bool(self._waiting[index].any()) for index in self._requests)
        self._progress(self._left - left)
        self._left = left


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
    logprob = torch.zeros(len(layout.pair_node))
    hit = torch.zeros(len(layout.pair_node), dtype=torch.bool)
    work, unfinished = _Rows(model, layout, batch_tokens, batch_size), _Unfinished(layout, progress)
    for rows in work.batches:
        pairs = work.pairs(rows)
        logprob[pairs], hit[pairs] = work.score(rows)
        unfinished.without(pairs)
    return logprob, hit
