"""Adapters by themselves: `aurac inspect` and `aurac truncate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aurac.cli import shared
from aurac.cli.shared import FOLDER, command, whole_numbers

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.adapters.inspect import AtRank, Description


_METHODS = ("lora", "dylora", "matryoshka", "nested_loss")
_CAPTIONS = {  # of the columns that do not explain themselves
    "scale": "the factor of the update B A in the best cut",
    "trained p": "training's weight of this component; the default cut keeps it",
    "energy, prefix": "the share of the trained update (squared norm) in the first components, "
    "the cut of an adapter whose first components were trained to work alone",
    "energy, svd": "the share of it in the best approximation of that rank, the cut of any other "
    "adapter; how much accuracy a rank keeps is what `aurac compare` measures",
}
checkpoint_options = shared.options(  # for what a checkpoint's file may not say
    click.option("--base", help="Base model, where the checkpoint does not name it."),
    click.option(
        "--method",
        type=click.Choice(_METHODS),
        metavar="|".join(_METHODS),
        help="Training method, where the checkpoint does not name it.",
    ),
    click.option(
        "--scaling",
        type=click.Choice(["none", "rank", "sqrt"]),
        help="Scale. none: alpha; rank: alpha/r; sqrt: alpha/sqrt(r).",
    ),
    click.option("--alpha", type=float, help="Alpha of that rule."),
    click.option(
        "--nested-ranks",
        type=whole_numbers,
        help="Ranks that were trained as nested, such as 1,2,4,8.",
    ),
)


@command()
@click.argument("checkpoint_path", metavar="CKPT")
@shared.as_json
@checkpoint_options
def inspect(checkpoint_path: str, as_json: bool, **stated: Any) -> None:
    """Say what an adapter is: format, method, scaling, and what each rank keeps and takes.

    \b
    aurac inspect my_adapter
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters import load_adapter
    from aurac.adapters.inspect import inspect as inspected

    described = inspected(load_adapter(checkpoint_path, **stated))
    if as_json:
        shared.print_json(described.facts)
        return
    for label, value in _heading(described).items():
        click.echo(f"{label:<12}{value}")
    click.echo()
    shared.print_rows(rows := [_row(described, each) for each in described.by_rank])
    for column, meaning in _CAPTIONS.items():
        if column in rows[0]:
            click.echo(f"{column}: {meaning}")
    if described.by_rank[0].slot is None:
        click.echo(
            "vLLM does not serve this: it has DoRA, whole modules, biases, or experts or "
            "embeddings beside linear modules"
        )
    for note in described.adapter.notes:
        click.echo(f"note: {note}")


def _heading(described: Description) -> dict[str, str]:
    adapter, facts = described.adapter, described.facts
    method, derived, nesting = adapter.method or "not recorded", adapter.derived, adapter.nesting
    if nesting and nesting.ranks != (adapter.rank,):
        method += f", nested ranks {','.join(map(str, nesting.ranks))}"
    if nesting and nesting.update:
        method += f", update {nesting.update}"
    if nesting and adapter.folded:
        method += ", P folded in"
    if derived and derived.trained:
        method = f"{derived.trained.method} before it was cut"
    ranks = ", ".join(f"{n} of rank {r}" for r, n in facts["module_ranks"].items())
    alpha = "per module" if adapter.alpha is None else f"{adapter.alpha:g}"
    rows = {
        "adapter": adapter.name,
        "format": adapter.format,
        "base": adapter.base or "not recorded",
        "method": method + (", DoRA with trained magnitudes" if adapter.dora else ""),
        "seed": "not recorded" if adapter.seed is None else str(adapter.seed),
        "scaling": f"{adapter.rule or 'mixed'}, alpha {alpha}",
        "modules": f"{facts['modules']} ({ranks}), {adapter.dtype}",
        "best cut": f"{described.basis}, rescale {described.rescale}",
        "sha256": adapter.sha256,
    }
    if derived:
        rows["cut by"] = f"{derived}, from {derived.from_sha256}"
    if adapter.extras:
        rows["beside them"] = f"{len(adapter.extras)} whole tensors"
    return rows


def _row(described: Description, at: AtRank) -> dict[str, object]:
    """What a rank has; the trained weight of its component only where that is not the rule's."""
    from aurac.curves.numbers import size

    def number(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    row: dict[str, object] = {
        "rank": at.rank,
        "parameters": f"{at.parameters:,}",
        f"MB in {described.adapter.dtype}": f"{at.bytes / 1e6:.2f}",
        "scale": number(at.scale, ".4g"),
    }
    if described.rescale == "trained" and (p := described.p) is not None:
        row["trained p"] = f"{p[at.rank - 1]:.4g}" if at.rank <= len(p) else None
    row |= {"energy, prefix": number(at.prefix, ".1%"), "energy, svd": number(at.svd, ".1%")}
    if at.slot is not None:
        row["vLLM slot, 16 bit"] = f"{at.slot}: {size(at.slot_bytes)}"
    return row


@command()
@click.argument("checkpoint_path", metavar="CKPT")
@click.option(
    "--rank", type=int, help="Rank to cut to. Default: no cut, the whole adapter as PEFT."
)
@click.option(
    "--basis", type=click.Choice(["auto", "prefix", "svd"]), default="auto", show_default=True,
    help="How to cut; auto: prefix after nested training, svd otherwise.",
)  # fmt: skip
@click.option(
    "--rescale", type=click.Choice(["rule", "keep", "trained"]),
    help="Scale after the cut. Default: the best for the adapter's method.",
)  # fmt: skip
@click.option("--out", type=FOLDER, required=True, help="Folder to write to, a new one.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Precision of the result. Default: the adapter's.",
)  # fmt: skip
@shared.as_json
@checkpoint_options
def truncate(
    checkpoint_path: str,
    rank: int | None,
    basis: Any,
    rescale: Any,
    dtype: Any,
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
    from aurac.adapters import load_adapter, save_adapter
    from aurac.adapters import truncate as truncated
    from aurac.adapters.truncate import in_dtype

    adapter = load_adapter(checkpoint_path, **stated)
    cut = adapter if rank is None else truncated(adapter, rank, basis=basis, rescale=rescale)
    how = str(cut.derived) if cut is not adapter and cut.derived else f"rank {cut.rank}, whole"
    cut = in_dtype(cut, dtype)
    save_adapter(cut, out)
    parameters, size = cut.parameters(cut.rank), cut.bytes(cut.rank)
    if as_json:
        content = {"folder": str(out), "rank": cut.rank, "derived": cut.derived}
        shared.print_json(content | {"parameters": parameters, "bytes": size})
    else:
        click.echo(f"{out}  {how}, {parameters:,} parameters, {size / 1e6:.2f} MB in {cut.dtype}")
    for note in adapter.notes:
        click.echo(f"note: {note}", err=True)
