"""The last section of a report: settings, hashes and versions, to run it again or to doubt it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.show.content import Block, Code, Fold, Section, Text
from aurac.show.table import NONE, Cell, Table, table

if TYPE_CHECKING:
    from aurac.show.model import Run

_MANY_ADAPTERS = 20
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


def method(run: Run) -> Section:
    """Everything that is needed to run it again, or to doubt it."""
    blocks: list[Block] = []
    for item in run.provenance:
        if item.command:
            blocks += [Text("Run it again:"), Code(item.command)]
    if run.tasks:
        rows = [task.to_dict() for task in run.tasks]
        blocks.append(_listing("tasks", "Tasks", _TASK_KEYS, rows))
    if run.adapters:
        rows = [adapter.to_dict() for adapter in run.adapters]
        adapters = _listing("adapters", "Adapters", _ADAPTER_KEYS, rows)
        many = len(adapters.rows) > _MANY_ADAPTERS
        blocks.append(Fold("Adapters", (adapters,)) if many else adapters)
    recipes = [{"adapter": a.name, **a.recipe} for a in run.adapters if a.recipe]
    if recipes:
        blocks.append(Fold("How the adapters were trained", _recipes(recipes)))
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
            facts[name] = value
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
