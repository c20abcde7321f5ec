"""Adapters by themselves: `aurac inspect` and `aurac truncate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aurac.cli.checkpoints import checkpoint_options, open_checkpoint
from aurac.cli.options import as_table, command, options, print_result, print_text

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.adapters.inspect import Description


@command()
@click.argument("checkpoint_path", metavar="CKPT")
@options("--json")
@checkpoint_options
def inspect(checkpoint_path: str, *, as_json: bool, **stated: Any) -> None:
    """Say what an adapter is: format, method, ranks, scaling, sizes, and where its energy lies.

    \b
    aurac inspect my_adapter
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters.inspect import describe

    facts = describe(open_checkpoint(checkpoint_path, stated))
    lines = [f"{label:<12}{value}" for label, value in _heading(facts).items()]
    lines += ["", _table(facts), *(f"note: {note}" for note in facts.notes)]
    print_result(facts, "\n".join(lines), as_json=as_json)


def _heading(facts: Description) -> dict[str, str]:
    method, derived = facts.method or "not recorded", facts.derived
    if facts.nested_ranks and facts.nested_ranks != [facts.trained_rank]:
        method += f", nested ranks {','.join(map(str, facts.nested_ranks))}"
    if facts.update:
        method += f", update {facts.update}"
    if derived and derived.trained:
        method = f"{derived.trained.method} before it was cut"
    ranks = ", ".join(f"{n} of rank {r}" for r, n in facts.module_ranks.items())
    alpha = "per module" if facts.alpha is None else f"{facts.alpha:g}"
    rows = {
        "adapter": facts.name,
        "format": facts.format,
        "base": facts.base or "not recorded",
        "method": method + (", DoRA with trained magnitudes" if facts.dora else ""),
        "seed": "not recorded" if facts.seed is None else str(facts.seed),
        "scaling": f"{facts.rule or 'mixed'}, alpha {alpha}",
        "modules": f"{facts.modules} ({ranks}), {'/'.join(facts.dtypes)}",
        "best cut": f"{facts.basis}, rescale {facts.rescale}",
        "sha256": facts.sha256,
    }
    if derived:
        rows["cut by"] = f"{derived}, from {derived.from_sha256}"
    if facts.extra_tensors:
        rows["beside them"] = f"{facts.extra_tensors} whole tensors"
    return rows


def _table(facts: Description) -> str:
    """What each rank has; the trained weights of components only where they are not the rule's."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    head = ["rank", "parameters", "MB", "scale", "energy, prefix", "energy, svd"]
    rows = [
        [
            str(row.rank),
            f"{row.parameters:,}",
            f"{row.bytes / 1e6:.2f}",
            "–" if row.scale is None else f"{row.scale:.4g}",
            share(row.prefix),
            share(row.svd),
        ]
        for row in facts.by_rank
    ]
    if facts.rescale == "trained" and facts.p is not None:
        head.insert(4, "trained p")  # of the component of that rank
        for cells, row in zip(rows, facts.by_rank, strict=True):
            cells.insert(4, f"{facts.p[row.rank - 1]:.4g}" if row.rank <= len(facts.p) else "–")
    return as_table(head, rows)


@command()
@click.argument("checkpoint_path", metavar="CKPT")
@options(
    """
    --rank INTEGER: The rank to cut to. Default: none, the adapter itself as plain PEFT.
    --basis auto|prefix|svd [auto]: auto: prefix after nested training, svd otherwise, as compare
        and recommend take it.
    --rescale rule|keep|trained: What the scale becomes. Default: trained where the weights of
        training are recorded and not constant, keep for svd, rule otherwise.
    --out PATH: The adapter folder to write.
    --json
    """,
    out={"required": True},
)
@checkpoint_options
def truncate(
    checkpoint_path: str,
    *,
    rank: int | None,
    basis: Any,
    rescale: Any,
    out: Path,
    as_json: bool,
    **stated: Any,
) -> None:
    """Cut an adapter to a smaller rank; the result loads in plain PEFT and says what it is.

    \b
    aurac truncate my_adapter --rank 4 --out my_adapter_r4
    aurac truncate lora_step=00160.pt --method matryoshka --scaling sqrt \\
        --alpha 1 --nested-ranks 1,2,4,8 --out my_adapter
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters import save_adapter
    from aurac.adapters import truncate as truncated

    adapter = open_checkpoint(checkpoint_path, stated)
    cut = adapter if rank is None else truncated(adapter, rank, basis=basis, rescale=rescale)
    save_adapter(cut, out)
    how = str(cut.derived) if cut is not adapter and cut.derived else f"rank {cut.rank}, whole"
    size = {"parameters": cut.parameters(cut.rank), "bytes": cut.bytes(cut.rank)}
    content = {"folder": str(out), "rank": cut.rank, "derived": cut.derived, **size}
    text = f"{out}  {how}, {size['parameters']:,} parameters, {size['bytes'] / 1e6:.2f} MB"
    print_result(content, text, as_json=as_json)
    for note in adapter.notes:
        print_text(f"note: {note}", error=True)
