"""`aurac truncate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from aurac.cli.options import checkpoint_options, print_json
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aurac.adapters import Prepared


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
@click.option("--force", is_flag=True, help="Replace an adapter that is already there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@checkpoint_options
def truncate(
    checkpoint_path: str,
    checkpoint: Mapping[str, Any],
    *,
    rank: int | None,
    ranks: str | None,
    basis: Any,
    rescale: Any,
    out: Path | None,
    merge_into: Path | None,
    base: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Cut an adapter to a smaller rank; the result loads in plain PEFT and says what it is.

    \b
    aurac truncate my_adapter --rank 4 --out my_adapter_r4
    aurac truncate my_adapter --ranks pow2 --basis svd --out my_adapter_svd
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters import load_adapter, prepare
    from aurac.sweep import parse_ranks

    if (rank is None) == (ranks is None):
        raise UsageError("--rank and --ranks", expected="one of the two")
    if (out is None) == (merge_into is None):
        raise UsageError("--out and --merge-into", expected="one of the two")
    adapter = load_adapter(checkpoint_path, base=base, **checkpoint)
    wanted = (adapter.check_rank(rank),) if rank is not None else parse_ranks(ranks or "", adapter)
    prepared = prepare(adapter, basis, rescale)
    for note in adapter.notes:
        click.echo(f"note: {note}", err=True)
    if merge_into is not None:
        rows = [_merge(prepared, wanted, merge_into, base or adapter.base)]
    else:
        folder = cast("Path", out)  # one of the two is given, as checked above
        places = {r: folder if rank is not None else folder / f"r{r}" for r in wanted}
        rows = _write_all(prepared, places, force=force)
    if as_json:
        print_json(rows)
    else:
        click.echo("\n".join(_line(row) for row in rows))


def _write_all(
    prepared: Prepared, places: Mapping[int, Path], *, force: bool
) -> list[dict[str, Any]]:
    from aurac.adapters.formats.peft_writer import check_free

    for place in places.values():
        check_free(place, force=force)
    return [_write(prepared, r, place, force=force) for r, place in places.items()]


def _write(prepared: Prepared, r: int, place: Path, *, force: bool) -> dict[str, Any]:
    from aurac.adapters import save_adapter
    from aurac.adapters.inspection import VLLM_RANKS

    cut = prepared.at(r)
    save_adapter(cut, place, force=force)
    limit = next((v for v in VLLM_RANKS if v >= r), None)
    return {
        "folder": str(place),
        "rank": r,
        "basis": prepared.basis,
        "rescale": prepared.rescale,
        "parameters": cut.parameters(r),
        "bytes": cut.bytes(r),
        "vllm_max_lora_rank": limit,
    }


def _line(row: Mapping[str, Any]) -> str:
    if "basis" not in row:
        return f"{row['folder']}  {row['base']} with rank {row['rank']} merged in"
    limit = row["vllm_max_lora_rank"]
    return (
        f"{row['folder']}  rank {row['rank']}, {row['basis']}, rescale {row['rescale']}, "
        f"{row['parameters']:,} parameters, {row['bytes'] / 1e6:.2f} MB, "
        + (f"vLLM --max-lora-rank {limit}" if limit else "above what vLLM serves")
    )


def _merge(
    prepared: Prepared, wanted: tuple[int, ...], out: Path, base: str | None
) -> dict[str, Any]:
    from aurac.adapters import check_base
    from aurac.adapters.merge import save_merged
    from aurac.bases import load_base

    if len(wanted) != 1:
        raise UsageError("--merge-into with several ranks", expected="one --rank")
    if base is None:
        raise UsageError("--merge-into without a base", fix="give --base")
    loaded = load_base(base, device="cpu")
    check_base(prepared.adapter, base, loaded.sha256)
    place = save_merged(prepared, wanted[0], loaded.model, loaded.tokenizer, out)
    return {"folder": str(place), "base": base, "rank": wanted[0]}
