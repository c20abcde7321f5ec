"""A model card for each adapter's repository on the hub, with its results as a `model-index`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.report.build import command_line
from aurac.report.comparisons import certificate
from aurac.report.escape import markdown, markdown_fence, one_line
from aurac.report.tables import count, interval, percent, points, size
from aurac.report.text import rank_sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub import EvalResult

    from aurac.report.model import CurveRow, Interval, Run


METHODS = {
    "lora": "LoRA (arXiv 2106.09685)",
    "dylora": "DyLoRA (arXiv 2210.07558)",
    "matryoshka": "MatryoshkaLoRA (arXiv 2605.07850)",
}


def card(
    run: Run, adapter: Mapping[str, Any], *, delta: float, note: str = "", brief: bool = False
) -> str | None:
    """The `README.md` of an adapter's repository; None for an adapter without a curve.

    The front matter is what the hub reads: base model, library, tags, and every measured number of
    the adapter's own inference. The text says the same to a reader.

    Args:
        run: What was measured.
        adapter: One of the run's adapters.
        delta: The loss that certificates tolerate.
        note: Whose margin that is.
        brief: Leave single ranks and certificates out, as for a run with many tasks.
    """
    name = str(adapter.get("name"))
    curves = [
        curve
        for row in run.curves
        for curve in row.members or (row,)
        if curve.adapter == name and curve.ranks
    ]
    default = [curve for curve in curves if curve.is_default]
    if not default:
        return None
    head = _front_matter(run, adapter, default, brief=brief)
    parts = [f"---\n{head}---", f"# {markdown(name)}", _opening(adapter, default[0])]
    for curve in default:
        parts += [f"## {markdown(curve.task)}", _sentence(curve)]
        if not brief:
            parts += [
                _table(curve),
                markdown(rank_sentence(curve, certificate(curve, delta), "this adapter")),
            ]
            parts.append(_tolerance(delta, note))
    parts += _published(curves)
    parts += ["## Use it", _usage(default[0]), "## How it was measured"]
    parts += [*_measured(run, adapter, default)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(
    run: Run, adapter: Mapping[str, Any], curves: Sequence[CurveRow], *, brief: bool
) -> str:
    from huggingface_hub import ModelCardData

    method = adapter.get("method")
    data = ModelCardData(
        base_model=one_line(curves[0].base) if curves[0].base else None,
        library_name="peft",
        model_name=one_line(adapter.get("name")),
        tags=["lora", *([one_line(method)] if method not in (None, "lora") else []), "aurac"],
        eval_results=[found for curve in curves for found in _results(run, curve, brief=brief)],
    )
    return _yaml(data.to_dict())  # type: ignore[no-untyped-call]


def _yaml(content: Mapping[str, Any]) -> str:
    """YAML, by the fast writer where it was built."""
    import yaml

    writer = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(dict(content), Dumper=writer, sort_keys=False, allow_unicode=True))


def _results(run: Run, curve: CurveRow, *, brief: bool) -> list[EvalResult]:
    """AURAC on both axes, and the accuracy at each rank."""
    metric = curve.metric.split(",")[0]
    found = [
        _result(run, curve, "aurac", f"AURAC, {axis} axis", area, {})
        for axis, area in (("log2", curve.log2), ("linear", curve.linear))
        if area
    ]
    last = len(curve.ranks) - 1
    for at, rank in enumerate(curve.ranks):
        if at == last or not brief:
            value = curve_point(curve, at)
            title = f"{one_line(metric)} at rank {rank}"
            found.append(_result(run, curve, metric, title, value, {"rank": rank}))
    return found


def curve_point(curve: CurveRow, at: int) -> Interval:
    """The accuracy at one of the curve's ranks."""
    from aurac.report.model import Interval

    return Interval(curve.accuracy[at], None, curve.low[at], curve.high[at])


def _result(
    run: Run, curve: CurveRow, kind: str, title: str, value: Interval, more: Mapping[str, Any]
) -> EvalResult:
    from huggingface_hub import EvalResult

    task = run.task(curve.task)
    ends = {"low_95": value.low, "high_95": value.high}
    kept = ("num_fewshot", "limit", "documents_sha256", "prompts_sha256")
    return EvalResult(
        task_type="text-generation",
        dataset_type=one_line(curve.task),
        dataset_name=one_line(curve.task),
        dataset_args={
            "documents": curve.n_docs,
            **{k: task[k] for k in kept if task.get(k) is not None},
        },
        metric_type=one_line(kind),
        metric_name=title,
        metric_value=round(value.value, 6),
        metric_args={
            "metric": one_line(curve.metric),
            **more,
            "basis": one_line(curve.basis),
            "rescale": one_line(curve.rescale),
            **{name: round(end, 6) for name, end in ends.items() if end is not None},
        },
    )


def _opening(adapter: Mapping[str, Any], curve: CurveRow) -> str:
    method = METHODS.get(str(adapter.get("method")), "low-rank")
    rank = adapter.get("trained_rank") or curve.ranks[-1]
    nested = adapter.get("nested_ranks") or []
    trained = f", trained for ranks {', '.join(map(str, nested))}" if len(nested) > 1 else ""
    return markdown(
        f"{method} adapter of rank {rank} for {curve.base or 'its base model'}{trained}. It can be "
        "cut to a smaller rank without training; this card says what that costs."
    )


def _sentence(curve: CurveRow) -> str:
    area = interval(curve.log2) if curve.log2 else curve.score_reason or "not known"
    base = "" if curve.baseline is None else f" The base has {percent(curve.baseline)} %."
    return markdown(
        f"AURAC (area under the rank-accuracy curve, log2 axis) in percent with its 95 % interval: "
        f"{area}, over ranks {', '.join(map(str, curve.ranks))} and {count(curve.n_docs)} "
        f"documents.{base}"
    )


def _table(curve: CurveRow) -> str:
    lines = [
        f"| rank | {markdown(curve.metric)} in percent \\[95 %\\] | parameters | size |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for at, rank in enumerate(curve.ranks):
        cells = (
            str(rank),
            interval(curve_point(curve, at)),
            count(curve.parameters[at]),
            size(curve.bytes[at]),
        )
        lines.append(f"| {' | '.join(map(markdown, cells))} |")
    return "\n".join(lines)


def _tolerance(delta: float, note: str) -> str:
    return (
        "Non-inferiority by one-sided paired tests downward from the highest rank, with a margin "
        f"of {points(delta)} and an error rate of 5 %, for this adapter alone. {note}".rstrip()
    )


def _published(curves: Sequence[CurveRow]) -> list[str]:
    """The published inference, where it is another one."""
    lines = [
        f"{curve.task}: AURAC {interval(curve.log2)} under the published inference "
        f"({curve.rescale}) instead of the default one. The scale used at inference is part of the "
        "result."
        for curve in curves
        if curve.role == "published" and curve.log2
    ]
    return ["\n".join("- " + markdown(line) for line in lines)] if lines else []


def _usage(curve: CurveRow) -> str:
    middle = curve.ranks[len(curve.ranks) // 2]
    said = "" if curve.rescale == "not recorded" else f" --rescale {curve.rescale}"
    code = (
        "# in the folder of this repository; the result is a plain PEFT adapter\n"
        f"aurac truncate . --rank {middle} --basis {curve.basis}{said} --out ../rank-{middle}"
    )
    return markdown_fence(code, 2000).replace("text\n", "sh\n", 1)


def _measured(run: Run, adapter: Mapping[str, Any], curves: Sequence[CurveRow]) -> list[str]:
    inference = ", ".join(dict.fromkeys(curve.inference for curve in curves))
    lines = [f"inference (basis · rescale): {inference}"]
    for curve in curves:
        task = run.task(curve.task)
        limit = " (the first ones of the task)" if task.get("limit") else ""
        shots = task.get("num_fewshot")
        lines.append(
            f"{curve.task}: {count(curve.n_docs)} documents{limit}, "
            f"{'default' if shots is None else shots} few-shot examples, documents "
            f"{str(task.get('documents_sha256') or 'not recorded')[:16]}"
        )
    first = run.provenance[0] if run.provenance else {}
    base = first.get("base") or {}
    facts = {
        "base": f"{base.get('name')}, SHA-256 {base.get('sha256')}" if base else None,
        "adapter SHA-256": adapter.get("sha256"),
        "numeric type and device": ", ".join(
            str(first[key]) for key in ("dtype", "device") if first.get(key)
        ),
        "aurac": run.version,
    }
    lines += [f"{name}: {value}" for name, value in facts.items() if value]
    parts = ["\n".join("- " + markdown(line) for line in lines)]
    if first.get("command"):
        parts.append(markdown_fence(command_line(first["command"]), 2000).replace("text", "sh", 1))
    parts.append(
        "Intervals are over documents and conditional on this checkpoint: they do not say how "
        "another training run would have done."
    )
    return parts
