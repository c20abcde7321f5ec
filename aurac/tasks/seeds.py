"""The seeds that ``lm_eval.simple_evaluate`` sets by default, before it loads a task."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def seeded(more: int = 0) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's global generators; puts the caller's states back.

    `more` is added to the seed of numpy and torch.
    """
    import torch

    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - tasks draw from it
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        random.seed(0)
        np.random.seed(1234 + more)  # noqa: NPY002
        torch.manual_seed(1234 + more)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)  # noqa: NPY002
