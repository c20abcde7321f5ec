"""The reference path of generation: the model's own ``generate``, on prompts of equal length.

Nothing is padded, so it also serves recurrent models and custom code: every answer is what
``HFLM`` gives at batch size 1.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from aurac.engine.running import device_of, unwrapped
from aurac.engine.stopping import StopTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aurac.engine.generate import Prompt
    from aurac.engine.options import EngineOptions

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
