"""Examples of a batch one after another in one row, so that no padding is computed.

The collator is transformers' own, which also says where the examples begin (`cu_seq_lens_q`).
transformers hands that on to the attention function; the one here computes each example apart.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import DataCollatorWithFlattening

from aurac.engine.attention import (
    ScoreRule,
    UnsupportedAttentionError,
    attention_of,
    refuse_unsupported,
)
from aurac.engine.probe import difference, tolerance
from aurac.training.data import IGNORED, collate

logger = logging.getLogger(__name__)

_CHECKED = 3  # examples that are computed both ways before a training


def row_collator() -> DataCollatorWithFlattening:
    """Examples {input_ids, labels} → one row (1, T) with `position_ids` and `cu_seq_lens_q`."""
    return DataCollatorWithFlattening(return_flash_attn_kwargs=True, separator_id=IGNORED)


def row_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of a row: (1, T, H, d) and no weights.

    query is (1, H, T, d) with positions applied, key and value are (1, Hkv, T, d); `cu_seq_lens_q`
    (B + 1,) says where the examples begin, and T. A layer that needs something else, or a window
    shorter than an example, gets an UnsupportedAttentionError.
    """
    del module
    refuse_unsupported(attention_mask, 0.0, kwargs)
    if cu_seq_lens_q is None:
        raise UnsupportedAttentionError("a model that does not say where examples begin")
    lengths = cu_seq_lens_q.diff().tolist()
    if sliding_window is not None and sliding_window < max(lengths):
        raise UnsupportedAttentionError(f"a window of {sliding_window} tokens")
    heads, groups, dim = query.shape[1], key.shape[1], query.shape[3]
    rule = ScoreRule(dim**-0.5 if scaling is None else scaling, softcap=softcap)
    split = (x[0].split(lengths, dim=1) for x in (query, key, value))
    parts = []
    for q, k, v in zip(*split, strict=True):
        length = q.shape[1]
        # Heads that share keys are rows of one product: keys are never repeated.
        rows = q.reshape(groups, -1, dim)
        scores = rule.capped(torch.bmm(rows, k.transpose(1, 2)) * rule.scaling)
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        weights = scores.view(heads, length, length).masked_fill(later, -torch.inf).softmax(-1)
        if dropout:
            weights = torch.nn.functional.dropout(weights, dropout)
        out = torch.bmm(weights.view(groups, -1, length), v)
        parts.append(out.view(heads, length, -1).transpose(0, 1))
    return torch.cat(parts)[None], None


def packed_rows(model: Any) -> AbstractContextManager[None]:
    """Give the model the attention of packed rows; its own comes back on leaving."""
    return attention_of(model, "aurac_packed_training", row_attention)


@torch.no_grad()
def packs(model: Any, examples: Sequence[dict[str, list[int]]], pad: int) -> bool:
    """Whether packed rows give this model's own logits, found by computing some both ways."""
    by_length = sorted(examples, key=lambda example: len(example["input_ids"]))
    checked = [by_length[-1], *by_length[: _CHECKED - 1]]
    padded, row = collate(checked, pad), row_collator()(checked)
    kept = padded["attention_mask"].bool()
    del padded["labels"], row["labels"]
    training = model.training
    model.eval()
    try:
        plain = model(**padded, use_cache=False).logits[kept].float()
        with packed_rows(model):
            error = difference(model(**row, use_cache=False).logits[0], plain)
    except Exception as problem:  # noqa: BLE001  # whatever custom code raises, padding serves
        logger.info("examples are padded, not packed: %r", problem)
        return False
    finally:
        model.train(training)
    if not error <= tolerance(model):
        logger.info("examples are padded, not packed: logits differ by %.1e", error)
    return error <= tolerance(model)
