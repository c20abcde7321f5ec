"""The content of lm-eval's files: ``samples_TASK_DATE.jsonl`` and ``results_DATE.json``."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from aurac.files import sha256_text
from aurac.records.lines import examples_sha256
from aurac.records.manifest import CutInfo, TaskInfo
from aurac.records.run import Logged, StoredRun

NOT_GIVEN = "N/A"  # lm-eval's word for a standard error that was not computed


class ExportFolder(NamedTuple):
    """One folder: a cut (None: the base) at a rank, with the cell of each task."""

    folder: str
    rank: int
    cut: CutInfo | None
    cells: Mapping[str, Logged]


def safe(name: str) -> str:
    """A name as lm-eval makes it one of a file: what separates folders becomes ``__``."""
    cleaned = re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f]+", "__", name)
    return cleaned if cleaned.strip(". ") else f"__{len(cleaned)}"


def model_folder(name: str) -> str:
    """The name of a model's folder; of one that was given by a path the path's last part."""
    path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return safe(PurePath(name).name if path else name)


def sample_rows(logged: Logged) -> Iterator[dict[str, Any]]:
    """One cell's rows, filter after filter, examples in order, keys in lm-eval's order."""
    cell, keys, (_, *rows) = logged
    responses, greedy = cell.responses(keys), cell.greedy(keys)
    for name in dict.fromkeys(metric.rpartition(",")[2] for metric in cell.metrics()):
        columns = {
            metric.rpartition(",")[0]: cell.values(metric, keys) or []
            for metric in cell.metrics()
            if metric.rpartition(",")[2] == name
        }
        filtered = cell.filtered(name, keys)
        for at, row in enumerate(rows):
            answers = _as_logged(responses[at], greedy[at] if greedy else None, row["arguments"])
            first, own = [answer[0] for answer in answers], filtered[at]
            yield {
                **{key: row[key] for key in ("doc_id", "doc", "target")},
                "arguments": {
                    f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(arguments)}
                    for i, arguments in enumerate(row["arguments"])
                },
                "resps": answers,
                "filtered_resps": as_text(first if own is None else own),
                "filter": name,
                "metrics": list(columns),
                **{hashed: row[hashed] for hashed in ("doc_hash", "prompt_hash", "target_hash")},
                **{metric: column[at] for metric, column in columns.items()},
            }


def _as_logged(kept: Any, greedy: Sequence[bool] | None, arguments: Sequence[Any]) -> list[Any]:
    """For each request its responses, every part as text, as lm-eval writes them."""
    if greedy is not None:
        return [[[str(x), str(g)]] for x, g in zip(kept, greedy, strict=True)]
    answers = [kept] if len(arguments) == 1 else kept  # of one request perhaps several
    return [as_text(each) if isinstance(each, list) else [str(each)] for each in answers]


def as_text(value: Any) -> Any:
    """Every part of a nested list as text."""
    return [as_text(item) for item in value] if isinstance(value, list) else str(value)


def results(run: StoredRun, export_folder: ExportFolder) -> dict[str, Any]:
    """The content of ``results_DATE.json``."""
    rows = {name: _task_row(run.task(name), each) for name, each in export_folder.cells.items()}
    there = [task for task in run.tasks if task.members and set(task.members) <= set(rows)]
    groups = {task.name: list(task.members) for task in there}
    pooled = {name: _group_row(name, members, rows) for name, members in groups.items()}
    told = {name: each.rows[0] for name, each in export_folder.cells.items()}
    better = {name: record["higher_is_better"] for name, record in told.items()}
    infos = {name: run.task(name) for name in [*rows, *groups]}
    template = next(iter(told.values()))
    return {
        "results": rows | pooled,
        **({"groups": pooled} if pooled else {}),
        "group_subtasks": groups,
        "configs": {name: record["config"] for name, record in told.items()},
        "versions": {name: record["version"] for name, record in told.items()}
        | {name: infos[name].version for name in groups},
        "n-shot": {name: info.num_fewshot for name, info in infos.items()},
        "higher_is_better": better | {name: better[m[0]] for name, m in groups.items()},
        "n-samples": {
            name: {"original": record["original"], "effective": rows[name]["sample_len"]}
            for name, record in told.items()
        },
        "config": _config(run, export_folder),
        "date": dt.datetime.fromisoformat(str(run.provenance["started"])).timestamp(),
        "transformers_version": run.provenance["versions"].get("transformers"),
        "lm_eval_version": run.provenance["versions"].get("lm-eval"),
        "model_source": run.provenance.get("model", "hf"),
        "model_name": run.provenance["base"],
        "model_name_sanitized": model_folder(str(run.provenance["base"])),
        "system_instruction": (system := template["system_instruction"]),
        "system_instruction_sha": sha256_text(system) if system else None,
        "fewshot_as_multiturn": template["fewshot_as_multiturn"],
    }


def _task_row(task: TaskInfo, logged: Logged) -> dict[str, Any]:
    cell, keys, _ = logged
    row: dict[str, Any] = {"name": task.name, "alias": task.name, "sample_len": len(keys)}
    known = cell.aggregates.get(examples_sha256(keys), {})
    for key in cell.metrics():
        column = cell.values(key, keys) or []
        metric, _, chain = key.rpartition(",")
        error: float | str = NOT_GIVEN
        value = known.get(key)
        if all(isinstance(each, (int, float)) for each in column):
            values = np.asarray(column, dtype=np.float64)
            if value is None and key == task.metric and not task.rolling:  # which is a mean
                value = float(values.mean())
            if value is not None and len(keys) > 1 and abs(value - values.mean()) < 1e-12:
                error = float(values.std(ddof=1) / math.sqrt(len(keys)))
        if value is not None:
            row |= {key: value, f"{metric}_stderr,{chain}": error}
    return row


def _group_row(
    name: str, members: Sequence[str], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The examples of all members pooled, with lm-eval's pooled standard error."""
    sizes = [rows[member]["sample_len"] for member in members]
    row: dict[str, Any] = {"alias": name, "name": name, "sample_len": sum(sizes)}
    counts = {}
    for key in [key for key in rows[members[0]] if "," in key and "_stderr," not in key]:
        metric, _, chain = key.rpartition(",")
        errors = [rows[member].get(f"{metric}_stderr,{chain}", NOT_GIVEN) for member in members]
        if NOT_GIVEN in errors:
            continue
        row[key] = float(np.average([rows[member][key] for member in members], weights=sizes))
        inside = sum(e**2 * n * (n - 1) for e, n in zip(errors, sizes, strict=True))
        pooled = math.sqrt(inside / (sum(sizes) - len(sizes)) / sum(sizes))
        row[f"{metric}_stderr,{chain}"] = pooled
        counts[key] = sum(sizes)
    return {**row, "sample_count": counts}


def _config(run: StoredRun, export_folder: ExportFolder) -> dict[str, Any]:
    made, cut = run.provenance, export_folder.cut
    prompting = run.task(next(iter(export_folder.cells))).prompting if export_folder.cells else {}
    args: dict[str, Any] = {"pretrained": made["base"], "dtype": made["dtype"]}
    if cut is not None:
        whose = {task: each.cell.identity for task, each in export_folder.cells.items()}
        factors = {f"factor_{t}": of.factor for t, of in whose.items() if of and of.factor}
        args["peft"] = next(each.path for each in run.adapters if each.name == cut.adapter)
        args |= {"rank": export_folder.rank, "basis": cut.basis, "rescale": cut.rescale, **factors}
    return {
        "model": made.get("model", "hf"),
        "model_args": args,
        "model_dtype": f"torch.{made['dtype']}",
        "model_sha": made.get("base_sha256") or "",
        "device": made["device"],
        "limit": None,  # n-samples has each task's
        "gen_kwargs": prompting.get("gen_kwargs"),
        "fewshot_seed": prompting.get("seed", 1234),
    }
