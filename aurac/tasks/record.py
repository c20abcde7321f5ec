"""What lm-eval's logs hold beyond scores and answers, kept so that a run can become such logs.

Prompts, documents and the task's configuration are the same at every rank and lie in one file for
each task; a cell keeps only what its own answers decided.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aurac.models.base import LoadedBase
    from aurac.tasks.task import BuiltTask, Leaf

FOLDER = "requests"


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


def write_requests(folder: Path, task: BuiltTask, base: LoadedBase) -> str | None:
    """Write a task's prompts and documents into a run folder, gzipped lines of JSON.

    The first line describes the task and the base; each other one is a document with its requests.

    Returns:
        The path in the run folder; None for a group, whose members have files of their own.
    """
    if task.members:
        return None
    (leaf,) = task.leaves
    path = Path(FOLDER) / f"{task.name.replace('/', '_')}-{task.prompts_sha256[:16]}.jsonl.gz"
    if not (folder / path).is_file():
        lines = [json.dumps(_header(leaf, task, base), ensure_ascii=False)]
        lines += [json.dumps(row, ensure_ascii=False) for row in _rows(leaf)]
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        write_atomic(folder / path, gzip.compress(text, 6, mtime=0))
    return path.as_posix()


def _header(leaf: Leaf, task: BuiltTask, base: LoadedBase) -> dict[str, Any]:
    config = leaf.task.dump_config()
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if isinstance(files, dict):  # where the documents lie is this machine's business
        config["dataset_kwargs"] = {"data_files": {split: _names(f) for split, f in files.items()}}
    if isinstance(config.get("metadata"), dict):
        config["metadata"].pop("config_source", None)
    return {
        "task": task.name,
        "config": plain(config),
        "version": plain(leaf.task.VERSION),
        "higher_is_better": plain(leaf.task.higher_is_better()),
        "original": len(leaf.task.eval_docs),
        "chat_template": base.tokenizer.chat_template if task.chat_template else None,
        "model": _model(base),
    }


def _names(files: Any) -> Any:
    return [_names(file) for file in files] if isinstance(files, list) else Path(str(files)).name


def _model(base: LoadedBase) -> dict[str, Any]:
    """What lm-eval's results say about a model and its tokenizer."""
    tokenizer = base.tokenizer
    return {
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "max_length": getattr(base.model.config, "max_position_embeddings", None),
        "eot_token_id": tokenizer.eos_token_id,
        **{
            f"{kind}_token": [
                plain(getattr(tokenizer, f"{kind}_token")),
                str(getattr(tokenizer, f"{kind}_token_id")),
            ]
            for kind in ("pad", "eos", "bos")
        },
    }


def _rows(leaf: Leaf) -> list[dict[str, Any]]:
    rows = []
    for document in leaf.documents:
        target = leaf.task.doc_to_target(document.content)
        arguments = [instance.args for instance in document.instances]
        rows.append(
            {
                "doc_id": document.doc_id,
                "doc": plain(document.content),
                "target": str(target),
                "arguments": plain(arguments),
                "doc_hash": document.doc_hash,
                "prompt_hash": _hash(arguments[0][0]),
                "target_hash": _hash(str(target)),
            }
        )
    return rows


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
