"""`aurac recommend`: the smallest configuration to ship, with its accuracy, size and speed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurac.cli.gates import gates
from aurac.cli.options import (
    NOT_SHOWN,
    Number,
    command,
    options,
    print_json,
    print_text,
    repeated,
)
from aurac.cli.score import analysis_options
from aurac.errors import UsageError
from aurac.records.cut import EXPORTED, Derived

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aurac.analysis.choice_rows import Choice, Configuration
    from aurac.analysis.record import Analysis
    from aurac.cli.gates import Gate
    from aurac.files import Json
    from aurac.records.results_file import Results
    from aurac.records.serving import ServingCosts
    from aurac.show.names import Names


SCHEMA = 1  # of the JSON


def _only(adapters: Sequence[str]) -> str | None:
    """The value of --adapter; a gate would silently test the last one of several."""
    if len(adapters) > 1:
        given = " ".join(f"--adapter {name!r}" for name in adapters)
        raise UsageError(given, expected="one adapter", fix="run the command once for each")
    return adapters[0] if adapters else None


@command(
    short="margin min-accuracy adapter reference require-rank max-latency-ms alpha details json",
    epilog="Exit codes: 0 answered, and every gate is passed; 4 a gate is not passed; 2 bad input.",
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@options(
    """
    What a configuration has to show; choose before looking
    --margin FLOAT: Loss of accuracy against the best configuration that is
        tolerable, such as 0.02. Without it the trade-off of size and accuracy is shown.
    --min-accuracy FLOAT: Accuracy that it must have at least, such as 0.5.
    --adapter <NAME>: Answer for one adapter alone, in its default truncation, or for a truncation
        as tables name it: "lora (SVD)".
    --reference <REFERENCE>: ADAPTER@RANK to compare with, or ADAPTER at its largest rank; RANK: the
        best at that rank, for ranks up to it. By default the best configuration.

    Gates, of every adapter by itself in its default truncation, or of --adapter
    --require-rank <R> INTEGER: Exit with 4 unless every adapter by itself, or --adapter, may be
        shipped at rank R or a smaller one.
    --max-latency-ms <MS> FLOAT: Exit with 4 unless every adapter, or --adapter, takes at most MS
        for a generated token at its rank, unmerged, as `aurac cost --save RUN` measured it.
    """,
    adapter=repeated(_only),
    max_latency_ms={"type": Number(min=0, min_open=True)},
)
@analysis_options
def recommend(
    *,
    sources: tuple[str, ...],
    metric: dict[str, str],
    groups: dict[str, list[str]],
    cluster: dict[str, str],
    as_json: bool,
    details: bool,
    require_rank: int | None,
    max_latency_ms: float | None,
    margin: float | None,
    min_accuracy: float | None,
    adapter: str | None,
    reference: int | str | None,
    axis: str,
    level: float,
    alpha: float,
    support: str | None,
) -> int:
    """The smallest configuration that you can ship: an adapter, its truncation and its rank.

    It is named where one-sided paired tests show that it loses less than --margin against the best
    configuration of the run, whichever that is, where its accuracy is shown to be --min-accuracy at
    least, or both, and, where the base was evaluated, shown to be above it. The error rate
    (--alpha) includes the choice, and holds for numbers that were chosen before looking.

    RUN is a run folder, or another FILE of `aurac score`.

    \b
    aurac recommend runs/gsm8k       # sizes, accuracies, the margin each needs
    aurac recommend runs/gsm8k --margin 0.02
    aurac recommend runs/gsm8k --margin 0.02 --reference lora@16
    aurac recommend runs/gsm8k --min-accuracy 0.45
    aurac recommend runs/gate --margin 0.03 --adapter new --require-rank 8  # CI
    aurac recommend runs/gate --margin 0.03 --max-latency-ms 15
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.analysis.of_study import within_study
    from aurac.analysis.primary import read_sources
    from aurac.analysis.rows import Options
    from aurac.analysis.whole import analyse
    from aurac.records.results_file import run_folder
    from aurac.records.serving import ServingCosts

    sources = tuple(str(run_folder(source)) for source in sources)
    gated = require_rank is not None or max_latency_ms is not None
    if margin is None and min_accuracy is None and gated:
        raise UsageError("nothing to recommend by", expected="--margin, --min-accuracy, or both")
    read = read_sources(sources, metric, groups=groups, clusters=cluster)
    settings = Options(
        axis=axis,
        level=level,
        margin=margin,
        min_accuracy=min_accuracy,
        alpha=alpha,
        support=support,
        strict=False,
        reference=reference,
        adapter=adapter,
    )
    result = analyse(read.curves, settings, groups=read.groups)
    result = within_study(result, map(Path, sources))
    served = ServingCosts.read(map(Path, sources), read.groups)
    measure = _measure(sources, result, served) if max_latency_ms is not None else ""
    verdicts = gates(result, served, require_rank, max_latency_ms, measure)
    commands = [_truncate(choice.chosen, sources, read.groups) for choice in result.choices]
    _print(result, served, commands, verdicts, adapter, as_json=as_json, details=details)
    return NOT_SHOWN if any(gate.failing for gate in verdicts) else 0


def _print(
    result: Analysis,
    served: ServingCosts,
    commands: Sequence[tuple[str | None, str]],
    verdicts: Sequence[Gate],
    adapter: str | None,
    *,
    as_json: bool,
    details: bool,
) -> None:
    """The verdicts of gates, what fails first, then what to ship."""
    from aurac.show.names import Names
    from aurac.show.terminal_text import recommended_lines

    if as_json:
        typed = [command for command, _ in commands]
        print_json(_content(result, served, typed, verdicts, details=details))
        return
    names, ordered = Names(result), sorted(verdicts, key=lambda gate: not gate.failing)
    said = [line for gate in ordered for line in (gate.text(names), "")]
    if any(gate.failing for gate in verdicts):
        named = [choice.chosen for choice in result.choices]
        passed = all(row and gate.passes(row) for row in named for gate in verdicts)
        said.append(f"{_passing(named, verdicts)}:" if passed else "Without the gate:")
    elif verdicts and not all(choice.chosen for choice in result.choices):
        said.append("Among all configurations:")
    below = [[line for line in lines if line] for lines in commands]
    lines = recommended_lines(result, served, below, details=details)
    print_text("\n".join([*said, *lines, *_judged(result, names, adapter)]))


def _passing(named: Sequence[Configuration | None], verdicts: Sequence[Gate]) -> str:
    """That what is recommended passes, and what to type so that it alone is tested."""
    if len(named) > 1:
        return "The recommended configurations pass"
    failed = {row.label for gate in verdicts for row, _ in gate.failing}
    (row,) = named
    if row is None or row.other or row.label in failed:
        return "The recommended configuration passes"
    typed = f"--adapter {shlex.quote(row.adapter)} tests it alone"
    return f"The recommended configuration passes ({typed})"


def _judged(result: Analysis, names: Names, adapter: str | None) -> Iterator[str]:
    """Which truncation the bare name of an adapter stands for, where others were measured, too."""
    rows = [row for row in result.scores if row.adapter == adapter]
    if others := dict.fromkeys(f'"{names.of(row)}"' for row in rows if row.other):
        default = " and ".join(dict.fromkeys(names.of(row) for row in rows if not row.other))
        other = "another" if len(others) > 1 else "the other"
        said = f"{adapter} is judged as {default}, its default truncation here"
        yield f"{said}; --adapter {' or '.join(others)} for {other}"


def _results(sources: Iterable[str]) -> Iterator[tuple[str, Results]]:
    """The results of those sources that are run folders."""
    from aurac.records.results_file import RESULTS_FILE, Results

    runs = (source for source in sources if (Path(source) / RESULTS_FILE).is_file())
    return ((run, Results.read(Path(run))) for run in runs)


def _measure(sources: Iterable[str], result: Analysis, served: ServingCosts) -> str:
    """The commands that measure what the adapters asked about cost, a seed of each recipe."""
    rows = result.scores if served.records else result.recommended  # a measurement is replaced
    recipes = {row.adapter for row in rows}
    first = {next(iter(served.groups.get(name, ())), name) for name in recipes}
    ranks = ",".join(map(str, sorted({row.rank for row in result.recommended if row.rank})))
    cut = ["--ranks", ranks] if len(recipes) == 1 and ranks and not served.records else []
    lines = []
    for run, made in _results(sources):
        if paths := [x.path or "CKPT" for x in made.adapters if x.name in first]:
            lines.append(shlex.join(["aurac", "cost", *paths, *cut, "--save", run]))
    return " and ".join(f"`{line}`" for line in lines) or "`aurac cost CKPT… --save RUN`"


def _truncate(
    chosen: Configuration | None, sources: Iterable[str], groups: Mapping[str, Sequence[str]]
) -> tuple[str | None, str]:
    """The command that writes a configuration, None where it is not one, and what to know of it."""
    from aurac.records.serving import vllm_rank

    basis, _, rescale = chosen.truncation.partition(" · ") if chosen else ("", "", "")
    every = [adapter for _, results in _results(sources) for adapter in results.adapters]
    known = {x.name: x for x in every if x.path and x.format != "family"}
    names = groups.get(chosen.adapter, [chosen.adapter]) if chosen else []
    if chosen and {*names} <= {x.name for x in every if x.format == "family"}:
        uncut = f"the one of rank {chosen.rank} is served as it is"
        return None, f"{chosen.adapter} has an adapter for each rank: {uncut}."
    if chosen is None or rescale not in EXPORTED or not known.keys() >= {*names}:
        return None, ""
    adapter = known[names[0]]
    said = None if (basis, rescale) == ("svd", "keep") else rescale  # the default
    cut = Derived(rank=chosen.rank, basis=basis, rescale=said)
    command = cut.command(str(adapter.path), f"{chosen.adapter}_r{chosen.rank}")
    least = vllm_rank(chosen.rank) if str(adapter.format).startswith("peft") else None
    vllm = f"vLLM serves it with --max-lora-rank {least}." if least else ""
    if len(names) == 1:
        return command, vllm
    seeds = ", ".join(name if (seed := known[name].seed) is None else str(seed) for name in names)
    many = f"{chosen.adapter} is {len(names)} checkpoints (seeds {seeds}): choose one, such as"
    return None, f"{many} `{command}`. {vllm}".strip()


def _content(
    result: Analysis,
    served: ServingCosts,
    commands: Sequence[str | None],
    verdicts: Sequence[Gate],
    *,
    details: bool,
) -> dict[str, Json]:
    """The JSON, what to ship first; the page on gates describes it."""
    pairs = zip(result.choices, commands, strict=True)
    shown: dict[str, Json] = {"schema": SCHEMA}
    shown["ship"] = [_ship(choice, served) | {"command": command} for choice, command in pairs]
    shown["choices"] = [choice.to_dict(details=details) for choice in result.choices]
    content = result.to_dict(details=details)
    names = ["recommended", *(["variants", "pairs", "best"] if details else [])]
    shown |= {name: content[name] for name in names}
    if details:
        shown["truncations"] = [advice.to_dict() for advice in result.advice]
    if verdicts:
        shown["shown"] = not any(gate.failing for gate in verdicts)
        shown["failed"] = [
            {"adapter": row.label, "task": row.task, "reason": gate.reason, "why": why}
            for gate in verdicts
            for row, why in gate.failing
        ]
    return shown


def _ship(choice: Choice, served: ServingCosts) -> dict[str, Json]:
    """What to ship on a task; an adapter and rank of null where nothing is named."""
    chosen = choice.chosen
    named = chosen.to_dict() if chosen else {"adapter": None, "rank": None}
    ship: dict[str, Json] = {"task": choice.task, **named, "alpha": choice.alpha}
    if chosen and (measured := served.of(chosen.adapter, chosen.truncation)):
        record, cost = measured
        own = cost.at(chosen.rank)
        times: dict[str, Json] = {"merged": record.merged.seconds}
        ship["serving"] = {"unmerged": own.seconds, **times} if own else None
    return ship | {"sentence": " ".join(choice.sentences)}
