"""`aurac cost`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import checkpoint_options, command, options, print_json
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aurac.adapters import Adapter, Family
    from aurac.engine.serving import Point, Rounds, Workload
    from aurac.models.base import LoadedBase
    from aurac.records.schema import Results
    from aurac.records.serving import AdapterCost, RankCost, ServingRecord

    Adapters = Mapping[str, tuple[Adapter | Family, Sequence[int]]]


@command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...")
@options(
    """
    --ranks: pow2 (default), all, or such as 1,2,4; with --save the run's ranks.
    --base
    --prompt-tokens INTEGER [256]: In each prompt.
    --new-tokens INTEGER [32]: To generate.
    --batch-size batch INTEGER [1]: Prompts.
    --repeats INTEGER [10]: Rounds that count.
    --dtype: float32, bfloat16, float16; by default what suits the device.
    --device
    --save RUN PATH: Keep it in this run folder, for its report and for `aurac recommend`.
    --json
    """
)
@checkpoint_options
def cost(
    checkpoints: tuple[str, ...],
    checkpoint: Mapping[str, Any],
    *,
    ranks: str | None,
    base: str | None,
    dtype: str | None,
    device: str,
    save: Path | None,
    as_json: bool,
    **numbers: int,
) -> None:
    """Measure what each rank costs to serve on this machine: prompts and generated tokens.

    The adapters are not merged, as a server with several adapters runs them. The row of rank 0 is
    the base, and any rank that is merged into it. In each round the base and every rank are timed
    once.

    \b
    aurac cost my_adapter
    aurac cost my_adapter --ranks 4,16 --batch-size 8 --prompt-tokens 512
    aurac cost mine other --save runs/gsm8k    # then: aurac report runs/gsm8k
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.engine.serving import Workload
    from aurac.models.base import load_base
    from aurac.records.schema import Results
    from aurac.records.serving import names_in_run
    from aurac.runs.session import common_base, load_adapters
    from aurac.runs.settings import Settings

    work = Workload(**numbers)
    results = Results.read(save) if save else None
    known = {one.sha256: one.name for one in results.adapters if one.sha256} if results else {}
    adapters = load_adapters(checkpoints, Settings.of(base=base, checkpoint=checkpoint), known)
    wanted = {name: (one, _ranks(ranks, name, one, results)) for name, one in adapters.items()}
    loaded = load_base(common_base(adapters, base), dtype=dtype, device=device)
    if save and results:
        digests = {one.sha256: name for name, one in adapters.items()}
        fix = "give the adapters and the base of the run"
        names_in_run(digests, loaded.sha256, results, save, fix)
    record = _record(loaded, wanted, work, _measure(loaded.model, wanted, work))
    if as_json:
        print_json(record.to_dict())
    else:
        click.echo(_text(record))
    if save:
        click.echo(f"Kept in {record.write(save)}; `aurac report {save}` shows it.", err=as_json)


def _ranks(
    ranks: str | None, name: str, adapter: Adapter | Family, results: Results | None
) -> tuple[int, ...]:
    """The ranks that were asked for, or those at which the run has an accuracy."""
    from aurac.runs.plan import parse_ranks

    curves = [curve for curve in (results.curves if results else ()) if curve.adapter == name]
    evaluated = sorted({rank for curve in curves for rank in curve.ranks})
    return parse_ranks(ranks or evaluated or "pow2", adapter)


def _measure(model: Any, adapters: Adapters, work: Workload) -> dict[Point, Rounds]:
    from aurac.adapters import prepare
    from aurac.engine.serving import time_ranks
    from aurac.runs.progress import counting

    prepared = {n: (prepare(_largest(one)), ranks) for n, (one, ranks) in adapters.items()}
    steps = (work.repeats + 1) * (1 + sum(len(ranks) for _, ranks in prepared.values()))
    with counting("measuring", steps, "steps") as step:
        return time_ranks(model, prepared, work, progress=step)


def _largest(adapter: Adapter | Family) -> Adapter:
    """What is timed: of a family its largest member, which cut to r computes what member r does."""
    from aurac.adapters import Family

    if not isinstance(adapter, Family):
        return adapter
    largest = adapter.members[adapter.rank]
    for rank, member in adapter.members.items():
        if member.modules.keys() != largest.modules.keys():
            raise CheckpointError(
                f"the members of rank {rank} and {adapter.rank} of {adapter.name} adapt different "
                "modules",
                fix="measure them one by one",
            )
    return largest


def _record(
    loaded: LoadedBase, adapters: Adapters, work: Workload, times: Mapping[Point, Rounds]
) -> ServingRecord:
    from importlib.metadata import version

    from aurac.engine.serving import BASE
    from aurac.models.device import in_use, machine, versions
    from aurac.records.serving import AdapterCost, RankCost, ServingRecord, Times

    def at(point: Point, **size: int) -> RankCost:
        prefill, decode = (Times.of(x) for x in (times[point].prefill, times[point].decode))
        return RankCost(rank=point[1], prefill=prefill, decode=decode, **size)

    def of(name: str, adapter: Adapter | Family, ranks: Sequence[int]) -> AdapterCost:
        sizes = {r: {"parameters": adapter.parameters(r), "bytes": adapter.bytes(r)} for r in ranks}
        costs = [at((name, rank), **sizes[rank]) for rank in ranks]
        mergeable = not _largest(adapter).peft_config.get("layer_replication")
        return AdapterCost(name=name, sha256=adapter.sha256, mergeable=mergeable, ranks=costs)

    return ServingRecord(
        aurac=version("aurac"),
        measured=dt.datetime.now(tz=dt.timezone.utc).isoformat(timespec="seconds"),
        base=loaded.name,
        base_sha256=loaded.sha256,
        dtype=loaded.dtype,
        device=loaded.device,
        **vars(work),
        machine={**machine(), **in_use(loaded.device)},
        versions=versions(),
        merged=at(BASE),
        adapters=[of(name, *adapter) for name, adapter in adapters.items()],
    )


def _text(record: ServingRecord) -> str:
    from aurac.records.serving import against
    from aurac.show.table import text_table

    head = ["rank", "MB", "prompt, ms", "tokens/s", "token, ms", "tokens/s", "token / base"]
    parts = [f"{record.base}, {record.conditions}; medians of {record.repeats} rounds [95 %]"]
    for adapter in record.adapters:
        base = "base or merged" if adapter.mergeable else "base"
        rows = [[*_row(record, record.merged, base), ""]]
        rows += [
            [*_row(record, cost, str(cost.rank)), against(cost, adapter.full)]
            for cost in adapter.ranks
        ]
        table = text_table([*head, f"token − that at rank {adapter.full.rank}"], rows)
        parts.append(f"{adapter.name}:\n{table.plain()}")
    return "\n\n".join(parts)


def _row(record: ServingRecord, cost: RankCost, name: str) -> list[str]:
    prefill, decode = record.tokens_per_second(cost)
    return [
        name,
        f"{cost.bytes / 1e6:.1f}" if cost.rank else "–",
        cost.prefill.milliseconds,
        f"{prefill:.0f}",
        cost.decode.milliseconds,
        f"{decode:.1f}",
        f"{cost.decode.median / record.merged.decode.median:.2f}",
    ]
