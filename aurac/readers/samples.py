"""lm-eval's own sample logs, a folder per rank → curves."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from aurac.curve import Curve
from aurac.errors import AuracError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_RANK = re.compile(r"(?:^|[^a-z0-9])(?:rank|r)?[-_=.]?0*(\d+)$", re.IGNORECASE)
_FILE = re.compile(r"samples_(.+?)(?:_\d{4}-\d{2}-\d{2}T[\d.\-]+)?\.jsonl$")
# Where a task logs several metrics and none was asked for, the first of these that it has.
PREFERRED = (
    "exact_match,strict-match",
    "acc,none",
    "exact_match,none",
    "exact_match,flexible-extract",
    "acc_norm,none",
)
HASHES = ("doc_hash", "prompt_hash", "target_hash")
Columns = dict[str, dict[str, float]]  # metric,filter -> document -> score


def read_samples(root: Path, metric: str | None = None) -> list[Curve]:
    """Curves of ``ROOT[/ADAPTER]/RANK/**/samples_TASK_DATE.jsonl``.

    A rank's folder is named by its number, with or without ``r``, ``rank`` or a prefix: ``8``,
    ``r8``, ``rank_8``, ``lora-rank-8``; rank 0 is the base.

    Raises:
        DataError: No logs, a folder without a rank, two logs of one task at a rank, a metric that
            is not there, or documents that differ between ranks.
    """
    files = sorted(root.rglob("samples_*.jsonl"))
    if not files:
        raise DataError(
            f"{root} holds neither results.json nor sample logs",
            expected="a run folder, or a folder per rank with samples_TASK_DATE.jsonl",
        )
    found: dict[tuple[str, str], dict[int, Path]] = {}
    for file in files:
        adapter, rank = _place(root, file)
        named = _FILE.search(file.name)
        task = named.group(1) if named else file.stem
        ranks = found.setdefault((adapter, task), {})
        if rank in ranks:
            raise DataError(
                f"{ranks[rank]} and {file.name} are both {task} at rank {rank}",
                expected="one log for each task and rank",
                fix="keep the one that counts",
            )
        ranks[rank] = file
    return [_curve(adapter, task, ranks, metric) for (adapter, task), ranks in found.items()]


def _place(root: Path, file: Path) -> tuple[str, int]:
    """Adapter and rank of a log, from the folders above it."""
    folders = file.relative_to(root).parts[:-1]
    for depth in range(len(folders) - 1, -1, -1):
        match = _RANK.search(folders[depth])
        if match:
            above = "/".join(folders[:depth])
            rest = folders[depth][: match.start()].strip("-_=. ")
            return above or rest or root.resolve().name, int(match.group(1))
    raise DataError(
        f"{file} is in no folder named by its rank",
        expected="ROOT/rank_8/…/samples_TASK_DATE.jsonl",
    )


def _read_log(file: Path) -> tuple[Columns, dict[str, str]]:
    """``metric,filter -> document -> score`` and ``document -> hash`` of one log."""
    metrics: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    _add(json.loads(line), metrics, hashes, file)
    except (UnicodeDecodeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise DataError(f"{file} is no lm-eval sample log ({error})") from error
    if not metrics:
        raise DataError(f"{file} holds no per-document metric that is a number")
    return metrics, hashes


def _add(row: Mapping[str, Any], metrics: Any, hashes: dict[str, str], file: Path) -> None:
    doc = str(row["doc_id"])
    for name in row.get("metrics") or [k for k in ("acc", "exact_match") if k in row]:
        value = row.get(name)
        if not isinstance(value, (int, float)):
            continue
        column = metrics.setdefault(f"{name},{row.get('filter', 'none')}", {})
        if doc in column:
            raise DataError(f"{file} has document {doc} twice under {name}")
        column[doc] = float(value)
    hashes[doc] = "".join(str(row.get(name, "")) for name in HASHES)


def _curve(adapter: str, task: str, ranks: dict[int, Path], metric: str | None) -> Curve:
    logs = {rank: _read_log(file) for rank, file in sorted(ranks.items())}
    chosen = _metric(task, metric, logs)
    scores = {rank: columns[chosen] for rank, (columns, _) in logs.items()}
    hashes = next(iter(logs.values()))[1]
    for rank, (_, other) in logs.items():
        changed = [doc for doc in hashes if doc in other and other[doc] != hashes[doc]]
        if changed:
            raise DataError(
                f"{task} document {changed[0]} of {adapter} has another text or prompt at rank "
                f"{rank} than at rank {next(iter(logs))}",
                expected="the same documents and prompts at every rank",
            )
    base = scores.pop(0, None)
    if not scores:
        raise DataError(f"{adapter} on {task} has rank 0 only", expected="ranks from 1 up")
    try:
        return Curve.from_documents(
            scores,
            adapter=adapter,
            task=task,
            metric=chosen,
            doc_hashes=tuple(hashes[doc] for doc in next(iter(scores.values()))),
            baseline=sum(base.values()) / len(base) if base else None,
        )
    except AuracError as error:
        raise DataError(f"{adapter} on {task}: {error}") from error


def _metric(task: str, wanted: str | None, logs: Mapping[int, tuple[Columns, Any]]) -> str:
    everywhere = set.intersection(*(set(columns) for columns, _ in logs.values()))
    choices = [wanted] if wanted else [*PREFERRED, *sorted(everywhere)]
    for name in choices:
        if name in everywhere and (wanted or name in PREFERRED or len(everywhere) == 1):
            return name
    raise DataError(
        f"{task} logs {', '.join(sorted(everywhere)) or 'no metric at every rank'}",
        expected=f"{wanted}" if wanted else "one of them to be chosen",
        fix="give --metric NAME,FILTER",
    )
