"""What all tests of runs use."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _plain(plain_figures):
    """No test of a run looks at a figure of its report."""
