"""`aurac recommend`: the smallest rank to ship, with its accuracy, size and speed."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from aurac.cli._analysis import (
    NOT_SHOWN,
    analysis_options,
    pair_lines,
    print_curves,
    read_sources,
    table,
)
from aurac.cli._serving import Measured
from aurac.cli.options import (
    FROM_0,
    INTEGER,
    NUMBER,
    GroupedCommand,
    choice,
    folders,
    names,
    options,
    print_json,
    refuse_given,
    repeated,
    task_names,
)
from aurac.curves.display import declared, percent, seconds, size
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.stats.rows import Analysis, BestRow, RecommendRow, ScoreRow


_OF_RUNS = ("budget", "out", "ranks", "basis", "num_fewshot", "base", "device", "data")
_OF_FINISHED = (
    *("require_rank", "max_latency_ms", "metric", "groups", "cluster", "support"),
    *("axis", "level", "details"),
)


@click.command(cls=GroupedCommand)
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@options(
    """
    What a rank has to show; choose before looking
    --margin --delta margin: Loss of accuracy against the largest rank that is tolerable, such as
        0.02.
    --min-accuracy: Accuracy that it must have at least, such as 0.5.
    --reference: Rank to compare with; the largest by default.
    --require-rank: Exit with 4 unless each adapter may be shipped at rank R or a smaller one.
    --max-latency-ms: Exit with 4 unless each adapter takes at most MS for a generated token at its
        rank, unmerged, as `aurac cost --save RUN` measured it.

    Evaluate adapters until their rank is decided: RUN is an adapter then
    --tasks -t: Task names.
    --until: Goes with --tasks.
    --budget: Most documents of each task, or a time such as 30min.
    --out -o: Run folder.
    --ranks: pow2, all, or 1,2,4.
    --basis: prefix or svd; auto: prefix after nested training, svd otherwise.
    --num-fewshot -f: Examples in a prompt.
    --base: Base model. Default: what the adapter records.
    --device: cpu, cuda, cuda:N, mps.
    --data: TASK=FOLDER with local splits.
    """,
    margin=NUMBER,
    min_accuracy=NUMBER,
    reference=INTEGER,
    require_rank={**INTEGER, "metavar": "R"},
    max_latency_ms={**NUMBER, "metavar": "MS"},
    tasks=repeated(task_names),
    until=choice("decided"),
    out={"type": click.Path()},
    ranks={"default": "pow2"},
    basis=repeated(names, default=["auto"]),
    num_fewshot=FROM_0,
    device={"default": "auto"},
    data=repeated(folders),
)
@analysis_options
def recommend(
    *,
    sources: tuple[str, ...],
    metric: dict[str, str],
    groups: tuple[str, ...],
    as_json: bool,
    details: bool,
    cluster: tuple[str, ...],
    require_rank: int | None,
    max_latency_ms: float | None,
    tasks: list[str],
    until: str | None,
    **options: Any,
) -> int:
    """The smallest rank of each adapter that you can ship, and which adapter.

    A rank is recommended where one-sided paired tests show that it loses less than --margin against
    the largest rank, where its accuracy is shown to be --min-accuracy at least, or both: from the
    largest rank downward, up to the first that fails. The error rate of the tests (--alpha) holds
    for numbers that were chosen before looking.

    \b
    aurac recommend runs/gsm8k --margin 0.02
    aurac recommend runs/gsm8k --min-accuracy 0.45
    aurac recommend runs/gate --margin 0.03 --require-rank 8    # a CI gate: exit code 0 or 4
    aurac recommend runs/gate --margin 0.03 --max-latency-ms 15
    aurac recommend my_adapter --tasks gsm8k --margin 0.02 --until decided
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.stats.analysis import analyse

    run = {name: options.pop(name) for name in _OF_RUNS}
    if tasks or until:
        refuse_given(_OF_FINISHED, "with --until", "give it to the finished run")
        return _evaluate(sources, tasks, until, run, options, as_json=as_json)
    if options["margin"] is None and options["min_accuracy"] is None:
        raise UsageError("nothing to recommend by", expected="--margin, --min-accuracy, or both")
    refuse_given(_OF_RUNS, "of a finished run", "leave it out, or give --tasks and --until, too")
    read = read_sources(sources, metric, groups, cluster)
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
    command = shlex.join(["aurac", *sys.argv[1:]])
    return evaluate(request, command, Until.of(until, ranks=True, **numbers), as_json=as_json)


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


def _shipped(result: Analysis) -> list[tuple[RecommendRow, BestRow | None]]:
    """For each task what to ship: the leader, whose tests allow for its having been picked."""
    leaders = {row.task: row for row in result.best if row.recommended is not None}
    shipped: list[tuple[RecommendRow, BestRow | None]] = []
    for task in dict.fromkeys(row.task for row in result.recommended):
        best = leaders.get(task)
        compared = [row for row in result.recommended if row.task == task and not row.other]
        if best is not None and best.recommended is not None:
            shipped.append((best.recommended, best))
        elif len(compared) == 1:
            shipped.append((compared[0], None))
    return shipped


def _content(result: Analysis, measured: Measured, *, details: bool) -> dict[str, Any]:
    from aurac.stats.comparisons import truncation_advice

    content = result.to_dict(details=details)
    names = ["recommended", *(["variants", "pairs", "best"] if details else [])]
    shown = {name: content[name] for name in names}
    shown["ship"] = []
    for row, best in _shipped(result):
        ship = {"task": row.task, "adapter": row.label, "rank": row.rank, **row.shipped()}
        candidates = list(best.candidates) if best else [row.label]
        ship |= {"alpha": row.alpha, "candidates": candidates}
        served = measured.of(row)
        ship |= {"serving": served.to_dict(row.rank)} if served and row.rank else {}
        shown["ship"].append(ship)
    if details:
        shown["truncations"] = [one.to_dict() for one in truncation_advice(result)]
    return shown


def _print(result: Analysis, measured: Measured, *, details: bool) -> None:
    from aurac.stats.comparisons import truncation_advice

    lines = []
    for row, best in _shipped(result):
        lines.append(_sentence(row, best, result.recommended))
        served = measured.of(row)
        lines += [served.sentence(row.rank)] if served and row.rank else []
    click.echo("\n".join([*lines, ""] if lines else []))
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


def _sentence(row: RecommendRow, best: BestRow | None, rows: Sequence[RecommendRow]) -> str:
    """What to ship on one task, and what else may be the best."""
    where = f" on {row.task}" if row.task else ""
    if row.reason is not None:
        return f"Ship nothing yet{where}: {row.label} cannot be tested ({row.reason})."
    if row.rank is None:
        return f"Ship nothing yet{where}: no rank of {row.label} passes."
    shown = row.shipped()
    full = f" ({percent(shown['full_accuracy'])} % at rank {shown['full_rank']})"
    facts = [f"accuracy {percent(shown['accuracy'])} %" + full * (row.rank != shown["full_rank"])]
    facts += [size(shown["bytes"])] if shown["bytes"] else []
    facts += [f"{seconds(shown['seconds_per_document'])} a document"] * bool(row.seconds)
    text = f"Ship {row.label} at rank {row.rank}{where}: {', '.join(facts)}."
    if row.result is not None and row.result.rank == row.result.reference:
        text += f" No smaller rank is shown to stay within {declared(row.result.margin)} of it."
    elif row.accurate is not None and row.accurate.rank == row.rank != min(row.accuracy):
        least = percent(row.accurate.minimum)
        text += f" No smaller rank is shown to be at least {least} % accurate."
    if best is not None:
        text += f" Its tests allow for its having been picked from {best.compared}."
    if best is not None and len(best.candidates) > 1:
        text += f" The best adapter may be any of {', '.join(best.candidates)}"
        of_task = [one for one in rows if one.task == best.task]
        text += _smallest([x for x in of_task if x.label in best.candidates], row.label) + "."
    return text


def _smallest(rows: Sequence[RecommendRow], named: str) -> str:
    """Which of several adapters is the smallest at its own rank, where it is not the one named."""
    sized = [(one.shipped()["bytes"], one) for one in rows]
    known = [(number, one) for number, one in sized if number is not None]
    number, least = min(known, key=lambda item: item[0], default=(0, None))
    if least is None or least.label == named:
        return ""
    accuracy = percent(least.shipped()["accuracy"])
    return f"; {least.label} at rank {least.rank} is the smallest ({size(number)}, {accuracy} %)"


def _print_ranks(result: Analysis, measured: Measured) -> None:
    rows = {(row.task, row.label): row for row in result.recommended}
    timed = any(measured.of(row) for row in rows.values())

    def extra(score: ScoreRow) -> dict[str, str]:
        row = rows[score.task, score.label]
        shown = row.shipped()
        columns = {"use rank": "–" if row.rank is None else f"{row.rank} of {max(row.accuracy)}"}
        columns["accuracy"] = percent(shown["accuracy"])
        if any(one.sizes for one in rows.values()):
            columns["size"] = size(shown["bytes"])
        if any(one.seconds for one in rows.values()):
            columns["a document"] = seconds(shown["seconds_per_document"])
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
            ("yes" if test.passed else "no") if test.tested else "not tested",
            f"{percent(test.flip_rate)} %",
            percent(test.margin_needed, 2),
        ]
        for test in tests
    ]
    each, joint = 1.0 - row.alpha, max(0.0, 1.0 - row.alpha * len(tests))
    note = f"each upper bound holds by itself at {100 * each:.3g} %, all {len(tests)} at "
    notes = [f"{note}{100 * joint:.3g} %"] * (len(tests) > 1)
    notes += dict.fromkeys(test.method for test in tests)
    return ["In points:", table([*head, "margin needed"], body), *(f"({note})" for note in notes)]
