"""Sequences of a batch one after another in one row, so that no padding is computed.

The collator is transformers' own for packed batches. It tells the model where the sequences begin
(`cu_seq_lens_q`), which transformers hands on to the attention function; the one here lets a token
see the earlier tokens of its own sequence.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DataCollatorWithFlattening

from aurac.models.device import (
    UnsupportedAttentionError,
    attention_of,
    difference,
    refuse_unsupported,
    tolerance,
)
from aurac.training.data import IGNORED, collate

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


logger = logging.getLogger(__name__)

_NAME = "aurac_packed_training"
_CHECKED = 3  # examples that are computed both ways before a training


def collator() -> Any:
    """Examples {input_ids, labels} → one row (1, T) with `position_ids` and `cu_seq_lens_q`."""
    return DataCollatorWithFlattening(return_flash_attn_kwargs=True, separator_id=IGNORED)


def attention(
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
    """Causal attention within each sequence of a row: (1, T, H, d) and no weights.

    query is (1, H, T, d) with positions applied, key and value are (1, Hkv, T, d); `cu_seq_lens_q`
    (B + 1,) says where the sequences begin, and T. A layer that needs something else, or a window
    shorter than a sequence, gets an UnsupportedAttentionError.
    """
    del module
    refuse_unsupported(attention_mask, dropout, kwargs)
    if cu_seq_lens_q is None:
        raise UnsupportedAttentionError("a model that does not say where sequences begin")
    lengths = cu_seq_lens_q.diff().tolist()
    if sliding_window is not None and sliding_window < max(lengths):
        raise UnsupportedAttentionError(f"a window of {sliding_window} tokens")
    heads, groups, dim = query.shape[1], key.shape[1], query.shape[3]
    factor = dim**-0.5 if scaling is None else scaling
    parts = []
    for q, k, v in zip(
        query[0].split(lengths, dim=1),
        key[0].split(lengths, dim=1),
        value[0].split(lengths, dim=1),
        strict=True,
    ):
        length = q.shape[1]
        # Heads that share keys are rows of one product: keys are never repeated.
        scores = torch.bmm(q.reshape(groups, -1, dim), k.transpose(1, 2)) * factor
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.view(heads, length, length).masked_fill(later, -torch.inf)
        weights = scores.softmax(-1).view(groups, -1, length)
        parts.append(torch.bmm(weights, v).view(heads, length, -1).transpose(0, 1))
    return torch.cat(parts)[None], None


def packed_attention(model: Any) -> AbstractContextManager[None]:
    """Give the model this attention; its own comes back on leaving."""
    return attention_of(model, _NAME, attention)


@torch.no_grad()
def packs(model: Any, examples: Sequence[dict[str, list[int]]], pad: int) -> bool:
    """Whether packed rows give this model's own logits, found by computing some both ways.

    The longest example and some others are computed; the adapter's dropout is off meanwhile.
    """
    by_length = sorted(examples, key=lambda example: len(example["input_ids"]))
    checked = [by_length[-1], *by_length[: _CHECKED - 1]]
    if any(getattr(module, "attention_dropout", 0) for module in model.modules()):
        return False
    training = model.training
    model.eval()
    try:
        padded = collate(checked, pad)
        kept = padded.pop("attention_mask").bool()
        padded.pop("labels")
        plain = model(**padded, attention_mask=kept.long(), use_cache=False).logits[kept].float()
        row = collator()(checked)
        row.pop("labels")
        with packed_attention(model):
            error = difference(model(**row, use_cache=False).logits[0], plain)
        reason = f"packed logits differ by {error:.1e}"
        same = error <= tolerance(model)
    except Exception as problem:  # noqa: BLE001  # whatever custom code raises, padding serves
        same, reason = False, f"{problem!r:.200}"
    finally:
        model.train(training)
    if not same:
        logger.info("sequences are padded, not packed: %s", reason)
    return same
