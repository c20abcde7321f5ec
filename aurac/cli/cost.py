"""`aurac cost`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import table
from aurac.cli.options import checkpoint_options, hub_options, print_json
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.engine.serving import ServingCost


@click.command()
@click.argument("path", metavar="CKPT")
@click.option("--ranks", default="pow2", show_default=True, help="pow2, all, or such as 1,2,4.")
@click.option("--base", help="Base model, if another than the adapter records.")
@click.option("--prompt-tokens", type=int, default=256, show_default=True, help="In each prompt.")
@click.option("--new-tokens", type=int, default=32, show_default=True, help="To generate.")
@click.option("--batch-size", "batch", type=int, default=1, show_default=True, help="Prompts.")
@click.option("--repeats", type=int, default=5, show_default=True, help="Rounds that count.")
@click.option("--dtype", help="float32, bfloat16, float16; by default what suits the device.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps.")
@hub_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@checkpoint_options
def cost(
    path: str,
    checkpoint: Mapping[str, Any],
    place: Mapping[str, Any],
    *,
    ranks: str,
    base: str | None,
    dtype: str | None,
    device: str,
    as_json: bool,
    **numbers: int,
) -> None:
    """Measure what each rank costs to serve on this machine: prompts and generated tokens.

    The adapter is not merged, as a server with several adapters runs it. The row of rank 0 is the
    base, and any rank that is merged into it.

    \b
    aurac cost my_adapter
    aurac cost my_adapter --ranks 4,16 --batch-size 8 --prompt-tokens 512
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters import attach, load_adapter, prepare
    from aurac.engine.serving import serving_costs
    from aurac.models.base import KnownBase, load_base
    from aurac.runs.plan import parse_ranks

    adapter = load_adapter(path, base=base, bases=KnownBase, **place, **checkpoint)
    name = base or adapter.base
    if name is None:
        raise UsageError(f"{path} does not record its base", fix="give --base")
    wanted = parse_ranks(ranks, adapter)
    loaded = load_base(name, dtype=dtype, device=device)
    with attach(loaded.model, prepare(adapter)) as live:
        rounds = (numbers["repeats"] + 1) * (len(wanted) + 1)
        with click.progressbar(length=rounds, label="measuring", file=_stderr()) as bar:
            costs = serving_costs(live, wanted, **numbers, progress=lambda: bar.update(1))
    if as_json:
        facts = {"base": name, "dtype": loaded.dtype, "device": loaded.device, **numbers}
        print_json({**facts, "ranks": [{**asdict(row), **_sizes(adapter, row)} for row in costs]})
        return
    click.echo(f"{adapter.name} on {name}, {loaded.dtype}, {loaded.device}")
    click.echo(_table(adapter, costs))


def _stderr() -> Any:
    import sys

    return sys.stderr


def _sizes(adapter: Any, row: ServingCost) -> dict[str, int]:
    return {"bytes": adapter.bytes(row.rank), "parameters": adapter.parameters(row.rank)}


def _table(adapter: Any, costs: Sequence[ServingCost]) -> str:
    base = costs[0]
    rows = [
        [
            "base or merged" if row.rank == 0 else str(row.rank),
            f"{adapter.bytes(row.rank) / 1e6:.1f}" if row.rank else "–",
            f"{1000 * row.prefill_seconds:.0f}",
            f"{row.prefill_tokens_per_second:.0f}",
            f"{1000 * row.decode_seconds:.1f}",
            f"{row.decode_tokens_per_second:.1f}",
            f"{row.decode_seconds / base.decode_seconds:.2f}",
        ]
        for row in costs
    ]
    head = ["rank", "MB", "prompt, ms", "tokens/s", "token, ms", "tokens/s", "token / base"]
    return table(head, rows)
