"""The rows of lm-eval's ``samples_TASK_DATE.jsonl``: a document under a filter each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aurac.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aurac.runs.store import Cell

HASHES = ("doc_hash", "prompt_hash", "target_hash")


@dataclass(frozen=True)
class Requests:
    """What all cells of a task share: lm-eval's configuration, documents and prompts."""

    header: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def safe(name: str) -> str:
    """A name as lm-eval makes it one of a file: what separates folders becomes ``__``."""
    cleaned = re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f]+", "__", name)
    return cleaned if cleaned.strip(". ") else f"__{len(cleaned)}"


def sample_rows(cell: Cell, shared: Requests) -> Iterator[dict[str, Any]]:
    """One cell's rows, filter after filter, documents in order, keys in lm-eval's order.

    Args:
        cell: A stored cell.
        shared: Its task's documents and prompts.

    Raises:
        RunFolderError: The cell is about other documents than the task's.
    """
    if [str(row["doc_id"]) for row in shared.rows] != cell.doc_ids:
        raise RunFolderError(f"the cell {cell.identity.key[:12]} has other documents than its task")
    for chain in cell.logged.filtered:
        metrics = _metrics(cell, chain)
        for index, row in enumerate(shared.rows):
            responses = _responses(cell, index, row)
            values = {name: column[index] for name, column in metrics.items()}
            yield {
                "doc_id": row["doc_id"],
                "doc": row["doc"],
                "target": row["target"],
                "arguments": _arguments(row["arguments"]),
                "resps": responses,
                "filtered_resps": _filtered(cell, chain, index, responses),
                "filter": chain,
                "metrics": list(values),
                **{name: row[name] for name in HASHES},
                **values,
            }


def _metrics(cell: Cell, chain: str) -> dict[str, Any]:
    """Name → column of the metrics under a filter, those that are no numbers included."""
    columns = {**cell.metrics, **cell.logged.other}
    split = {key: key.rpartition(",") for key in columns}
    return {name: columns[key] for key, (name, _, found) in split.items() if found == chain}


def _arguments(arguments: list[list[Any]]) -> dict[str, dict[str, Any]]:
    return {
        f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(one)}
        for i, one in enumerate(arguments)
    }


def _responses(cell: Cell, index: int, row: Mapping[str, Any]) -> list[Any]:
    """For each request its responses, every part as text, as lm-eval writes them."""
    kept, greedy = cell.responses[index], cell.logged.greedy
    if greedy is not None:
        return [[[str(x), str(g)]] for x, g in zip(kept, greedy[index], strict=True)]
    if len(row["arguments"]) == 1:  # one request, asked once or several times
        return [as_text(kept) if isinstance(kept, list) else [str(kept)]]
    return [as_text(one) if isinstance(one, list) else [str(one)] for one in kept]


def _filtered(cell: Cell, chain: str, index: int, responses: list[Any]) -> list[Any]:
    rows = cell.logged.filtered[chain]
    if rows is None or rows[index] is None:  # the filter takes the first response
        return [one[0] for one in responses]
    found = as_text(rows[index])
    return found if isinstance(found, list) else [found]


def as_text(value: Any) -> Any:
    """Every part of a nested list as text."""
    return [as_text(item) for item in value] if isinstance(value, list) else str(value)
