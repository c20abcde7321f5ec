"""What an evaluation cost and how close its decisions were, counted while it runs.

Without a ``recording`` block nothing is counted. ``watched`` sees every pass of every path (packed,
plain, the model's own generation, lm-eval's loop) through hooks on the model itself: time, broken
logits, a safe place to stop.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aurac.errors import CellError
from aurac.models.device import device_of, unwrapped
from aurac.records.cell import EngineCounts

if TYPE_CHECKING:
    import torch


# 99 of 100 log-probabilities of two passes over the same tokens, batched in another way, lay within
# 0.31 in bf16 and 2e-5 in fp32 on the packaged base (docs/design/engine.md); fp16 has an eighth of
# bf16's rounding.
LOGIT_NOISE = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-2, "bfloat16": 0.3}


def logit_noise(dtype: torch.dtype) -> float:
    """Differences of logits up to this are rounding in this dtype; bf16's where it is unknown."""
    return LOGIT_NOISE.get(str(dtype).removeprefix("torch."), LOGIT_NOISE["bfloat16"])


@dataclass
class Record:
    """Counts of one evaluation."""

    # Tokens that went through the model's linear layers, padding and wrong draft tokens included
    computed: int = 0
    # Distinct prefixes among the requests and what was generated for them: the tokens that have to
    # be computed at least once
    distinct: int = 0
    passes: int = 0  # forward passes of the model
    # Time inside them; ``None`` where the device works ahead of the clock
    forward_seconds: float | None = 0.0
    # Multiply-adds times two of the (dense) linear layers in them, attention left out
    flops: float = 0.0
    near_ties: int = 0  # documents with a token or choice decided within the dtype's rounding
    # ``packed``, ``rows``, ``generate`` or ``lm-eval``: who answered
    paths: set[str] = field(default_factory=set)
    _sizes: dict[int, tuple[int, int, bool]] = field(default_factory=dict, repr=False)

    def size(self, model: Any) -> tuple[int, int, bool]:
        """Weights of the linear layers but the head, those of the head, whether the clock tells."""
        if id(model) not in self._sizes:
            import torch

            head: Any = getattr(model, "get_output_embeddings", lambda: None)()
            outer = head.weight.numel() if hasattr(head, "weight") else 0
            inner = (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
            clocked = next(iter(model.parameters())).device.type == "cpu"
            self._sizes[id(model)] = sum(m.weight.numel() for m in inner), outer, clocked
        return self._sizes[id(model)]

    def counts(self) -> EngineCounts:
        """As a cell keeps them."""
        seconds = None if self.forward_seconds is None else round(self.forward_seconds, 3)
        return EngineCounts(
            computed_tokens=self.computed,
            distinct_tokens=self.distinct,
            passes=self.passes,
            forward_seconds=seconds,
            flops=self.flops,
            # What a model's own generation or lm-eval's loop decided was not looked at.
            near_ties=None if self.paths & {"generate", "lm-eval"} else self.near_ties,
            paths=sorted(self.paths),
        )


_CURRENT: ContextVar[Record | None] = ContextVar("aurac_record", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Record]:
    """Count what is evaluated inside the block."""
    record = Record()
    token = _CURRENT.set(record)
    try:
        yield record
    finally:
        _CURRENT.reset(token)


def current() -> Record | None:
    """The record of the block in force, if any."""
    return _CURRENT.get()


def answered_by(path: str, distinct: int = 0) -> None:
    """Note who answers, and how many distinct tokens that needs at least."""
    record = current()
    if record is not None:
        record.paths.add(path)
        record.distinct += distinct


@contextlib.contextmanager
def counted_pass(model: Any, tokens: int, rows: int) -> Iterator[None]:
    """Count one forward pass of so many tokens, with logits at so many positions."""
    record = current()
    if record is None:
        yield
        return
    body, head, clocked = record.size(model)
    started = time.perf_counter()
    yield
    if not clocked:
        record.forward_seconds = None
    elif record.forward_seconds is not None:
        record.forward_seconds += time.perf_counter() - started
    record.passes += 1
    record.computed += tokens
    record.flops += 2.0 * (body * tokens + head * rows)


def not_finite(logits: torch.Tensor) -> torch.Tensor:
    """Whether any row of logits (…, vocabulary) has a NaN, an infinity, or no token left.

    Single logits of -inf are how some models rule tokens out. A tenth of the cost of isfinite.
    """
    return ~logits.amax(dim=-1).isfinite().all()


def overflow() -> CellError:
    """The error of a model whose logits are `not_finite`."""
    return CellError(
        "the model gave a logit that is no finite number",
        fix="look for overflow in the adapter or try --dtype float32",
    )


class Watch:
    """Number and time of the passes within one `watched` block."""

    def __init__(
        self, before: Callable[[], None] | None, *, wait: bool, device: torch.device
    ) -> None:
        self.seconds, self.passes = 0.0, 0
        self._before, self._wait, self._device = before, wait and device.type == "cuda", device
        self._broken: torch.Tensor | None = None
        self._since = 0.0

    def begin(self, *_: object) -> None:
        """A pass begins."""
        if self._before is not None:
            self._before()
        self._since = time.perf_counter()

    def end(self, _model: Any, _inputs: Any, output: Any) -> None:
        """A pass has ended; on an accelerator its result may still be on the way."""
        import torch

        logits = getattr(output, "logits", None)
        if isinstance(logits, torch.Tensor) and logits.is_floating_point():
            broken = not_finite(logits)
            self._broken = broken if self._broken is None else self._broken | broken
            if self._device.type == "cpu":  # elsewhere the answer is not there yet
                self.check()
        if self._wait:
            torch.cuda.synchronize(self._device)
        self.seconds += time.perf_counter() - self._since
        self.passes += 1

    def check(self) -> None:
        """Refuse answers that came from broken logits: their argmax is no answer."""
        if self._broken is not None and bool(self._broken):
            raise overflow()


@contextlib.contextmanager
def watched(
    model: Any, before: Callable[[], None] | None = None, *, wait: bool = False
) -> Iterator[Watch]:
    """Watch every pass of `model` within this block.

    `before` is called before each pass and may raise to stop there. With `wait` an accelerator is
    waited for at the end of each pass, so that times are whole.
    """
    watch = Watch(before, wait=wait, device=device_of(model))
    inner = unwrapped(model)
    hooks = [inner.register_forward_pre_hook(watch.begin), inner.register_forward_hook(watch.end)]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()
