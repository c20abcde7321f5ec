"""lm-eval's own sample logs, a folder per rank → curves."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from aurac.curves.curve import Curve
from aurac.curves.metrics import check_asked, wanted_metric
from aurac.errors import AuracError, DataError

logger = logging.getLogger(__name__)

# Where a task logs several metrics and none was asked for, the first of these that it has.
PREFERRED = (
    *("exact_match,strict-match", "acc,none", "exact_match,none", "exact_match,flexible-extract"),
    "acc_norm,none",
)
_RANK = re.compile(r"rank_(\d+)")
_FILE = re.compile(r"samples_(.+?)(?:_(\d{4}-\d{2}-\d{2}T[\d.\-]+))?\.jsonl$")
HASHES = ("doc_hash", "prompt_hash", "target_hash")


@dataclass(eq=False)
class _Log:
    """One samples file; `groups` are those that lm-eval was asked for, with their tasks.

    By example it has scores of each ``metric,filter`` in `columns`, hashes, and labels of what it
    shares with others: its field `cluster`.
    """

    path: Path
    adapter: str
    rank: int
    task: str
    groups: Mapping[str, Sequence[str]]
    cluster: str | None
    columns: dict[str, dict[str, float]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


Logs = dict[int, _Log]  # of one task of one adapter, by rank


def read_samples(root: Path, asked: Mapping[str, str], cluster: Mapping[str, str]) -> list[Curve]:
    """Curves of ``ROOT[/ADAPTER]/rank_8/**/samples_TASK_DATE.jsonl``; rank 0 is the base.

    An adapter with logs at rank 0 only is the base of all others. A group that lm-eval
    was asked for gets a curve of its own, over the examples of its tasks.

    Raises:
        DataError: No logs, a folder without a rank, a metric that is not there, or logs that differ
            in their examples or have no log-likelihoods.
    """
    files, known = _find_logs(root, cluster), dict[tuple[str, str], Logs]()
    for log in files:
        logs = known.setdefault((log.adapter, log.task), {})
        if log.rank in logs:
            both = f"{logs[log.rank].path} and {log.path.name}"
            raise DataError(f"{both} are both {log.task} at rank {log.rank}.")
        logs[log.rank] = log
    _share_base(known)
    known = {key: dict(sorted(logs.items())) for key, logs in known.items()}
    for key, logs in list(known.items()):
        if len(known) > 1 and not any(log.columns for log in logs.values()):
            logger.warning("%s has no number for each example, as perplexities: left out", key[1])
            del known[key]
    adapters, tasks = (list(dict.fromkeys(names)) for names in zip(*known, strict=True))
    gaps: dict[tuple[str, str], dict[int, str]] = {}
    for group, leaves in {g: leaves for log in files for g, leaves in log.groups.items()}.items():
        tasks += [group] if group not in tasks else []
        for adapter in adapters:
            key, own = (adapter, group), [(leaf, (adapter, leaf)) for leaf in leaves]
            if key not in known and all(place in known for _, place in own):
                known[key], gaps[key] = _pooled({leaf: known[place] for leaf, place in own})
    there = {task: _everywhere(logs.values()) for (_, task), logs in known.items()}
    check_asked(asked, there)
    ordered = [(a, task) for task in tasks for a in adapters if (a, task) in known]
    return [_curve(*key, known[key], asked, missing=gaps.get(key, {})) for key in ordered]


def _share_base(known: dict[tuple[str, str], Logs]) -> None:
    """Give the logs of the base alone to every adapter that has no rank 0 of its own."""
    bases = [key for key, logs in known.items() if set(logs) == {0}]
    names = {adapter for adapter, _ in bases}
    if len(bases) == len(known) or len(names) > 1:
        raise DataError(f"{', '.join(sorted(names))}: there are logs at rank 0 only.")
    for base in bases:
        log = known.pop(base)[0]
        for (_, task), logs in known.items():
            if task == base[1]:
                logs.setdefault(0, log)


def _everywhere(logs: Iterable[_Log]) -> set[str]:
    """The metrics that all logs have."""
    return set.intersection(*(set(log.columns) for log in logs))


def _metric(task: str, asked: Mapping[str, str], there: set[str]) -> str:
    """The one that was asked for, else a preferred one, else the only one."""
    if name := wanted_metric(asked, task, there):
        return name
    known = [name for name in PREFERRED if name in there] or list(there if len(there) == 1 else ())
    if not known:
        listed = ", ".join(map(repr, sorted(there))) or "no metric at every rank"
        raise DataError(f"{task} logs {listed}: choose one with --metric {task}=NAME,FILTER.")
    return known[0]


def _curve(
    adapter: str, task: str, logs: Logs, asked: Mapping[str, str], missing: Mapping[int, str]
) -> Curve:
    metric = _metric(task, asked, _everywhere(logs.values()))
    scores = {rank: log.columns[metric] for rank, log in logs.items()}
    first = next((rank for rank in logs if rank), 0)  # the base may have fewer examples
    hashes = logs[first].hashes
    for rank, log in logs.items():
        if changed := [doc for doc in hashes if log.hashes.get(doc, hashes[doc]) != hashes[doc]]:
            raise DataError(
                f"{task} example {changed[0]} of {adapter} has another text or prompt at rank "
                f"{rank} than at rank {first}."
            )
    labels = next((log.labels for log in logs.values() if log.labels), None)  # of any rank
    examples = next((row for rank, row in scores.items() if rank), {})
    try:
        return Curve.from_examples(
            scores,
            adapter=adapter,
            task=task,
            metric=metric,
            missing=missing,
            doc_hashes=tuple(hashes[doc] for doc in examples),
            clusters=tuple(labels[doc] for doc in examples) if labels else None,
        )
    except AuracError as error:
        raise DataError(f"{adapter} on {task}: {error}") from error


def _pooled(members: Mapping[str, Logs]) -> tuple[Logs, dict[int, str]]:
    """The logs of a group's tasks as one at each rank that all have, and why others are missing."""
    ranks = set.intersection(*(set(logs) for logs in members.values()))
    gaps = {rank for logs in members.values() for rank in logs} - ranks - {0}
    pooled = {}
    for rank in sorted(ranks):
        logs = [(task, own[rank]) for task, own in members.items()]
        pooled[rank] = one = replace(logs[0][1], columns={}, hashes={}, labels={})
        metrics, clustered = _everywhere(log for _, log in logs), any(log.labels for _, log in logs)
        for task, log in logs:
            for metric in metrics:
                scores = {f"{task}:{doc}": value for doc, value in log.columns[metric].items()}
                one.columns.setdefault(metric, {}).update(scores)
            for doc, hashed in log.hashes.items():
                one.hashes[f"{task}:{doc}"] = hashed
                if clustered:  # an example of a task without clusters is one by itself
                    one.labels[f"{task}:{doc}"] = f"{task}:{log.labels.get(doc, doc)}"
    return pooled, dict.fromkeys(gaps, "not in the logs of all its tasks")


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
        results = beside(file.parent, date)
        adapter, rank = _place(root, file)
        groups = _asked_groups(results.get("group_subtasks") or {})
        logs.append(_Log(file, adapter, rank, task, groups, fields.get(task, fields.get(""))))
        _read(logs[-1])
    return logs


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


def _read(log: _Log) -> None:
    kinds = list[str]()
    try:
        with log.path.open(encoding="utf-8") as stream:
            for row in (json.loads(line) for line in stream if line.strip()):
                doc, names = str(row["doc_id"]), row.get("metrics")
                names = names or [name for name in ("acc", "exact_match") if name in row]
                for name in names:
                    if isinstance(value := row.get(name), (int, float)):
                        metric = f"{name},{row.get('filter', 'none')}"
                        column = log.columns.setdefault(metric, {})
                        if doc in column:
                            raise DataError(f"{log.path} has example {doc} twice under {metric}.")
                        column[doc] = float(value)
                log.hashes[doc] = "".join(str(row.get(name, "")) for name in HASHES)
                kinds.append(_likelihoods(row.get("resps")))
                if log.cluster is not None:
                    log.labels[doc] = _label(doc, row.get("doc") or {}, log.cluster, log.path)
    except (UnicodeDecodeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise DataError(f"{log.path} is no lm-eval sample log ({error}).") from error
    _check_likelihoods(kinds, log.path)


def _label(doc_id: str, example: Mapping[str, Any], field: str, file: Path) -> str:
    value = example.get(field)
    if value is None:
        known = ", ".join(sorted(example)) or "none"
        raise DataError(f"{file}: example {doc_id} has no field {field!r}; its fields: {known}.")
    return value if isinstance(value, str) else json.dumps(value)


def _likelihoods(responses: Any) -> str:
    """What a row's answers are: "text", "known" log-likelihoods, all "zero", or some "missing".

    From a server without log-probabilities of the prompt lm-eval takes 0.0 for every choice.
    """
    requests = [request if request not in ([], None) else [[None]] for request in responses or ()]
    pairs = [pair for answers in requests for pair in answers]
    if not pairs or not all(isinstance(pair, list) and pair for pair in pairs):
        return "text"
    values = {str(pair[0]).lower() for pair in pairs}
    if values & {"none", "nan", "null"}:
        return "missing"
    return "known" if any(float(value) for value in values) else "zero"


def _check_likelihoods(kinds: Sequence[str], file: Path) -> None:
    zero, missing = kinds.count("zero"), kinds.count("missing")
    what = f"without a number in {missing}" if missing else f"0.0 for every choice in {zero}"
    text = (
        f"{file}: log-likelihoods are {what} of {len(kinds)} rows; a server that returns no "
        "log-probabilities of the prompt makes accuracies chance"
    )
    if missing or zero == len(kinds):
        raise DataError(f"{text}, so evaluate with one that does (vLLM, by prompt_logprobs).")
    if zero:
        logger.warning("%s", text)
