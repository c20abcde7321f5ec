"""lm-eval's sample logs: which files there are, what they are of, and what is in one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aurac.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# How a folder says its rank, the surest first: `8`, `r8` or `rank_8`; `lora-rank-8`; `lora-8`.
_RANKS = (
    re.compile(r"^(?:rank|r)?[-_=.]?0*(\d+)$", re.IGNORECASE),
    re.compile(r"[^a-z0-9](?:rank|r)[-_=.]?0*(\d+)$", re.IGNORECASE),
    re.compile(r"[^a-z0-9]0*(\d+)$", re.IGNORECASE),
)
_FILE = re.compile(r"samples_(.+?)(?:_(\d{4}-\d{2}-\d{2}T[\d.\-]+))?\.jsonl$")
HASHES = ("doc_hash", "prompt_hash", "target_hash")
Columns = dict[str, dict[str, float]]  # metric,filter -> document -> score


@dataclass(frozen=True)
class Origin:
    """Whose logs: an adapter under one truncation; the rest is known from `aurac export` only."""

    adapter: str
    basis: str | None = None
    rescale: str | None = None
    default: bool = True
    order: int = 0
    method: str | None = None
    seed: int | None = None
    base: str | None = None
    arm: str | None = None


@dataclass(frozen=True)
class LogFile:
    """One samples file and what stands beside it.

    Attributes:
        path: The file.
        origin: Whose it is.
        rank: At which rank; 0 is the base.
        task: lm-eval's task.
        groups: Group → its tasks, of the groups that were asked for.
        about: What `aurac export` wrote into the results beside it, else empty.
    """

    path: Path
    origin: Origin
    rank: int
    task: str
    groups: Mapping[str, Sequence[str]]
    about: Mapping[str, Any]


@dataclass
class Samples:
    """The content of one log.

    Attributes:
        columns: ``metric,filter`` → document → score.
        hashes: Document → hash of its text, prompt and target.
        labels: Document → what it shares with others, where a field says so.
    """

    columns: Columns = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def find_logs(root: Path) -> list[LogFile]:
    """Every samples file below a folder, in the order of paths.

    Raises:
        DataError: None, or one in no folder that names its rank.
    """
    files = sorted(root.rglob("samples_*.jsonl"))
    if not files:
        raise DataError(
            f"{root} holds neither results.json nor sample logs",
            expected="a run folder, or a folder per rank with samples_TASK_DATE.jsonl",
        )
    beside: dict[tuple[Path, str], dict[str, Any]] = {}
    found = []
    for file in files:
        named = _FILE.search(file.name)
        task, date = (named[1], named[2] or "") if named else (file.stem, "")
        key = (file.parent, date)
        if key not in beside:
            beside[key] = _results(file.parent, date)
        found.append(_log_file(root, file, task, beside[key]))
    return found


def _results(folder: Path, date: str) -> dict[str, Any]:
    """lm-eval's results of the same moment, or the only ones beside the samples; else empty."""
    files = sorted(folder.glob("results_*.json"))
    same = [file for file in files if date and date in file.name] or files
    if len(same) != 1:
        return {}
    try:
        content = json.loads(same[0].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{same[0]} is no lm-eval results file ({error})") from error
    return content if isinstance(content, dict) else {}


def _log_file(root: Path, file: Path, task: str, results: Mapping[str, Any]) -> LogFile:
    groups = _asked_groups(results.get("group_subtasks"))
    arguments = (results.get("config") or {}).get("model_args")
    about = arguments.get("aurac") if isinstance(arguments, dict) else None
    if isinstance(arguments, dict) and isinstance(about, dict):
        try:
            known = {k: about[k] for k in Origin.__dataclass_fields__ if about.get(k) is not None}
            origin = Origin(**{**known, "base": arguments.get("pretrained")})
            return LogFile(file, origin, int(about["rank"]), task, groups, about)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the results beside {file} garble {error}") from error
    adapter, rank = _place(root, file, str(results.get("model_name_sanitized") or ""))
    return LogFile(file, Origin(adapter), rank, task, groups, {})


def _asked_groups(subtasks: Any) -> dict[str, list[str]]:
    """Group → leaves, of the groups that are in no other: those that were asked for."""
    if not isinstance(subtasks, dict):
        return {}
    known = {str(g): [str(t) for t in has] for g, has in subtasks.items() if has}
    inner = {task for has in known.values() for task in has}

    def leaves(name: str, above: tuple[str, ...] = ()) -> list[str]:
        if name not in known or name in above:
            return [name]
        return [leaf for task in known[name] for leaf in leaves(task, (*above, name))]

    return {group: leaves(group) for group in known if group not in inner}


def _place(root: Path, file: Path, model: str) -> tuple[str, int]:
    """Adapter and rank of a log, from the folders above it; the model's own says neither."""
    folders = list(file.relative_to(root).parts[:-1])
    if folders and folders[-1] == model and len(folders) > 1:
        folders.pop()
    for pattern in _RANKS:
        for depth in range(len(folders) - 1, -1, -1):
            match = pattern.search(folders[depth])
            if match:
                above = "/".join(folders[:depth])
                rest = folders[depth][: match.start()].strip("-_=. ")
                return above or rest or root.resolve().name, int(match.group(1))
    raise DataError(
        f"{file} is in no folder named by its rank",
        expected="ROOT/rank_8/…/samples_TASK_DATE.jsonl",
    )


def read_log(file: Path, cluster: str | None = None) -> Samples:
    """The numbers of one log.

    Args:
        file: The log.
        cluster: Field of the documents by which they are clustered.

    Raises:
        DataError: No sample log, no number in it, or a document twice under one filter.
    """
    found = Samples()
    try:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    row = json.loads(line)
                    _add(row, found, file)
                    if cluster is not None:
                        found.labels[str(row["doc_id"])] = _label(row, cluster, file)
    except (UnicodeDecodeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise DataError(f"{file} is no lm-eval sample log ({error})") from error
    if not found.columns:
        raise DataError(f"{file} holds no per-document metric that is a number")
    return found


def _label(row: Mapping[str, Any], field: str, file: Path) -> str:
    document = row.get("doc")
    if not isinstance(document, dict) or document.get(field) is None:
        there = ", ".join(sorted(document)) if isinstance(document, dict) else "no document"
        raise DataError(
            f"{file}: document {row['doc_id']} has no field {field!r} to cluster by",
            expected=f"one of {there}",
        )
    value = document[field]
    return value if isinstance(value, str) else json.dumps(value)


def _add(row: Mapping[str, Any], found: Samples, file: Path) -> None:
    doc = str(row["doc_id"])
    for name in row.get("metrics") or [k for k in ("acc", "exact_match") if k in row]:
        value = row.get(name)
        if not isinstance(value, (int, float)):
            continue
        column = found.columns.setdefault(f"{name},{row.get('filter', 'none')}", {})
        if doc in column:
            raise DataError(f"{file} has document {doc} twice under {name}")
        column[doc] = float(value)
    found.hashes[doc] = "".join(str(row.get(name, "")) for name in HASHES)
