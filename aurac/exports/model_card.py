"""An adapter's repository on the hub: the model card, and its results as the hub reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData

from aurac.adapters.methods import METHODS
from aurac.analysis import Analysis
from aurac.curves import numbers
from aurac.curves.curve import Curve
from aurac.curves.names import truncate_options
from aurac.models.packaged import hub_id
from aurac.records.manifest import AdapterInfo
from aurac.records.run import StoredRun
from aurac.show import wording
from aurac.show.views import View

_ELSEWHERE = re.compile(r"(?<![^\s=,])/[^\s=,]*/(?=[^\s=,/]+)")  # folders of this machine

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def default_curves(run: StoredRun, adapter: AdapterInfo) -> dict[str, Curve]:
    """Task → the adapter's curve under its default cut, which is the first; none of a family."""
    known = [c for c in run.curves if c.ranks and adapter.format != "family"]
    own = [c for c in known if c.adapter == adapter.name]
    first = {curve.task: curve for curve in own[::-1]}
    return {str(curve.task): curve for curve in own if first[curve.task] is curve}


def card(
    run: StoredRun, adapter: AdapterInfo, curves: Mapping[str, Curve], analysis: Analysis
) -> str:
    """The `README.md` of an adapter's repository."""
    first = next(iter(curves.values()))
    revision = str(adapter.base).partition("@")[2] if hub_id(adapter.base) else ""
    data = ModelCardData(
        base_model=(repository := hub_id(adapter.base)),
        library_name="peft",
        license=adapter.licence,
        pipeline_tag="text-generation",
        tags=["lora", adapter.method or "lora", "aurac"],
    )
    made = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        adapter=adapter,
        method=method.title if (method := METHODS.get(adapter.method or "")) else "LoRA",
        base=adapter.base if repository else Path(str(adapter.base)).name,
        repository=repr(repository or "BASE_MODEL") + (f", {revision=}" if revision else ""),
        tasks=_tasks(curves, analysis),
        percent=numbers.interval,
        cut="".join(f" {word}" for word in truncate_options(first.basis, first.rescale)),
        with_p=not adapter.folded and any(c.rescale == "trained" for c in curves.values()),
        made=run.provenance,
        command=_ELSEWHERE.sub("", str(run.provenance.get("command") or "")),
    )
    return str(made)


def _tasks(curves: Mapping[str, Curve], analysis: Analysis) -> list[dict[str, Any]]:
    """Of each task its row of scores, with its points and how a value is written."""
    points, tasks = analysis.records("points"), []
    for score in analysis.records("scores"):
        if (curve := curves.get(str(score["task"]))) is None:  # the mean over tasks
            continue
        own = [p for p in points if p["task"] == curve.task and p["rank"]]
        factors = ", ".join(f"{x:.4g} at rank {r}" for r, x in sorted(curve.factors.items()))
        advice = [sentence for sentence, _ in wording.advice(View(analysis, score["task"]), None)]
        told = {
            "factors": factors,
            "over": ", ".join(map(str, analysis.ranks[str(curve.task)])),
            "curve": curve,
            "said": numbers.metric_value if curve.rolling else numbers.interval,
            "points": own,
            "advice": " ".join(advice),
        }
        tasks.append({**score, **told})
    return tasks


def hub_entries(
    run: StoredRun,
    curves: Mapping[str, Curve],
    analysis: Analysis,
    told: Mapping[str, Mapping[str, Any]],
) -> dict[str, EvalResultEntry]:
    """Task → the accuracy in percent of the cut that is shipped, for a data set of the hub.

    The rank that is shipped is the largest of those to ship on each task, which passes on all of
    them, or the trained one. A task of which only some examples were evaluated, or examples of
    local files, has no entry. `told` is what the run kept of each task.
    """
    accuracies = {task: curve for task, curve in curves.items() if not curve.rolling}
    ranks = [record["rank"] for record in analysis.records("recommended")]
    enough = max(ranks, default=None) if len(ranks) == len(accuracies) and all(ranks) else None
    entries = {}
    for task, curve in accuracies.items():
        rank = enough or curve.trained_rank
        records = [told[leaf.name] for leaf in run.leaves(run.task(task))]
        configs = [record["config"] for record in records]
        sources = {hub_id(config.get("dataset_path")) for config in configs}
        whole = curve.n_docs == sum(record["original"] for record in records)
        whole &= not any(config.get("custom_dataset") for config in configs)
        if len(sources) > 1 or None in sources or not whole or rank not in curve.ranks:
            continue
        shots, split = run.task(task).num_fewshot, configs[0].get("test_split")
        notes = f"rank {rank} of {curve.trained_rank} ({curve.cut}), {curve.metric}, "
        made = run.provenance
        entries[task] = EvalResultEntry(
            dataset_id=str(sources.pop()),
            task_id=task,
            value=round(100 * curve.accuracy[curve.ranks.index(rank)], 4),
            dataset_revision=records[0].get("dataset_revision"),
            date=made["started"],
            notes=f"{notes}{shots}-shot, split {split}, lm-eval {made['versions']['lm-eval']}",
        )
    return entries
