"""lm-eval's own sample logs, a folder per rank → curves."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from aurac.curves.curve import Curve
from aurac.curves.metrics import WantedMetrics
from aurac.errors import AuracError, DataError
from aurac.files import Json
from aurac.records.results_file import LOG_SAMPLES, runs_below

logger = logging.getLogger(__name__)

# Where a task logs several metrics and none was asked for, the first of these that it has.
PREFERRED = (
    "exact_match,strict-match",
    "acc,none",
    "exact_match,none",
    "exact_match,flexible-extract",
    "acc_norm,none",
)
# How a folder says its rank, the surest first: `8`, `r8` or `rank_8`; `lora-rank-8`; `lora-8`.
_RANKS = (
    re.compile(r"^(?:rank|r)?[-_=.]?0*(\d+)$", re.IGNORECASE),
    re.compile(r"[^a-z0-9](?:rank|r)[-_=.]?0*(\d+)$", re.IGNORECASE),
    re.compile(r"[^a-z0-9]0*(\d+)$", re.IGNORECASE),
)
_FILE = re.compile(r"samples_(.+?)(?:_(\d{4}-\d{2}-\d{2}T[\d.\-]+))?\.jsonl$")
HASHES = ("doc_hash", "prompt_hash", "target_hash")


class _LmEvalConfig(msgspec.Struct):
    model_args: object = None  # text, or a mapping; a run's export has the cut under `aurac`


class _LmEvalResults(msgspec.Struct):
    """What is read of lm-eval's results file."""

    group_subtasks: dict[str, list[str]] | None = None
    model_name_sanitized: str | None = None
    config: _LmEvalConfig | None = None

    @property
    def rank(self) -> int | None:
        """The rank of the cut that a run's export has recorded."""
        args = self.config.model_args if self.config else None
        cut = args.get("aurac") if isinstance(args, dict) else None
        rank = cut.get("rank") if isinstance(cut, dict) else None
        return rank if isinstance(rank, int) else None


@dataclass
class LogContent:
    """The content of one log: by document its scores, hash, and what it shares with others."""

    columns: dict[str, dict[str, float]] = field(default_factory=dict)  # by metric,filter
    hashes: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Log:
    """One samples file."""

    path: Path
    adapter: str
    rank: int
    task: str
    groups: Mapping[str, Sequence[str]]  # those that lm-eval was asked for, with their tasks
    cluster: str | None  # field of the documents by which they are clustered

    @cached_property
    def content(self) -> LogContent:
        """What it holds, read once."""
        return _read_log(self.path, self.cluster)


Logs = dict[int, _Log]  # of one task of one adapter, by rank
Known = dict[tuple[str, str], Logs]


def read_samples(
    root: Path,
    wanted: WantedMetrics | None = None,
    cluster: Mapping[str, str] | None = None,
) -> list[Curve]:
    """Curves of ``ROOT[/ADAPTER]/RANK/**/samples_TASK_DATE.jsonl``.

    A rank's folder is named by its number, with or without ``r``, ``rank`` or a prefix; rank 0 is
    the base. An adapter with logs at rank 0 only is the base of all others. A group that lm-eval
    was asked for gets a curve of its own, the documents of its tasks pooled, each task a stratum.

    Raises:
        DataError: No logs, a folder without a rank, two logs of one task at a rank, a metric that
            is not there, or documents that differ between ranks.
    """
    files = _find_logs(root, cluster or {})
    known: Known = {}
    for log in files:
        logs = known.setdefault((log.adapter, log.task), {})
        if log.rank in logs:
            raise DataError(
                f"{logs[log.rank].path} and {log.path.name} are both {log.task} at rank {log.rank}",
                expected="one log for each task and rank",
                fix="keep the one that counts",
            )
        logs[log.rank] = log
    _share_base(known)
    known = {key: dict(sorted(logs.items())) for key, logs in known.items()}
    wanted = wanted or WantedMetrics()
    curves = {key: _curve(*key, logs, wanted) for key, logs in known.items()}
    curves |= _group_curves(files, known, wanted)
    order = list(dict.fromkeys(task for _, task in curves))
    return [curves[key] for key in sorted(curves, key=lambda key: order.index(key[1]))]


def _share_base(known: Known) -> None:
    """Give the logs of the base alone to every adapter that has no rank 0 of its own."""
    bases = [key for key, logs in known.items() if set(logs) == {0}]
    if len(bases) == len(known):
        first, task = bases[0]
        raise DataError(f"{first} on {task} has rank 0 only", expected="ranks from 1 up")
    names = {adapter for adapter, _ in bases}
    if len(names) > 1:
        raise DataError(
            f"{', '.join(sorted(names))} have rank 0 only",
            expected="one base",
            fix="name the folder of each rank by its number",
        )
    for base in bases:
        log = known.pop(base)[0]
        for (_, task), logs in known.items():
            if task == base[1]:
                logs.setdefault(0, log)


def _curve(adapter: str, task: str, logs: Logs, wanted: WantedMetrics) -> Curve:
    samples = {rank: log.content for rank, log in logs.items()}
    name = _metric(task, wanted, samples.values())
    scores = {rank: log.columns[name] for rank, log in samples.items()}
    hashes = _same_hashes(adapter, task, samples)
    labels = next((log.labels for log in samples.values() if log.labels), None)  # of any rank
    documents = next(row for rank, row in scores.items() if rank)
    try:
        return Curve.from_documents(
            scores,
            adapter=adapter,
            task=task,
            metric=name,
            doc_hashes=tuple(hashes[doc] for doc in documents),
            clusters=tuple(labels[doc] for doc in documents) if labels else None,
        )
    except AuracError as error:
        raise DataError(f"{adapter} on {task}: {error.text}") from error


def _same_hashes(adapter: str, task: str, samples: Mapping[int, LogContent]) -> dict[str, str]:
    """Document → hash; a document must be the same at every rank."""
    first = next(iter(samples))
    hashes = samples[first].hashes
    for rank, log in samples.items():
        if changed := [doc for doc in hashes if log.hashes.get(doc, hashes[doc]) != hashes[doc]]:
            raise DataError(
                f"{task} document {changed[0]} of {adapter} has another text or prompt at "
                f"rank {rank} than at rank {first}",
                expected="the same documents and prompts at every rank",
            )
    return hashes


def _metric(task: str, wanted: WantedMetrics, samples: Iterable[LogContent]) -> str:
    """The one that is wanted, else a preferred one, else the only one."""
    everywhere = set.intersection(*(set(log.columns) for log in samples))
    if name := wanted.of(task, everywhere):
        return name
    known = [name for name in PREFERRED if name in everywhere]
    if known or len(everywhere) == 1:
        return [*known, *everywhere][0]
    raise DataError(
        f"{task} logs {', '.join(sorted(everywhere)) or 'no metric at every rank'}",
        expected="one of them to be chosen",
        fix="give --metric [TASK=]NAME,FILTER",
    )


def _group_curves(
    files: Sequence[_Log], known: Known, wanted: WantedMetrics
) -> dict[tuple[str, str], Curve]:
    """The groups that were asked for, of every adapter that has all their tasks."""
    curves: dict[tuple[str, str], Curve] = {}
    for log in files:
        name = log.adapter
        for group, leaves in log.groups.items():
            if (name, group) not in curves and all((name, leaf) in known for leaf in leaves):
                members = {leaf: known[name, leaf] for leaf in leaves}
                curves[name, group] = _pooled(name, group, members, wanted)
    return curves


def _pooled(adapter: str, group: str, members: Mapping[str, Logs], wanted: WantedMetrics) -> Curve:
    """The documents of all members in their order, each member a stratum."""
    every = [log.content for logs in members.values() for log in logs.values()]
    name = _metric(group, wanted, every)
    chosen = {task: WantedMetrics({task: name}) for task in members}
    curves = [_curve(adapter, task, logs, chosen[task]) for task, logs in members.items()]
    ranks = sorted(set.intersection(*(set(curve.ranks) for curve in curves)))
    if not ranks:
        raise DataError(f"{adapter} on {group}: its tasks have no rank in common")
    gaps = {r: why for curve in curves for r, why in curve.missing.items()}
    gaps |= dict.fromkeys((r for c in curves for r in c.ranks), "not in the logs of all its tasks")
    same = [curve.at(ranks) for curve in curves]
    bases = [curve.baseline for curve in curves if curve.baseline is not None]
    scores = [curve.base_scores for curve in curves if curve.base_scores is not None]
    counts = [curve.n_docs or 0 for curve in curves]
    # a document of a member without clusters is one by itself
    clusters = tuple(f"{i}:{x}" for i, c in enumerate(same) for x in c.clusters or c.doc_ids or ())
    return Curve.from_outcomes(
        ranks,
        np.concatenate([curve.outcomes for curve in same if curve.outcomes is not None], axis=1),
        doc_ids=tuple(f"{i}:{doc}" for i, c in enumerate(same) for doc in c.doc_ids or ()),
        doc_hashes=tuple(h for curve in same for h in curve.doc_hashes or ()),
        strata=tuple(np.repeat(list(members), counts).tolist()),
        clusters=clusters if any(curve.clusters for curve in same) else None,
        baseline=float(np.average(bases, weights=counts)) if len(bases) == len(same) else None,
        base_scores=np.concatenate(scores) if len(scores) == len(same) else None,
        missing={rank: why for rank, why in gaps.items() if rank not in ranks},
        adapter=adapter,
        task=group,
        metric=name,
    )


def _find_logs(root: Path, fields: Mapping[str, str]) -> list[_Log]:
    files = sorted(root.rglob("samples_*.jsonl"))
    if not files:
        first = LOG_SAMPLES if any(root.rglob("results_*.json")) else None
        if (root / "adapter_config.json").exists():
            first = f"evaluate an adapter first: `aurac compare {root} --tasks TASK`"
        raise DataError(
            f"{root} holds neither results.json nor sample logs",
            expected="a run folder, or a folder per rank with samples_TASK_DATE.jsonl",
            fix=runs_below(root) or first,
        )
    beside = cache(_results)  # several samples files share it
    logs = []
    for file in files:
        named = _FILE.search(file.name)
        task, date = (named[1], named[2] or "") if named else (file.stem, "")
        results = beside(file.parent, date)
        adapter, rank = _place(root, file, results)
        groups = _asked_groups(results.group_subtasks or {})
        logs.append(_Log(file, adapter, rank, task, groups, fields.get(task, fields.get(""))))
    return logs


def _results(folder: Path, date: str) -> _LmEvalResults:
    """lm-eval's results of the same moment, or the only ones beside the samples; else empty."""
    files = sorted(folder.glob("results_*.json"))
    same = [file for file in files if date and date in file.name] or files
    if len(same) != 1:
        return _LmEvalResults()
    try:
        content = json.loads(same[0].read_text(encoding="utf-8"))  # may hold NaN
        return msgspec.convert(content, _LmEvalResults)
    except (OSError, ValueError) as error:
        raise DataError(f"{same[0]} is no lm-eval results file ({error})") from error


def _asked_groups(subtasks: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Group → leaves, of the groups that are in no other: those that were asked for."""
    known = {group: has for group, has in subtasks.items() if has}
    inner = {task for has in known.values() for task in has}

    def leaves(name: str) -> list[str]:
        return [leaf for task in known[name] for leaf in leaves(task)] if name in known else [name]

    return {group: leaves(group) for group in known if group not in inner}


def _place(root: Path, file: Path, results: _LmEvalResults) -> tuple[str, int]:
    """Adapter and rank of a log, from its record and the folders above it, never from the base's.

    Without a folder between, the root is that of the rank and may lie in the adapter's.
    """
    folders, recorded, adapter = list(file.relative_to(root).parts[:-1]), results.rank, root
    if folders and folders[-1] == results.model_name_sanitized:
        folders.pop()
    if not folders:
        folders, adapter = [root.resolve().name], root.resolve().parent
    for pattern in _RANKS:
        for depth in range(len(folders) - 1, -1, -1):
            match = pattern.search(folders[depth])
            if match and recorded in (None, int(match[1])):
                above = "/".join(folders[:depth])
                rest = folders[depth][: match.start()].strip("-_=. ")
                return above or rest or adapter.resolve().name, int(match[1])
    if recorded is not None:
        return "/".join(folders), recorded
    raise DataError(
        f"{file} is in no folder named by its rank",
        expected="ROOT/rank_8/…/samples_TASK_DATE.jsonl",
    )


def _read_log(file: Path, cluster: str | None) -> LogContent:
    samples, kinds = LogContent(), list[str]()
    try:
        with file.open(encoding="utf-8") as stream:
            for row in (json.loads(line) for line in stream if line.strip()):
                doc, names = str(row["doc_id"]), row.get("metrics")
                names = names or [name for name in ("acc", "exact_match") if name in row]
                scores = {f"{n},{row.get('filter', 'none')}": row.get(n) for n in names}
                _add(samples, doc, scores, file)
                samples.hashes[doc] = "".join(str(row.get(name, "")) for name in HASHES)
                kinds.append(_likelihoods(row.get("resps")))
                if cluster is not None:
                    samples.labels[doc] = _label(doc, row.get("doc") or {}, cluster, file)
    except (UnicodeDecodeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise DataError(f"{file} is no lm-eval sample log ({error})") from error
    if not samples.columns:
        raise DataError(f"{file} holds no per-document metric that is a number")
    _check_likelihoods(kinds, file)
    return samples


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
        expected = (
            "a /v1/completions that gives them for echo with logprobs (vLLM does, by its "
            "prompt_logprobs; llama.cpp's server does not)"
        )
        raise DataError(text, expected=expected, fix="evaluate again there")
    if zero:
        logger.warning("%s", text)


def _label(doc_id: str, document: Mapping[str, Json], field: str, file: Path) -> str:
    value = document.get(field)
    if value is None:
        raise DataError(
            f"{file}: document {doc_id} has no field {field!r} to cluster by",
            expected=f"one of {', '.join(sorted(document)) or 'no fields'}",
        )
    return value if isinstance(value, str) else json.dumps(value)


def _add(samples: LogContent, doc: str, scores: Mapping[str, Json], file: Path) -> None:
    """Add the scores of a document, by metric,filter, that are numbers."""
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            column = samples.columns.setdefault(name, {})
            if doc in column:
                shown = name.rpartition(",")[0]
                raise DataError(f"{file} has document {doc} twice under {shown}")
            column[doc] = float(value)
