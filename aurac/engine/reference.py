"""The reference path: what any causal model can do, without packing.

Scoring takes distinct inputs as right-padded rows, like lm-eval's ``HFLM``; generation is the
model's own ``generate`` on prompts of equal length, so that every answer is what ``HFLM`` gives at
batch size 1. Both also serve recurrent models and custom code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aurac.engine import EngineOptions
from aurac.engine.counts import answered_by, counted_pass
from aurac.engine.passes import IntArray, PrefixTree
from aurac.engine.running import Progress, accepts, score_logits
from aurac.engine.tokens import Prompt, ScoringLayout, StopTable
from aurac.models.device import device_of, unwrapped


def covering_rows(tree: PrefixTree) -> IntArray:
    """(n_rows,) for each row the one that contains it and is no prefix of another row.

    A forward over these covers every node. Sorted order puts them at or after the rows within.
    """
    lengths = np.asarray([len(r) for r in tree.rows], dtype=np.int64)
    inner = np.zeros(len(lengths), dtype=bool)
    inner[:-1] = tree.shared[1:] == lengths[:-1]
    leaves = np.flatnonzero(~inner)
    return leaves[np.searchsorted(leaves, np.arange(len(lengths)))]


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
    model: Any, layout: ScoringLayout, options: EngineOptions, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """(n_pairs,) float32 log-probabilities and (n_pairs,) bool argmax hits, on the CPU."""
    tree = layout.tree
    answered_by("rows", tree.n_nodes)
    owner = np.searchsorted(tree.offsets, layout.pair_node, side="right") - 1
    position = layout.pair_node - tree.offsets[owner] + tree.shared[owner]
    cover = covering_rows(tree)[owner]
    used = np.unique(cover)
    lengths = np.asarray([len(tree.rows[row]) for row in used], dtype=np.int64)
    batches = row_batches(lengths, options.batch_tokens or _ROW_TOKENS, options.batch_size)
    rows_of = [used[batch] for batch in batches]
    pairs_of = [np.flatnonzero(np.isin(cover, rows)) for rows in rows_of]
    logprob = torch.zeros(len(layout.pair_node))
    hit = torch.zeros(len(layout.pair_node), dtype=torch.bool)
    for rows, pairs, done in zip(rows_of, pairs_of, layout.finished_by(pairs_of), strict=True):
        place = np.searchsorted(np.sort(rows), cover[pairs])
        sequences = [tree.rows[r] for r in np.sort(rows)]
        logits, row = _row_logits(model, sequences, place, position[pairs])
        logprob[pairs], hit[pairs] = (
            part.cpu() for part in score_logits(logits, row, layout.pair_token[pairs])
        )
        if progress is not None:
            progress(done)
    return logprob, hit


def _row_logits(
    model: Any, rows: Sequence[IntArray], row: IntArray, column: IntArray
) -> tuple[Tensor, IntArray]:
    """(k, V) logits of one padded batch at the distinct places that are wanted.

    Places are (m,) sequences ``row`` and positions ``column``; the index of each comes second.
    """
    device = device_of(model)
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, sequence in enumerate(rows):
        tokens[i, : len(sequence)] = torch.from_numpy(sequence)
    extra, width = {}, tokens.shape[1]
    if accepts(model, "logits_to_keep"):
        columns = np.unique(column)
        column, width = np.searchsorted(columns, column), len(columns)
        extra = {"logits_to_keep": torch.from_numpy(columns).to(device)}
    with counted_pass(model, tokens.numel(), len(rows) * width):
        logits = model(input_ids=tokens.to(device), use_cache=False, **extra).logits
    places, index = np.unique(row * width + column, return_inverse=True)
    return logits.reshape(-1, logits.shape[-1])[torch.from_numpy(places).to(logits.device)], index


_BATCH, _ROW_TOKENS = 16, 4096


def pad_token_id(tokenizer: Any) -> int | None:
    """The padding token, else UNK, else EOS."""
    tokens = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in tokens if token is not None), None)


def _stopper(table: StopTable, length: int) -> Callable[..., Tensor]:
    def stopped(tokens: Tensor, _scores: object, **_: object) -> Tensor:
        ends = [table.stopped(row) for row in tokens[:, length:].tolist()]
        return torch.tensor(ends, dtype=torch.bool, device=tokens.device)

    return stopped


def decode_plain(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    options: EngineOptions,
    finished: Callable[[int], None],
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
