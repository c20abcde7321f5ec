"""The world that these tests share."""

from __future__ import annotations

import pytest
from program.machine import Sequences, quick
from support.table_world import write


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of the base, the adapters and the tasks; reports are drawn without figures."""
    Sequences.root = write(tmp_path_factory.mktemp("world"))
    with quick(Sequences.root):
        yield Sequences.root
