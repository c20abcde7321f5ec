"""Which documents share a passage, read from a field of the documents themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aurac.errors import DataError


def cluster_labels(task: str, documents: Iterable[Any], field: str) -> tuple[str, ...]:
    """One label for each document: documents with the same one are a cluster.

    Args:
        task: For messages.
        documents: Their contents.
        field: Name of the field, such as `passage`; a field that is no text counts as its JSON.

    Raises:
        DataError: A document has no such field.
    """
    labels = []
    for document in documents:
        value = document.get(field) if isinstance(document, Mapping) else None
        if value is None:
            there = ", ".join(sorted(map(str, document))) if isinstance(document, Mapping) else ""
            raise DataError(
                f"a document of task {task!r} has no field {field!r} to cluster by",
                expected=f"one of {there}" if there else None,
            )
        labels.append(value if isinstance(value, str) else json.dumps(value, default=str))
    return tuple(labels)
