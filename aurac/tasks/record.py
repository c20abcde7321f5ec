"""What lm-eval's sample logs hold beyond scores and answers, gathered while a task is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Log:
    """Gathers, while a task is judged, what only lm-eval's own logs would have kept.

    The result holds `greedy` (n lists of booleans, whether each choice was what greedy decoding
    gives; None for generated text), `filtered` (filter → n entries, one list of filtered answers
    for each document; None in the place of the n where the filter takes each request's first
    answer as it is) and `other` (``metric,filter`` → n values of the metrics that are no numbers
    for a document).
    """

    def __init__(self) -> None:
        self._greedy: list[Any] = []
        self._filtered: dict[str, list[Any]] = {}
        self._changed: set[str] = set()
        self._other: dict[str, list[Any]] = {}

    def filtered(self, chain: str, results: Sequence[Any], instances: Sequence[Any]) -> None:
        """One document's answers after a filter."""
        self._filtered.setdefault(chain, []).append([plain(result) for result in results])
        if any(r is not i.resps[0] and r != i.resps[0] for r, i in zip(results, instances)):  # noqa: B905
            self._changed.add(chain)

    def judged(self, columns: Mapping[str, Sequence[Any]], numbers: Mapping[str, Any]) -> None:
        """The metrics of all documents; those in `numbers` are kept elsewhere."""
        for key, column in columns.items():
            if key not in numbers:
                self._other[key] = [plain(value) for value in column]

    def answered(self, answers: Sequence[Sequence[Any]], kind: str) -> None:
        """One document's answers as the model gave them."""
        if kind == "loglikelihood":
            self._greedy.append([bool(responses[0][1]) for responses in answers])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "greedy": self._greedy or None,
            "filtered": {
                chain: rows if chain in self._changed else None
                for chain, rows in self._filtered.items()
            },
            "other": self._other,
        }


def aggregated(
    columns: Mapping[str, Sequence[Any]], aggregation: Mapping[str, Callable[..., Any]]
) -> dict[str, float]:
    """Values over all documents, by lm-eval's own functions, where they are not plain means.

    Args:
        columns: ``metric,filter`` → n values.
        aggregation: Metric → lm-eval's function for it.
    """
    values = {}
    for key, column in columns.items():
        try:
            value = float(aggregation[key.rpartition(",")[0]](list(column)))
        except Exception:  # noqa: BLE001, S112 - any task's own code; the value is only left out
            continue
        numeric = all(isinstance(entry, (int, float)) for entry in column)
        if np.isfinite(value) and not (numeric and abs(value - float(np.mean(column))) < 1e-12):
            values[key] = value
    return values


def plain(value: Any) -> Any:
    """As lm-eval's own JSON has it: numpy's numbers as numbers, the unknown as text."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return str(value)
