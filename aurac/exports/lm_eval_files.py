"""The content of lm-eval's files: ``samples_TASK_DATE.jsonl`` and ``results_DATE.json``."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from aurac.errors import RunFolderError
from aurac.files import sha256_text
from aurac.records.requests import ModelFacts, RequestRow, RequestsHeader, StoredRequests
from aurac.records.results_file import AdapterRecord, Results
from aurac.records.store import Cell


def safe(name: str) -> str:
    """A name as lm-eval makes it one of a file: what separates folders becomes ``__``."""
    cleaned = re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f]+", "__", name)
    return cleaned if cleaned.strip(". ") else f"__{len(cleaned)}"


def model_folder(name: str) -> str:
    """The name of a model's folder; of one that was given by a path the path's last part."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return safe(PurePath(name).name)
    return safe(name)


def sample_rows(cell: Cell, shared: StoredRequests) -> Iterator[dict[str, object]]:
    """One cell's rows, filter after filter, documents in order, keys in lm-eval's order."""
    rows = shared.rows[: len(cell.documents)]
    if [str(row.doc_id) for row in rows] != cell.doc_ids:
        raise RunFolderError(f"the cell {cell.identity.key[:12]} has other documents than its task")
    for chain in cell.logged.filtered:
        metrics = _metrics(cell, chain)
        for index, row in enumerate(rows):
            responses = _responses(cell, index, row)
            values = {name: column[index] for name, column in metrics.items()}
            yield {
                "doc_id": row.doc_id,
                "doc": row.doc,
                "target": row.target,
                "arguments": {
                    f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(arguments)}
                    for i, arguments in enumerate(row.arguments)
                },
                "resps": responses,
                "filtered_resps": _filtered(cell, chain, index, responses),
                "filter": chain,
                "metrics": list(values),
                "doc_hash": row.doc_hash,
                "prompt_hash": row.prompt_hash,
                "target_hash": row.target_hash,
                **values,
            }


def _metrics(cell: Cell, chain: str) -> dict[str, Sequence[object]]:
    """Name → column of the metrics under a filter, those that are no numbers included."""
    columns: dict[str, Sequence[object]] = {**cell.metrics, **cell.logged.other}
    split = {key: key.rpartition(",") for key in columns}
    return {name: columns[key] for key, (name, _, of) in split.items() if of == chain}


def _responses(cell: Cell, index: int, row: RequestRow) -> list[Any]:
    """For each request its responses, every part as text, as lm-eval writes them."""
    kept, greedy = cell.responses[index], cell.logged.greedy
    if greedy is not None:
        return [[[str(x), str(g)]] for x, g in zip(kept, greedy[index], strict=True)]
    answers = [kept] if len(row.arguments) == 1 else kept  # of one request perhaps several
    return [as_text(each) if isinstance(each, list) else [str(each)] for each in answers]


def _filtered(cell: Cell, chain: str, index: int, responses: list[Any]) -> list[Any]:
    rows = cell.logged.filtered[chain]
    if rows is None or rows[index] is None:  # the filter takes the first response
        return [response[0] for response in responses]
    text = as_text(rows[index])
    return text if isinstance(text, list) else [text]


def as_text(value: Any) -> Any:
    """Every part of a nested list as text."""
    return [as_text(item) for item in value] if isinstance(value, list) else str(value)


NOT_GIVEN = "N/A"  # lm-eval's word for a standard error that was not computed


def aggregated(
    cells: Mapping[str, Cell],
    shared: Mapping[str, StoredRequests],
    results: Results,
    model_args: Mapping[str, object],
    adapter: AdapterRecord | None,
) -> dict[str, object]:
    """The content of ``results_DATE.json``, keys in lm-eval's order; cells are by task."""
    groups = {
        task.name: task.members
        for task in results.tasks
        if task.members and set(task.members) <= set(cells)
    }
    pooled = {name: _group(name, members, cells) for name, members in groups.items()}
    rows = {name: _task(name, cell) for name, cell in cells.items()} | pooled
    headers = {name: shared[name].header for name in cells}
    first = next(iter(headers.values()))
    better = {name: header.higher_is_better for name, header in headers.items()}
    better |= {g: {k: v for m in has for k, v in better[m].items()} for g, has in groups.items()}
    versions = {name: header.version for name, header in headers.items()}
    versions |= {task.name: task.version for task in results.tasks if task.members}
    tasks = sorted(results.tasks, key=lambda task: task.name)
    return {
        "results": rows,
        **({"groups": pooled} if pooled else {}),
        "group_subtasks": groups,
        "configs": {name: header.config for name, header in headers.items()},
        "versions": {name: v for name, v in sorted(versions.items()) if name in rows},
        "n-shot": {task.name: task.num_fewshot for task in tasks if task.name in rows},
        "higher_is_better": dict(sorted(better.items())),
        "n-samples": {
            name: {"original": headers[name].original, "effective": len(cell.doc_ids)}
            for name, cell in cells.items()
        },
        "config": _config(results, first.model, model_args, adapter),
        **_surroundings(results, first.model),
        "task_hashes": {name: _hash(cell, shared[name]) for name, cell in cells.items()},
        **_identity(str(results.provenance.base.name), first),
        "total_evaluation_time_seconds": str(sum(cell.seconds for cell in cells.values())),
    }


def _task(name: str, cell: Cell) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "alias": name, "sample_len": len(cell.doc_ids)}
    aggregate = cell.aggregates
    for key in {**cell.metrics, **aggregate}:
        metric, _, chain = key.rpartition(",")
        # what is no mean has a standard error that lm-eval would bootstrap
        known = (aggregate[key], NOT_GIVEN) if key in aggregate else _mean(cell.metrics[key])
        row[key], row[f"{metric}_stderr,{chain}"] = known
    return row


def _mean(column: Sequence[float]) -> tuple[float, float | str]:
    values = np.asarray(column, dtype=np.float64)
    if values.size < 2:
        return float(values.mean()), NOT_GIVEN
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def _group(name: str, members: Sequence[str], cells: Mapping[str, Cell]) -> dict[str, object]:
    """The documents of all members pooled, with lm-eval's pooled standard error."""
    size = sum(len(cells[m].doc_ids) for m in members)
    row: dict[str, object] = {"alias": name, "name": name, "sample_len": size}
    counts = {}
    for key in cells[members[0]].metrics:
        if not all(key in cells[m].metrics and key not in cells[m].aggregates for m in members):
            continue
        known = [np.asarray(cells[m].metrics[key], dtype=np.float64) for m in members]
        metric, _, chain = key.rpartition(",")
        inside = sum(float(np.square(c - c.mean()).sum()) for c in known)
        free = size - len(known)
        row[key] = float(np.concatenate(known).mean())
        row[f"{metric}_stderr,{chain}"] = math.sqrt(inside / free / size) if free else NOT_GIVEN
        counts[key] = size
    return {**row, "sample_count": counts}


def _config(
    results: Results,
    model: ModelFacts,
    model_args: Mapping[str, object],
    adapter: AdapterRecord | None,
) -> dict[str, object]:
    provenance = results.provenance
    limits = {task.limit for task in results.tasks}
    peft = {"peft_sha": adapter.sha256} if adapter and adapter.path else {}
    return {
        "model": "hf",
        "model_args": dict(model_args),
        "model_num_parameters": model.parameters,
        "model_dtype": f"torch.{provenance.dtype}",
        "model_revision": "main",
        "model_sha": provenance.base.sha256 or "",
        **peft,
        "batch_size": provenance.settings.batching,
        "batch_sizes": [],
        "device": provenance.device,
        "use_cache": None,
        "limit": limits.pop() if len(limits) == 1 else None,  # n-samples has each task's
        "bootstrap_iters": 0,
        "gen_kwargs": None,
        "random_seed": 0,
        "numpy_seed": 1234,
        "torch_seed": 1234,
        "fewshot_seed": provenance.seed,
    }


def _surroundings(results: Results, model: ModelFacts) -> dict[str, object]:
    provenance, versions = results.provenance, results.provenance.versions
    facts = {**provenance.machine, **versions}
    return {
        "git_hash": None,
        "date": dt.datetime.fromisoformat(str(provenance.started)).timestamp(),
        "pretty_env_info": "\n".join(f"{name}: {value}" for name, value in facts.items()),
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": versions.get("lm-eval"),
        "upper_git_hash": None,
        "tokenizer_pad_token": model.pad_token,
        "tokenizer_eos_token": model.eos_token,
        "tokenizer_bos_token": model.bos_token,
        "eot_token_id": model.eot_token_id,
        "max_length": model.max_length,
    }


def _hash(cell: Cell, shared: StoredRequests) -> str:
    """Over the hashes of every sample, each filter's one after the other."""
    once = "".join(f"{row.doc_hash}{row.prompt_hash}{row.target_hash}" for row in shared.rows)
    return sha256_text(once * len(cell.logged.filtered))


def _identity(name: str, header: RequestsHeader) -> dict[str, object]:
    template, system = header.chat_template, header.system_instruction
    return {
        "model_source": "hf",
        "model_name": name,
        "model_name_sanitized": model_folder(name),
        "system_instruction": system,
        "system_instruction_sha": sha256_text(system) if system else None,
        "fewshot_as_multiturn": header.fewshot_as_multiturn,
        "chat_template": template,
        "chat_template_sha": sha256_text(template) if template else None,
    }
