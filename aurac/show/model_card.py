"""A model card for each adapter's repository on the hub, with its results as a `model-index`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from aurac.analysis.sentences import choice_sentences
from aurac.curves.display import count, counted, interval, percent, size
from aurac.records import hub
from aurac.records.cut import EXPORTED, Derived, TrainingRecord
from aurac.show.escape import markdown, markdown_fence
from aurac.show.findings import truncation
from aurac.show.table import Cell, estimate, number, table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from huggingface_hub import EvalResult

    from aurac.analysis.choice_rows import Choice, RankRow
    from aurac.records.results_file import AdapterRecord, Area, TaskRecord
    from aurac.records.run import CurveRow, StoredRun

# The id of a benchmark's task where it is not the name of the data set's configuration
# (https://huggingface.co/docs/hub/eval-results).
TASK_IDS = {"openai/gsm8k": "gsm8k"}
RESULTS = ".eval_results.yaml"  # how the file of a card's results ends
_NAMED = 3  # tasks in the first lines
_NOT_THESE = " The numbers are of a cut with the trained P, not of this folder as PEFT loads it."


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
    how = ", with the trained P" if _with_p(adapter, default[0]) else ""
    found = [x for curve in default for x in _results(run, curve, how, brief=brief)]
    terms = adapter.licence, adapter.licence_name, adapter.licence_link
    licence = hub.Licence(*(text or None for text in terms))
    head = hub.front_matter(adapter.name, default[0].base, _method(adapter), found, licence=licence)
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
    parts += [_list(published), "## Use it", *_use(run, adapter, default, own)]
    parts += ["## How it was measured", *_measured(run, adapter, default)]
    return "\n\n".join(part for part in parts if part) + "\n"


def cuts(run: StoredRun, adapter: AdapterRecord) -> Iterator[tuple[StoredRun, AdapterRecord]]:
    """What `aurac truncate` makes of the adapter at each smaller rank, with the results of it.

    One with a trained P is cut at its own rank, too. The parent's hash and the cut identify such
    an adapter; its own hash is not known.
    """
    default = _default(run, adapter)
    curves = [c for c in default if c.full_name == default[0].full_name and c.rescale in EXPORTED]
    whole = adapter.trained_rank if adapter.sha256 and not adapter.derived else None
    most = (whole or 0) - (not any(_with_p(adapter, curve) for curve in curves))
    for rank in sorted({rank for curve in curves for rank in curve.ranks if rank <= most}):
        made = Derived(
            basis=curves[0].basis,
            rescale=curves[0].rescale,
            rank=rank,
            from_rank=whole,
            from_sha256=adapter.sha256,
            trained=TrainingRecord(method=adapter.method) if adapter.nested_ranks else None,
        )
        name = f"{adapter.name}, rank {rank}"
        cut = structs.replace(adapter, name=name, trained_rank=rank, sha256=None, derived=made)
        rows = tuple(curve.at_rank(rank, name) for curve in curves if rank in curve.ranks)
        yield replace(run, curves=rows), cut


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
        alone = " The adapter is judged by itself here, not against others." * choice.declared
        return " ".join(choice_sentences(choice, own=True)) + alone
    if choice.best is None or choice.best.above_base is not False:
        return ""
    return f"Rank {choice.best.rank}, the most accurate, is not shown to be above the base."


def _with_p(adapter: AdapterRecord, curve: CurveRow) -> bool:
    """Whether it was measured with a P that is not in its weights, as it is in those of a cut."""
    by_svd = curve.basis in ("svd", "energy") and curve.rescale == "keep"  # of B · P · A
    nested = adapter.method == "matryoshka" and bool(adapter.nested_ranks)
    return (curve.rescale == "trained" or (nested and by_svd)) and not adapter.derived


def _use(
    run: StoredRun,
    adapter: AdapterRecord,
    curves: Sequence[CurveRow],
    own: Mapping[tuple[str, str | None], RankRow],
) -> list[str]:
    """How to load what was measured, and to cut the adapter to a smaller rank."""
    curve = curves[0]
    row, note = own.get((curve.adapter, curve.task)), hub.base_note(curve.base, measured=True)
    rank, whole = row.rank if row else None, adapter.trained_rank or curve.ranks[-1]
    smaller = [each for each in curve.ranks if each < whole]
    cut = Derived(basis=curve.basis, rescale=curve.rescale, rank=rank or curve.ranks[-1])
    with_p, said = _with_p(adapter, curve), ""
    if with_p:
        said = "The numbers above are with P. "
    elif curve.rescale == "fit":
        said = (
            "The numbers above are with fitted factors, which the files of adapters leave out.\n\n"
        )
    loading = said + hub.loading_snippet(curve.base, with_p=cut if with_p else None)
    loading += "" if with_p else _loaded_so(run, adapter, curves)
    if with_p or not smaller or curve.rescale not in EXPORTED:
        return [loading, note]
    recommended = rank in smaller
    cut = structs.replace(cut, rank=rank if recommended else smaller[-1])
    which = "the rank recommended above" if recommended else f"a smaller rank, here {cut.rank}"
    command = f"# in this folder: a plain PEFT adapter of {which}\n"
    command += cut.command(".", f"../rank-{cut.rank}")
    return [loading, note, markdown_fence(command, 2000, "sh")]


def _loaded_so(run: StoredRun, adapter: AdapterRecord, curves: Sequence[CurveRow]) -> str:
    """The accuracy as PEFT loads the weights, where the table does not have it; after a snippet."""
    top, cut = curves[0].ranks[-1], truncation(curves[0])
    others = [c for c in curves if not c.whole and (c.basis, c.rescale) != ("prefix", "rule")]
    if adapter.derived and adapter.sha256 is None:  # a `cut`
        return ""
    if top < (adapter.trained_rank or top):
        return f"\n\nIt loads rank {adapter.trained_rank}, which was not measured."
    rows = [(curve, _as_loaded(_curves(run, adapter), curve)) for curve in others]
    known = [f"{interval(row.point(-1))} % on {row.task}" for own, row in rows if own is not row]
    text = f"Loaded so, it has {', '.join(known)}." if known else "Loaded so, it was not measured."
    if curves[0].rescale != "fit":
        text += f" Rank {top} above ({cut}) is the same function with other rounding."
    return f"\n\n{markdown(text)}" if others else ""


def _results(run: StoredRun, curve: CurveRow, suffix: str, *, brief: bool) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    told, metric = run.task(curve.task).to_dict(), one_line(curve.metric.split(",")[0])
    kept = ("num_fewshot", "chat_template", "system_instruction", "limit", "documents_sha256")
    details = {key: told[key] for key in (*kept, "prompts_sha256") if told.get(key) is not None}
    how = {"basis": one_line(curve.basis), "rescale": one_line(curve.rescale)}
    values: list[tuple[str, str, dict[str, Any], Area]] = [
        ("aurac", f"AURAC, {axis} axis", {"axis": axis, "ranks": list(curve.ranks)}, area)
        for axis, area in (("log2", curve.log2), ("linear", curve.linear))
        if area
    ]
    for at, rank in list(enumerate(curve.ranks))[-1 if brief else 0 :]:
        values.append((metric, f"{metric} at rank {rank}", {"rank": rank}, curve.point(at)))
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=one_line(_dataset(curve) or curve.task),
            dataset_name=one_line(curve.task),
            dataset_split=run.provenance[0].settings.split,
            dataset_args={"documents": curve.n_docs, **details},
            metric_type=kind,
            metric_name=f"{title}{suffix}",
            metric_value=round(value.value, 6),
            metric_args={
                "metric": one_line(curve.metric),
                **more,
                **({} if curve.whole else how),
                **({} if value.low is None else {"low_95": round(value.low, 6)}),
                **({} if value.high is None else {"high_95": round(value.high, 6)}),
            },
        )
        for kind, title, more, value in values
    ]


def eval_results(run: StoredRun, adapter: AdapterRecord) -> str | None:
    """`.eval_results/aurac.yaml` of an adapter's repository: percent at the highest rank.

    None without a data set of the hub of which all documents of the task's own split were
    evaluated. The form is that of https://huggingface.co/docs/hub/eval-results.
    """
    entries = []
    for curve in _default(run, adapter):
        task, header, dataset = run.task(curve.task), curve.header, _dataset(curve)
        cut = curve.rescale == "fit" or curve.ranks[-1] < (adapter.trained_rank or 0)
        if header is None or dataset is None or cut or _with_p(adapter, curve):
            continue
        first, copy = run.provenance[0], header.config.get("custom_dataset")
        split = first.settings.split
        if split != "validation" and not copy and header.original == curve.n_docs:
            shots = "default" if task.num_fewshot is None else task.num_fewshot
            name = str(header.config.get("dataset_name") or "default")
            loaded = _as_loaded(_curves(run, adapter), curve)
            base = ", ".join(filter(None, (hub.base_name(first.base.name), first.dtype)))
            entry = {
                "dataset": {"id": dataset, "task_id": TASK_IDS.get(dataset, name)},
                "value": round(100 * loaded.accuracy[-1], 4),
                "date": first.finished,
                "notes": f"{one_line(curve.metric)} of lm-eval's {one_line(curve.task)}, {shots} "
                f"few-shot examples, {_prompts(task)}, {count(curve.n_docs)} documents, adapter at "
                f"rank {curve.ranks[-1]} ({truncation(loaded)}) on {base}, aurac {run.version}",
            }
            entries.append({key: value for key, value in entry.items() if value is not None})
    return hub.to_yaml(entries) if entries else None


def _as_loaded(every: Iterable[CurveRow], curve: CurveRow) -> CurveRow:
    """The row of the weights as PEFT loads them; where it was not evaluated, that of the curve."""
    same = (row for row in every if (row.task, row.ranks[-1]) == (curve.task, curve.ranks[-1]))
    return next((r for r in same if (r.basis, r.rescale) == ("prefix", "rule")), curve)


def _dataset(curve: CurveRow) -> str | None:
    """The data set on the hub; None where the documents are of no such one."""
    return hub.hub_id(str(curve.header.config.get("dataset_path"))) if curve.header else None


def _opening(run: StoredRun, adapter: AdapterRecord, curves: Sequence[CurveRow]) -> str:
    curve, method = curves[0], hub.method_title(_method(adapter))
    rank, base = adapter.trained_rank or curve.ranks[-1], hub.base_name(curve.base)
    nested = adapter.nested_ranks or []
    trained = f", trained for ranks {', '.join(map(str, nested))}" if len(nested) > 1 else ""
    cut = " It can be cut to a smaller rank without training; this card says what that costs."
    on = ", ".join(f"{_documents(run, each)} of {each.task}" for each in curves[:_NAMED])
    on += f" and of {counted(len(curves) - _NAMED, 'other task')}" if curves[_NAMED:] else ""
    text = f"{method} adapter of rank {rank} for {base}{trained}."
    text = adapter.derived.sentence(rank, method, base) if adapter.derived else text
    text += f"{cut if len(curve.ranks) > 1 else ''} Measured on {on}."
    return hub.linked(markdown(text + _NOT_THESE * _with_p(adapter, curve)))


def _method(adapter: AdapterRecord) -> str | None:
    """How it, or the adapter that it was cut from, was trained."""
    trained = adapter.derived.trained if adapter.derived else None
    return trained.method if trained else adapter.method


def _prompts(task: TaskRecord) -> str:
    """Chat template, system prompt and, where they were given, generation options."""
    said = [f"{'with' if task.chat_template else 'no'} chat template"]
    said.append(f"system prompt: {x}" if (x := task.system_instruction) else "no system prompt")
    said += [f"generation options {x}"] if (x := task.gen_kwargs) else []
    return ", ".join(one_line(each, 200) for each in said)


def _documents(run: StoredRun, curve: CurveRow) -> str:
    """How many, of which split if one was chosen, and which part of it."""
    split, n_docs, first, drawn = run.provenance[0].settings.split, curve.n_docs, "", ""
    if curve.header is None or curve.header.original != n_docs:
        first = "the first " if run.task(curve.task).limit else ""
        drawn = "randomly chosen " if not first and curve.documents else ""
    return f"{first}{count(n_docs)} {drawn}{f'{split} ' if split else ''}documents"


def _sentence(curve: CurveRow) -> str:
    base = "" if curve.baseline is None else f" The base has {percent(curve.baseline)} %."
    where = f"over ranks {', '.join(map(str, curve.ranks))}"
    known = f"{interval(curve.log2)} %" if curve.log2 else curve.score_reason or "not known"
    area = (
        "AURAC (area under the rank-accuracy curve, log2 axis) with its 95 % interval: "
        f"{known}, {where}, on {count(curve.n_docs)} documents."
    )
    one_rank = f"Measured at rank {curve.ranks[-1]} on {count(curve.n_docs)} documents."
    return markdown(f"{area if len(curve.ranks) > 1 else one_rank}{base}")


def _table(curve: CurveRow) -> str:
    rows = [
        (number(rank), estimate(curve.point(at)), number(numbers), Cell(size(curve.bytes[at])))
        for at, (rank, numbers) in enumerate(zip(curve.ranks, curve.parameters, strict=True))
    ]
    titles = ("rank", f"{curve.metric} in percent [95 %]", "parameters", "size")
    return table("", "", rows, numeric=titles).markdown()


def _measured(run: StoredRun, adapter: AdapterRecord, curves: Sequence[CurveRow]) -> list[str]:
    first, typed = run.provenance[0], list[str]()
    how = "; ".join(dict.fromkeys(truncation(curve) for curve in curves))
    if adapter.derived and adapter.sha256 is None:  # a `cut`
        how = "measured as this rank of the whole adapter; the first command writes these weights"
        whole = adapter.path if adapter.path and not Path(adapter.path).is_absolute() else None
        whole = whole or adapter.name.rpartition(", rank ")[0]
        out = f"{Path(whole).name or 'adapter'}-rank-{adapter.trained_rank}"
        typed.append(adapter.derived.command(whole, out))
    lines = [f"truncation: {how}"]
    for curve in curves:
        task = run.task(curve.task)
        shots = "default" if task.num_fewshot is None else task.num_fewshot
        lines.append(
            f"{curve.task}: {_documents(run, curve)}, {shots} few-shot examples, "
            f"documents {(task.documents_sha256 or 'not recorded')[:16]}"
        )
    facts = {
        "prompts": _prompts(task),
        "base": f"{hub.base_name(first.base.name)}, SHA-256 {first.base.sha256 or 'not recorded'}",
        "adapter SHA-256": adapter.sha256,
        "numeric type and device": ", ".join(str(x) for x in (first.dtype, first.device) if x),
        "aurac": run.version,
    }
    lines += [f"{name}: {value}" for name, value in facts.items() if value]
    if first.command:  # a path of this machine says nothing to others: its last part does
        typed.append(re.sub(r"(?<![^\s=,])/[^\s=,]*/(?=[^\s=,/]+)", "", first.command))
    limits = (
        "Intervals are over documents and conditional on this checkpoint: they do not say how "
        "another training run would have done."
    )
    commands = markdown_fence("\n".join(typed), 2000, "sh") if typed else ""
    return [_list(lines), commands, limits, hub.ABOUT]
