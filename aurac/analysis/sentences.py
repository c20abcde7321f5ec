"""The sentence that belongs beside a number, no stronger than the data, in percent and points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from aurac.curves.area import area_name
from aurac.curves.display import (
    counted,
    decimals,
    declared,
    enough,
    percent,
    points,
    sentence_case,
    show_span,
    size,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.analysis.choice_rows import Choice, Configuration, RankRow
    from aurac.analysis.record import Advice
    from aurac.analysis.rows import BestRow, MarginTest, PairRow
    from aurac.stats.mean import Estimate


def show_p(p: float) -> str:
    """A p value as a paper prints it."""
    return "< .001" if p < 0.001 else f"= {decimals(p, 3)}".replace("0.", ".", 1)


DEPENDS = " (depends on the truncation)"
AGAINST = " against "  # between the truncations of a pair


def reading(row: PairRow) -> str:
    """What a pair shows, in a few words."""
    if row.estimate is None:
        return "no test" if row.value is not None else "not compared"
    if row.verdict is None:
        return "not tested" if row.p is None else "two seeds: no verdict"
    better = row.b if row.verdict > 0 else row.a
    text = f"{better} is better" if row.verdict else "not significant"
    text += ", exploratory" if row.exploratory else ""
    return text if row.survives is not False else text + DEPENDS


def other_truncations(
    row: PairRow,
    called: Callable[[str, str], str] = "{} · {}".format,
    areas: Mapping[str, float] | None = None,
) -> list[str]:
    """What a pair shows under each of the other truncations that change its verdict.

    `called` names an adapter under a truncation; `areas` over equal ranks are by these names.
    """
    shown = []
    for ways, sign in ((ways, test.verdict) for ways, test in row.truncations.items()):
        if sign != row.verdict:
            a, b = map(called, (row.a, row.b), ways.split(AGAINST))
            other = replace(row, a=a, b=b, verdict=sign, truncations={}, exploratory=None)
            text = f"{a}{AGAINST}{b}: {reading(other)}"
            if areas and {a, b} <= {*areas}:
                gap = areas[a] - areas[b]
                way = "" if sign else " higher" if gap > 0 else " lower"
                text += f" ({points(abs(gap))}{way})"
            shown.append(text)
    return shown


def depends_sentence(*rows: PairRow) -> str:
    """What other truncations of a pair show, where that is something else, after a space."""
    where = []
    for row in (row for row in rows if row.survives is False):
        a, b = (name.partition(" (")[0].partition(" · ")[0] for name in (row.a, row.b))
        shown: dict[int | None, str] = {1: f"{b} is better", -1: f"{a} is better"}
        shown |= {0: "neither is significantly better", None: "there is no verdict"}
        signs = [test.verdict for test in row.truncations.values()]
        other = [
            f"{said} under {signs.count(sign)}"
            for sign, said in shown.items()
            if sign != row.verdict and sign in signs
        ]
        on = f" on {row.task}" * (len(rows) > 1)
        where.append(f"of {counted(len(signs) - 1, 'other')}{on}, {', '.join(other)}")
    text = f" It depends on the truncation: {'; '.join(where)}. Each is adjusted as if it were the"
    text += " primary comparison; that several were tried is not allowed for"
    return f"{text} (truncations in analysis.json)." if where else ""


def pair_sentence(row: PairRow, others: Sequence[str] | None = None) -> str:
    """A pair in a sentence that claims no more than the data do.

    `others` are its `other_truncations`, by default under the names of the row.
    """
    where = f" on {row.task}" if row.task else ""
    if row.value is None:
        return f"{row.a} and {row.b}{where}: not compared ({row.reason})."
    over = ""
    if row.span is not None:
        over = f" It is a difference of {area_name(row.axis)}, {show_span(row.span, row.axis)}."
    if row.estimate is None:
        return f"{row.b} − {row.a}{where} is {points(row.value)}, a {row.reason}.{over}"
    text = _difference(row, row.estimate, where) + over
    text += " This comparison is exploratory." if row.exploratory else ""
    if row.survives is None:
        return text
    if row.survives:
        return f"{text} The verdict is the same for every truncation that was run."
    others = other_truncations(row) if others is None else others
    return f"{text} The verdict depends on the truncation: {'; '.join(others)}."


TOO_SMALL = (
    "The run is too small to tell: what the test detects (80 % power) is more than these scores "
    "leave room for"
)


def _difference(row: PairRow, estimate: Estimate, where: str) -> str:
    a, b, value, low, high = row.a, row.b, estimate.value, estimate.low, estimate.high
    if low is None or high is None:
        return f"{b} − {a}{where} is {points(value)}; nothing more can be said of it."
    p = row.p if row.p_holm is None else row.p_holm
    if row.verdict == -1:  # name the better one first
        a, b, value, low, high = b, a, -value, -high, -low
    ends = f"{_share(estimate.level)} interval {percent(low)} to {percent(high)}"
    scope = "conditional on these checkpoints"
    if not row.conditional:
        scope = f"for another draw of documents and training seeds ({_over_seeds(row.pairing)})"
    if p is None:
        return f"{b} − {a}{where}: {points(value)} ({ends}), {scope}; not tested."
    test = f"{'p' if row.p_holm is None else 'Holm p'} {show_p(p)}"
    if row.verdict:
        return (
            f"{b} is better than {a}{where} by {points(value)} ({ends}; significant, {test}), "
            f"{scope}."
        )
    head = f"The difference {b} − {a}{where} ({points(value)}, {ends}) is not significant ({test})"
    if row.verdict is None:
        return (
            f"{head}, {scope}: no verdict, since two seeds of a recipe do not show how much seeds "
            "vary."
        )
    alone = "" if low <= 0.0 <= high else ", although this pair's own interval leaves 0 out"
    missed = ""
    if row.detectable is not None:
        least = points(row.detectable)
        missed = f" With these documents the test detects {least} or more (80 % power)."
    elif row.too_small:
        missed = f" {TOO_SMALL}."
    return f"{head}{alone}, {scope}.{missed}"


ONE_TRUNCATION = "two adapters are compared in one truncation each"
ALL_ZERO = "every answer{} is scored 0, at every rank: look at the answers"
NORMAL_SEEDS = "Tests assume normally distributed seeds."


def _over_seeds(pairing: str | None) -> str:
    """How seeds were compared, and what is assumed of them."""
    return f"{pairing}; assumes that seeds vary about normally"


def pairing_note(pairings: Mapping[str, str | None]) -> str:
    """How the seeds of some pairs were compared, by the pairs' names; empty without seeds."""
    by_kind: dict[str, list[str]] = {}
    for name, kind in pairings.items():
        if kind is not None:
            by_kind.setdefault(kind, []).append(name)
    if not by_kind:
        return ""
    most, *others = sorted(by_kind, key=lambda kind: -len(by_kind[kind]))
    text = "".join(f", but {kind} in {', '.join(by_kind[kind])}" for kind in others)
    return f"Seeds of differences: {most}{text}. {NORMAL_SEEDS}"


def _share(level: float) -> str:
    return f"{100 * level:.10g} %"


Called = Callable[["Configuration"], str]
_name: Called = attrgetter("name")


def choice_sentences(choice: Choice, *, own: bool = False, called: Called = _name) -> list[str]:
    """Which configuration to ship and what was shown of it, or why none is named.

    `own`: of the ranks of one curve, which the reader knows; `called`: what to call one.
    """
    where = f" on {choice.task}" if choice.task and not own else ""
    if own:
        called = _rank
    nothing = "No rank is recommended" if own else f"Ship nothing{where}"
    if choice.best is None:
        who = "No rank" if own else "Nothing"
        return [f"{who} is recommended{where}: nothing can be compared ({choice.reason})."]
    if choice.declared and choice.chosen is not None:
        return [*_ship(choice, choice.chosen, where, called), *_seeds(choice)]
    most = f"the {_most(choice)} is {called(choice.best)}, {percent(choice.best.accuracy)} %"
    if all(each.above_base is False for each in choice.configurations):
        return [f"{nothing}: nothing is shown to be above {_base(choice)}; {most}."]
    weak = [f"It is not shown to be above {_base(choice)}."]
    weak = weak if choice.best.above_base is False else []
    things = "rank" if own else "configuration"
    if not choice.declared:
        none = f"No margin was given, so no {things} is recommended{where}; {most}."
        if choice.few_seeds:
            none = f"{_too_few(choice, where, things)} {sentence_case(most)}."
        return [none, *weak]
    if choice.margin is not None and choice.few_seeds:
        return _few_seeds(choice, where, things, called)
    text = f"No {things} is shown to be {demanded(choice)}{where}; {most}."
    return [f"{text}{_takes(choice)}", *weak]


def _takes(choice: Choice) -> str:
    """The margin that would be enough, or why none is, after a space."""
    if choice.margin is None:
        return ""
    if choice.needed is not None:
        return f" It takes a margin of {enough(choice.needed, 2)} points."
    unmet = unmet_demands(choice, choice.configurations)
    return f" None is shown to be {unmet}, all tested together." if unmet else ""


def rank_sentence(row: RankRow) -> str:
    """What was shown of the ranks of one curve, in a sentence or several."""
    where = f"{row.label} on {row.task}" if row.task else row.label
    if row.reason is not None:
        return f"{where}: no rank can be tested ({row.reason})."
    return f"{where}: {' '.join(choice_sentences(row.choice, own=True))}"


def _rank(configuration: Configuration) -> str:
    return f"rank {configuration.rank}"


def _base(choice: Choice) -> str:
    return f"the base ({percent(choice.baseline)} %)"


def compared_with(choice: Choice) -> str:
    """What losses are against."""
    best = "the best rank" if choice.curves == 1 else "the best"
    if isinstance(choice.reference, int):
        return f"{'' if choice.curves == 1 else 'the best at '}rank {choice.reference}"
    return choice.against or best


def up_to(choice: Choice) -> str:
    """The ranks that are compared, where a declared one leaves out the larger ones."""
    return f" up to rank {choice.reference}" if isinstance(choice.reference, int) else ""


def demanded(choice: Choice) -> str:
    """What a configuration has to show."""
    parts = []
    if choice.margin is not None:
        parts.append(f"within {declared(choice.margin)} of {compared_with(choice)}")
    if choice.min_accuracy is not None:
        parts.append(f"at least {_share(choice.min_accuracy)} accurate")
    return " and ".join(parts)


def unmet_demands(choice: Choice, rows: Sequence[Configuration]) -> str:
    """What some of these are not shown to be, so that no margin is enough for them; or nothing."""
    from aurac.stats.noninferiority import EXACT  # numpy

    many = len(choice.configurations) > EXACT  # None may stand for what was not computed
    if many or choice.few_seeds or all(row.needed is not None for row in rows):
        return ""
    demands = ["above the base"] if choice.baseline is not None else []
    if choice.min_accuracy is not None:
        demands.append(f"at least {_share(choice.min_accuracy)} accurate")
    return " and ".join(demands)


def none_enough(choice: Choice, rows: Sequence[Configuration]) -> str:
    """Why no margin is enough for some of these, a sentence; empty where one is for each."""
    if choice.few_seeds:
        needed = choice.seeds_needed
        return f"None is enough from {choice.seeds} seeds; it takes {needed}."
    unmet = unmet_demands(choice, rows)
    return f"None is enough: not shown to be {unmet}, all tested together." if unmet else ""


def _ship(choice: Choice, chosen: Configuration, where: str, called: Called) -> list[str]:
    """What to ship, what it costs, and what was shown."""
    facts = [size(chosen.bytes)] if chosen.bytes else []
    facts.append(f"accuracy {percent(chosen.accuracy)} %")
    head = f"{'Use' if called is _rank else 'Ship'} {called(chosen)}{where}"
    sure = f"{_share(1 - choice.alpha)} confidence"
    sure += ", conditional on these checkpoints" if choice.seeds == 1 else ""
    shown = f"It is shown to be {demanded(choice)} ({sure})"
    if choice.configurations[0] is not chosen:
        both = " both" if choice.margin is not None and choice.min_accuracy is not None else ""
        smaller = choice.configurations[: choice.configurations.index(chosen)]
        if not both and choice.margin is not None and (unmet := unmet_demands(choice, smaller)):
            both = f" shown to be both that and {unmet}"
        shown += f", and no smaller {'rank' if choice.curves == 1 else 'one'} is{both}"
    lines = [f"{head}: {', '.join(facts)}.", f"{shown}."]
    if len(choice.configurations) == 1:
        lines.append(f"It is the only {'rank' if called is _rank else 'configuration'} here.")
    elif choice.best is chosen:
        lines.append(f"It is the {_most(choice)}.")
    elif choice.best is not None:
        most = f"{called(choice.best)}, {percent(choice.best.accuracy)} %"
        lines.append(f"The {_most(choice, '')} is {most}.")
    return lines


def _most(choice: Choice, here: str = " here") -> str:
    """What `best` is: the most accurate, or the smallest of several."""
    top = max(each.accuracy for each in choice.configurations)
    equal = [each for each in choice.configurations if round(top - each.accuracy, 9) == 0]
    alike = {(each.bytes, each.bytes is None and each.rank) for each in equal[:2]}  # smallest first
    which = "smallest" if len(alike) > 1 else "first"
    most = "most accurate" if len(equal) == 1 else f"{which} of the {len(equal)} most accurate"
    ranks = " of its ranks" if choice.against and choice.curves == 1 else ""  # not the reference
    return f"{most}{up_to(choice) or ranks or here}"


def _too_few(choice: Choice, where: str, things: str) -> str:
    every = counted(len(choice.configurations), things)
    return (
        f"{choice.seeds} training seeds are too few to recommend a {things}{where}: at least "
        f"{choice.seeds_needed} are needed for {every}."
    )


def _few_seeds(choice: Choice, where: str, things: str, called: Called) -> list[str]:
    """Too few for a claim about another seed: what holds in each of them."""
    shown, each = demanded(choice), choice.in_checkpoints
    sole = bool(choice.against) or (choice.reference is not None and choice.curves == 1)
    any_ = "any other" if sole else "any"
    holds = f"Nor is {any_} shown to be {shown} in each of these checkpoints."
    if each is not None:
        holds = f"In each of these checkpoints {called(each)} is shown to be {shown}."
    return [_too_few(choice, where, things), holds]


def _seeds(choice: Choice) -> list[str]:
    """For which seeds the claim about a recipe holds."""
    if choice.seeds == 1 or not choice.declared:
        return []
    if choice.margin is None:
        return [NORMAL_SEEDS]
    seeds, rare = choice.seeds, choice.rare_seeds_needed
    if seeds >= rare:
        return [f"{seeds} seeds can miss a kind of bad run rarer than one in ten."]
    missed = f"{seeds} seeds can miss a kind of bad run rarer than one in four"
    return [f"{missed}; for one in ten it takes {rare}."]


def margin_sentence(test: MarginTest) -> str:
    """One sentence on a margin test: the difference, its bounds and the margin."""
    estimate = test.estimate
    where = f" on {test.task}" if test.task else ""
    head = {
        "not shown": f"{test.a} is not shown to be "
        f"{'equivalent' if test.both_sides else 'non-inferior'} to {test.b}{where}",
        "inferior": f"{test.a} is inferior to {test.b}{where} by more than the margin",
    }.get(test.verdict, f"{test.a} is {test.verdict} to {test.b}{where}")
    area = f"{area_name(test.axis)}{f' ({test.axis})' if test.span is None else ''}"
    over = "" if test.span is None else f" ({show_span(test.span, test.axis)})"
    difference = f"{area} {test.a} − {test.b} is {percent(estimate.value)} points{over}"
    if estimate.low is None or estimate.high is None:
        return f"{head}: {difference}, which has no interval ({estimate.method})."
    low, high = percent(estimate.low), percent(estimate.high)
    ends = f" {high if test.verdict == 'inferior' else low}"
    bound = f"one-sided {_share(1 - test.alpha)} bound"
    bound += f"s {low} and {high}" if test.both_sides else ends
    scope = "conditional on these checkpoints"
    if not test.conditional:
        scope = f"over documents and training seeds ({_over_seeds(test.pairing)})"
    return f"{head}: {difference}, {bound}, margin {declared(test.margin)}, {scope}."


def best_sentences(row: BestRow, areas: Mapping[str, float]) -> list[str]:
    """What may be said of the largest area on a task, or why none is named; `areas` by name."""
    where = f" on {row.task}" if row.task else ""
    if row.leader is None or row.estimate is None:
        return [f"No adapter is named the best{where}: {row.reason}."]
    result, sure = row.estimate, confidence(row)
    gaps = {name: abs(areas.get(name, 2.0) - result.value) for name in row.candidates}
    equal = [name for name, gap in gaps.items() if name == row.leader or round(gap, 9) == 0]
    ends = f"no interval for the largest of {row.compared}"
    if result.low is not None:
        ends = f"{_share(row.level)} interval {percent(result.low)} to {percent(result.high)}, "
        ends += f"widened because the largest of {row.compared} was picked"
    most = f"{_have_most(equal)} {area_name(row.axis)}{where}"
    over = "" if row.span is None else f" ({show_span(row.span, row.axis)}, which all have)"
    lines = [f"{most}{over}, {percent(result.value)} % ({ends})."]
    if len(row.candidates) == 1:
        lines.append(f"It is the best of them ({sure}).")
    else:
        tested = row.within is not None or len(row.untested) < row.compared - 1
        known = f" ({sure})" if tested else ""
        lines.append(f"The best may be any of {', '.join(row.candidates)}{known}.")
    if row.untested:
        why = f"; {ONE_TRUNCATION}" if row.within is not None else ""
        lines.append(f"Of these, not tested against {row.leader}: {', '.join(row.untested)}{why}.")
    if row.within and row.within < 1 and len(row.candidates) > 1:
        most = f"{enough(row.within)} points ({_share(row.level)} confidence)"
        lines.append(f"None beats {row.leader} by more than {most}.")
    if row.apart:
        lines.append(f"Over other ranks, and so not compared: {', '.join(row.apart)}.")
    return lines


def bounded_sentence(names: Sequence[str]) -> str:
    """Which rows are no candidates for the best although no test shows them to be worse."""
    return f"A bound for this task alone, not a test, shows {', '.join(names)} to be lower."


def confidence(row: BestRow) -> str:
    """How sure the candidates for the best are, and why that is less than each statement."""
    why = f": {_share(1 - row.level)} error each for {', '.join(row.families)}"
    return f"{_share(row.sure)} confidence{why if row.families[1:] else ''}"


def advice_sentence(advice: Advice, equal: Sequence[str]) -> str:
    """Which truncation to use, no more surely than was shown; `equal` have its area, it too."""
    where = f" on {advice.task}" if advice.task else ""
    text = f"{advice.adapter}{where}: {_have_most(equal)} {area_name(advice.axis)}, "
    text += f"{percent(advice.value)} %"
    one = advice.use if len(equal) > 1 else "it"
    if advice.beats:
        text += f"; {one} is better than {', '.join(advice.beats)}"
    if rest := [name for name in advice.open if name not in equal]:
        text += f"; the lead over {', '.join(rest)} is not significant"
    return f"{text}."


def _have_most(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'share' if len(names) > 1 else 'has'} the largest"
