"""How metrics are named, and which one of each task is read."""

from __future__ import annotations

import pytest

from aurac.curves.metrics import asked_metrics, parse_metrics, wanted_metrics
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


def test_a_name_alone_stands_for_the_one_filter_that_has_it():
    tasks = {"arc": ARC, "gsm8k": GSM8K}
    assert wanted_metrics(asked_metrics("acc_norm"), tasks) == {"arc": "acc_norm,none"}
    assert wanted_metrics(asked_metrics("acc,none"), tasks) == {"arc": "acc,none"}
    assert wanted_metrics({}, tasks) == {}
    with pytest.raises(DataError, match=r"no one metric 'exact_match', but 'exact_match,fl"):
        wanted_metrics({"*": "exact_match"}, tasks)
    with pytest.raises(DataError, match="arc has no one metric 'ac'"):
        wanted_metrics({"arc": "ac", "*": "acc"}, tasks)
    with pytest.raises(DataError, match="No task has a metric 'f1'; there are 'acc,none'"):
        wanted_metrics({"*": "f1"}, {"arc": ("acc,none",)})
    with pytest.raises(UsageError, match="no task 'ark'; there are arc, gsm8k"):
        wanted_metrics({"ark": "acc"}, tasks)
