"""A model card for each adapter's repository on the hub, with its results as a `model-index`."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any

from aurac.analysis.sentences import choice_sentences
from aurac.curves.display import count, counted, interval, percent, size
from aurac.records.hub import base_name, base_note, front_matter, loading_snippet, to_yaml
from aurac.records.reader import inside
from aurac.show.escape import markdown, markdown_fence
from aurac.show.findings import truncation
from aurac.show.sentences import area_sentence
from aurac.show.table import Cell, estimate, number, rank_cell, table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub import EvalResult

    from aurac.analysis.choice_rows import Choice, RankRow
    from aurac.records.results_file import AdapterRecord, Area
    from aurac.records.run import CurveRow, StoredRun

# The id of a benchmark's task where it is not the name of the data set's configuration
# (https://huggingface.co/docs/hub/eval-results).
TASK_IDS = {"openai/gsm8k": "gsm8k"}
_NAMED = 3  # tasks in the first lines
# Titles of `aurac.adapters.methods`, which reports do not load; a test holds them equal.
METHODS = {
    "lora": "LoRA (arXiv 2106.09685)",
    "dylora": "DyLoRA (arXiv 2210.07558)",
    "matryoshka": "MatryoshkaLoRA (arXiv 2605.07850)",
    "nested_loss": "nested losses (after arXiv 2205.13147)",
}


def card(
    run: StoredRun,
    adapter: AdapterRecord,
    own: Mapping[tuple[str, str | None], RankRow],
    *,
    brief: bool = False,
) -> str | None:
    """The `README.md` of an adapter's repository; None without a curve, and for a family.

    The front matter is what the hub reads: base model, library, tags, and every measured number of
    the adapter's own curve. The text says the same to a reader, in percent. A `brief` card leaves
    single ranks and tests out, as for a run with many tasks. What is said of the smallest rank is
    `own`, by adapter and task: that of this adapter alone.
    """
    curves, default = _curves(run, adapter), _default(run, adapter)
    if not default:
        return None
    base = default[0].base
    found = [result for curve in default for result in _results(run, curve, brief=brief)]
    head = front_matter(adapter.name, base, _method(adapter), found)
    parts = [head, f"# {markdown(adapter.name)}", _opening(run, adapter, default)]
    for curve in default:
        parts += [f"## {markdown(curve.task)}", _sentence(curve)]
        if not brief:
            row = own.get((curve.adapter, curve.task))
            parts += [_table(curve), markdown(_recommended(row.choice) if row else "")]
    published = [
        f"{curve.task}: AURAC {interval(curve.log2)} % with the truncation {truncation(curve)}. "
        "The truncation is part of the result."
        for curve in curves
        if curve.published and curve.log2
    ]
    parts += [_list(published), "## Use it", loading_snippet(base)]
    parts += [base_note(base, measured=True)]
    parts += [_cutting(default[0], own)]
    parts += ["## How it was measured", *_measured(run, adapter, default)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _curves(run: StoredRun, adapter: AdapterRecord) -> list[CurveRow]:
    """An adapter's curves; none of a family, which is not one repository."""
    if adapter.format == "family":
        return []
    rows = (curve for row in run.curves for curve in row.members or (row,))
    return [curve for curve in rows if curve.adapter == adapter.name and curve.ranks]


def _default(run: StoredRun, adapter: AdapterRecord) -> list[CurveRow]:
    return [curve for curve in _curves(run, adapter) if curve.is_default]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(line)}" for line in lines)


def _recommended(choice: Choice) -> str:
    """What was shown of the ranks; without a margin only what is not shown to be above the base."""
    above = [configuration.above_base for configuration in choice.configurations]
    if choice.declared or (above and all(each is False for each in above)):
        return " ".join(choice_sentences(choice, own=True))
    if choice.best is None or choice.best.above_base is not False:
        return ""
    return f"Rank {choice.best.rank}, the most accurate, is not shown to be above the base."


def _cutting(curve: CurveRow, own: Mapping[tuple[str, str | None], RankRow]) -> str:
    """The command that cuts the adapter to its recommended rank; empty where none is smaller."""
    row = own.get((curve.adapter, curve.task))
    if row is None or row.rank is None or row.rank >= curve.ranks[-1]:
        return ""
    scale = "" if curve.rescale == "not recorded" else f" --rescale {curve.rescale}"
    return markdown_fence(
        f"# in this folder: a plain PEFT adapter of the rank recommended above\n"
        f"aurac truncate . --rank {row.rank} --basis {curve.basis}{scale} --out ../rank-{row.rank}",
        2000,
        "sh",
    )


def _results(run: StoredRun, curve: CurveRow, *, brief: bool) -> list[EvalResult]:
    metric = curve.metric.split(",")[0]
    results = [
        _result(run, curve, "aurac", f"AURAC, {axis} axis", area, {})
        for axis, area in (("log2", curve.log2), ("linear", curve.linear))
        if area
    ]
    for at, rank in list(enumerate(curve.ranks))[-1 if brief else 0 :]:
        title = f"{one_line(metric)} at rank {rank}"
        results.append(_result(run, curve, metric, title, curve.point(at), {"rank": rank}))
    return results


def _result(
    run: StoredRun, curve: CurveRow, kind: str, title: str, value: Area, more: dict[str, Any]
) -> EvalResult:
    from huggingface_hub import EvalResult

    task = run.task(curve.task)
    ends = {"low_95": value.low, "high_95": value.high}
    kept = ("num_fewshot", "limit", "documents_sha256", "prompts_sha256")
    basis = one_line(curve.basis)
    details = {key: getattr(task, key) for key in kept if getattr(task, key) is not None}
    return EvalResult(
        task_type="text-generation",
        dataset_type=one_line((_dataset(curve) or (curve.task,))[0]),
        dataset_name=one_line(curve.task),
        dataset_args={"documents": curve.n_docs, **details},
        metric_type=one_line(kind),
        metric_name=title,
        metric_value=round(value.value, 6),
        metric_args={
            "metric": one_line(curve.metric),
            **more,
            **({} if curve.whole else {"basis": basis, "rescale": one_line(curve.rescale)}),
            **{name: round(end, 6) for name, end in ends.items() if end is not None},
        },
    )


def eval_results(run: StoredRun, adapter: AdapterRecord) -> str | None:
    """`.eval_results/aurac.yaml` of an adapter's repository: percent at the highest rank.

    None without a data set of the hub that was evaluated as a whole. The form is that of
    https://huggingface.co/docs/hub/eval-results.
    """
    entries = []
    for curve in _default(run, adapter):
        task, dataset = run.task(curve.task), _dataset(curve)
        if dataset and not task.limit:
            shots = "default" if task.num_fewshot is None else task.num_fewshot
            entry = {
                "dataset": {"id": dataset[0], "task_id": dataset[1]},
                "value": round(100 * curve.accuracy[-1], 4),
                "date": run.provenance[0].finished,
                "notes": f"{one_line(curve.metric)} of lm-eval's {one_line(curve.task)}, {shots} "
                f"few-shot examples, adapter at rank {curve.ranks[-1]}, aurac {run.version}",
            }
            entries.append({key: value for key, value in entry.items() if value is not None})
    return to_yaml(entries) if entries else None


def _dataset(curve: CurveRow) -> tuple[str, str] | None:
    """The hub's id of the task's data set and of the task in it; None where it is not known."""
    if curve.source is None:
        return None
    where = curve.source.results.task(curve.task).requests
    try:
        path = inside(curve.source.folder, where or "")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            config = json.loads(next(lines))["config"]
    except (OSError, EOFError, ValueError, KeyError, StopIteration):
        return None
    dataset, name = str(config.get("dataset_path")), str(config.get("dataset_name") or "default")
    return (dataset, TASK_IDS.get(dataset, name)) if dataset.count("/") == 1 else None


def _opening(run: StoredRun, adapter: AdapterRecord, curves: Sequence[CurveRow]) -> str:
    curve, method = curves[0], METHODS.get(str(_method(adapter)), "low-rank")
    rank, base = adapter.trained_rank or curve.ranks[-1], base_name(curve.base)
    nested = adapter.nested_ranks or []
    trained = f", trained for ranks {', '.join(map(str, nested))}" if len(nested) > 1 else ""
    cut = " It can be cut to a smaller rank without training; this card says what that costs."
    on = ", ".join(f"{_documents(run, each)} of {each.task}" for each in curves[:_NAMED])
    on += f" and of {counted(len(curves) - _NAMED, 'other task')}" if curves[_NAMED:] else ""
    text = f"{method} adapter of rank {rank} for {base}{trained}."
    if adapter.derived:
        text = adapter.derived.sentence(rank, method, base)
    return markdown(f"{text}{cut if len(curve.ranks) > 1 else ''} Measured on {on}.")


def _method(adapter: AdapterRecord) -> str | None:
    """How it, or the adapter that it was cut from, was trained."""
    trained = adapter.derived.trained if adapter.derived else None
    return trained.method if trained else adapter.method


def _documents(run: StoredRun, curve: CurveRow) -> str:
    first = "the first " if run.task(curve.task).limit else ""
    return f"{first}{count(curve.n_docs)} documents"


def _sentence(curve: CurveRow) -> str:
    base = "" if curve.baseline is None else f" The base has {percent(curve.baseline)} %."
    where = f"over ranks {', '.join(map(str, curve.ranks))}"
    area = (
        "AURAC (area under the rank-accuracy curve, log2 axis) with its 95 % interval: "
        f"{area_sentence(curve)}, {where}, on {count(curve.n_docs)} documents."
    )
    one_rank = f"Measured at rank {curve.ranks[-1]} on {count(curve.n_docs)} documents."
    return markdown(f"{area if len(curve.ranks) > 1 else one_rank}{base}")


def _table(curve: CurveRow) -> str:
    rows = [
        (rank_cell(rank), estimate(curve.point(at)), number(parameters), Cell(size(amount)))
        for at, (rank, parameters, amount) in enumerate(
            zip(curve.ranks, curve.parameters, curve.bytes, strict=True)
        )
    ]
    titles = ("rank", f"{curve.metric} in percent [95 %]", "parameters", "size")
    return table("", "", rows, numeric=titles).markdown()


def _measured(run: StoredRun, adapter: AdapterRecord, curves: Sequence[CurveRow]) -> list[str]:
    lines = [f"truncation: {'; '.join(dict.fromkeys(truncation(curve) for curve in curves))}"]
    for curve in curves:
        task = run.task(curve.task)
        shots = "default" if task.num_fewshot is None else task.num_fewshot
        lines.append(
            f"{curve.task}: {_documents(run, curve)}, {shots} few-shot examples, "
            f"documents {(task.documents_sha256 or 'not recorded')[:16]}"
        )
    first = run.provenance[0]
    base = first.base
    facts = {
        "base": f"{base_name(base.name)}, SHA-256 {base.sha256}"
        if base.name or base.sha256
        else None,
        "adapter SHA-256": adapter.sha256,
        "numeric type and device": ", ".join(str(x) for x in (first.dtype, first.device) if x),
        "aurac": run.version,
    }
    lines += [f"{name}: {value}" for name, value in facts.items() if value]
    # A path of this machine says nothing to others: its last part does.
    typed = re.sub(r"(?<![^\s=,])/[^\s=,]*/(?=[^\s=,/]+)", "", first.command or "")
    command = [markdown_fence(typed, 2000, "sh")] if typed else []
    limits = (
        "Intervals are over documents and conditional on this checkpoint: they do not say how "
        "another training run would have done."
    )
    return [_list(lines), *command, limits]
