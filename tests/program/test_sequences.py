"""30 sequences of commands; `python -m benchmarks.sequences` runs more."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from program.machine import Sequences


@pytest.mark.usefixtures("root")
def test_sequences():
    """They agree with the oracle, and come to what they are for."""
    Sequences.reached.clear()
    limits = {"max_examples": 30, "stateful_step_count": 6, "derandomize": True, "database": None}
    run_state_machine_as_test(Sequences, settings=settings(**limits, phases=[Phase.generate]))
    assert Sequences.reached["computing commands"] >= 60
    assert min(Sequences.reached.values()) > 0, Sequences.reached
