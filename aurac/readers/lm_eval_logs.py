"""lm-eval's own sample logs, a folder per rank → curves."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from aurac.curves.curve import Curve
from aurac.curves.metrics import DEFAULTS, wanted_metrics
from aurac.errors import DataError
from aurac.readers.table import curves_from_frame

logger = logging.getLogger(__name__)

_RANK = re.compile(r"rank_(\d+)")
_FILE = re.compile(r"samples_(.+?)(?:_(\d{4}-\d{2}-\d{2}T[\d.\-]+))?\.jsonl$")
_HASHES = ("doc_hash", "prompt_hash", "target_hash")
_COLUMNS = ("adapter", "task", "rank", "metric", "doc_id", "score", "doc_hash", "cluster")


class _Log(NamedTuple):
    """One samples file; `groups` are those that lm-eval was asked for, with their tasks."""

    adapter: str
    task: str
    rank: int
    path: Path
    groups: Mapping[str, Sequence[str]]
    cluster: str | None  #: a field of its examples


def read_samples(root: Path, asked: Mapping[str, str], cluster: Mapping[str, str]) -> list[Curve]:
    """Curves of ``ROOT[/ADAPTER]/rank_8/**/samples_TASK_DATE.jsonl``; rank 0 is the base.

    An adapter with logs at rank 0 only is the base of all others. A group that lm-eval
    was asked for gets a curve of its own, over the examples of its tasks.

    Raises:
        DataError: No logs, a folder without a rank, a metric that is not there, or logs that differ
            in their examples or have no log-likelihoods.
    """
    seen, files = dict[tuple[Any, ...], _Log](), _find_logs(root, cluster)
    for log in files:
        if (other := seen.setdefault(log[:3], log)) is not log:
            both = f"{other.path} and {log.path.name}"
            raise DataError(f"{both} are both {log.task} at rank {log.rank}.")
    table = pd.DataFrame([row for log in files for row in _rows(log)], columns=_COLUMNS)
    for task in dict.fromkeys(log.task for log in files):
        if task not in set(table["task"]):
            logger.warning("%s has no number for each example, as perplexities: left out", task)
    table = _with_base(table)
    tables, gaps = [table], dict[tuple[str, str], list[int]]()
    for group, leaves in {g: leaves for log in files for g, leaves in log.groups.items()}.items():
        for adapter, own in table[table["task"].isin(leaves)].groupby("adapter", sort=False):
            if own["task"].nunique() == len(leaves):
                rows, gaps[str(adapter), group] = _pooled(own, group, leaves)
                tables.append(rows)
    table = pd.concat(tables, ignore_index=True)
    metrics = table.groupby(["task", "adapter", "rank"], sort=False)["metric"].agg(set)
    there = {
        str(task): set.intersection(*each) for task, each in metrics.groupby(level=0, sort=False)
    }
    chosen = wanted_metrics(asked, there)
    chosen |= {task: _preferred(task, there[task]) for task in there if task not in chosen}
    curves = curves_from_frame(table[table["metric"] == table["task"].map(chosen)], name=str(root))
    why = "not in the logs of all its tasks"
    curves = [
        replace(c, missing=dict.fromkeys(gaps.get((str(c.adapter), str(c.task)), ()), why))
        for c in curves
    ]
    return sorted(curves, key=lambda curve: [*there].index(str(curve.task)))


def _with_base(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the base alone for every adapter that has no rank 0 of its own."""
    last = table.groupby(["adapter", "task"])["rank"].transform("max")
    base, rest = table[last == 0], table[last > 0]
    if not base.empty and (rest.empty or base["adapter"].nunique() > 1):
        raise DataError(f"{', '.join(sorted({*base['adapter']}))}: there are logs at rank 0 only.")
    known = {*rest[rest["rank"] == 0][["adapter", "task"]].itertuples(index=False, name=None)}
    each = rest[["adapter", "task"]].drop_duplicates()
    each = each[[pair not in known for pair in each.itertuples(index=False, name=None)]]
    return pd.concat([rest, each.merge(base.drop(columns="adapter"), on="task")])


def _preferred(task: str, there: set[str]) -> str:
    """The default metric, else the only one."""
    known = [name for name in DEFAULTS if name in there] or list(there if len(there) == 1 else ())
    if not known:
        listed = ", ".join(map(repr, sorted(there))) or "no metric at every rank"
        raise DataError(f"{task} logs {listed}: choose one with --metric {task}=NAME,FILTER.")
    return known[0]


def _pooled(own: pd.DataFrame, group: str, leaves: Sequence[str]) -> tuple[pd.DataFrame, list[int]]:
    """The rows of a group's tasks as one at each rank that all have, and the ranks that some lack.

    An example of a task without clusters is one by itself.
    """
    having = own.groupby("rank")["task"].nunique()
    own = own[own.groupby(["rank", "metric"])["task"].transform("nunique") == len(leaves)]
    own = own.sort_values("task", key=lambda tasks: tasks.map([*leaves].index), kind="stable")
    named, clusters = own["task"] + ":", own["cluster"]
    if clusters.notna().any():
        clusters = named + clusters.where(clusters.notna(), own["doc_id"])
    lacking = [int(rank) for rank in having.index[having < len(leaves)] if rank]
    return own.assign(task=group, doc_id=named + own["doc_id"], cluster=clusters), lacking


def _find_logs(root: Path, fields: Mapping[str, str]) -> list[_Log]:
    files = sorted(root.rglob("samples_*.jsonl"))
    if not files:
        raise DataError(
            f"{root} is no run folder and holds no samples_*.jsonl, which "
            "`lm-eval run --log_samples` writes."
        )
    beside, logs = cache(_results), []  # several samples files share it
    for file in files:
        named = _FILE.search(file.name)
        task, date = (named[1], named[2] or "") if named else (file.stem, "")
        adapter, rank = _place(root, file)
        groups = _asked_groups(beside(file.parent, date).get("group_subtasks") or {})
        logs.append(_Log(adapter, task, rank, file, groups, fields.get(task, fields.get(""))))
    return sorted(logs, key=lambda log: log.rank)


def _results(folder: Path, date: str) -> dict[str, Any]:
    """lm-eval's results of the same moment, or the only ones beside the samples; else empty."""
    files = sorted(folder.glob("results_*.json"))
    same = [file for file in files if date and date in file.name] or files
    if len(same) != 1:
        return {}
    try:
        return dict(json.loads(same[0].read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{same[0]} is no results file of lm-eval ({error}).") from error


def _asked_groups(subtasks: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Group → leaves, of the groups that are in no other: those that were asked for."""
    known = {group: has for group, has in subtasks.items() if has}
    inner = {task for has in known.values() for task in has}

    def leaves(name: str) -> list[str]:
        return [leaf for task in known[name] for leaf in leaves(task)] if name in known else [name]

    return {group: leaves(group) for group in known if group not in inner}


def _place(root: Path, file: Path) -> tuple[str, int]:
    """Adapter and rank of a log: the folder ``rank_8`` above it, and those between it and the root.

    Where there is none between, the adapter has the name of the folder that holds ``rank_8``.
    """
    top = root.resolve().parts
    folders = [*top, *file.relative_to(root).parts[:-1]]
    for depth in range(len(folders) - 1, 0, -1):
        if match := _RANK.fullmatch(folders[depth]):
            return "/".join(folders[len(top) : depth]) or folders[depth - 1], int(match[1])
    raise DataError(f"{file} is in no folder named by its rank, such as rank_8.")


def _rows(log: _Log) -> Iterator[tuple[Any, ...]]:
    """The numbers of each example: `_COLUMNS`."""
    answers = list[Any]()
    try:
        with log.path.open(encoding="utf-8") as stream:
            for row in (json.loads(line) for line in stream if line.strip()):
                doc, names = str(row["doc_id"]), row.get("metrics")
                text, label = "".join(str(row.get(name, "")) for name in _HASHES), None
                if log.cluster is not None:
                    label = _label(doc, row.get("doc") or {}, log.cluster, log.path)
                for name in names or [name for name in ("acc", "exact_match") if name in row]:
                    if isinstance(value := row.get(name), (int, float)):
                        metric = f"{name},{row.get('filter', 'none')}"
                        yield *log[:3], metric, doc, float(value), text, label
                answers.append(row.get("resps"))
        known = _are_known(answers)
    except (UnicodeDecodeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise DataError(f"{log.path} is no lm-eval sample log ({error}).") from error
    if not known:
        raise DataError(
            f"{log.path}: log-likelihoods are missing or all 0.0. A server that returns no "
            "log-probabilities of the prompt makes accuracies chance, so evaluate with one that "
            "does (vLLM, by prompt_logprobs)."
        )


def _label(doc_id: str, example: Mapping[str, Any], field: str, file: Path) -> str:
    value = example.get(field)
    if value is None:
        known = ", ".join(sorted(example)) or "none"
        raise DataError(f"{file}: example {doc_id} has no field {field!r}; its fields: {known}.")
    return value if isinstance(value, str) else json.dumps(value)


def _are_known(answers: Sequence[Any]) -> bool:
    """Whether answers are texts, or log-likelihoods that are all numbers and not all 0.

    From a server without log-probabilities of the prompt lm-eval takes 0.0 for every choice.
    """
    pairs = [pair for row in answers for request in row or () for pair in request or [[None]]]
    if not pairs or not all(isinstance(pair, list) and pair for pair in pairs):
        return True
    values = [math.nan if pair[0] in (None, "None") else float(pair[0]) for pair in pairs]
    return any(values) and not any(map(math.isnan, values))
