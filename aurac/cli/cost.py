"""`aurac cost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aurac.cli.options import checkpoint_options, command, options, print_result

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aurac.adapters import Adapter, Family
    from aurac.records.schema import Results
    from aurac.records.serving import RankCost, ServingRecord


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
    from aurac.engine.serving import Workload, measure
    from aurac.models.base import load_base
    from aurac.records.schema import Results
    from aurac.records.serving import names_in_run
    from aurac.runs.progress import counting
    from aurac.runs.session import common_base, load_adapters
    from aurac.runs.settings import Settings

    work = Workload(**numbers)
    results = Results.read(save) if save else None
    known = {row.sha256: row.name for row in results.adapters if row.sha256} if results else {}
    adapters = load_adapters(checkpoints, Settings.of(base=base, checkpoint=checkpoint), known)
    wanted = {name: (a, _ranks(ranks, name, a, results)) for name, a in adapters.items()}
    loaded = load_base(common_base(adapters, base), dtype=dtype, device=device)
    if save and results:
        digests = {adapter.sha256: name for name, adapter in adapters.items()}
        fix = "give the adapters and the base of the run"
        names_in_run(digests, loaded.sha256, results, save, fix)
    with counting("measuring", work.steps(wanted), "steps") as step:
        record = measure(loaded, wanted, work, progress=step)
    print_result(record.to_dict(), _text(record), as_json=as_json)
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
