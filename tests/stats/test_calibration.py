"""A small version of benchmarks/calibration, with bounds that it could fail.

The bounds lie about three binomial standard errors from the target, on the side that matters.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks" / "calibration").is_dir():
    pytest.skip("the benchmarks come with the sources only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.calibration import certificates, families, one_arm, pairs, seeds  # noqa: E402


def rows(topic, name: str, sizes: tuple[int, ...], repetitions: int, monkeypatch) -> list:
    if sizes:
        monkeypatch.setattr(topic, "SIZES", sizes, raising=False)
    return list(getattr(topic, name)(np.random.default_rng(11), repetitions))


def test_one_adapter_covers(monkeypatch):
    for row in rows(one_arm, "one_adapter", (200,), 100, monkeypatch):
        assert row.found >= 0.87, row


def test_pairs_cover_and_seldom_find_nothing(monkeypatch):
    for row in rows(pairs, "pairs", (200,), 400, monkeypatch):
        if "covers" in row.claim:
            assert row.found >= 0.91, row
            assert row.found <= 0.985 or "near" in row.setting, row
        else:
            assert row.found <= 0.09, row


def test_clusters_cover_and_ignoring_them_does_not(monkeypatch):
    for row in rows(one_arm, "clusters", (), 400, monkeypatch):
        if "ignored" in row.claim:
            assert row.found <= 0.90, row
        else:
            assert 0.91 <= row.found <= 0.985, row


def test_seeds_cover(monkeypatch):
    for row in rows(seeds, "coverage", (200,), 200, monkeypatch):
        assert row.found >= 0.89, row


def test_certificates_are_seldom_wrong_where_naive_rules_often_are(monkeypatch):
    found = rows(certificates, "certificates", (200,), 300, monkeypatch)
    wrong = [r.found for r in found if "non-inferiority test" in r.claim]
    naive = [r.found for r in found if "non-inferiority test" not in r.claim]
    assert max(wrong) <= 0.08
    assert min(naive) >= 0.2


def test_the_mde_is_found_with_its_power(monkeypatch):
    row = rows(pairs, "detectable_differences", (200,), 500, monkeypatch)[0]
    assert row.found == pytest.approx(0.80, abs=0.065)


@pytest.mark.slow
def test_holm_keeps_the_family(monkeypatch):
    assert rows(families, "families", (200,), 300, monkeypatch)[0].found <= 0.095
