"""Watching a model's passes from outside: a safe place to stop, broken logits, time.

Hooks on the model itself see every pass of every path (packed, plain, the model's own generation,
lm-eval's loop), so that no path has to know of this.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import torch

from aurac.engine.running import device_of, unwrapped
from aurac.errors import CellError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def not_finite(logits: torch.Tensor) -> torch.Tensor:
    """Whether any row of logits (…, vocabulary) has a NaN, an infinity, or no token left.

    A row's maximum is NaN where any of its logits is, and -inf where all are; single logits of -inf
    are how some models rule tokens out. A tenth of the cost of isfinite.
    """
    return ~torch.isfinite(logits.amax(dim=-1)).all()


def overflow() -> CellError:
    """The error of a model whose logits are `not_finite`."""
    return CellError(
        "the model gave a logit that is no finite number",
        fix="look for overflow in the adapter or try --dtype float32",
    )


class Watch:
    """What was seen of the passes within one `watched` block.

    Attributes:
        seconds: Time within passes; on an accelerator only if it was asked to wait for each pass.
        passes: How many there were.
    """

    def __init__(
        self, before: Callable[[], None] | None, *, wait: bool, device: torch.device
    ) -> None:
        self.seconds, self.passes = 0.0, 0
        self._before, self._wait, self._device = before, wait and device.type == "cuda", device
        self._broken: torch.Tensor | None = None
        self._since = 0.0

    def begin(self, *_: Any) -> None:
        """A pass begins."""
        if self._before is not None:
            self._before()
        self._since = time.perf_counter()

    def end(self, _model: Any, _inputs: Any, output: Any) -> None:
        """A pass has ended; on an accelerator its result may still be on the way.

        Raises:
            CellError: On a CPU, as `check`: the passes that would follow are not worth their time.
        """
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
        """Refuse answers that came from broken logits: their argmax is no answer.

        Raises:
            CellError: Some pass gave a NaN, an infinity, or a row that rules every token out.
        """
        if self._broken is not None and bool(self._broken):
            raise overflow()


@contextlib.contextmanager
def watched(
    model: Any, before: Callable[[], None] | None = None, *, wait: bool = False
) -> Iterator[Watch]:
    """Watch every pass of `model` within this block.

    Args:
        model: The model, with or without an adapter.
        before: Called before each pass; may raise to stop there.
        wait: Wait for an accelerator at the end of each pass, so that times are whole.
    """
    watch = Watch(before, wait=wait, device=device_of(model))
    inner = unwrapped(model)
    hooks = [inner.register_forward_pre_hook(watch.begin), inner.register_forward_hook(watch.end)]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()
