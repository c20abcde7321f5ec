"""`aurac recommend`: the smallest configuration to ship, with its accuracy, size and speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from aurac.cli._analysis import (
    analysis_options,
    decided_lines,
    pair_lines,
    print_curves,
    read_sources,
    table,
)
from aurac.cli._serving import Measured
from aurac.cli.options import (
    NOT_SHOWN,
    command,
    names,
    options,
    print_json,
    refuse_given,
    repeated,
)
from aurac.curves.display import declared, interval, percent, seconds, size
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.choice_rows import Choice, Configuration, RecommendRow
    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import ScoreRow
    from aurac.readers import Curves


_OF_RUNS = ("budget", "out", "ranks", "basis", "num_fewshot", "base", "device", "data")
_OF_FINISHED = (
    *("require_rank", "max_latency_ms", "metric", "groups", "cluster", "support"),
    *("axis", "level", "details"),
)


@command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@options(
    """
    What a configuration has to show; choose before looking
    --margin --delta margin FLOAT: Loss of accuracy against the best configuration that is
        tolerable, such as 0.02. Without it the trade-off of size and accuracy is shown.
    --min-accuracy FLOAT: Accuracy that it must have at least, such as 0.5.
    --reference REFERENCE: RANK, ADAPTER or ADAPTER@RANK to compare with; the best configuration by
        default.
    --require-rank R INTEGER: Exit with 4 unless each adapter may be shipped at rank R or a smaller
        one.
    --max-latency-ms MS FLOAT: Exit with 4 unless each adapter takes at most MS for a generated
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
)
@analysis_options
def recommend(
    *,
    sources: tuple[str, ...],
    metric: dict[str, str],
    groups: dict[str, list[str]],
    as_json: bool,
    details: bool,
    cluster: tuple[str, ...],
    require_rank: int | None,
    max_latency_ms: float | None,
    tasks: list[str],
    until: str | None,
    **options: Any,
) -> int:
    """The smallest configuration that you can ship: an adapter, its truncation and its rank.

    It is named where one-sided paired tests show that it loses less than --margin against the best
    configuration of the run, whichever that is, where its accuracy is shown to be --min-accuracy at
    least, or both, and where it is shown to be above the base. The error rate (--alpha) includes
    the choice, and holds for numbers that were chosen before looking.

    \b
    aurac recommend runs/gsm8k                       # sizes, accuracies, the margin each would need
    aurac recommend runs/gsm8k --margin 0.02
    aurac recommend runs/gsm8k --margin 0.02 --reference lora@16
    aurac recommend runs/gsm8k --min-accuracy 0.45
    aurac recommend runs/gate --margin 0.03 --require-rank 8    # a CI gate: exit code 0 or 4
    aurac recommend runs/gate --margin 0.03 --max-latency-ms 15
    aurac recommend my_adapter --tasks gsm8k --margin 0.02 --until decided
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.analyse import analyse

    run = {name: options.pop(name) for name in _OF_RUNS}
    if tasks or until:
        refuse_given(_OF_FINISHED, "with --until", "give it to the finished run")
        return _evaluate(sources, tasks, until, run, options, as_json=as_json)
    undeclared = options["margin"] is None and options["min_accuracy"] is None
    if undeclared and (require_rank is not None or max_latency_ms is not None):
        raise UsageError("nothing to recommend by", expected="--margin, --min-accuracy, or both")
    reference = options["reference"]
    options["reference"] = int(reference) if reference and reference.isdigit() else reference
    refuse_given(_OF_RUNS, "of a finished run", "leave it out, or give --tasks and --until, too")
    read = read_sources(sources, metric, groups, cluster)
    if read.sequential:
        other = (options["min_accuracy"], options["reference"], require_rank, max_latency_ms)
        more = any(other) or len(read.sequential) < len(sources)  # beside a run of fixed size
        return _decided(read, options["margin"], asked_more=more, as_json=as_json)
    result = analyse(read.curves, groups=read.groups, **options)
    measured = Measured(sources, read.groups)
    gates = _gates(result, measured, require_rank, max_latency_ms)
    failing = any(rows for rows, _, _ in gates)
    if as_json:
        content = _content(result, measured, details=details)
        print_json({"shown": not failing, **content} if gates else content)
    else:
        _print(result, measured, details=details)
        for rows, passed, failed in gates:
            labels = [f"{row.label} on {row.task}" if row.task else row.label for row in rows]
            click.echo("\n" + (f"{failed}: {', '.join(labels)}." if rows else passed))
    return NOT_SHOWN if failing else 0


def _evaluate(
    checkpoints: tuple[str, ...],
    tasks: list[str],
    until: str | None,
    run: dict[str, Any],
    options: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """Evaluate adapters rank by rank until the smallest non-inferior rank is known."""
    from aurac.cli.compare import evaluate
    from aurac.runs.finished import Request
    from aurac.runs.sequential_plan import Until

    if not tasks or until is None or options["margin"] is None:
        expected = "aurac recommend ADAPTER --tasks TASK --margin 0.02 --until decided"
        raise UsageError("--tasks, --until and --margin go together", expected=expected)
    for name in ("reference", "min_accuracy"):
        if options[name] is not None:
            expected = "the largest of --ranks as the reference, and a margin"
            raise UsageError(f"--{name.replace('_', '-')} with --until", expected=expected)
    numbers = {"margin": options["margin"], "alpha": options["alpha"], "budget": run.pop("budget")}
    request = Request.of(checkpoints, tasks, run.pop("out"), **run)
    return evaluate(request, Until.of(until, ranks=True, **numbers), as_json=as_json)


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
    if as_json:
        print_json({"ship": [], "sequential": to_builtins(read.sequential)})
    else:
        click.echo("\n".join(decided_lines(read.sequential)).strip("\n"))
    return 0


def _gates(
    result: Analysis, measured: Measured, rank: int | None, latency: float | None
) -> list[tuple[list[RecommendRow], str, str]]:
    """For each demand the adapters not shown to meet it, and what to say of none or some."""
    rows = [row for row in result.recommended if not row.other]
    gates = []
    if rank is not None:
        failing = [row for row in rows if row.rank is None or row.rank > rank]
        passed = f"Every adapter may be shipped at rank {rank} or a smaller one."
        gates.append((failing, passed, f"Not shown to be good enough at rank {rank}"))
    if latency is not None:
        slow = [row for row in rows if not measured.within(row, latency)]
        most = f"at most {latency:g} ms a generated token"
        passed = f"Every adapter takes {most} at its rank."
        gates.append((slow, passed, f"Not shown to take {most}"))
    return gates


def _content(result: Analysis, measured: Measured, *, details: bool) -> dict[str, Any]:
    from aurac.analysis.comparisons import truncation_advice

    content = result.to_dict(details=details)
    names = ["recommended", *(["variants", "pairs", "best"] if details else [])]
    shown: dict[str, Any] = {name: content[name] for name in names}
    shown["choices"] = [found.to_dict(details=details) for found in result.choices]
    shown["ship"] = [_ship(found, measured) for found in result.choices]
    if details:
        shown["truncations"] = [one.to_dict() for one in truncation_advice(result)]
    return shown


def _ship(found: Choice, measured: Measured) -> dict[str, Any]:
    """What to ship on a task; an adapter and rank of null where nothing is named."""
    one = found.chosen
    empty = {"adapter": None, "rank": None}
    ship = {"task": found.task, **(one.to_dict() if one else empty), "alpha": found.alpha}
    served = measured.of(one) if one else None
    ship |= {"serving": served.to_dict(one.rank)} if served and one else {}
    return ship | {"sentence": " ".join(found.sentences)}


def _print(result: Analysis, measured: Measured, *, details: bool) -> None:
    from aurac.analysis.comparisons import truncation_advice

    lines = []
    for found in result.choices:
        lines.append(" ".join(found.sentences))
        one = found.chosen
        served = measured.of(one) if one else None
        lines += [served.sentence(one.rank)] if served and one else []
        if details or not found.declared:
            shown = found.configurations if details else found.frontier
            lines += ["", *_trade_off(found, shown)]
    click.echo("\n".join([*lines, ""]))
    if result.recommended:
        _print_ranks(result, measured)
    lines = []
    for row in result.recommended:
        lines += [row.sentence] if details or not row.other else []
        lines += [*_tests(row), ""] if details else []
    if details:
        title = "Which truncation to use for this adapter, paired"
        lines += pair_lines(result.variants, title, details=True)
        lines += [row.sentence for row in result.pairs if row.survives is not None]
    advice = truncation_advice(result)
    lines += ["", *(one.sentence for one in advice)] if advice else []
    click.echo("\n" + "\n".join(lines).strip("\n"))


def _trade_off(found: Choice, shown: Sequence[Configuration]) -> list[str]:
    """Sizes and accuracies, and the margin at which each would be shown to be good enough."""
    if not shown:
        return []
    where = f" on {found.task}" if found.task else ""
    title = f"Size against accuracy{where}: configurations that no smaller one equals"
    if len(shown) == len(found.configurations):
        title = f"Size against accuracy{where}"
    level = f"{100 * (1 - found.alpha):.3g}"
    head = ["configuration", "size", "accuracy [95 %, all together]", "margin needed"]
    body = [
        [
            one.name,
            size(one.bytes),
            interval(one),
            "none is enough" if one.needed is None else f"{percent(one.needed, 2)}",
            {True: "yes", False: "not shown", None: "–"}[one.above_base],
        ]
        for one in shown
    ]
    note = f"Each margin, in points, is that at which it would be named ({level} % confidence)."
    return [title, table([*head, "above the base"], body), note]


def _print_ranks(result: Analysis, measured: Measured) -> None:
    rows = {(row.task, row.label): row for row in result.recommended}
    timed = any(measured.of(row) for row in rows.values())

    def extra(score: ScoreRow) -> dict[str, str]:
        row = rows[score.task, score.label]
        one, every = row.choice.chosen, row.choice.configurations
        largest = max((c.rank for c in every), default=0)
        columns = {"use rank": f"{one.rank} of {largest}" if one else "–"}
        columns["accuracy"] = percent(one.accuracy if one else None)
        if any(c.bytes for c in every):
            columns["size"] = size(one.bytes if one else None)
        if any(c.seconds for c in every):
            columns["a document"] = seconds(one.seconds if one else None)
        if timed:
            served = measured.of(row)
            cost = served.cost.at(row.rank) if served and row.rank else None
            columns["a token (ms)"] = cost.decode.milliseconds if cost else "–"
        return columns

    title = "The smallest rank to use, each row by itself; accuracy and AURAC in percent"
    print_curves(result, title=title, extra=extra, ranks=False)


def _tests(row: RecommendRow) -> list[str]:
    if row.result is None:
        return []
    tests = row.result.tests
    head = ["rank", "loss", "upper bound", "within margin", "documents that change"]
    body = [
        [
            str(test.rank),
            percent(test.loss),
            percent(test.upper, 2),
            "yes" if test.passed else "no",
            f"{percent(test.flip_rate)} %",
            "none is enough" if test.margin_needed is None else percent(test.margin_needed, 2),
        ]
        for test in tests
    ]
    alpha = row.choice.alpha
    each, joint = 1.0 - alpha, max(0.0, 1.0 - alpha * len(tests))
    note = f"each upper bound holds by itself at {100 * each:.3g} %, all {len(tests)} at "
    notes = [f"{note}{100 * joint:.3g} %"] * (len(tests) > 1)
    notes += dict.fromkeys(test.method for test in tests)
    return ["In points:", table([*head, "margin needed"], body), *(f"({note})" for note in notes)]
