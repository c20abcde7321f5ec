"""`aurac recommend`: the smallest configuration to ship, with its accuracy, size and speed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from aurac.cli.options import (
    NOT_SHOWN,
    command,
    names,
    options,
    parsed,
    print_json,
    print_result,
    print_text,
    refuse_given,
    repeated,
)
from aurac.cli.score import analysis_options, print_curves
from aurac.curves.display import declared
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.adapters.truncate import BasisOption
    from aurac.analysis.choice_rows import Choice, Configuration, RankRow
    from aurac.analysis.record import Analysis
    from aurac.files import Json
    from aurac.readers import Curves
    from aurac.records.serving import ServingCosts
    from aurac.runs.sequential_plan import Until

    Gate = tuple[list[RankRow], str, str]  # rows that fail, what is said of none, and of some

SCHEMA = 1  # of the JSON
_OF_RUNS = ("budget", "out", "ranks", "basis", "num_fewshot", "base", "device", "data")
_OF_FINISHED = (
    *("require_rank", "max_latency_ms", "metric", "groups", "cluster", "support"),
    *("axis", "level", "details"),
)


@command(short="margin min-accuracy reference require-rank max-latency-ms details json")
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@options(
    """
    What a configuration has to show; choose before looking
    --margin --delta margin FLOAT: Loss of accuracy against the best configuration that is
        tolerable, such as 0.02. Without it the trade-off of size and accuracy is shown.
    --min-accuracy FLOAT: Accuracy that it must have at least, such as 0.5.
    --reference <REFERENCE>: RANK, ADAPTER or ADAPTER@RANK to compare with; the best configuration
        by default.
    --require-rank <R> INTEGER: Exit with 4 unless each adapter, judged by itself, may be shipped
        at rank R or a smaller one.
    --max-latency-ms <MS> FLOAT: Exit with 4 unless each adapter takes at most MS for a generated
        token at its rank, unmerged, as `aurac cost --save RUN` measured it.

    Evaluate adapters until their rank is decided: RUN is an adapter then
    --tasks
    --until: Goes with --tasks.
    --budget: Most documents of each task, or a time such as 30min.
    --out -o: Run folder.
    --ranks [pow2]: pow2, all, or 1,2,4.
    --basis: prefix or svd; auto: prefix after nested training, svd otherwise.
    --num-fewshot
    --base
    --device
    --data
    """,
    until={"type": click.Choice(["decided"])},
    out={"type": click.Path()},
    basis=repeated(names, default=["auto"]),
    reference=parsed(lambda text: int(text) if text.isdigit() else text),
)
@analysis_options
def recommend(
    *,
    sources: tuple[str, ...],
    metric: dict[str, str],
    groups: dict[str, list[str]],
    as_json: bool,
    details: bool,
    cluster: dict[str, str],
    require_rank: int | None,
    max_latency_ms: float | None,
    tasks: list[str],
    until: str | None,
    budget: str | None,
    out: str | None,
    margin: float | None,
    min_accuracy: float | None,
    reference: int | str | None,
    axis: str,
    level: float,
    alpha: float,
    support: str | None,
    ranks: str,
    basis: list[BasisOption],
    num_fewshot: int | None,
    base: str | None,
    device: str,
    data: dict[str, Path],
) -> int:
    """The smallest configuration that you can ship: an adapter, its truncation and its rank.

    It is named where one-sided paired tests show that it loses less than --margin against the best
    configuration of the run, whichever that is, where its accuracy is shown to be --min-accuracy at
    least, or both, and where it is shown to be above the base. The error rate (--alpha) includes
    the choice, and holds for numbers that were chosen before looking.

    \b
    aurac recommend runs/gsm8k       # sizes, accuracies, the margin each needs
    aurac recommend runs/gsm8k --margin 0.02
    aurac recommend runs/gsm8k --margin 0.02 --reference lora@16
    aurac recommend runs/gsm8k --min-accuracy 0.45
    aurac recommend runs/gate --margin 0.03 --require-rank 8  # CI: exit 0 or 4
    aurac recommend runs/gate --margin 0.03 --max-latency-ms 15
    aurac recommend my_adapter --tasks gsm8k --margin 0.02 --until decided
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.primary import read_sources
    from aurac.analysis.rows import Options
    from aurac.analysis.whole import analyse
    from aurac.records.serving import ServingCosts

    if tasks or until:
        from aurac.cli.compare import evaluate
        from aurac.runs.settings import Request

        refuse_given(_OF_FINISHED, "with --until", "give it to the finished run")
        decided = _until(tasks, until, margin, alpha, budget, reference, min_accuracy)
        request = Request.of(
            sources,
            tasks,
            out,
            ranks=ranks,
            basis=basis,
            num_fewshot=num_fewshot,
            base=base,
            device=device,
            data=data,
        )
        return evaluate(request, decided, as_json=as_json)
    undeclared = margin is None and min_accuracy is None
    if undeclared and (require_rank is not None or max_latency_ms is not None):
        raise UsageError("nothing to recommend by", expected="--margin, --min-accuracy, or both")
    refuse_given(_OF_RUNS, "of a finished run", "leave it out, or give --tasks and --until, too")
    read = read_sources(sources, metric, groups=groups, clusters=cluster)
    if read.sequential:
        other = (min_accuracy, reference, require_rank, max_latency_ms)
        more = any(other) or len(read.sequential) < len(sources)  # beside a run of fixed size
        return _decided(read, margin, asked_more=more, as_json=as_json)
    settings = Options(
        axis=axis,
        level=level,
        margin=margin,
        min_accuracy=min_accuracy,
        alpha=alpha,
        support=support,
        reference=reference,
    )
    result = analyse(read.curves, settings, groups=read.groups)
    served = ServingCosts.read(map(Path, sources), read.groups)
    gates = _gates(result, served, require_rank, max_latency_ms)
    failed = [
        {"adapter": row.label, "task": row.task, "reason": reason}
        for rows, _, reason in gates
        for row in rows
    ]
    commands = [_truncate(choice.chosen, sources) for choice in result.choices]
    if as_json:
        content = _content(result, served, commands, details=details)
        print_json(content | ({"shown": not failed, "failed": failed} if gates else {}))
    else:
        _print(result, served, [line for line in commands if line], gates, details=details)
    return NOT_SHOWN if failed else 0


def _until(
    tasks: Sequence[str],
    until: str | None,
    margin: float | None,
    alpha: float,
    budget: str | None,
    reference: int | str | None,
    min_accuracy: float | None,
) -> Until:
    """The question of a run that stops when it is answered."""
    from aurac.runs.sequential_plan import Until

    if not tasks or until is None or margin is None:
        expected = "aurac recommend ADAPTER --tasks TASK --margin 0.02 --until decided"
        raise UsageError("--tasks, --until and --margin go together", expected=expected)
    against = {"--reference": reference, "--min-accuracy": min_accuracy}
    for option in (name for name, value in against.items() if value is not None):
        expected = "the largest of --ranks as the reference, and a margin"
        raise UsageError(f"{option} with --until", expected=expected)
    return Until.of(until, ranks=True, margin=margin, alpha=alpha, budget=budget)


def _print(
    result: Analysis,
    served: ServingCosts,
    commands: Sequence[str],
    gates: Sequence[Gate],
    *,
    details: bool,
) -> None:
    """What to ship and the commands that cut it, each adapter by itself, and the gates."""
    from aurac.show import terminal_text

    text = terminal_text.ship_lines(result, served, details=details)
    print_text("\n".join([*text, *commands, ""]))
    if result.recommended:
        title = "The smallest rank to use, each row by itself; accuracy and AURAC in percent"
        print_curves(result, title, terminal_text.rank_columns(result, served))
    lines = terminal_text.rank_lines(result, details=details)
    if len(result.recommended) > 1:  # else both answers are of the same ranks
        lines.insert(0, "Each adapter by itself, not against the others as above:")
    print_text("\n" + "\n".join(lines).strip("\n"))
    for rows, passed, reason in gates:
        said = f"{reason}: {', '.join(map(terminal_text.row_name, rows))}." if rows else passed
        print_text(f"\n{said}")


def _decided(read: Curves, margin: float | None, *, asked_more: bool, as_json: bool) -> int:
    """What runs that stopped early have decided; no other test holds on their documents."""
    own = {record.margin for record in read.sequential}
    if asked_more or (margin is not None and own != {margin}):
        known = ", ".join("none" if m is None else declared(m) for m in own)
        raise UsageError(
            "another question to a run that stopped when its own was decided",
            expected=f"its own margin ({known}) or none, no gate, and no other run",
            fix="for a gate run compare on a fixed number of documents, without --until, into "
            "another folder",
        )
    from aurac.show.terminal_text import decided_lines

    content = {"schema": SCHEMA, "ship": [], "sequential": to_builtins(read.sequential)}
    text = "\n".join(decided_lines(read.sequential)).strip("\n")
    print_result(content, text, as_json=as_json)
    return 0


def _within(row: RankRow, served: ServingCosts, limit: float) -> bool:
    """Whether a row is shown to take at most `limit` ms a token; it must have been measured."""
    if row.rank is None:
        return False
    cost = served.at(row.adapter, row.truncation, row.rank)
    if cost is None or cost.decode.high is None:
        problem = f"no latency of {row.label} at rank {row.rank} was measured"
        expected = "a measurement in the run folder"
        if cost is not None:
            problem, expected = f"{len(cost.decode.rounds)} repeats give no interval", "at least 6"
        raise UsageError(
            f"--max-latency-ms: {problem}",
            expected=expected,
            fix=f"run `aurac cost CKPT --ranks {row.rank},… --save RUN` first",
        )
    return 1000 * cost.decode.high <= limit


def _gates(
    result: Analysis, served: ServingCosts, rank: int | None, latency: float | None
) -> list[Gate]:
    """For each demand the adapters not shown to meet it, and what to say of none or some."""
    rows = [row for row in result.recommended if not row.other]
    gates = []
    if rank is not None:
        failing = [row for row in rows if row.rank is None or row.rank > rank]
        at = f"at rank {rank} or a smaller one"
        passed = (
            f"Every adapter may be shipped {at}. Each was judged by itself, not against another: a "
            "weak adapter passes, too, where it loses little by being cut."
        )
        gates.append((failing, passed, f"Not shown to be good enough {at}"))
    if latency is not None:
        slow = [row for row in rows if not _within(row, served, latency)]
        most = f"at most {latency:g} ms a generated token"
        gates.append(
            (slow, f"Every adapter takes {most} at its rank.", f"Not shown to take {most}")
        )
    return gates


def _truncate(chosen: Configuration | None, sources: Iterable[str]) -> str | None:
    """The command that writes a configuration; None where adapter or truncation are not known."""
    from aurac.records.results_file import RESULTS_FILE, Results

    basis, _, rescale = chosen.truncation.partition(" · ") if chosen else ("", "", "")
    if chosen is None or rescale not in ("rule", "keep", "trained"):
        return None
    runs = (Path(source) for source in sources if (Path(source) / RESULTS_FILE).is_file())
    every = (adapter for run in runs for adapter in Results.read(run).adapters)
    known = {x.name: x.path for x in every if x.path and x.format != "family"}
    if chosen.adapter not in known:
        return None
    cut = ["--rank", str(chosen.rank), "--basis", basis]
    cut += [] if (basis, rescale) == ("svd", "keep") else ["--rescale", rescale]  # the default
    out = f"{chosen.adapter}_r{chosen.rank}"
    return shlex.join(["aurac", "truncate", known[chosen.adapter], *cut, "--out", out])


def _content(
    result: Analysis, served: ServingCosts, commands: Sequence[str | None], *, details: bool
) -> dict[str, Json]:
    content = result.to_dict(details=details)
    names = ["recommended", *(["variants", "pairs", "best"] if details else [])]
    shown: dict[str, Json] = {"schema": SCHEMA} | {name: content[name] for name in names}
    shown["choices"] = [choice.to_dict(details=details) for choice in result.choices]
    ships = [_ship(choice, served) for choice in result.choices]
    pairs = zip(ships, commands, strict=True)
    shown["ship"] = [ship | {"command": command} for ship, command in pairs]
    if details:
        shown["truncations"] = [advice.to_dict() for advice in result.advice]
    return shown


def _ship(choice: Choice, served: ServingCosts) -> dict[str, Json]:
    """What to ship on a task; an adapter and rank of null where nothing is named."""
    chosen = choice.chosen
    named = chosen.to_dict() if chosen else {"adapter": None, "rank": None}
    ship: dict[str, Json] = {"task": choice.task, **named, "alpha": choice.alpha}
    measured = served.of(chosen.adapter, chosen.truncation) if chosen else None
    if measured and chosen:
        record, cost = measured
        own, merged = cost.at(chosen.rank), record.merged if cost.mergeable else None
        times = {"unmerged": own.seconds if own else None}
        times["merged"] = merged.seconds if merged else None
        ship["serving"] = times if own else None
    return ship | {"sentence": " ".join(choice.sentences)}
