"""What is done of a long evaluation, kept so that it can go on with the same bytes.

Scoring goes on after a pass: the passes of a layout are a fixed list, and a pass depends on its
tokens and on held prefixes alone, which are computed again. Generation goes on after a piece:
which sequences share a pass changes their rounding, so prompts are decoded in pieces that follow
from the request alone, whether anything is kept or not.
"""

from __future__ import annotations

import base64
import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from aurac.engine.counts import current

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aurac.engine.generate import Prompt
    from aurac.engine.passes import Step

# Multiply-adds times two of a piece: about 45 s on two CPU cores (seen: 450 GFLOP/s in 16 bit, 150
# in fp32), and on one current accelerator. The end of a piece idles, so it is not made shorter.
PIECE_FLOPS = {"cpu": 7e12, "cpu, 16 bit": 2.1e13}
_ACCELERATOR_FLOPS = 1e16
_SLOTS_FULL = 4  # on an accelerator a piece fills the decoding slots so many times: its end idles


class Checkpoint(Protocol):
    """Keeps parts of one evaluation: see `aurac.runs.partial`."""

    def load(self, part: str) -> Mapping[str, Any] | None:
        """What was kept of a part, if anything."""

    def due(self) -> bool:
        """Whether it is time to keep something."""

    def save(self, part: str, content: dict[str, Any]) -> None:
        """Keep plain JSON values."""


_CURRENT: ContextVar[Checkpoint | None] = ContextVar("aurac_checkpoint", default=None)


@contextlib.contextmanager
def checkpointing(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Keep, and begin with what was kept of, the one evaluation within this block."""
    token = _CURRENT.set(checkpoint)
    try:
        yield
    finally:
        _CURRENT.reset(token)


class KeptScores:
    """Scores of a layout up to some pass.

    Args:
        shape: What tells this list of passes from another: numbers of passes, pairs, tokens.
    """

    _PART = "scores"

    def __init__(self, *shape: int) -> None:
        self._shape, self._checkpoint = list(shape), _CURRENT.get()

    def restore(self, logprob: torch.Tensor, hit: torch.Tensor) -> int:
        """Fill in what was kept; how many passes are done."""
        kept = self._checkpoint.load(self._PART) if self._checkpoint else None
        if kept is None or kept.get("shape") != self._shape:
            return 0
        logprob.copy_(torch.from_numpy(_unpacked(kept["logprob"], np.float32)))
        hit.copy_(torch.from_numpy(_unpacked(kept["hit"], np.uint8)).bool())
        _count(kept["counts"])
        return int(kept["passes"])

    def after(self, passes: int, logprob: torch.Tensor, hit: torch.Tensor) -> None:
        """Keep the scores if it is time."""
        if self._checkpoint is None or not self._checkpoint.due():
            return
        content = {
            "shape": self._shape,
            "passes": passes,
            "logprob": _packed(logprob.cpu().numpy()),
            "hit": _packed(hit.cpu().numpy().astype(np.uint8)),
            "counts": _counts(),
        }
        self._checkpoint.save(self._PART, content)


class KeptAnswers:
    """New tokens of the pieces that are done, in order.

    Args:
        shape: What tells these pieces from others: the prompts in each, and the budgets, which
            decide what shares a pass.
    """

    _PART = "answers"

    def __init__(self, *shape: int) -> None:
        self._checkpoint = _CURRENT.get()
        self._content: dict[str, Any] = {"shape": list(shape), "pieces": []}

    def restore(self) -> list[tuple[list[list[int]], list[int]]]:
        """For each piece that was kept, from the first on: its tokens, and its near ties."""
        kept = self._checkpoint.load(self._PART) if self._checkpoint else None
        if kept is None or kept.get("shape") != self._content["shape"]:
            return []
        self._content["pieces"] = list(kept["pieces"])
        _count(kept["counts"])
        return [(tokens, ties) for tokens, ties in kept["pieces"]]

    def add(self, tokens: Sequence[Sequence[int]], near_ties: Sequence[int]) -> None:
        """A piece is done: keep it if it is time."""
        self._content["pieces"].append([[list(t) for t in tokens], sorted(near_ties)])
        if self._checkpoint is not None and self._checkpoint.due():
            self._checkpoint.save(self._PART, {**self._content, "counts": _counts()})


def held_before(steps: Sequence[Step], done: int) -> set[int]:
    """The passes before `done` that hold the prefixes which later passes may still read."""
    held: list[int] = []
    for number, step in enumerate(steps[:done]):
        if step.keep:
            while held and steps[held[-1]].prefix >= step.prefix:
                held.pop()
            held.append(number)
    return set(held)


def pieces(
    prompts: Sequence[Prompt], shared: int, model: Any, slots: int, cache_tokens: int
) -> list[list[int]]:
    """Numbers of the prompts that are decoded together, longest prompts first.

    Args:
        prompts: All of them.
        shared: Length of the header that is computed once.
        model: Its size and its kind of device set the size of a piece.
        slots: Most sequences in flight.
        cache_tokens: Most tokens that they hold.
    """
    first = next(iter(model.parameters()))
    device = first.device.type
    kind = "cpu, 16 bit" if device == "cpu" and first.itemsize == 2 else device
    weights = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    most = PIECE_FLOPS.get(kind, _ACCELERATOR_FLOPS) / (2 * max(1, weights))
    found: list[list[int]] = []
    room, least = 0.0, 0
    for number in sorted(range(len(prompts)), key=lambda i: prompts[i].order):
        prompt = prompts[number]
        own = len(prompt.tokens) - shared
        if not found or (room <= 0 and len(found[-1]) >= least):
            found.append([])
            room = most
            if device != "cpu":
                least = _SLOTS_FULL * min(slots, cache_tokens // (own + prompt.max_new_tokens))
        found[-1].append(number)
        # An answer is taken to be half as long as it may be.
        room -= own + prompt.max_new_tokens / 2
    return found


def _counts() -> dict[str, Any]:
    record = current()
    if record is None:
        return {}
    return {name: getattr(record, name) for name in ("computed", "passes", "flops")} | {
        "forward_seconds": record.forward_seconds
    }


def _count(kept: Mapping[str, Any]) -> None:
    """Add what an earlier process computed to the record in force."""
    record = current()
    if record is None or not kept:
        return
    record.computed += kept["computed"]
    record.passes += kept["passes"]
    record.flops += kept["flops"]
    if kept["forward_seconds"] is None or record.forward_seconds is None:
        record.forward_seconds = None
    else:
        record.forward_seconds += kept["forward_seconds"]


def _packed(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _unpacked(text: str, kind: type[np.generic]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).copy()
