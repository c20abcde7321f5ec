"""lm-eval's own sample logs, a folder per rank → curves."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.coerce import AMOUNTS
from aurac.curves.curve import Curve
from aurac.curves.metrics import WantedMetrics
from aurac.errors import AuracError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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
_LABELS = ("adapter", "method", "base", "basis", "rescale", "seed", "data_order")
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
    data_order: str | None = None
    base: str | None = None
    arm: str | None = None


@dataclass(frozen=True)
class _LogFile:
    """One samples file, the groups that were asked for, and what `aurac export` wrote beside it."""

    path: Path
    origin: Origin
    rank: int
    task: str
    groups: Mapping[str, Sequence[str]]
    about: Mapping[str, Any]


@dataclass
class Samples:
    """The content of one log: by document its scores, hash, and what it shares with others."""

    columns: Columns = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Logs:
    """Logs of one task under one origin: rank → file, and what they say about themselves."""

    cluster: str | None = None
    files: dict[int, _LogFile] = field(default_factory=dict)
    read: dict[int, Samples] = field(default_factory=dict)

    def samples(self) -> dict[int, Samples]:
        """Rank → content, each read once."""
        for rank in sorted(self.files.keys() - self.read.keys()):
            self.read[rank] = _read_log(self.files[rank].path, self.cluster)
        return {rank: self.read[rank] for rank in sorted(self.read)}

    def about(self, name: str) -> dict[str, Any]:
        """What `aurac export` says under a name, the same at every rank but for the base."""
        recorded: dict[str, Any] = {}
        for file in self.files.values():
            recorded |= file.about.get(name) or {}
        return recorded


def read_samples(
    root: Path,
    wanted: WantedMetrics | None = None,
    cluster: Mapping[str, str] | None = None,
) -> tuple[list[Curve], dict[str, list[str]]]:
    """Curves of ``ROOT[/ADAPTER]/RANK/**/samples_TASK_DATE.jsonl``, and recipe groups.

    A rank's folder is named by its number, with or without ``r``, ``rank`` or a prefix: ``8``,
    ``r8``, ``rank_8``, ``lora-rank-8``; rank 0 is the base. An adapter with logs at rank 0 only is
    the base of all others. A group that lm-eval was asked for gets a curve of its own, the
    documents of its tasks pooled, each task a stratum. What `aurac export` wrote is read back as
    the run that it was: truncations, recipe groups, metrics.

    `cluster` is as of `aurac.readers.read_curves`.

    Raises:
        DataError: No logs, a folder without a rank, two logs of one task at a rank, a metric that
            is not there, or documents that differ between ranks.
    """
    files = _find_logs(root)
    known: dict[tuple[Origin, str], Logs] = {}
    for file in files:
        logs = known.setdefault((file.origin, file.task), Logs(_field(file, cluster or {})))
        if file.rank in logs.files:
            raise DataError(
                f"{logs.files[file.rank].path} and {file.path.name} are both {file.task} at rank "
                f"{file.rank}",
                expected="one log for each task and rank",
                fix="keep the one that counts",
            )
        logs.files[file.rank] = file
    _lend_base(known)
    wanted = wanted or WantedMetrics()
    curves = [(o, t, _curve(o, t, logs, wanted)) for (o, t), logs in known.items()]
    curves += _grouped(files, known, wanted)
    order = list(dict.fromkeys(t for f in files for t in f.about.get("metrics") or ()))
    order += [task for _, task, _ in curves if task not in order]
    curves.sort(key=lambda one: (not one[0].default, order.index(one[1]), one[0].order))
    return [curve for _, _, curve in curves], _recipe_groups(files)


def _field(file: _LogFile, fields: Mapping[str, str]) -> str | None:
    """The field that clusters a log's documents: as asked for, else as in the exported run."""
    for named in (fields, file.about.get("clusters") or {}):
        for name in (file.task, ""):
            if name in named:
                return str(named[name])
    return None


def _recipe_groups(files: Sequence[_LogFile]) -> dict[str, list[str]]:
    groups: dict[str, dict[str, None]] = {}
    for file in sorted(files, key=lambda f: f.origin.order):
        if file.origin.arm:
            groups.setdefault(file.origin.arm, {})[file.origin.adapter] = None
    return {name: list(members) for name, members in groups.items()}


def _lend_base(known: dict[tuple[Origin, str], Logs]) -> None:
    """Give the logs of the base alone to every adapter that has no rank 0 of its own."""
    bases = [key for key, logs in known.items() if set(logs.files) == {0}]
    if len(bases) == len(known):
        first, task = bases[0]
        raise DataError(f"{first.adapter} on {task} has rank 0 only", expected="ranks from 1 up")
    names = {origin.adapter for origin, _ in bases}
    if len(names) > 1:
        raise DataError(
            f"{', '.join(sorted(names))} have rank 0 only",
            expected="one base",
            fix="name the folder of each rank by its number",
        )
    for base in bases:
        logs = known.pop(base)
        for (_, task), other in known.items():
            if task == base[1] and 0 not in other.files:
                other.files[0], other.read = logs.files[0], {**logs.samples(), **other.read}


def _curve(origin: Origin, task: str, logs: Logs, wanted: WantedMetrics) -> Curve:
    samples = logs.samples()
    name = _metric(task, wanted, logs.about("metrics").get(task), samples)
    scores = {rank: one.columns[name] for rank, one in samples.items()}
    hashes = _same_hashes(origin, task, samples)
    labels = next((one.labels for one in samples.values() if one.labels), None)  # of any rank
    base = scores.pop(0, None)
    documents = list(next(iter(scores.values())))
    gaps = logs.about("missing").get(task) or {}
    files = {rank: file.about for rank, file in logs.files.items() if rank}
    amounts = {
        field: {rank: about[name] for rank, about in files.items() if about.get(name) is not None}
        for name, field in AMOUNTS.items()
    }
    try:
        return Curve.from_documents(
            scores,
            task=task,
            metric=name,
            doc_hashes=tuple(hashes[doc] for doc in documents),
            clusters=tuple(labels[doc] for doc in documents) if labels else None,
            **_base(base, documents),
            missing={int(rank): str(why) for rank, why in gaps.items()},
            **amounts,
            **{label: getattr(origin, label) for label in _LABELS},
        )
    except AuracError as error:
        raise DataError(f"{origin.adapter} on {task}: {error}") from error


def _base(scores: Mapping[str, float] | None, documents: Sequence[str]) -> dict[str, Any]:
    """The base's score of each document; where it lacks one, its accuracy alone."""
    if not scores:
        return {}
    if scores.keys() != set(documents):
        return {"baseline": float(np.mean(list(scores.values())))}
    return {"base_scores": [scores[doc] for doc in documents]}


def _same_hashes(origin: Origin, task: str, samples: Mapping[int, Samples]) -> dict[str, str]:
    """Document → hash; a document must be the same at every rank."""
    first = next(iter(samples))
    hashes = samples[first].hashes
    for rank, one in samples.items():
        if changed := [doc for doc in hashes if one.hashes.get(doc, hashes[doc]) != hashes[doc]]:
            raise DataError(
                f"{task} document {changed[0]} of {origin.adapter} has another text or prompt at "
                f"rank {rank} than at rank {first}",
                expected="the same documents and prompts at every rank",
            )
    return hashes


def _metric(
    task: str, wanted: WantedMetrics, usual: str | None, samples: Mapping[int, Samples]
) -> str:
    """The one that is wanted, else the `usual` one of an exported run, else a preferred one."""
    everywhere = set.intersection(*(set(one.columns) for one in samples.values()))
    if name := wanted.of(task, everywhere):
        return name
    choices = [usual] if usual else [*PREFERRED, *sorted(everywhere)]
    for name in choices:
        if name in everywhere and (usual or name in PREFERRED or len(everywhere) == 1):
            return name
    raise DataError(
        f"{task} logs {', '.join(sorted(everywhere)) or 'no metric at every rank'}",
        expected=usual or "one of them to be chosen",
        fix="give --metric [TASK=]NAME,FILTER",
    )


def _grouped(
    files: Sequence[_LogFile], known: Mapping[tuple[Origin, str], Logs], wanted: WantedMetrics
) -> list[tuple[Origin, str, Curve]]:
    """The groups that were asked for, of every origin that has all their tasks."""
    curves: dict[tuple[Origin, str], Curve] = {}
    for file in files:
        origin = file.origin
        for group, leaves in file.groups.items():
            if (origin, group) not in curves and all((origin, leaf) in known for leaf in leaves):
                members = [(leaf, known[origin, leaf]) for leaf in leaves]
                curves[origin, group] = _pooled(origin, group, members, wanted)
    return [(origin, group, curve) for (origin, group), curve in curves.items()]


def _pooled(
    origin: Origin, group: str, members: Sequence[tuple[str, Logs]], wanted: WantedMetrics
) -> Curve:
    """The documents of all members in their order, each member a stratum."""
    every = {(task, rank): one for task, logs in members for rank, one in logs.samples().items()}
    usual = members[0][1].about("metrics").get(group)
    name = _metric(group, wanted, usual, dict(enumerate(every.values())))
    curves = [_curve(origin, task, logs, WantedMetrics({task: name})) for task, logs in members]
    ranks = sorted(set.intersection(*(set(curve.ranks) for curve in curves)))
    gaps = {r: why for curve in curves for r, why in curve.missing.items()}
    gaps |= {
        r: "not in the logs of all its tasks" for c in curves for r in c.ranks if r not in ranks
    }
    if not ranks:
        raise DataError(f"{origin.adapter} on {group}: its tasks have no rank in common")
    same = [curve.at(ranks) for curve in curves]
    bases = [curve.baseline for curve in curves if curve.baseline is not None]
    scores = [curve.base_scores for curve in curves if curve.base_scores is not None]
    counts = [curve.n_docs or 0 for curve in curves]
    # a document of a member without clusters is one by itself
    clusters = [f"{i}:{x}" for i, c in enumerate(same) for x in c.clusters or c.doc_ids or ()]
    return Curve.from_outcomes(
        ranks,
        np.concatenate([curve.outcomes for curve in same if curve.outcomes is not None], axis=1),
        doc_ids=tuple(f"{i}:{doc}" for i, c in enumerate(same) for doc in c.doc_ids or ()),
        doc_hashes=tuple(h for curve in same for h in curve.doc_hashes or ()),
        strata=tuple(task for (task, _), n in zip(members, counts, strict=True) for _ in range(n)),
        clusters=tuple(clusters) if any(curve.clusters for curve in same) else None,
        baseline=float(np.average(bases, weights=counts)) if len(bases) == len(same) else None,
        base_scores=np.concatenate(scores) if len(scores) == len(same) else None,
        missing={rank: why for rank, why in gaps.items() if rank not in ranks},
        sizes=curves[0].sizes,
        parameters=curves[0].parameters,
        task=group,
        metric=name,
        **{label: getattr(origin, label) for label in _LABELS},
    )


def _find_logs(root: Path) -> list[_LogFile]:
    files = sorted(root.rglob("samples_*.jsonl"))
    if not files:
        raise DataError(
            f"{root} holds neither results.json nor sample logs",
            expected="a run folder, or a folder per rank with samples_TASK_DATE.jsonl",
        )
    beside = cache(_results)  # several samples files share it
    logs = []
    for file in files:
        named = _FILE.search(file.name)
        task, date = (named[1], named[2] or "") if named else (file.stem, "")
        logs.append(_log_file(root, file, task, beside(file.parent, date)))
    return logs


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


def _log_file(root: Path, file: Path, task: str, results: Mapping[str, Any]) -> _LogFile:
    groups = _asked_groups(results.get("group_subtasks"))
    config = (results.get("config") or {}).get("model_args")
    arguments = config if isinstance(config, dict) else {}
    about = arguments.get("aurac")
    if isinstance(about, dict):
        try:
            known = {k: about[k] for k in Origin.__dataclass_fields__ if about.get(k) is not None}
            origin = Origin(**{**known, "base": arguments.get("pretrained")})
            return _LogFile(file, origin, int(about["rank"]), task, groups, about)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the results beside {file} garble {error}") from error
    adapter, rank = _place(root, file, str(results.get("model_name_sanitized") or ""))
    return _LogFile(file, Origin(adapter), rank, task, groups, {})


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


def _read_log(file: Path, cluster: str | None = None) -> Samples:
    """The numbers of one log, its documents clustered by the field `cluster`."""
    samples, kinds = Samples(), list[str]()
    try:
        with file.open(encoding="utf-8") as stream:
            for row in (json.loads(line) for line in stream if line.strip()):
                _add(row, samples, file)
                kinds.append(_likelihoods(row.get("resps")))
                if cluster is not None:
                    samples.labels[str(row["doc_id"])] = _label(row, cluster, file)
    except (UnicodeDecodeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise DataError(f"{file} is no lm-eval sample log ({error})") from error
    if not samples.columns:
        raise DataError(f"{file} holds no per-document metric that is a number")
    _check_likelihoods(kinds, file)
    return samples


def _likelihoods(responses: Any) -> str:
    """What a row's answers are: "text", "known" log-likelihoods, all "zero", or some "missing".

    A server that returns no log-probabilities of the prompt gives lm-eval's API models 0.0 for
    every choice (`parse_logprobs` of lm-eval 0.4.13, an empty sum), and nobody is told.
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
        raise DataError(
            text,
            expected="a /v1/completions that gives them for echo with logprobs (vLLM does, by its "
            "prompt_logprobs; llama.cpp's server does not)",
            fix="evaluate again there",
        )
    if zero:
        logger.warning("%s", text)


def _label(row: Mapping[str, Any], field: str, file: Path) -> str:
    document = row.get("doc")
    fields = document if isinstance(document, dict) else {}
    value = fields.get(field)
    if value is None:
        there = ", ".join(sorted(fields)) if isinstance(document, dict) else "no document"
        raise DataError(
            f"{file}: document {row['doc_id']} has no field {field!r} to cluster by",
            expected=f"one of {there}",
        )
    return value if isinstance(value, str) else json.dumps(value)


def _add(row: Mapping[str, Any], samples: Samples, file: Path) -> None:
    doc = str(row["doc_id"])
    for name in row.get("metrics") or [k for k in ("acc", "exact_match") if k in row]:
        value = row.get(name)
        if isinstance(value, (int, float)):
            column = samples.columns.setdefault(f"{name},{row.get('filter', 'none')}", {})
            if doc in column:
                raise DataError(f"{file} has document {doc} twice under {name}")
            column[doc] = float(value)
    samples.hashes[doc] = "".join(str(row.get(name, "")) for name in HASHES)
