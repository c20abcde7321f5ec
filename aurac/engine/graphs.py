"""Decoding passes as CUDA graphs: all kernels of a pass by one call, instead of one call each.

No release has run this on a GPU. A graph is used only after its logits have agreed with the eager
pass's; where they do not, or where none can be recorded, passes stay eager.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from aurac.models.device import device_of, unwrapped

log = logging.getLogger(__name__)

_EAGER = 3  # passes of a shape before it is recorded: what comes seldom is not worth it
_TOLERANCE = 0.02  # of the logits' norm; another algorithm may be chosen while recording


class Graphs:
    """Functions of whole numbers on a model's device, recorded for each key."""

    def __init__(self, model: Any) -> None:
        spread = getattr(unwrapped(model), "hf_device_map", None)
        self._usable = device_of(model).type == "cuda" and not spread
        self._pool = torch.cuda.graph_pool_handle() if self._usable else None
        self._seen: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, tuple[Any, Tensor, Tensor]] = {}

    def forget(self) -> None:
        """Record anew: tensors that the functions use have moved."""
        self._seen, self._recorded = {}, {}

    def __call__(
        self, key: Hashable, numbers: Tensor, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What the function gives; by its graph the same memory each time."""
        if key in self._recorded:
            graph, inputs, result = self._recorded[key]
            inputs.copy_(numbers)
            graph.replay()
            return result
        expected = function(numbers)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._usable and self._seen[key] == _EAGER:
            self._record(key, numbers.clone(), function, expected)
        return expected

    def _record(
        self, key: Hashable, inputs: Tensor, function: Callable[[Tensor], Tensor], expected: Tensor
    ) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = function(inputs)
            graph.replay()
            apart = float((result - expected).norm() / expected.norm())
        except RuntimeError as error:
            log.warning("decoding passes are not recorded as CUDA graphs (%s)", error)
            self._usable = False
            return
        if apart <= _TOLERANCE:
            self._recorded[key] = graph, inputs, result
        else:
            log.warning("a CUDA graph's logits differ by %.1e: none is used", apart)
            self._usable = False
