"""`aurac truncate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from aurac.cli.options import (
    checkpoint_options,
    command,
    open_checkpoint,
    options,
    print_json,
    refuse_given,
)
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aurac.adapters import Adapter, Prepared


@command()
@click.argument("checkpoint_path", metavar="CKPT")
@options(
    """
    --rank INTEGER: The one rank to cut to.
    --ranks: Several at once, as folders r1, r2, …: pow2, all, or such as 1,2,4.
    --basis auto|prefix|svd|energy [auto]: auto: prefix after nested training, svd otherwise, as
        compare and recommend take it.
    --rescale rule|keep|trained: What the scale becomes. Default: trained where the weights of
        training are recorded and not constant, keep for svd, rule otherwise.
    --out PATH: The adapter folder to write.
    --merge-into PATH: Write the whole base model, with the rank merged in, to this folder.
    --dtype float32|bfloat16|float16: Numeric type of the merged model. Default: the base's own.
    --base: Base model, for --merge-into or where orientation is open.
    --revision
    --subfolder
    --force FLAG: Replace an adapter or model that is already there.
    --json
    """
)
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
    dtype: str | None,
    base: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Cut an adapter to a smaller rank; the result loads in plain PEFT and says what it is.

    \b
    aurac truncate my_adapter --rank 4 --out my_adapter_r4
    aurac truncate my_adapter --ranks pow2 --basis svd --out my_adapter_svd
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters.export import save_truncations
    from aurac.adapters.truncate import prepare_outline
    from aurac.runs.plan import parse_ranks

    if (rank is None) == (ranks is None):
        raise UsageError("--rank and --ranks", expected="one of the two")
    if (out is None) == (merge_into is None):
        raise UsageError("--out and --merge-into", expected="one of the two")
    if merge_into is None:
        refuse_given(["dtype"], "with --out, which keeps the adapter's type", "leave it out")
    adapter = open_checkpoint(checkpoint_path, base, **checkpoint)
    wanted = (adapter.check_rank(rank),) if rank is not None else parse_ranks(ranks or "", adapter)
    how = prepare_outline(adapter, basis, rescale)
    for note in adapter.notes:
        click.echo(f"note: {note}", err=True)
    if merge_into is not None:
        named = base or adapter.base
        rows = [_merge(how, wanted, merge_into, base=named, dtype=dtype, force=force)]
    else:
        folder = cast("Path", out)  # one of the two is given, as checked above
        places = {r: folder if rank is not None else folder / f"r{r}" for r in wanted}
        written = save_truncations(
            adapter, places, basis=how.basis, rescale=how.rescale, force=force
        )
        rows = [_row(how, r, cut, places[r]) for r, cut in written.items()]
    if as_json:
        print_json(rows)
    else:
        click.echo("\n".join(_line(row) for row in rows))


def _row(how: Prepared, r: int, cut: Adapter, place: Path) -> dict[str, Any]:
    from aurac.adapters.inspect import max_lora_rank, vllm_refusal

    return {
        "folder": str(place),
        "rank": r,
        "basis": how.basis,
        "rescale": how.rescale,
        "parameters": cut.parameters(cut.rank),
        "bytes": cut.bytes(cut.rank),
        "vllm_max_lora_rank": max_lora_rank(cut),
        "vllm_refusal": vllm_refusal(cut),
    }


def _line(row: Mapping[str, Any]) -> str:
    if "basis" not in row:
        return f"{row['folder']}  {row['base']} with rank {row['rank']} merged in, {row['dtype']}"
    why = row["vllm_refusal"]
    return (
        f"{row['folder']}  rank {row['rank']}, {row['basis']}, rescale {row['rescale']}, "
        f"{row['parameters']:,} parameters, {row['bytes'] / 1e6:.2f} MB, "
        + (f"not for vLLM: {why}" if why else f"vLLM --max-lora-rank {row['vllm_max_lora_rank']}")
    )


def _merge(
    how: Prepared,
    wanted: tuple[int, ...],
    out: Path,
    *,
    base: str | None,
    dtype: str | None,
    force: bool,
) -> dict[str, Any]:
    from aurac.adapters import check_base, prepare
    from aurac.adapters.export import check_free, save_merged
    from aurac.models.base import MODEL_CONFIG, load_base
    from aurac.models.tokenizer import choose_tokenizer

    if len(wanted) != 1:
        raise UsageError("--merge-into with several ranks", expected="one --rank")
    if base is None:
        raise UsageError("--merge-into without a base", fix="give --base")
    check_free(out, force=force, holds=MODEL_CONFIG)
    # A type that is asked for is rounded to once, from float32.
    loaded = load_base(base, device="cpu", dtype="float32" if dtype else "stored")
    adapter = how.adapter
    check_base(adapter, base, loaded.sha256)
    own = choose_tokenizer(None, loaded, {adapter.name: adapter.source}, {}, chat_template=True)
    prepared = prepare(adapter, how.basis, how.rescale)
    place = save_merged(prepared, wanted[0], own.adopted_by(loaded), out, dtype=dtype, force=force)
    kind = dtype or loaded.dtype
    return {"folder": str(place), "base": base, "rank": wanted[0], "dtype": kind}
