"""What an adapter costs to serve: the time of a prompt and of a generated token at each rank.

The adapter runs unmerged, in PEFT's own layers, as a server with several adapters on one base runs
it. Rank 0 is the base alone. A merged adapter has the base's layers with other numbers in them, so
its time is that of rank 0 at every rank.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from inspect import signature
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aurac.adapters import LiveAdapter


@dataclass(frozen=True)
class ServingCost:
    """Medians at one rank.

    Attributes:
        rank: 0 for the base, and for an adapter that is merged into it.
        prefill_seconds: One forward pass over the prompts.
        decode_seconds: One further token for every prompt.
        prefill_tokens_per_second, decode_tokens_per_second: Over all prompts together.
    """

    rank: int
    prefill_seconds: float
    decode_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


@torch.inference_mode()
def serving_costs(
    live: LiveAdapter,
    ranks: Sequence[int],
    *,
    prompt_tokens: int = 256,
    new_tokens: int = 32,
    batch: int = 1,
    repeats: int = 5,
    progress: Callable[[], None] = lambda: None,
) -> list[ServingCost]:
    """Time the base and each rank in turn, several times over, so that drift meets all alike.

    Args:
        live: An attached adapter.
        ranks: Ranks to time; rank 0 is always timed.
        prompt_tokens: Length of each prompt, of random tokens.
        new_tokens: Generated tokens.
        batch: Prompts at once.
        repeats: Rounds after a first one that is not counted.
        progress: Called after each rank of each round.

    Raises:
        UsageError: A number below 1.
    """
    numbers = {"prompt tokens": prompt_tokens, "new tokens": new_tokens}
    for name, value in {**numbers, "batch": batch, "repeats": repeats}.items():
        if value < 1:
            raise UsageError(f"{value} {name}", expected="at least 1")
    model: Any = live.model
    places = torch.Generator().manual_seed(0)
    shape = (batch, prompt_tokens)
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, shape, generator=places).to(model.device)
    every = sorted({0, *ranks})
    times: dict[int, list[tuple[float, float]]] = {rank: [] for rank in every}
    for _ in range(repeats + 1):
        for rank in every:
            live.set_rank(rank)
            times[rank].append(_once(model, ids, new_tokens))
            progress()
    return [_medians(rank, times[rank][1:], ids.numel(), batch) for rank in every]


def _once(model: Any, ids: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    """(seconds of the prompts, seconds of one further token)."""
    from transformers import DynamicCache

    # transformers 5.2x renamed the argument; older releases of the range have the old name alone.
    named = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    cache = {named: DynamicCache(config=model.config), "use_cache": True}
    started = _now(model.device)
    out = model(input_ids=ids, logits_to_keep=1, **cache)
    prefilled = _now(model.device)
    for _ in range(new_tokens):
        out = model(input_ids=out.logits[:, -1:].argmax(-1), **cache)
    return prefilled - started, (_now(model.device) - prefilled) / new_tokens


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return perf_counter()


def _medians(
    rank: int, times: Sequence[tuple[float, float]], tokens: int, batch: int
) -> ServingCost:
    prefill, decode = (statistics.median(column) for column in zip(*times, strict=True))
    return ServingCost(rank, prefill, decode, tokens / prefill, batch / decode)
