"""The seeds that ``lm_eval.simple_evaluate`` sets by default, before it loads a task."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PYTHON_SEED = 0
OTHER_SEED = 1234


@contextmanager
def seeded(python: int = PYTHON_SEED, others: int = OTHER_SEED) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's global generators; puts the caller's states back."""
    import torch

    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - tasks draw from it
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        random.seed(python)
        np.random.seed(others)  # noqa: NPY002
        torch.manual_seed(others)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)  # noqa: NPY002
