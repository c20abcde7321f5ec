"""The table of default metrics, and what is refused."""

from __future__ import annotations

import pytest

from aurac.errors import TaskError
from aurac.tasks.metrics import choose_metric

GSM8K = {"exact_match,strict-match": True, "exact_match,flexible-extract": True}
ARC = {"acc,none": True, "acc_norm,none": True}


@pytest.mark.parametrize(
    ("task", "reported", "expected"),
    [
        ("gsm8k", GSM8K, "exact_match,strict-match"),
        ("arc_challenge", ARC, "acc,none"),
        ("nq", {"exact_match,none": True, "f1,none": False}, "exact_match,none"),
        ("odd", {"score,custom": True, "perplexity,none": False}, "score,custom"),
    ],
)
def test_defaults(task, reported, expected):
    assert choose_metric(task, reported) == expected


def test_what_is_asked_for_wins_where_it_can_be_compared():
    assert choose_metric("arc_easy", ARC, "acc_norm,none") == "acc_norm,none"
    assert choose_metric("arc_easy", ARC, "acc_norm") == "acc_norm,none"
    mixed = {"acc,none": True, "f1,none": False}
    for reported, wanted, words in (
        (GSM8K, "exact_match", "several exact_match: .*one of exact_match,strict-match; exact_m"),
        (ARC, "acc_bytes,none", "has no acc_bytes,none: .* one of acc,none; acc_norm,none"),
        (mixed, "f1,none", "f1,none, which is not a mean .* one of acc,none"),
        ({"b,x": True, "a,x": True}, None, "has no default metric: .* one of b,x; a,x"),
        ({"perplexity,none": False}, None, "reports perplexity,none: none is a mean"),
    ):
        with pytest.raises(TaskError, match=words):
            choose_metric("t", reported, wanted)
