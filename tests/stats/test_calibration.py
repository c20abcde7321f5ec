"""A small version of benchmarks/calibration.py, with bounds that it could fail.

The bounds lie about three binomial standard errors from the target, on the side that matters.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import aurac

SCRIPT = Path(aurac.__file__).parents[1] / "benchmarks" / "calibration.py"


@pytest.fixture(scope="module")
def study():
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks come with the sources only")
    spec = importlib.util.spec_from_file_location("aurac_calibration", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(study, name: str, sizes: tuple[int, ...], repetitions: int) -> list:
    study.SIZES = sizes
    return list(getattr(study, name)(np.random.default_rng(11), repetitions))


def test_one_adapter_covers(study):
    for row in rows(study, "one_adapter", (200,), 100):
        assert row.found >= 0.87, row


def test_pairs_cover_and_seldom_find_nothing(study):
    for row in rows(study, "pairs", (200,), 400):
        if "covers" in row.claim:
            assert 0.91 <= row.found <= 0.985, row
        else:
            assert row.found <= 0.09, row


def test_clusters_cover_and_ignoring_them_does_not(study):
    for row in rows(study, "clusters", (), 400):
        if "ignored" in row.claim:
            assert row.found <= 0.90, row
        else:
            assert 0.91 <= row.found <= 0.985, row


def test_seeds_cover(study):
    for row in rows(study, "seeds", (200,), 200):
        assert row.found >= 0.89, row


def test_certificates_are_seldom_wrong_where_naive_rules_often_are(study):
    found = rows(study, "certificates", (200,), 300)
    wrong = [r.found for r in found if "certificate" in r.claim]
    naive = [r.found for r in found if "certificate" not in r.claim]
    assert max(wrong) <= 0.08
    assert min(naive) >= 0.2


def test_the_mde_is_found_with_its_power(study):
    row = rows(study, "detectable_differences", (200,), 500)[0]
    assert row.found == pytest.approx(0.80, abs=0.065)


def test_holm_keeps_the_family(study):
    assert rows(study, "families", (200,), 300)[0].found <= 0.095
