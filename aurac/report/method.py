"""How the numbers of a report were made: commands, settings, hashes, versions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aurac.report import tables
from aurac.report.blocks import Block, Code, Fold, Section, Text

if TYPE_CHECKING:
    from aurac.report.model import Run

_MANY = 20
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
        if item.get("command"):
            blocks += [Text("Run it again:"), Code(command_line(item["command"]))]
    if run.tasks:
        blocks.append(tables.listing("tasks", "Tasks", _TASK_KEYS, run.tasks))
    if run.adapters:
        adapters = tables.listing("adapters", "Adapters", _ADAPTER_KEYS, run.adapters)
        many = len(adapters.rows) > _MANY
        blocks.append(Fold("Adapters", (adapters,)) if many else adapters)
    recipes = [
        {"adapter": adapter.get("name"), **adapter["recipe"]}
        for adapter in run.adapters
        if isinstance(adapter.get("recipe"), Mapping)
    ]
    if recipes:
        blocks.append(Fold("How the adapters were trained", _recipes(recipes)))
    for at, item in enumerate(run.provenance):
        facts = _facts(item)
        if facts:
            table = tables.settings_table(facts, f"provenance-{at}", "Settings and versions")
            blocks.append(table)
    return Section("method", "Method, settings, hashes, versions", tuple(blocks))


def _recipes(recipes: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    """What differs between the recipes as a table, what is the same in a sentence."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    same = {
        key: recipes[0].get(key)
        for key in keys
        if len(recipes) > 1 and all(recipe.get(key) == recipes[0].get(key) for recipe in recipes)
    }
    differing = {key: key for key in keys if key not in same}
    table = tables.listing("recipes", "Recipes", differing, recipes)
    said = [f"{key} {tables.entry(value)}" for key, value in same.items() if tables.known(value)]
    alike = Text(f"The same for all: {'; '.join(said)}.")
    return (table, alike) if said else (table,)


def command_line(command: Any) -> str:
    """The recorded command as one would type it."""
    if isinstance(command, (list, tuple)):
        return shlex.join(str(part) for part in command)
    return str(command)


def _facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as pairs, nested mappings flattened one level, what is not set in one row."""
    facts: dict[str, Any] = {}
    default = []
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            facts |= {
                f"{name}: {inner}": part for inner, part in value.items() if tables.known(part)
            }
            default += [str(inner) for inner, part in value.items() if not tables.known(part)]
        elif name != "command" and tables.known(value):
            facts[name] = value
    return facts | ({"left at their defaults": ", ".join(default)} if default else {})
