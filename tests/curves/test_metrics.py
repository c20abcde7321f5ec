"""How metrics are named, and which one of each task is read."""

from __future__ import annotations

import pytest

from aurac.curves.metrics import (
    asked_metrics,
    check_asked,
    matching,
    parse_metrics,
    wanted_metric,
)
from aurac.errors import DataError, UsageError

ARC, GSM8K = ("acc,none", "acc_norm,none"), ("exact_match,strict", "exact_match,flexible")


def test_metric_options():
    given = ["gsm8k=exact_match,flexible-extract", " acc , none ", "arc = acc_norm"]
    assert parse_metrics(given) == {
        "gsm8k": "exact_match,flexible-extract", "*": "acc,none", "arc": "acc_norm",
    }  # fmt: skip
    assert asked_metrics("acc") == {"*": "acc"}
    assert asked_metrics({"t": "acc"}) == {"t": "acc"}
    assert asked_metrics(None) == {}
    for value in ("", "=acc,none", "acc,", ",none", "gsm8k=", "a,b,c"):
        with pytest.raises(UsageError, match=r"is no \[TASK=\]NAME"):
            parse_metrics([value])
    with pytest.raises(UsageError, match="Two metrics were given for a"):
        parse_metrics(["a=acc,none", "a=acc_norm"])


def test_a_name_alone_stands_for_what_any_filter_has():
    assert matching("acc_norm", ARC) == ["acc_norm,none"]
    assert matching("acc,none", ARC) == ["acc,none"]
    assert matching("exact_match", GSM8K) == [*GSM8K]
    assert matching("ac", ARC) == []


def test_what_was_asked_of_all_is_read_where_it_is_there():
    asked = asked_metrics("acc_norm")
    assert wanted_metric(asked, "arc", ARC) == "acc_norm,none"
    assert wanted_metric(asked, "gsm8k", GSM8K) is None
    check_asked(asked, {"arc": ARC, "gsm8k": GSM8K})


def test_what_no_task_has_or_several_filters_have_is_refused():
    with pytest.raises(DataError, match=r"No task has a metric 'f1'; there are 'acc,none', 'ac"):
        check_asked({"*": "f1"}, {"arc": ARC})
    with pytest.raises(DataError, match=r"no one metric 'exact_match', but 'exact_match,fl"):
        wanted_metric({"*": "exact_match"}, "gsm8k", GSM8K)
    with pytest.raises(DataError, match="arc has no one metric 'f1'"):
        wanted_metric({"arc": "f1", "*": "acc"}, "arc", ARC)
    with pytest.raises(UsageError, match="names elsewhere, which is not there"):
        check_asked({"elsewhere": "acc"}, {"arc": ARC})
