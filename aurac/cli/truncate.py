"""`aurac truncate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from aurac.cli.options import (
    checkpoint_options,
    command,
    open_checkpoint,
    options,
    print_result,
    refuse_given,
)
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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
    from aurac.adapters.export import merge_into_base, save_truncations
    from aurac.adapters.inspect import max_lora_rank, vllm_refusal
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
        base = base or adapter.base
        if len(wanted) != 1:
            raise UsageError("--merge-into with several ranks", expected="one --rank")
        if base is None:
            raise UsageError("--merge-into without a base", fix="give --base")
        place, kind = merge_into_base(how, wanted[0], base, merge_into, dtype=dtype, force=force)
        merged = {"folder": str(place), "base": base, "rank": wanted[0], "dtype": kind}
        text = f"{place}  {base} with rank {wanted[0]} merged in, {kind}"
        print_result([merged], text, as_json=as_json)
        return
    folder = cast("Path", out)  # one of the two is given, as checked above
    places = {r: folder if rank is not None else folder / f"r{r}" for r in wanted}
    written = save_truncations(adapter, places, basis=how.basis, rescale=how.rescale, force=force)
    rows, lines = [], []
    for r, cut in written.items():
        parameters, size = cut.parameters(cut.rank), cut.bytes(cut.rank)
        most, refusal = max_lora_rank(cut), vllm_refusal(cut)
        row = {"folder": str(places[r]), "rank": r, "basis": how.basis, "rescale": how.rescale}
        row |= {"parameters": parameters, "bytes": size}
        rows.append(row | {"vllm_max_lora_rank": most, "vllm_refusal": refusal})
        vllm = f"not for vLLM: {refusal}" if refusal else f"vLLM --max-lora-rank {most}"
        lines.append(
            f"{places[r]}  rank {r}, {how.basis}, rescale {how.rescale}, "
            f"{parameters:,} parameters, {size / 1e6:.2f} MB, {vllm}"
        )
    print_result(rows, "\n".join(lines), as_json=as_json)
