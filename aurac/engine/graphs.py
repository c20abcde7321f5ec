"""Decoding passes as CUDA graphs: all kernels of a pass by one call, instead of one call each.

No release has run this on a GPU. A graph is used only after its logits have agreed with the eager
pass's; where they do not, or where none can be recorded, the model's passes stay eager.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from aurac.models.device import device_of, no_memory, unwrapped

log = logging.getLogger(__name__)

_EAGER = 3  # passes of a shape before it is recorded: what comes seldom is not worth it
_TOLERANCE = 0.02  # of the logits' norm; another algorithm may be chosen while recording
_UNFIT: weakref.WeakSet[Any] = weakref.WeakSet()  # models


class Graphs:
    """A model's functions of whole numbers on its device, recorded for each key."""

    def __init__(self, model: Any) -> None:
        self._model = unwrapped(model)
        if device_of(model).type != "cuda" or getattr(self._model, "hf_device_map", None):
            _UNFIT.add(self._model)
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
        if self._seen[key] == _EAGER and self._model not in _UNFIT:
            try:
                self._record(key, numbers.clone(), function, expected)
            except RuntimeError as error:
                if no_memory(error):
                    raise
                _UNFIT.add(self._model)
                log.info("decoding passes stay eager (%s)", error)
        return expected

    def _record(
        self, key: Hashable, inputs: Tensor, function: Callable[[Tensor], Tensor], expected: Tensor
    ) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = function(inputs)
        graph.replay()
        apart = float((result - expected).norm() / expected.norm())
        if not apart <= _TOLERANCE:
            raise RuntimeError(f"a graph's logits differ by {apart:.1e}")
        self._recorded[key] = graph, inputs, result
