"""The table of default metrics, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from aurac.errors import TaskError
from aurac.tasks.metrics import check_scores, choose_metric

GSM8K = {"exact_match,strict-match": True, "exact_match,flexible-extract": True}
ARC = {"acc,none": True, "acc_norm,none": True}


@pytest.mark.parametrize(
    ("task", "reported", "expected"),
    [
        ("gsm8k", GSM8K, "exact_match,strict-match"),
        ("gsm8k_cot", GSM8K, "exact_match,strict-match"),
        ("arc_challenge", ARC, "acc,none"),
        ("hellaswag", ARC, "acc,none"),
        ("gsm8k_as_choices", ARC, "acc,none"),
        ("word_problems", GSM8K, "exact_match,strict-match"),
        ("nq", {"exact_match,none": True, "f1,none": False}, "exact_match,none"),
        ("odd", {"score,custom": True, "perplexity,none": False}, "score,custom"),
    ],
)
def test_defaults(task, reported, expected):
    assert choose_metric(task, reported) == expected


def test_what_is_asked_for_wins_where_it_can_be_integrated():
    assert choose_metric("arc_easy", ARC, "acc_norm,none") == "acc_norm,none"
    assert choose_metric("arc_easy", ARC, "acc_norm") == "acc_norm,none"
    with pytest.raises(TaskError, match="several 'exact_match'; expected one of 'exact_match,flex"):
        choose_metric("gsm8k", GSM8K, "exact_match")
    with pytest.raises(TaskError, match="'acc_bytes,none'; expected one of 'acc,none', 'acc_norm"):
        choose_metric("arc_easy", ARC, "acc_bytes,none")
    mixed = {"acc,none": True, "f1,none": False}
    with pytest.raises(TaskError, match=r"'f1,none'.*be integrated; expected one of 'acc,none"):
        choose_metric("t", mixed, "f1,none")


def test_without_a_default_nothing_is_guessed():
    with pytest.raises(TaskError, match=r"no default metric.*'a,x', 'b,x'.*metric='t=NAME,FILTER'"):
        choose_metric("t", {"b,x": True, "a,x": True})
    with pytest.raises(TaskError, match="none of them"):
        choose_metric("t", {"perplexity,none": False})


def test_scores_outside_the_unit_interval_are_no_accuracy():
    check_scores("t", "acc,none", np.array([0.0, 0.25, 1.0]))
    with pytest.raises(TaskError, match=r"from 12.5 to 40"):
        check_scores("t", "bleu,none", np.array([12.5, 40.0]))
    with pytest.raises(TaskError, match=r"from -0.5 to 1"):
        check_scores("t", "mcc,none", np.array([-0.5, 1.0]))
