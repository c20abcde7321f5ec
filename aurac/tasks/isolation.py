"""Two manners towards the process lm-eval runs in: leave its random states alone, and be quiet."""

from __future__ import annotations

import importlib
import logging
import random
import warnings
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_log = logging.getLogger(__name__)


@contextmanager
def seeded(python: int, others: int) -> Iterator[None]:
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


@contextmanager
def quiet(loggers: Sequence[str], modules: Sequence[str], *, prints: bool = True) -> Iterator[None]:
    """Sends prints and warnings to :mod:`logging`, keeps loggers and bars off the terminal.

    Args:
        loggers: Loggers whose own handlers write to the terminal; their records go to the root.
        modules: Modules whose ``tqdm`` is silenced.
        prints: Whether standard output is taken too; not while a caller draws a progress bar on it.
    """
    said = StringIO()
    with ExitStack() as stack:
        for name in loggers:
            stack.enter_context(_rerouted(logging.getLogger(name)))
        for name in modules:
            stack.enter_context(_without_bars(importlib.import_module(name)))
        stack.enter_context(_without_dataset_bars())
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        if prints:
            stack.enter_context(redirect_stdout(said))
        try:
            yield
        finally:
            for line in [str(w.message) for w in caught or ()] + said.getvalue().splitlines():
                _log.debug("%s", line)


@contextmanager
def _rerouted(logger: logging.Logger) -> Iterator[None]:
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [logging.NullHandler()], True
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def _without_bars(module: Any) -> Iterator[None]:
    bar = module.tqdm
    module.tqdm = lambda *args, **kwargs: bar(*args, **{**kwargs, "disable": True})
    try:
        yield
    finally:
        module.tqdm = bar


@contextmanager
def _without_dataset_bars() -> Iterator[None]:
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
