"""What a report says in sentences: the verdict, its numbers, what to ship."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from aurac.analysis.sentences import (
    ALL_ZERO,
    DEPENDS,
    ONE_TRUNCATION,
    TOO_SMALL,
    bounded_sentence,
    choice_sentences,
    confidence,
    depends_sentence,
    show_p,
)
from aurac.curves.display import enough, percent, sentence_case, size
from aurac.curves.names import LISTED, some
from aurac.records.decisions import AFTER
from aurac.show.findings import scale, scored, significant
from aurac.show.tables import rank_range
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis.choice_rows import Choice
    from aurac.analysis.rows import BestRow, PairRow
    from aurac.records.results_file import TaskRecord
    from aurac.records.run import CurveRow, StoredRun
    from aurac.show.findings import Findings
    from aurac.stats.mean import Estimate

_NO_CURVE = "This run holds no curve, so there is nothing to compare yet."


def to(low: float | None, high: float | None) -> str:
    """The two ends of an interval in percent."""
    return f"{percent(low)} to {percent(high)}"


def title(run: StoredRun) -> str:
    """What was compared, in a line."""
    adapters = list(dict.fromkeys(curve.called for curve in run.curves))
    tasks, kind = run.task_names, "methods" if any(c.members for c in run.curves) else "adapters"
    who = ", ".join(adapters) if len(adapters) <= 4 else f"{len(adapters)} {kind}"
    where = ", ".join(tasks) if len(tasks) <= 3 else f"{len(tasks)} tasks"
    return one_line(f"{who or 'no adapter'} on {where or 'no task'}", 120)


def lead(run: StoredRun) -> str:
    """Base, ranks and documents, in a line."""
    bases = dict.fromkeys(str(c.base) for c in run.curves if c.base)
    ranks = sorted({rank for curve in run.curves for rank in curve.ranks})
    counts = sorted({curve.n_docs for curve in run.curves if curve.n_docs})
    parts = [f"base {', '.join(bases)}"] if bases else []
    if ranks:
        few = f"ranks {ranks[0]} and {ranks[-1]}" if ranks[1:] else f"rank {ranks[0]}"
        parts.append(f"ranks {ranks[0]} to {ranks[-1]}" if ranks[2:] else few)
    if counts:
        low, high = counts[0], counts[-1]
        each = " for each task" if len(run.task_names) > 1 else ""
        parts.append(f"{low if low == high else f'{low} to {high}'} documents{each}")
    splits = dict.fromkeys(each.settings.split for each in run.provenance if each.settings.split)
    return "; ".join([*parts, *(f"{split} split" for split in splits)])


def limit_of(run: StoredRun, task: TaskRecord) -> str:
    """How many documents of a task were asked for, and that nobody asked for a number."""
    asked = any(each.settings.limit is not None for each in run.provenance)
    return f"{task.limit:.9g}{'' if asked else ', the default of this task; --limit 0: all'}"


def verdicts(findings: Findings) -> tuple[str, ...]:
    """The answer: of the primary comparisons, then of each task, or of many tasks together."""
    run = findings.run
    if not run.task_names:
        return (_NO_CURVE,)
    if findings.many:
        return (*_primary(primary_pairs(findings), findings), *_counted(findings))
    each = [(f"{task}: ", line) for task in run.task_names for line in _answer(findings, task)]
    return tuple(task * (len(run.task_names) > 1) + line for task, line in each)


def scope(run: StoredRun) -> str:
    """What the verdict is about: checkpoints, or recipes of which several seeds were trained."""
    curves = [curve for curve in run.curves if curve.ranks]
    single = list(dict.fromkeys(curve.called for curve in curves if not curve.members))
    counts = sorted({curve.seeds for curve in curves if curve.members})
    if not curves:
        return ""
    if not counts and len(single) == 1:
        return "One training run: this holds for the checkpoint, not for its method."
    if not counts:
        return "One training run each: this compares these checkpoints, not the methods."
    number = " or ".join(map(str, counts)) if len(counts) < 3 else f"{counts[0]} to {counts[-1]}"
    one = f" One training run only of {some(single)}." if single else ""
    return f"Each curve is the mean over {number} training seeds.{one}"


def leads_elsewhere(findings: Findings) -> Iterator[str]:
    """What other truncations show of the leads that the verdict is about."""
    tasks = [] if findings.many else findings.run.task_names
    for task, best in ((task, findings.best[task]) for task in tasks):
        rivals = (curve for curve in scored(findings.run, task) if best and curve is not best)
        pairs = [pair for curve in rivals if best and (pair := findings.pair(best, curve))]
        if text := elsewhere(findings, pairs):
            yield text if len(tasks) == 1 else f"{task}: {text}"


def elsewhere(findings: Findings, pairs: Iterable[PairRow]) -> str:
    """What other truncations show of pairs whose result they change; empty where they do not.

    Also in a task of a study, which compares across truncations in families of its own.
    """
    return "" if findings.of_study else _differing(findings, pairs)


def _differing(findings: Findings, pairs: Iterable[PairRow]) -> str:
    others = [line for pair in pairs for line in findings.other_truncations(pair)]
    more = [f"{len(others) - LISTED} more are in analysis.json"] if len(others) > LISTED else []
    listed = "; ".join([*others[:LISTED], *more])
    return f"With other truncations the result differs: {listed}." if others else ""


def _answer(findings: Findings, task: str) -> list[str]:
    """What the primary comparisons on a task show, then which row leads."""
    return [*_primary(primary_pairs(findings, task), findings), _verdict(findings, task)]


def primary_pairs(findings: Findings, task: str | None = None) -> list[PairRow]:
    """The primary comparisons that were tested (on a task)."""
    asked = (pair for pair in findings.tested if pair.exploratory is False)
    return [pair for pair in asked if task in (None, pair.task)]


def _primary(pairs: Sequence[PairRow], findings: Findings) -> Iterator[str]:
    for pair in pairs[:LISTED]:
        a, b = (findings.label(pair.task, name) for name in (pair.a, pair.b))
        gap = cast("Estimate", pair.estimate)
        p = "" if pair.p_holm is None else f", adjusted p {show_p(pair.p_holm)}"
        where = f" on {pair.task}" if findings.many else ""
        declared = findings.analysis.primary
        where += f", declared {AFTER}" if declared and declared.declared == AFTER else ""
        yield (
            f"Primary comparison{where}: {b} − {a} is {percent(gap.value)} points "
            f"({to(gap.low, gap.high)}{p}), {findings.reading(pair).removesuffix(DEPENDS)}."
            f"{depends_sentence(replace(pair, a=a, b=b))}"
        )
    if len(pairs) > LISTED:
        yield f"{len(pairs) - LISTED} more primary comparisons are below."


def _verdict(findings: Findings, task: str) -> str:
    run = findings.run
    rows = scored(run, task)
    if not rows:
        reasons = [c.score_reason for c in run.of_task(task) if c.score_reason]
        return f"No adapter has an AURAC{f' ({reasons[0]})' if reasons else ''}."
    if zero := all_zero(run, task):
        return zero
    best = findings.best[task]
    if best is None:
        reason = str(findings.leaders[task].reason)
        return f"{sentence_case(reason)}, so none is named the best."
    row = findings.leaders.get(task)
    apart = f" Not compared, over other ranks: {some(row.apart)}." if row and row.apart else ""
    if row and row.bounded:
        apart += f" {bounded_sentence([findings.label(task, name) for name in row.bounded])}"
    equal = [curve for curve in rows if curve.area == best.area]
    weak = _weak(equal, findings)
    if len(rows) == 1:
        area = findings.leader_area(best)
        ends = "" if area.low is None else f" (95 % interval {to(area.low, area.high)})"
        return f"{best.label} has an AURAC of {percent(best.area)} %{ends}{weak}."
    if len(equal) > 1:
        who, n_docs = _and([curve.label for curve in equal]), best.n_docs
        same = f"have the same AURAC{f' on these {n_docs} documents' if n_docs else ''}"
        return f"{who} {same}, {percent(best.area)} %{weak}{_may_differ(findings, equal)}.{apart}"
    head = f"{best.label} has the largest AURAC ({percent(best.area)} %){weak}"
    return f"{head}{_lead(findings, best)}{apart}"


def all_zero(run: StoredRun, task: str) -> str:
    """That no answer on a task is right, which says more of the task; "" where one is."""
    curves = [curve for curve in run.of_task(task) if curve.ranks]
    if not curves or any(any(curve.accuracy) for curve in curves):
        return ""
    said = (
        f"{sentence_case(ALL_ZERO.format(f' on {task}'))}, in the report's documents or with "
        "`aurac.load_run(RUN).samples`, before comparing anything."
    )
    row, cut = (curves[0].members or curves)[0], curves[0].metric.partition(",")[2]
    words = row.source.questions(task).values() if row.source and cut not in {"", "none"} else ()
    if words and all(asked.target[:1].isspace() for asked in words):
        said += f" Its targets begin with a space, which the filter {cut} may take from answers."
    return said


def _and(names: Sequence[str]) -> str:
    """Names as the subject of a sentence."""
    if not 1 < len(names) <= LISTED:
        return some(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _weak(leaders: Sequence[CurveRow], findings: Findings) -> str:
    """That no leader is shown to be above the base."""
    if not all(map(findings.below_base, leaders)):
        return ""
    whose = "it" if len(leaders) == 1 else "them"
    base = percent(leaders[0].baseline)
    return f", but no rank of {whose} is shown to be above the base ({base} %)"


def runner_up(best: CurveRow, run: StoredRun) -> CurveRow | None:
    """The row with the next AURAC over the same ranks; None where there is no other."""
    rows = (curve for curve in scored(run, best.task) if curve.ranks == best.ranks)
    return next((curve for curve in rows if curve is not best), None)


def _lead(findings: Findings, best: CurveRow) -> str:
    """How sure the leader's lead is, to follow its AURAC."""
    second = runner_up(best, findings.run)
    if second is None:
        return "."
    pair = findings.pair(best, second)
    if pair is None:
        more = f"{percent(best.area - second.area)} points more than {second.label}"
        if findings.tested:
            where = f" in {findings.of_study}" if findings.of_study else ""
            return f", {more}, a difference not tested{where}."
        why = "Without stored documents that both answered, the difference cannot be tested."
        return f", {more}. {why}"
    gap = cast("Estimate", pair.estimate)
    ends = "" if gap.low is None or gap.high is None else f", {to(gap.low, gap.high)}"
    kind = "exploratory, " if pair.exploratory else ""
    ahead = f"; its lead over {second.label} ({kind}{percent(gap.value)} points{ends})"
    if significant(pair):
        return f"{ahead}{_sure(findings, best)}"
    if 2 in (best.seeds, second.seeds):
        return f"{ahead} has no verdict, since two seeds do not show how much seeds vary."
    return f"{ahead} is not significant."


def _may_differ(findings: Findings, equal: Sequence[CurveRow]) -> str:
    """How far apart two rows with the same AURAC may be, to follow it."""
    pair = findings.pair(*equal) if len(equal) == 2 else None
    known = pair.estimate if pair else None
    return f"; the difference may be {to(known.low, known.high)} points" if known else ""


def _sure(findings: Findings, best: CurveRow) -> str:
    """Over which rows a lead is significant, where it is over the runner-up."""
    others = [curve for curve in findings.candidates[best.task] if curve is not best]
    names = some(curve.label for curve in others)
    if others and all(findings.pair(best, curve) for curve in others):
        return f" is significant, that over {names} is not."
    if others:
        return f" is significant, but {names} may be better."
    rows = [c for c in scored(findings.run, best.task) if c.ranks == best.ranks and c is not best]
    pairs = [findings.pair(best, curve) for curve in rows]
    every = len(pairs) > 1 and all(map(significant, pairs))
    return f"{' and all others' if every else ''} is significant."


def _counted(findings: Findings) -> list[str]:
    """Which row leads on how many tasks, and on how many of them significantly."""
    run = findings.run
    best = [curve for task in run.task_names if (curve := findings.best[task])]
    wins = Counter(curve.label for curve in best)
    ordered = sorted(wins.items(), key=lambda item: (-item[1], item[0]))
    lines = []
    if ordered:
        shown = some(f"{name} on {times}" for name, times in ordered)
        seconds = ((curve, runner_up(curve, run)) for curve in best)
        leads = (findings.pair(curve, second) for curve, second in seconds if second)
        sure = sum(map(significant, leads))
        lines.append(
            f"Of {len(run.task_names)} tasks, the largest AURAC has {shown}. On {sure} "
            "of them the lead over the runner-up is significant (Holm over all pairs and tasks)."
        )
    if unranked := len(run.task_names) - len(best):
        lines.append(f"{unranked} tasks have no ranking: no score, or rows that do not compare.")
    return lines


def two_ways(*ways: CurveRow) -> str:
    """The AURAC of an adapter under two truncations, such as the default and the published one."""
    bases = {"svd": "by SVD", "prefix": "by prefix"}
    several = len({curve.basis for curve in ways}) > 1
    said = (f"{bases[c.basis]} ({scale(c)})" if several else scale(c) for c in ways)
    first, second = (f"{percent(c.area)} % {way}" for c, way in zip(ways, said, strict=True))
    return f"{first} and {second}"


def _how_sure(leader: BestRow) -> str:
    """How sure the candidates are and by how much they may lead; the bound has its own level."""
    known = leader.within is not None and 0 < leader.within < 1
    most = f", by at most {enough(leader.within or 0)} points" if known else ""
    if not most or not leader.families[1:]:
        return f"{most} ({confidence(leader)})"
    return f" ({confidence(leader)}){most} ({100 * leader.level:g} % confidence)"


def details(findings: Findings, task: str) -> list[str]:
    """What stands behind the verdict of a task."""
    run = findings.run
    rows, best = scored(run, task), findings.best[task]
    lines = _answer(findings, task)
    if findings.of_study and (text := _differing(findings, primary_pairs(findings, task))):
        lines.append(text)
    unscored = [c for c in run.of_task(task) if c.is_default and not c.log2]
    left = some(f"{c.label} ({c.score_reason or 'no AURAC'})" for c in unscored)
    lines += [f"Without an AURAC: {left}."] if unscored and rows else []
    if best is None:
        if len({curve.ranks for curve in rows}) < 2:
            return lines
        listed = "; ".join(
            f"{c.label} {percent(c.area)} % over ranks {rank_range(c)}" for c in rows[:LISTED]
        )
        return [*lines, f"AURAC over different ranks does not compare: {listed}."]
    leader, second = findings.leader(best), runner_up(best, run)
    asked = [*primary_pairs(findings, task), second and findings.pair(best, second)]
    missed = (pair for pair in asked if pair and not significant(pair))
    for pair in [pair for pair in missed if pair.detectable or pair.too_small][:1]:
        over = "documents and seeds" if best.members else "documents"
        who = " and ".join(findings.label(task, name) for name in (pair.b, pair.a))
        lines.append(
            f"{who}: {TOO_SMALL[0].lower()}{TOO_SMALL[1:]}."
            if pair.too_small
            else f"Between {who} the test detects differences of {percent(pair.detectable)} "
            f"points or more (80 % power) with these {over}."
        )
    others = [curve.label for curve in findings.candidates[task] if curve is not best]
    if leader and others:
        lines.append(f"{some(others)} may be better than {best.label}{_how_sure(leader)}.")
        if rest := [c.label for c in findings.candidates[task][1:] if not findings.pair(best, c)]:
            why = f"; {ONE_TRUNCATION}" if leader.within is not None else ""
            why += "; --primary adds a pair" if why and not findings.of_study else ""
            lines.append(f"Of these, not tested against {best.label}: {some(rest)}{why}.")
    choice = findings.choices.get(task)
    if choice:
        said = choice_sentences(replace(choice, task=None), called=findings.called)
        lines.append(" ".join([*said, *_next_smaller(choice, findings)]))
    return lines


def _next_smaller(choice: Choice, findings: Findings) -> Iterator[str]:
    """The interval of the best where nothing is recommended, and what the next smaller one has."""
    best, shown = choice.best, choice.frontier
    if choice.chosen or best is None or best not in shown[1:] or best.above_base is False:
        return
    less = shown[shown.index(best) - 1]
    known = best.low is not None and best.high is not None and best.high - best.low < 1
    if known and less.bytes:  # few seeds have an interval that says nothing
        yield (
            f"The interval of {findings.called(best)}, for all {len(choice.configurations)} "
            f"together, is {to(best.low, best.high)} %; "
            f"{findings.called(less)} has "
            f"{percent(less.accuracy)} % ({to(less.low, less.high)}) with {size(less.bytes)} "
            f"instead of {size(best.bytes)}."
        )


def published_pairs(findings: Findings, task: str | None = None) -> list[tuple[CurveRow, CurveRow]]:
    """Default curves (of a task) beside their adapter as published."""
    known = (c for c in findings.caveats("as published") if task in (None, c.task))
    return [(findings.row(c.task, c.curves[0]), findings.row(c.task, c.curves[1])) for c in known]


GLOSSARY = {
    "AURAC": "area under the rank-accuracy curve divided by its width: a weighted mean of the "
    "accuracies. On the log2 axis, the headline, each doubling of the rank counts alike; on the "
    "linear axis the highest ranks dominate.",
    "prefix, SVD": "two ways to cut an adapter to rank r: its first r components, or the best "
    "approximation of its update of rank r. An adapter trained without nesting has no order in its "
    "components: aurac compares it by SVD unless a study or --basis asks for its prefix. Called as "
    "published is the prefix of LoRA, as MatryoshkaLoRA's paper cuts it. The tables of AURAC say "
    "what was done here.",
    "scaling rule, scale kept": "the factor of a truncated update: what the adapter's rule gives "
    "at rank r, such as α/√r, or at the trained rank.",
    "with the trained P, as published (without P)": "MatryoshkaLoRA trains B · P · A with a fixed "
    "diagonal P; its published inference leaves P out. The two are different functions.",
    "rank 0, base": "the model without an adapter.",
    "interval": "the 95 % confidence interval, over documents (and training seeds where there are "
    "several).",
    "significant": "p below 0.05 in the paired test on the same documents, after Holm's correction "
    "for the tests that captions name. In aurac, docs/explain/claims.md explains each sentence.",
    "within a margin of the best": "shown by one-sided paired tests to lose less than the margin "
    "against the best configuration, whichever that is (5 % error, the choice included).",
    "configuration": "an adapter, cut one way, at one rank.",
    "effective events": "how much an interval rests on: (the smaller of mean and 1 − mean, by the "
    "standard error)²; below 100 the interval is not by Student's t alone.",
    "detectable": "the smallest true difference that the test, at its level after Holm's "
    "correction, finds with 80 % power.",
    "point": "a percentage point.",
}
