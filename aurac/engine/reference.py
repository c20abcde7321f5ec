"""The reference path: what any causal model can do, without packing.

Scoring takes distinct inputs as right-padded rows, like lm-eval's ``HFLM``; generation is the
model's own ``generate`` on prompts of equal length, so that every answer is what ``HFLM`` gives at
batch size 1. Both also serve recurrent models and custom code.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aurac.engine.counts import counted_pass
from aurac.engine.running import Progress, accepts, score_logits
from aurac.engine.tokens import StopTable
from aurac.models.device import device_of, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aurac.engine import EngineOptions
    from aurac.engine.prefix_tree import PrefixTree, ScoringLayout
    from aurac.engine.tokens import Prompt

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


_BATCH = 16


def pad_token_id(tokenizer: Any) -> int | None:
    """The padding token, else UNK, else EOS."""
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return None


def _stopper(table: StopTable, length: int) -> Callable[..., torch.Tensor]:
    def stopped(tokens: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        found = [table.stopped(row) for row in tokens[:, length:].tolist()]
        return torch.tensor(found, dtype=torch.bool, device=tokens.device)

    return stopped


def decode_plain(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    options: EngineOptions,
    finished: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """New tokens of every prompt, up to and including the one that ended it."""
    from transformers import StoppingCriteriaList

    device = device_of(model)
    groups: dict[tuple[int, tuple[str, ...], int], list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[len(prompt.tokens), prompt.until, prompt.max_new_tokens].append(i)
    tables: dict[tuple[str, ...], StopTable] = {}
    results: list[list[int]] = [[] for _ in prompts]
    size = options.batch_size or _BATCH
    pad = pad_token_id(tokenizer)
    ends = eos_token_ids(model)
    for (length, until, limit), members in sorted(groups.items(), reverse=True):
        table = tables.setdefault(until, StopTable(tokenizer, until))
        for at in range(0, len(members), size):
            batch = members[at : at + size]
            tokens = torch.tensor([prompts[i].tokens for i in batch], device=device)
            out = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_length=length + limit,
                stopping_criteria=StoppingCriteriaList([_stopper(table, length)]),
                pad_token_id=pad,
                do_sample=False,
                use_cache=True,
            )
            for i, row in zip(batch, out[:, length:].tolist(), strict=True):
                results[i] = cut(row, ends, table)
                if finished is not None:
                    finished(i)
    return results


# Settings of a model's own generation that leave greedy decoding as it is.
_HARMLESS = frozenset(
    {
        "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
        "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff",
        "eta_cutoff", "max_length", "use_cache", "cache_implementation", "return_dict_in_generate",
        "output_attentions", "output_hidden_states", "output_scores", "output_logits",
        "transformers_version",
    }
)  # fmt: skip
_NEUTRAL = {"repetition_penalty": 1.0, "num_beams": 1, "num_beam_groups": 1, "length_penalty": 1.0}


def plainly_greedy(model: Any) -> bool:
    """Whether the model's generation settings add nothing to greedy decoding (a penalty, beams)."""
    config = getattr(unwrapped(model), "generation_config", None)
    if config is None:
        return True
    return not any(
        value is not None and not name.startswith("_") and value != _NEUTRAL.get(name, ...)
        for name, value in config.to_diff_dict().items()
        if name not in _HARMLESS
    )


def eos_token_ids(model: Any) -> frozenset[int]:
    """The tokens at which the model's own generation ends a sequence."""
    config = getattr(unwrapped(model), "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, (list, tuple)) else (ids,))


def cut(tokens: Sequence[int], ends: frozenset[int], table: StopTable) -> list[int]:
    """The tokens up to the first that ends the sequence: what follows is padding."""
    for n, token in enumerate(tokens, start=1):
        if token in ends or (table.may_stop(token) and table.stopped(tokens[:n])):
            return list(tokens[:n])
    return list(tokens)
