"""Adapters by themselves: `aurac inspect` and `aurac truncate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from aurac.cli.checkpoints import checkpoint_options, open_checkpoint
from aurac.cli.options import (
    as_table,
    command,
    numbers,
    options,
    parsed,
    print_result,
    print_text,
    refuse_given,
)
from aurac.curves.display import decimals
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from aurac.adapters import Adapter, Prepared
    from aurac.adapters.inspect import Description


BARS = " ▁▂▃▄▅▆▇█"


@command(short="ranks layers base save json")
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
    ranks=parsed(numbers("--ranks")),
)
@checkpoint_options
def inspect(
    checkpoint_path: str,
    *,
    revision: str | None,
    subfolder: str | None,
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
    aurac inspect lora_adapters_step=00160.pt --method matryoshka \\
        --scaling sqrt --alpha 1 --nested-ranks 1,2,4,8 \\
        --base smollm2-135m-instruct-q4_1 --save
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.adapters.formats.sidecar import save_sidecar
    from aurac.adapters.inspect import describe
    from aurac.models.base import on_this_machine

    adapter = open_checkpoint(checkpoint_path, base, revision, subfolder)
    for r in ranks or ():
        adapter.check_rank(r)
    facts = describe(adapter, ranks)
    written = save_sidecar(adapter, force=force) if save else None
    lines = [f"{label:<14}{value}" for label, value in _heading(facts)]
    lines += ["", *_table(facts), "", *_pictures(facts, layers=layers)]
    lines += [f"note: {note}" for note in facts.notes]
    print_result(facts, "\n".join(lines), as_json=as_json)
    if written is not None:
        click.echo(f"wrote {written}", err=True)
        if base and on_this_machine(base) is None:
            print_text(f"note: base {base} is not on this machine; was it mistyped?", error=True)


def _heading(facts: Description) -> list[tuple[str, str]]:
    method, derived = facts.method or "not recorded", facts.derived
    if facts.nested_ranks and facts.nested_ranks != [facts.trained_rank]:
        method += f", nested ranks {','.join(map(str, facts.nested_ranks))}"
    if facts.update:
        method += f", update {facts.update}"
    if derived and derived.trained:
        method = f"{derived.trained.method} before it was cut"
    if facts.dora:
        method += ", DoRA with trained magnitudes"
    ranks = ", ".join(f"{n} of rank {r}" for r, n in facts.module_ranks.items())
    alpha = "per module" if facts.alpha is None else f"{facts.alpha:g}"
    vllm = f"yes, with --max-lora-rank {facts.vllm_max_lora_rank}"
    if facts.default_rescale == "trained" and not (derived and derived.rescale == "trained"):
        vllm += ", but without its P; what aurac truncate writes has it"
    rows = [
        ("adapter", facts.name),
        ("format", facts.format),
        ("base", facts.base or "not recorded"),
        ("method", method),
        ("scaling", f"{facts.rule or 'mixed'}, alpha {alpha}"),
        ("modules", f"{facts.modules} ({ranks}), {'/'.join(facts.dtypes)}"),
        ("vLLM", f"no: {facts.vllm_refusal}" if facts.vllm_refusal else vllm),
        ("default", f"{facts.default_basis}, rescale {facts.default_rescale}"),
        ("sha256", facts.sha256),
    ]
    if derived:
        rows.append(("cut by", f"{derived.steps}, from {derived.from_sha256}"))
    if facts.extra_tensors:
        rows.append(("extra tensors", str(facts.extra_tensors)))
    return rows


def _table(facts: Description) -> list[str]:
    """What each rank has; the weights of training only where they are not the rule's."""
    from aurac.show.table import NONE

    def numbers(values: Iterable[float | None], how: str) -> list[str]:
        return [NONE if value is None else format(value, how) for value in values]

    rows, mean = facts.by_rank, facts.energy.mean
    columns = {
        "rank": numbers([row.rank for row in rows], "d"),
        "parameters": numbers([row.parameters for row in rows], ",d"),
        "MB": numbers([row.bytes / 1e6 for row in rows], ".2f"),
        "published": numbers([row.published_scale for row in rows], ".4g"),
    }
    mixed = " (–: differs between modules)" if NONE in columns["published"] else ""
    legend = [f"published: scale by the rule{mixed}"]
    if facts.nested_ranks and facts.default_rescale == "trained":
        first = [w[0] if (w := row.trained_weights) else None for row in rows]
        columns["trained p1"] = numbers(first, ".4g")
        columns["ratio"] = numbers([row.ratio_first for row in rows], ".3g")
        columns["distance"] = numbers([row.published_distance for row in rows], ".1%")
        legend = [
            "published: scale as published (without P)",
            "trained p1: weight of the first component in training",
            "distance: of the published update from the trained one",
        ]
    columns |= {basis: numbers(shares, ".1%") for basis, shares in mean.items()}
    table = as_table([*columns], zip(*columns.values(), strict=True))
    return [table, *legend, "prefix, svd: energy captured, mean of modules"]


def _pictures(facts: Description, *, layers: bool) -> list[str]:
    """Energy per rank as bars, by kind of module or for each module."""
    modules = facts.energy.modules
    groups: dict[str, list[str]] = {}
    for name in modules:
        groups.setdefault(name if layers else name.rpartition(".")[2], []).append(name)
    width = max(map(len, groups))
    ranks = ",".join(map(str, facts.energy.ranks))
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


@command(short="rank ranks basis rescale out merge-into json")
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
    *,
    revision: str | None,
    subfolder: str | None,
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
    from aurac.adapters.truncate import prepare_outline
    from aurac.runs.plan import parse_ranks

    if (rank is None) == (ranks is None):
        given = "no rank" if rank is None else "--rank with --ranks"
        raise UsageError(given, expected="--rank R, or --ranks R,R for several")
    if (out is None) == (merge_into is None):
        given = "no place for the result" if out is None else "--out with --merge-into"
        raise UsageError(given, expected="--out FOLDER, or --merge-into FOLDER for a whole model")
    if merge_into is None:
        refuse_given(["dtype"], "with --out, which keeps the adapter's type", "leave it out")
    adapter = open_checkpoint(checkpoint_path, base, revision, subfolder)
    wanted = (adapter.check_rank(rank),) if rank is not None else parse_ranks(ranks or "", adapter)
    how = prepare_outline(adapter, basis, rescale)
    for note in adapter.notes:
        print_text(f"note: {note}", error=True)
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
    rows = [CutRow.of(how, r, cut, places[r]) for r, cut in written.items()]
    print_result(rows, "\n".join(row.line for row in rows), as_json=as_json)


@dataclass(frozen=True)
class CutRow:
    """What `aurac truncate` says of a folder that it wrote."""

    folder: Path
    rank: int
    basis: str
    rescale: str
    parameters: int
    bytes: int
    vllm_max_lora_rank: int | None
    vllm_refusal: str | None

    @classmethod
    def of(cls, how: Prepared, rank: int, cut: Adapter, folder: Path) -> CutRow:
        """Of a truncation as it was written."""
        from aurac.adapters.inspect import max_lora_rank, vllm_refusal

        size = cut.parameters(cut.rank), cut.bytes(cut.rank)
        vllm = max_lora_rank(cut), vllm_refusal(cut)
        return cls(folder, rank, how.basis, how.rescale, *size, *vllm)

    @property
    def line(self) -> str:
        """The same in words."""
        vllm = f"vLLM --max-lora-rank {self.vllm_max_lora_rank}"
        return (
            f"{self.folder}  rank {self.rank}, {self.basis}, rescale {self.rescale}, "
            f"{self.parameters:,} parameters, {decimals(self.bytes / 1e6, 2)} MB, "
            + (f"not for vLLM: {self.vllm_refusal}" if self.vllm_refusal else vllm)
        )
