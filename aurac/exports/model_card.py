"""A model card for an adapter's repository on the hub, with its results as a `model-index`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters.methods import METHODS
from aurac.analysis import Question, analyse
from aurac.curves.curve import Curve
from aurac.curves.display import truncate_options
from aurac.models.packaged import hub_id
from aurac.records.manifest import AdapterInfo
from aurac.records.run import StoredRun
from aurac.show import numbers

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_ELSEWHERE = re.compile(r"(?<![^\s=,])/[^\s=,]*/(?=[^\s=,/]+)")  # folders of this machine

TEMPLATE = """\
---
{{ card_data }}
---

# {{ adapter.name }}

{{ method }} adapter of rank {{ adapter.trained_rank }} for {{ base }}. AURAC is the area under the
rank-accuracy curve over log2 of the rank, with its 95 % interval.
{% for task in tasks %}
## {{ task.task }}

{% if not task.rolling %}AURAC {{ percent(task.aurac, task.low, task.high) }} % on {{ task.examples }} examples. \
{% endif %}The metric is {{ task.metric }}, the cut {{ task.cut }}.\
{% if task.factors %} Its scale is the trained one times {{ task.factors }}.{% endif %}\
{% if task.base is not none %} The base has {{ task.said(task.base, none, none) }}{{ "" if task.rolling else " %" }}.{% endif %}

| rank | {{ "value" if task.rolling else "accuracy [95 %] in %" }} | MB |
|---:|---:|---:|
{% for p in task.points -%}
| {{ p.rank }} | {{ task.said(p.accuracy, p.low, p.high) }} | {{ "%.2f" % (p.bytes / 1e6) if p.bytes else "" }} |
{% endfor %}{% endfor %}
## Use it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({{ repository }})
model = PeftModel.from_pretrained(base, ".")  # this folder, or its repository on the hub
```
{% if with_p %}
PEFT does not apply the trained P, with which the numbers above were measured: publish what
`aurac truncate . --rank {{ adapter.trained_rank }}{{ cut }} --out FOLDER` writes.
{% endif %}
`aurac truncate . --rank R{{ cut }} --out FOLDER` writes a plain PEFT adapter of a smaller rank.

## How it was measured

- base: {{ base }}, SHA-256 {{ made.base_sha256 }}
- adapter: SHA-256 {{ adapter.sha256 }}
- {{ made.dtype }} on {{ made.device }}; aurac {{ made.versions.aurac }}, lm-eval {{ made.versions["lm-eval"] }}
{% if command %}- `{{ command }}`
{% endif %}
Intervals are over examples and conditional on this checkpoint: they do not say how another training
run would have done.
"""  # noqa: E501 - a row of a table is one line


def card(run: StoredRun, adapter: AdapterInfo) -> str | None:
    """The `README.md` of an adapter's repository; None of a family, or without a curve."""
    from huggingface_hub import ModelCard, ModelCardData

    own = [curve for curve in run.curves[::-1] if curve.adapter == adapter.name]
    curves = {str(curve.task): curve for curve in own}
    if not curves or adapter.format == "family":
        return None
    tasks = _tasks(curves)
    revision = str(adapter.base).partition("@")[2] if hub_id(adapter.base) else ""
    data = ModelCardData(
        base_model=(repository := hub_id(adapter.base)),
        library_name="peft",
        license=adapter.licence,
        pipeline_tag="text-generation",
        model_name=adapter.name,
        tags=["lora", adapter.method or "lora", "aurac"],
        eval_results=[result for task in tasks for result in _results(task)],
    )
    made = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        adapter=adapter,
        method=method.title if (method := METHODS.get(adapter.method or "")) else "LoRA",
        base=adapter.base if repository else Path(str(adapter.base)).name,
        repository=repr(repository or "BASE_MODEL") + (f", {revision=}" if revision else ""),
        tasks=tasks,
        percent=numbers.interval,
        cut="".join(f" {word}" for word in truncate_options(own[-1].basis, own[-1].rescale)),
        with_p=any(curve.rescale == "trained" for curve in curves.values()),
        made=run.provenance,
        command=_ELSEWHERE.sub("", str(run.provenance.get("command") or "")),
    )
    return str(made)


def _tasks(curves: Mapping[str, Curve]) -> list[dict[str, Any]]:
    """Of each task its row of scores, with its points and how a value is written."""
    analysis = analyse(list(curves.values())[::-1], Question())
    points, tasks = analysis.records("points"), []
    for score in analysis.records("scores"):
        if (curve := curves.get(str(score["task"]))) is None:  # the mean over tasks
            continue
        own = [p for p in points if p["task"] == curve.task and p["rank"]]
        said = _value if curve.rolling else numbers.interval
        factors = ", ".join(f"{x:.4g} at rank {r}" for r, x in sorted(curve.factors.items()))
        told = {
            "factors": factors,
            "metric": curve.metric,
            "rolling": curve.rolling,
            "said": said,
            "points": own,
        }
        tasks.append({**score, **told})
    return tasks


def _value(value: float, *_interval: object) -> str:
    return numbers.metric_value(value)


def _results(task: dict[str, Any]) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    metric = task["metric"].partition(",")[0]
    named = [("AURAC, log2 axis", "aurac", task["aurac"])]
    named += [(f"{metric} at rank {p['rank']}", metric, p["accuracy"]) for p in task["points"]]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task["task"],
            dataset_name=task["task"],
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
            metric_args={"metric": task["metric"], "cut": task["cut"]},
        )
        for name, kind, value in named
        if value is not None
    ]
