"""Sequences of studies; `python -m benchmarks.studies` runs more."""

from __future__ import annotations

import pytest
from program.machine import quick
from study.machine import Sequence
from support.table_world import write


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of the base and the tasks; reports are drawn without figures."""
    root = write(tmp_path_factory.mktemp("world"))
    with quick(root):
        yield root


@pytest.mark.parametrize("seed", range(24))
def test_a_sequence(seed, root):
    Sequence(seed, root).run(3)
