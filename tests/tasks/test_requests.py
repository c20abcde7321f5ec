"""Requests: what an evaluation of them costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aurac.tasks.requests import Requests


def effort_of(*requests: tuple[str, Any]) -> float:
    kinds = {str: "loglikelihood", dict: "generate_until"}
    asked = [
        SimpleNamespace(request_type=kinds[type(second)], args=(first, second))
        for first, second in requests
    ]
    return Requests(asked).effort()


def test_effort_counts_what_is_read_once_and_written_answers_dearly() -> None:
    # A header of 100 characters, then 10 of each question, and choices of 2 and 3.
    header = "x" * 100
    first, second = header + "a" * 10, header + "b" * 10
    assert effort_of((first, "yy"), (first, "zzz"), (second, "yy")) == 110 + 2 + 3 + 10 + 2
    assert effort_of((first, "yy"), (second, "yy")) < effort_of(("c" * 110, "yy"), (first, "yy"))
    # Half of 64 tokens are written, each as dear as four tokens of four characters.
    assert effort_of((first, {"until": ["."], "max_gen_toks": 64})) == 110 + 32 * 16
