"""`aurac inspect`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import (
    checkpoint_options,
    command,
    numbers,
    open_checkpoint,
    options,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BARS = " ▁▂▃▄▅▆▇█"
NESTED = ("trained p1", "ratio", "distance")  # columns that are known where P of the training is


@command()
@click.argument("checkpoint_path", metavar="CKPT")
@options(
    """
    --ranks: Ranks of the tables, such as 1,2,4. Default: powers of two.
    --layers FLAG: One line of energies for each module.
    --base: Base model, where the checkpoint does not name it.
    --revision
    --subfolder
    --save FLAG: Write what was given beside the checkpoint (aurac.json).
    --force FLAG: Let --save replace a side-car.
    --json
    """,
    ranks=numbers("--ranks"),
)
@checkpoint_options
def inspect(
    checkpoint_path: str,
    checkpoint: Mapping[str, Any],
    *,
    ranks: tuple[int, ...] | None,
    layers: bool,
    base: str | None,
    save: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Say what a checkpoint is: format, method, ranks, scaling, sizes, and where its energy lies.

    \b
    aurac inspect my_adapter
    aurac inspect lora_adapters_step=00160.pt --method matryoshka --scaling sqrt --alpha 1 \\
        --nested-ranks 1,2,4,8 --base smollm2-135m-instruct-q4_1 --save
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters.formats.sidecar import save_sidecar
    from aurac.adapters.inspect import describe

    adapter = open_checkpoint(checkpoint_path, base, **checkpoint)
    for r in ranks or ():
        adapter.check_rank(r)
    facts = describe(adapter, ranks)
    written = save_sidecar(adapter, force=force) if save else None
    if as_json:
        print_json(facts, indent=1)
    else:
        lines = [f"{label:<14}{value}" for label, value in _heading(facts)]
        lines += ["", *_table(facts), "", *_pictures(facts, layers=layers)]
        click.echo("\n".join([*lines, *(f"note: {note}" for note in facts["notes"])]))
    if written is not None:
        click.echo(f"wrote {written}", err=True)


def _heading(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    method, derived = facts["method"] or "not recorded", facts["derived"]
    if facts["nested_ranks"]:
        method += f", nested ranks {','.join(map(str, facts['nested_ranks']))}"
    if facts["update"]:
        method += f", update {facts['update']}"
    if derived and derived.get("trained"):
        method = f"{derived['trained']['method']} before it was cut"
    if facts["dora"]:
        method += ", DoRA with trained magnitudes"
    ranks = ", ".join(f"{n} of rank {r}" for r, n in facts["module_ranks"].items())
    alpha = "per module" if facts["alpha"] is None else f"{facts['alpha']:g}"
    vllm = f"yes, with --max-lora-rank {facts['vllm_max_lora_rank']}"
    rows = [
        ("adapter", facts["name"]),
        ("format", facts["format"]),
        ("base", facts["base"] or "not recorded"),
        ("method", method),
        ("scaling", f"{facts['rule'] or 'mixed'}, alpha {alpha}"),
        ("modules", f"{facts['modules']} ({ranks}), {'/'.join(facts['dtypes'])}"),
        ("vLLM", f"no: {facts['vllm_refusal']}" if facts["vllm_refusal"] else vllm),
        ("default", f"{facts['default_basis']}, rescale {facts['default_rescale']}"),
        ("sha256", facts["sha256"]),
    ]
    if derived:
        how = ", ".join(str(derived.get(key)) for key in ("basis", "rescale", "from_sha256"))
        rows.append(("cut by", how))
    if facts["extra_tensors"]:
        rows.append(("extra tensors", facts["extra_tensors"]))
    return rows


def _table(facts: Mapping[str, Any]) -> list[str]:
    """What each rank has; without the columns of nested training where nothing is known of it."""
    from aurac.show.table import NONE, text_table

    def numbers(values: Iterable[float | None], how: str) -> list[str]:
        return [NONE if value is None else format(value, how) for value in values]

    rows, mean = facts["by_rank"], facts["energy"]["mean"]
    columns = {
        "rank": numbers([row["rank"] for row in rows], "d"),
        "parameters": numbers([row["parameters"] for row in rows], ",d"),
        "MB": numbers([row["bytes"] / 1e6 for row in rows], ".2f"),
        "published": numbers([row["published_scale"] for row in rows], ".4g"),
        "trained p1": numbers([(row["trained_weights"] or [None])[0] for row in rows], ".4g"),
        "ratio": numbers([row["ratio_first"] for row in rows], ".3g"),
        "distance": numbers([row["published_distance"] for row in rows], ".1%"),
        "prefix": numbers(mean["prefix"], ".1%"),
        "svd": numbers(mean["svd"], ".1%"),
    }
    mixed = " (–: differs between modules)" if NONE in columns["published"] else ""
    legend = [f"published: scale by the rule{mixed}"]
    if any({*columns[name]} != {NONE} for name in NESTED):
        legend = [
            "published: scale as published (without P); trained p1: weight of the first component",
            "in training; distance: of the published update from the trained one",
        ]
    else:
        columns = {name: cells for name, cells in columns.items() if name not in NESTED}
    table = text_table([*columns], zip(*columns.values(), strict=True)).plain()
    return [table, *legend, "prefix, svd: energy captured, mean of modules"]


def _pictures(facts: Mapping[str, Any], *, layers: bool) -> list[str]:
    """Energy per rank as bars, by kind of module or for each module."""
    modules: Mapping[str, Mapping[str, Sequence[float | None]]] = facts["energy"]["modules"]
    groups: dict[str, list[str]] = {}
    for name in modules:
        groups.setdefault(name if layers else name.rpartition(".")[2], []).append(name)
    width = max(map(len, groups))
    ranks = ",".join(map(str, facts["energy"]["ranks"]))
    lines = [f"{'energy at':<{width}}  ranks {ranks}, a full block is all of it"]
    for label, names in groups.items() if layers else sorted(groups.items()):
        bars = []
        for basis in ("prefix", "svd"):
            columns = zip(*(modules[name][basis] for name in names), strict=True)
            bars.append(f"{basis} |{''.join(map(_bar, columns))}|")
        lines.append(f"{label:<{width}}  {'  '.join(bars)}")
    return lines


def _bar(column: Sequence[float | None]) -> str:
    known = [x for x in column if x is not None]
    if not known:
        return "?"
    mean = min(max(math.fsum(known) / len(known), 0.0), 1.0)
    return BARS[round(mean * (len(BARS) - 1))]
