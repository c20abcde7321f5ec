"""Sections on one subject each: an early stop, what serving takes, and how the run was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.curves.display import count, seconds, signed, size
from aurac.records.serving import against
from aurac.show import plots
from aurac.show.documents import cost_of
from aurac.show.findings import ordered, truncation
from aurac.show.render import Block, Code, Collapsed, Section, Text
from aurac.show.sentences import limit_of
from aurac.show.table import NONE, Cell, Table, number, share, table
from aurac.show.tables import rank_titles
from aurac.terminal import one_line

if TYPE_CHECKING:
    from aurac.analysis.record import Changes
    from aurac.records.run import CurveRow, Speed, StoredRun
    from aurac.records.serving import RankCost, ServingRecord
    from aurac.show.documents import Served
    from aurac.show.pictures import Pictures

_MANY_ADAPTERS = 20
_LAST_CALL = ("started", "finished", "seconds")  # cells of earlier calls took time of their own
_MAX_ITEM_COLUMNS = 4
_TASK_KEYS = {
    "task": "name",
    "metric": "metric",
    "few-shot": "num_fewshot",
    "documents": "n_docs",
    "limit": "limit",
    "output": "output_type",
    "version": "version",
    "documents sha256": "documents_sha256",
    "prompts sha256": "prompts_sha256",
}
_ADAPTER_KEYS = {
    "adapter": "name",
    "method": "method",
    "trained rank": "trained_rank",
    "nested ranks": "nested_ranks",
    "rank weights": "weights",
    "scaling rule": "rule",
    "alpha": "alpha",
    "seed": "seed",
    "modules": "modules",
    "update": "update",
    "notes": "notes",
    "path": "path",
    "sha256": "sha256",
}


def serving_blocks(
    run: StoredRun, pictures: Pictures, task: str, curves: Sequence[CurveRow]
) -> list[Block]:
    """A figure and a table for each measurement; none where there is none."""
    blocks: list[Block] = []
    for at, record in enumerate(run.serving):
        measured = [one for curve in curves if (one := cost_of(record, curve))]
        if measured:
            name = f"{pictures.slugs[task]}{f'-{at + 1}' if at else ''}"
            caption = _latency_caption(record, measured)
            blocks += [
                pictures.latency(f"latency-{name}", task, record, measured, caption),
                _serving_table(f"serving-{name}", task, record, measured),
            ]
    return blocks


def _latency_caption(record: ServingRecord, measured: Sequence[Served]) -> str:
    caption = (
        "accuracy against the time of a generated token with the adapter unmerged, measured with "
        f"aurac cost ({one_line(record.conditions, 90)}). Each mark is a rank."
    )
    if record.merged.decode.low is not None:
        caption += " Lines through it are 95 % intervals of the median."
    if any(served.unclear for served in measured):
        caption += " Hollow: the difference to the adapter's largest rank is within noise."
    return f"{caption} Grey dashed line: merged into the base, which takes as long at every rank."


def cost_table(task: str, curves: Sequence[CurveRow], name: str) -> Table | None:
    """Parameters and bytes with the accuracy there: a row for each rank where all cost the same."""

    def cost(curve: CurveRow, at: int) -> tuple[Cell, ...]:
        amount = curve.bytes[at]
        return number(curve.ranks[at]), number(curve.parameters[at]), Cell(size(amount), amount)

    curves, first = ordered(curves), curves[0]
    if len({(curve.ranks, curve.parameters, curve.bytes) for curve in curves}) == 1:
        each = (
            (*cost(first, at), *(share(curve.accuracy[at]) for curve in curves))
            for at in range(len(first.ranks))
        )
        caption = f"{task}: what an adapter costs at each rank, and the accuracy there in percent."
        titles = ("parameters", "size", *(curve.label for curve in curves))
        return table(name, caption, each, "rank", numeric=titles)
    rows = [
        (Cell(curve.label), *cost(curve, at), share(curve.accuracy[at]))
        for curve in curves
        for at in sorted({0, len(curve.ranks) // 2, len(curve.ranks) - 1})
        if curve.ranks and (curve.parameters[at], curve.bytes[at]) != (None, None)
    ]
    caption = f"{task}: what the adapter costs at its lowest, middle and highest rank."
    titles = ("rank", "parameters", "size", "accuracy (%)")
    return table(name, caption, rows, "adapter", numeric=titles) if rows else None


def speed_table(task: str, speeds: Mapping[str, Mapping[int, Speed]], name: str) -> Table | None:
    """Tokens for each second in the model and time for each document, by curve and rank."""
    ranks = sorted({rank for by_rank in speeds.values() for rank in by_rank})
    if not ranks:
        return None
    caption = (
        f"{task}: how fast this run evaluated: tokens computed in each second inside the model, "
        "and wall time for each document. Documents share batches and prefixes, so the time is "
        "not the latency of one answer. Each was timed once (of training seeds this is the "
        "median), beside whatever else the machine did, so differences may be noise; aurac cost "
        "measures serving, with intervals."
    )
    rows = []
    for label, by_rank in speeds.items():
        known = [by_rank.get(rank) for rank in ranks]
        tokens = (Cell(count(s.tokens), s.tokens) if s else Cell(NONE) for s in known)
        times = (Cell(seconds(s.seconds), s.seconds) if s else Cell(NONE) for s in known)
        rows += [(Cell(label), Cell("tokens/s"), *tokens), (Cell(label), Cell("time"), *times)]
    return table(name, caption, rows, "adapter", "measured", numeric=rank_titles(ranks))


def change_table(on: str, changes: Sequence[Changes], name: str) -> Table:
    """Documents gained and lost, one row for each step of each curve; `on` opens the caption."""
    rows = (
        (
            Cell(item.label),
            Cell(f"{a} → {b}", step.upper),
            number(step.gained),
            number(step.lost),
            Cell(signed(step.gained - step.lost), step.gained - step.lost),
            share((step.gained + step.lost) / item.n_docs),
        )
        for item in changes
        for step, (a, b) in zip(item.steps, item.pairs, strict=True)
    )
    caption = f"{on}documents whose score rose or fell in each step."
    titles = ("step", "gained", "lost", "net", "changed (%)")
    return table(name, caption, rows, "adapter", numeric=titles)


def _serving_table(
    name: str, task: str, record: ServingRecord, measured: Sequence[Served]
) -> Table:
    rows = [_serving_row(record, record.merged, plots.MERGED, "")]
    for served in measured:
        shown, full = plots.marked(served.curve), served.cost.full
        rows += [
            _serving_row(record, cost, served.curve.label, against(cost, full), accuracy)
            for cost, accuracy in served.points
            if cost.rank in shown
        ]
    caption = (
        f"{task}: what serving takes, measured with aurac cost on "
        f"{one_line(record.conditions, 90)}, {record.measured[:10]}. Times are medians in "
        f"ms over {record.repeats} rounds with 95 % intervals; a round times the base and every "
        "rank once. The last column is the difference of a token to the adapter's largest rank, "
        "paired by round; within noise: the interval of the difference holds 0."
    )
    numeric = (
        *("rank", "accuracy (%)", "size", "prompt [95 %]", "prompt tokens/s"),
        *("token [95 %]", "tokens/s"),
    )
    return table(name, caption, rows, "adapter", numeric=numeric, last=("token − largest rank",))


def _serving_row(
    record: ServingRecord, cost: RankCost, label: str, gap: str, accuracy: float | None = None
) -> tuple[Cell, ...]:
    prefill, decode = record.tokens_per_second(cost)
    return (
        Cell(label),
        number(cost.rank) if cost.rank else Cell(NONE),
        share(accuracy),
        Cell(size(cost.bytes), cost.bytes) if cost.rank else Cell(NONE),
        Cell(cost.prefill.milliseconds, cost.prefill.median),
        Cell(count(prefill), prefill),
        Cell(cost.decode.milliseconds, cost.decode.median),
        Cell(f"{decode:.1f}" if decode < 100 else count(decode), decode),
        Cell(gap or NONE),
    )


def method(run: StoredRun) -> Section:
    """Everything that is needed to run it again, or to doubt it."""
    blocks: list[Block] = []
    for item in run.provenance:
        if item.command:
            blocks += [Text("Run it again:"), Code(item.command)]
    if run.tasks:
        rows = [task.to_dict() for task in run.tasks]
        for task, row in zip(run.tasks, rows, strict=True):
            row["limit"] = limit_of(run, task) if task.limit else None
        blocks.append(_listing("tasks", "Tasks", _TASK_KEYS, rows))
    if run.adapters:
        rows = [adapter.to_dict() for adapter in run.adapters]
        adapters = _listing("adapters", "Adapters", _ADAPTER_KEYS, rows)
        many = len(adapters.rows) > _MANY_ADAPTERS
        blocks.append(Collapsed("Adapters", (adapters,)) if many else adapters)
    if cut := dict.fromkeys(truncation(curve) for curve in run.curves if curve.ranks):
        blocks.append(Text(f"Truncations evaluated: {'; '.join(cut)}."))
    recipes = [{"adapter": a.name, **a.recipe} for a in run.adapters if a.recipe]
    if recipes:
        blocks.append(Collapsed("How the adapters were trained", _recipes(recipes)))
    for at, item in enumerate(run.provenance):
        if rows := _facts(msgspec.to_builtins(item)):
            keys, caption = {"what": "what", "value": "value"}, "Settings and versions"
            blocks.append(_listing(f"provenance-{at}", caption, keys, rows))
    return Section("method", "Method, settings, hashes, versions", tuple(blocks))


def _recipes(recipes: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    """What differs between the recipes as a table, what is the same in a sentence."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    same = {
        key: recipes[0].get(key)
        for key in keys
        if len(recipes) > 1 and all(recipe.get(key) == recipes[0].get(key) for recipe in recipes)
    }
    table = _listing("recipes", "Recipes", {k: k for k in keys if k not in same}, recipes)
    alike = [f"{key} {_plain(value)}" for key, value in same.items() if _known(value)]
    return (table, Text(f"The same for all: {'; '.join(alike)}.")) if alike else (table,)


def _facts(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Provenance as rows, nested mappings flattened one level, what is not set in one row."""
    facts: dict[str, Any] = {}
    default = []
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            facts |= {f"{name}: {key}": part for key, part in value.items() if _known(part)}
            default += [str(key) for key, part in value.items() if not _known(part)]
        elif name != "command" and _known(value):
            facts[f"{name} (last call)" if name in _LAST_CALL else name] = value
    if default and facts:
        facts["left at their defaults"] = ", ".join(default)
    return [{"what": what, "value": value} for what, value in facts.items()]


def _listing(
    name: str, caption: str, keys: Mapping[str, str], items: Sequence[Mapping[str, Any]]
) -> Table:
    """What is known about each item: a column for each of a few items, else a row for each.

    `keys` are titles and the fields behind them; the first names the item, and those that no item
    has are left out.
    """
    used = {title: key for title, key in keys.items() if any(_known(i.get(key)) for i in items)}
    titles = list(used)
    values = [
        [_plain(item[key]) if _known(item.get(key)) else NONE for item in items]
        for key in used.values()
    ]
    if len(items) <= _MAX_ITEM_COLUMNS:
        head, *body = zip(titles, values, strict=True)
        rows = (map(Cell, (title, *row)) for title, row in body)
        return table(name, caption, rows, head[0], *head[1])
    return table(name, caption, (map(Cell, row) for row in zip(*values, strict=True)), *titles)


def _known(value: Any) -> bool:
    return value is not None and value not in ("", [], {})


def _plain(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
