"""`aurac truncate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import checkpoint_options, hub_options
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aurac.adapters import Adapter, Prepared


@click.command()
@click.argument("checkpoint_path", metavar="CKPT")
@click.option("--rank", type=int, help="The one rank to cut to.")
@click.option("--ranks", help="Several at once, as folders r1, r2, …: pow2, all, or such as 1,2,4.")
@click.option("--basis", type=click.Choice(["prefix", "svd"]), default="prefix", show_default=True)
@click.option(
    "--rescale",
    type=click.Choice(["rule", "keep", "trained"]),
    help="What the scale becomes. Default: trained where the weights of training are recorded and "
    "not constant, keep for svd, rule otherwise.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The adapter folder to write.")
@click.option(
    "--merge-into",
    type=click.Path(path_type=Path),
    help="Write the whole base model, with the rank merged in, to this folder.",
)
@click.option("--base", help="Base model, for --merge-into or where orientation is open.")
@hub_options
@click.option("--force", is_flag=True, help="Replace an adapter that is already there.")
@checkpoint_options
def truncate(
    checkpoint_path: str,
    checkpoint: Mapping[str, Any],
    place: Mapping[str, Any],
    *,
    rank: int | None,
    ranks: str | None,
    basis: Any,
    rescale: Any,
    out: Path | None,
    merge_into: Path | None,
    base: str | None,
    force: bool,
) -> None:
    """Cut an adapter to a smaller rank; the result loads in plain PEFT and says what it is.

    \b
    aurac truncate my_adapter --rank 4 --out my_adapter_r4
    aurac truncate my_adapter --ranks pow2 --basis svd --out my_adapter_svd
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters import load_adapter
    from aurac.adapters.streaming import save_truncations
    from aurac.adapters.truncate import plan
    from aurac.memory import return_freed_memory
    from aurac.sweep import parse_ranks

    if (rank is None) == (ranks is None):
        raise UsageError("--rank and --ranks", expected="one of the two")
    if (out is None) == (merge_into is None):
        raise UsageError("--out and --merge-into", expected="one of the two")
    return_freed_memory()
    adapter = load_adapter(checkpoint_path, base=base, lazy=True, **place, **checkpoint)
    wanted = (adapter.check_rank(rank),) if rank is not None else parse_ranks(ranks or "", adapter)
    how = plan(adapter, basis, rescale)
    for note in adapter.notes:
        click.echo(f"note: {note}", err=True)
    if merge_into is not None:
        _merge(how, wanted, merge_into, base or adapter.base)
    if out is None:
        return
    places = {r: out if rank is not None else out / f"r{r}" for r in wanted}
    written = save_truncations(adapter, places, basis=how.basis, rescale=how.rescale, force=force)
    for r, cut in written.items():
        _tell(how, r, cut, places[r])


def _tell(how: Prepared, r: int, cut: Adapter, place: Path) -> None:
    from aurac.adapters.inspection import VLLM_RANKS

    limit = next((v for v in VLLM_RANKS if v >= cut.export_rank), None)
    click.echo(
        f"{place}  rank {r}, {how.basis}, rescale {how.rescale}, "
        f"{cut.parameters(cut.rank):,} parameters, {cut.bytes(cut.rank) / 1e6:.2f} MB, "
        + (f"vLLM --max-lora-rank {limit}" if limit else "above what vLLM serves")
    )


def _merge(how: Prepared, wanted: tuple[int, ...], out: Path, base: str | None) -> None:
    from aurac.adapters import check_base, prepare
    from aurac.adapters.merge import save_merged
    from aurac.bases import load_base

    if len(wanted) != 1:
        raise UsageError("--merge-into with several ranks", expected="one --rank")
    if base is None:
        raise UsageError("--merge-into without a base", fix="give --base")
    loaded = load_base(base, device="cpu")
    check_base(how.adapter, base, loaded.sha256)
    prepared = prepare(how.adapter, how.basis, how.rescale)
    place = save_merged(prepared, wanted[0], loaded.model, loaded.tokenizer, out)
    click.echo(f"{place}  {base} with rank {wanted[0]} merged in")
