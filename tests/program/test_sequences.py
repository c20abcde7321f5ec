"""Sequences of commands, each step against the oracle; `benchmarks/sequences.py` runs more."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test
from program import world
from program.machine import Sequences, quick


@pytest.fixture(scope="module", autouse=True)
def _world(tmp_path_factory):
    root = world.write(tmp_path_factory.mktemp("world"))
    with quick(root):
        Sequences.root = root
        yield


def test_sequences():
    limits = hypothesis.settings(
        max_examples=60, stateful_step_count=6, derandomize=True, database=None
    )
    run_state_machine_as_test(Sequences, settings=limits)
