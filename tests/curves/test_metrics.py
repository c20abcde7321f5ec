"""How metrics are named, and which one of each task is read."""

from __future__ import annotations

import pytest

from aurac.curves.metrics import WantedMetrics, matching, parse_metrics
from aurac.errors import DataError, UsageError

ARC, GSM8K = ("acc,none", "acc_norm,none"), ("exact_match,strict", "exact_match,flexible")


def test_metric_options():
    given = ["gsm8k=exact_match,flexible-extract", " acc , none ", "arc = acc_norm"]
    assert parse_metrics(given) == {
        "gsm8k": "exact_match,flexible-extract", "*": "acc,none", "arc": "acc_norm",
    }  # fmt: skip
    for value in ("", "=acc,none", "acc,", ",none", "gsm8k=", "a,b,c"):
        with pytest.raises(UsageError, match="cannot be read"):
            parse_metrics([value])
    with pytest.raises(UsageError, match="task 'a'"):
        parse_metrics(["a=acc,none", "a=acc_norm"])
    with pytest.raises(UsageError, match="every task"):
        parse_metrics(["acc,none", "acc_norm"])


def test_a_name_alone_stands_for_what_any_filter_has():
    assert matching("acc_norm", ARC) == ["acc_norm,none"]
    assert matching("acc,none", ARC) == ["acc,none"]
    assert matching("exact_match", GSM8K) == [*GSM8K]
    assert matching("pass@2:exact_match,strict", GSM8K) == ["pass@2:exact_match,strict"]
    assert matching("pass@2:acc", ARC) == ["pass@2:acc,none"]
    assert matching("ac", ARC) == []


def test_what_was_asked_of_all_is_read_where_it_is_there(caplog):
    wanted = WantedMetrics("acc_norm")
    assert wanted.of("arc", ARC) == "acc_norm,none"
    assert wanted.of("gsm8k", GSM8K) is None
    wanted.check()
    assert caplog.messages == ["gsm8k has no metric acc_norm: its default one is used there"]


def test_what_no_task_has_or_several_filters_have_is_refused():
    nowhere = WantedMetrics("f1")
    assert nowhere.of("arc", ARC) is None
    with pytest.raises(
        DataError, match="no metric 'f1' of any task; expected one of 'acc,none', 'ac"
    ):
        nowhere.check()
    with pytest.raises(
        DataError, match=r"2 metrics 'exact_match'; .* 'exact_match,flexible', 'exact"
    ):
        WantedMetrics("exact_match").of("gsm8k", GSM8K)
    named = WantedMetrics({"arc": "f1", "elsewhere": "acc", "*": "acc"})
    with pytest.raises(DataError, match="arc has no metric 'f1'"):
        named.of("arc", ARC)
    with pytest.raises(UsageError, match="names 'elsewhere', which is not there; expected arc"):
        named.check()
