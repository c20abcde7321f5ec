"""Decisions of sequential runs as `results.json` has them, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from aurac.analysis.sentences import show_p
from aurac.curves.display import decimals, percent, points
from aurac.records.decisions import DecisionRecord, LookRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.stats.design import Decision, Design
    from aurac.stats.mean import Estimate


def record_of(
    decision: Decision,
    design: Design,
    question: str,
    task: str,
    a: str,
    *,
    b: str | None = None,
    rank: int | None = None,
    top: int | None = None,
) -> DecisionRecord:
    """A decision as `results.json` has it."""
    last = decision.path[-1]
    names = ("accuracy", f"rank {rank} of {a}", f"rank {top}") if rank else ("AURAC", str(b), a)
    return DecisionRecord(
        verdict=decision.verdict,
        documents=decision.documents,
        p=decision.p,
        p_adjusted=decision.p_adjusted,
        estimate=decision.estimate,
        mean=decision.mean,
        low=decision.low,
        high=decision.high,
        level=decision.level,
        predictive=decision.predictive,
        question=question,  # type: ignore[arg-type]
        task=task,
        a=a,
        b=b,
        rank=rank,
        of=decision.total,
        look=len(decision.path),
        looks=decision.planned,
        z=last.z,
        boundary=last.boundary,
        path=msgspec.convert(decision.path, list[LookRecord], from_attributes=True),
        sentence=f"{task}: {_in_words(decision, design, *names)}.",
    )


def _in_words(decision: Decision, design: Design, what: str, who: str, than: str) -> str:
    """What was decided of `who` against `than`, and on which documents."""
    last = decision.path[-1]
    margin = points(design.margin) if design.margin else ""
    heads = {
        "superior": f"{who} is better than {than}",
        "inferior": f"{who} is worse than {than}" + (f" by more than {margin}" if margin else ""),
        "non-inferior": f"{who} is at most {margin} worse than {than}",
        "futile": f"{who} against {than}: no answer is to be expected",
        "continue": f"{who} against {than}: not decided yet",
    }
    head = heads.get(decision.verdict, f"{who} against {than}: {decision.verdict}")
    numbers = (
        f"{what} differs by {percent(decision.estimate)} points "
        f"({100 * decision.level:g} % interval {percent(decision.low)} to "
        f"{percent(decision.high)}), adjusted p {show_p(decision.p_adjusted)}"
    )
    where = (
        f"look {len(decision.path)} of {decision.planned}, {decision.documents:,} of "
        f"{decision.total:,} documents, z = {decimals(last.z, 2)}, boundary {last.boundary:.2f}"
    )
    if decision.verdict in ("superior", "inferior", "non-inferior") and abs(last.z) < last.boundary:
        where += (
            "; tested at a larger error rate, because other questions were answered already (Holm)"
        )
    return f"{head}: {numbers} ({where})"


def width_record(
    estimate: Estimate, verdict: str, task: str, name: str, look: int, planned: Sequence[int]
) -> DecisionRecord:
    """An interval for one adapter's AURAC, as `results.json` has it.

    The estimate is from the documents at look number `look` of those `planned`; the verdict is on
    its width.
    """
    documents, total = planned[look - 1], planned[-1]
    words = f"AURAC of {name} on {task} is {percent(estimate.value)} %"
    if estimate.low is not None and estimate.high is not None:
        level = f"{100 * estimate.level:g} %"
        words += f" ({level} interval {percent(estimate.low)} to {percent(estimate.high)})"
    return DecisionRecord(
        question="width",
        task=task,
        a=name,
        verdict=verdict,
        documents=documents,
        of=total,
        look=look,
        looks=len(planned),
        mean=estimate.value,
        low=estimate.low,
        high=estimate.high,
        level=estimate.level,
        sentence=f"{words}: {verdict} after {documents:,} of {total:,} documents.",
    )


def fewer_documents(
    counts: Mapping[tuple[str, str], int], decisions: Sequence[DecisionRecord]
) -> list[str]:
    """Which adapters were evaluated on fewer documents of a task than others.

    `counts` are (task, adapter) → documents. Adapters without a decision failed, and are left out.
    """
    notes = []
    about = {(d.task, name) for d in decisions for name in (d.a, d.b)}
    for task in dict.fromkeys(task for task, _ in counts):
        by_name = {n: count for (t, n), count in counts.items() if t == task and (t, n) in about}
        most = max(by_name.values(), default=0)
        fewer = [f"{name} after {n:,}" for name, n in by_name.items() if n < most]
        if fewer:
            notes.append(
                f"{task}: no further documents were needed of {', '.join(fewer)}; the most that an "
                f"adapter was evaluated on are {most:,}."
            )
    return notes


def rank_sentence(
    name: str, task: str, rank: int, top: int, design: Design, unseen: Sequence[int]
) -> str:
    """The rank to use, in one sentence."""
    margin = points(design.margin or 0.0)
    if rank == top:
        text = f"no rank of {name} below {top} is shown to lose less than {margin}"
    else:
        text = f"use rank {rank} of {name}: it loses less than {margin} against rank {top}"
    if unseen:
        text += f"; not evaluated: rank {', '.join(map(str, unseen))}"
    return f"{task}: {text}."


def short_line(decision: DecisionRecord) -> str:
    """A decision while the run goes on."""
    d, who = decision, decision.a
    if d.b or d.rank:
        who = f"{d.b} − {d.a}" if d.b else f"{d.a} rank {d.rank}"
    z = "" if d.z is None else f", z = {decimals(d.z, 2)}, boundary {d.boundary:.2f}"
    return f"{d.documents} of {d.of} documents of {d.task}: {who}: {d.verdict}{z}"
