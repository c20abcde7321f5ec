"""The sentences of a screen and a report, each made from records of an analysis."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from aurac.curves.metrics import TOKENS, WHOLE
from aurac.curves.names import SLOT_RANKS, slot_rank, truncate_options
from aurac.curves.numbers import confidence, counted, interval, listed, percent, points, size, upper
from aurac.show.views import LOSS, MARK, OWN, SLOT, SMALLEST
from aurac.stats.planning import examples_for_margin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis import Row
    from aurac.analysis.schema import Advice, Pair
    from aurac.curves.question import Key
    from aurac.records.run import StoredRun
    from aurac.show.tabular import Columns
    from aurac.show.views import View

LEVEL: Final = 0.95  # of the one-sided tests of a recommendation
_SURE: Final = f" ({confidence(LEVEL)} confidence)"
_OWN: Final = {
    "Token accuracy": "token accuracy: of the tokens of a completion those that the model would "
    "choose after the true ones before them; it is not the accuracy of answers",
    "Whole completions": "whole completions: those that greedy decoding would write; other right "
    "answers do not count, so that it is not the accuracy of answers",
}
_MEANINGS: Final = {
    "AURAC": "the area under the curve, which is the mean accuracy over log2 rank",
    LOSS: f"points lost against the trained rank {{trained}}, and the upper bound{_SURE}; a "
    "negative loss is a gain",
    "unfinished": "answers that reached the limit of tokens",
    SLOT: "the smallest --max-lora-rank that serves it; it sets the memory",
}
CLOSE: Final = 2  # examples between a bound and the margin
_FEW: Final = 0.02  # of all answers: as many as the usual margin of accuracy


def heading(of: View, *, metric: bool = True) -> str:
    """The task, what is measured, on request with the metric's name, and on how many examples."""
    named = f" ({of.metric})" if metric and of.metric and of.metric not in OWN else ""
    accuracy = f"{of.measure.lower()} in percent{named}"
    values = f"{of.metric}, lower is better" if of.rolling else accuracy
    count = f", {counted(of.examples, 'example')}" if of.examples else ""
    return f"{of.task}: {values}{count}"


def notes(of: View, columns: Columns) -> list[str]:
    """What a mark and a column of a table mean, where it has them."""
    found = [cuts(of)] if "adapter" in columns else []
    found += [_OWN[of.measure]] if of.measure in _OWN else []
    heads = {head.partition(" [")[0] for head in columns}
    trained = of.rows[of.keys[0]].trained_rank if LOSS in columns else None
    known = ((head, _MEANINGS[head]) for head in _MEANINGS if head in heads)
    found += [f"{head}: {meaning.format(trained=trained)}" for head, meaning in known]
    if margin := of.analysis.question.margin if "ship" in columns else None:
        marked = f"the rank to ship{' in vLLM' if SLOT in columns else ''}; it"
        if SMALLEST in columns["ship"]:
            marked = "the rank to ship in vLLM and the rank of the smallest file; they"
        found.append(f"ship: {marked} and every larger rank lose at most {points(margin)}")
    if "rank" in columns and any(c.width == 0 for row in of.rows.values() for c in row.curves):
        found.append("vLLM does not serve this adapter")
    if "rank" in columns and not of.rolling and any(point.low is None for point in of.points):
        found.append("without an interval: the outcomes of its examples are not known")
    if any(cell.startswith(MARK) for column in columns.values() for cell in column):
        found.append(f"{MARK}: not significantly above the base")
    if of.seeds == 2:
        found.append("two seeds: intervals reach 12.7 standard errors, add a third seed")
    return [*found, *apart(of)]


def apart(of: View) -> list[str]:
    """Which rows and seeds are not compared with the others or have no interval, and why."""
    found = []
    for area in of.scores:
        row, name = of.rows.get(area.key), of.names[area.key]
        if row and row.lacks and (of.rolling or len(of.keys) == 1):
            found.append(f"{name}: {row.lacks}")
        elif area.reason and not of.rolling and (len(of.keys) > 1 or not row):
            lacks = f"{name} has no AURAC and is in no difference"
            found.append(f"{lacks if area.aurac is None else 'without an interval'}: {area.reason}")
        for curve in row.curves if row else ():
            fewer = [f"{rank} ({n:,})" for rank, n in curve.fewer.items() if curve.ranks]
            if fewer:
                every = len(curve.doc_ids or ())
                asked = f"was asked fewer than {every:,} examples"
                found.append(f"{name} {asked} at rank {listed(fewer)}")
    return [*dict.fromkeys(found)]


def cuts(of: View) -> str:
    """How each adapter is cut, and of how many training seeds it is."""
    names: dict[tuple[str, int], list[str]] = {}
    for key, row in of.rows.items():
        names.setdefault((row.cut or "not known", row.seeds), []).append(of.names[key])
    found = (
        f"{listed(each)}: {cut}{f', {seeds} seeds' if seeds > 1 else ''}"
        for (cut, seeds), each in names.items()
    )
    return f"Cuts: {'; '.join(found)}"


def advice(of: View, run: StoredRun | None) -> list[tuple[str, str]]:
    """What to ship of each adapter, with the command that makes it, where there is a margin."""
    asked = of.analysis.question.margin is not None and not of.rolling
    return [told for key in of.keys if asked for told in _advice(of, key, run)]


def _advice(of: View, key: Key, run: StoredRun | None) -> Iterator[tuple[str, str]]:
    """The rank to ship; then, if that is another rank, the one that has the smallest file."""
    record, row = of.recommended[key], of.rows[key]
    name = f"{of.names[key]}: " if len(of.keys) > 1 else ""
    rank, smallest, reference = record.rank, record.smallest_rank, record.reference
    if rank is None or smallest is None or reference is None:
        yield f"{name}Ship no rank: {record.reason}{_SURE if reference else ''}.", ""
        return
    ends, few = _end(of, record), ""
    sentence = f"Ship rank {reference}, as trained"
    if rank < reference:
        sentence = f"Ship rank {rank}: {_loss_and_file(of, record, rank)}"
    elif smallest == reference:
        if "may lose" in ends:
            few = too_few(row.examples or 0, record.margin, row.clusters)
        sentence += "" if few else f": {ends or 'no smaller rank was evaluated'}"
    if record.slot and smallest < reference:
        trained = slot_rank(reference)
        enough = f"is enough instead of {trained}" if rank < reference else "is needed as before"
        first = max((step for step in SLOT_RANKS if step < record.slot), default=0) + 1
        same = f"; vLLM reserves the same memory for ranks {first} to {record.slot}"
        same *= smallest < rank
        sentence = f"In vLLM --max-lora-rank {record.slot} {enough}{same}. {sentence}"
    further = few or _close_to_margin(of, record)
    if smallest < reference and "no result" in ends:
        further += f"A smaller rank may pass: {ends}."
    command = truncate_command(row, run, rank) if rank < reference else ""
    if smallest < rank:
        yield f"{name}{sentence}.", command
        command = truncate_command(row, run, smallest)
        found = _loss_and_file(of, record, smallest)
        sentence = f"The smallest file is that of rank {smallest}: {found}"
    yield f"{name}{sentence}. {further}".rstrip(), command


def _loss_and_file(of: View, record: Advice, rank: int) -> str:
    """What a rank loses against the trained one, its file and the scale that was fitted for it."""
    known = {point.rank: point for point in of.of(record.key)}
    reference = record.reference or 0
    bound = known[rank].loss_bound or 0.0
    own = of.metric in OWN  # a few points of these may be much of what was learnt
    what = f" of {of.measure.lower()}" if own and bound > 0 else ""
    lost = f"at most {upper(bound)} points{what}" if bound > 0 else "nothing"
    told = [f"it loses {lost} against rank {reference}{_SURE}"]
    if own:
        base, kept, whole = (known[r].accuracy for r in (0, rank, reference))
        share = "all" if kept >= whole else f"{percent((kept - base) / (whole - base))} %"
        told.append(f"as measured it keeps {share} of the gain over the base")
    if (ours := known[rank].bytes) and (trained := known[reference].bytes):
        told.append(f"its file has {size(ours)} instead of {size(trained)}")
    factors = [c.factors[rank] for c in of.rows[record.key].curves if rank in c.factors]
    if factors:
        times = ", ".join(f"{factor:.3g}" for factor in factors)
        told.append(f"its scale is the trained one times {times}, which was fitted to this task")
    return "; ".join(told)


def _end(of: View, record: Advice) -> str:
    """Why the largest rank that does not pass fails; nothing where all pass."""
    known = {point.rank: point for point in of.of(record.key)}
    rank = _first_failing(of, record)
    if not rank:
        return ""
    if rank not in known:
        return f"rank {rank} has no result"
    bound = known[rank].loss_bound
    if bound is not None and bound <= record.margin:
        return f"rank {rank} is not shown to be above the base{_SURE}"
    return f"rank {rank} may lose over {points(record.margin)}{_SURE}"


def _first_failing(of: View, record: Advice) -> int:
    """The largest rank that does not pass, at which the tests end; 0 where all pass."""
    ranks = {point.rank for point in of.of(record.key)}
    ranks |= {rank for curve in of.rows[record.key].curves for rank in curve.missing}
    return max((rank for rank in ranks if rank < (record.smallest_rank or 0)), default=0)


def _close_to_margin(of: View, record: Advice) -> str:
    """The tested ranks of which two other answers may decide whether they pass; or nothing."""
    if of.metric == f"{TOKENS},none":  # an example is right in parts
        return ""
    examples, first = of.rows[record.key].examples or 0, _first_failing(of, record)
    near = [
        f"rank {point.rank} (at most {upper(point.loss_bound)} points) is within two answers of "
        f"{'failing' if point.rank > first else 'passing'}"
        for point in of.of(record.key)
        if point.loss_bound is not None and first <= point.rank < (record.reference or 0)
        if (point.rank > first) == (point.loss_bound <= record.margin)  # its loss decides
        if abs(point.loss_bound - record.margin) * examples < CLOSE
    ]
    return f"{listed(near).capitalize()}; evaluate more examples. " if near else ""


def too_few(examples: int, margin: float, clusters: Any = None) -> str:
    """How many examples or clusters show that a rank which loses nothing is within a margin."""
    groups = examples if clusters is None else int(clusters.max()) + 1
    needed = examples_for_margin(margin, 1 if clusters is None else round(examples / groups))
    if groups >= needed:
        return ""
    what = counted(groups, "example" if clusters is None else "cluster")
    return (
        f"{what} {'is' if groups == 1 else 'are'} too few for a margin of {points(margin)}: even a "
        f"rank that loses nothing needs {needed:,}. Evaluate {needed:,} or more, or take a larger "
        "margin."
    )


def truncate_command(row: Row, run: StoredRun | None, rank: int) -> str:
    """The command that makes a rank of an adapter with one training seed, in a new folder."""
    known = {adapter.name: adapter for adapter in run.adapters} if run else {}
    adapter = known.get(row.curves[0].adapter or "")
    made = truncate_options(row.key.basis, row.key.rescale)
    path = adapter.path if adapter and adapter.format != "family" else None
    if not path or row.seeds > 1 or not made:
        return ""
    name = path.rstrip("/").rpartition("/")[2].partition("@")[0]
    words = ["aurac", "truncate", path, "--rank", str(rank), *made]
    return shlex.join([*words, "--out", f"{name}_r{rank}"])


def conclusions(of: View, run: StoredRun | None) -> list[tuple[str, str]]:
    """What to ship, or that nothing is above the base; why none is right or answers do not end."""
    told = advice(of, run) or [(not_above_base(of), "")]
    return [*told, (none_right(of), ""), (unfinished(of), "")]


def not_above_base(of: View) -> str:
    """That no rank of the one adapter is shown to be above the base, where it is so."""
    shown = [point.above_base for point in of.points if point.above_base is not None]
    if len(of.keys) > 1 or not shown or any(shown):
        return ""
    return f"{of.names[of.keys[0]]} is not shown to be above the base at any rank{_SURE}."


def none_right(of: View) -> str:
    """That neither the base nor any rank writes one of a user's own completions; or nothing."""
    if of.metric != f"{WHOLE},none" or any(point.accuracy for point in of.points):
        return ""
    text = (
        f"No rank, nor the base, writes any of the {of.examples:,} completions exactly. Check that "
        "prompt and completion have the format of the training."
    )
    known = of.of(of.keys[0]) if len(of.keys) == 1 else []
    losses = {point.rank: point.nats for point in known if point.nats is not None}
    if 0 in losses and (rank := max(losses)):
        worse = " (the adapter is worse than the base)" if losses[rank] > losses[0] else ""
        text += (
            f" Mean loss of a token: base {losses[0]:.3g}, rank {rank} {losses[rank]:.3g}{worse}."
        )
    return text


def overlaps(run: StoredRun | None) -> list[str]:
    """What the tasks share with the training data, as a warning where they share an example."""
    adapters: dict[Any, list[str]] = {}
    for each in run.overlaps if run else ():
        fact = each.task, each.data, each.examples, each.same, each.prompts
        adapters.setdefault(fact, []).append(each.adapter)
    return [_overlap(listed(names), *fact) for fact, names in adapters.items()]


def _overlap(names: str, task: str, data: str, examples: int, same: int, prompts: int) -> str:
    there = f"the training data of {names} ({data})"
    if not same and not prompts:
        return f"{task}: none of {counted(examples, 'example')} is in {there}."
    alone = f", {prompts:,} more with another completion" if prompts else ""
    return (
        f"{task}: {same:,} of {counted(examples, 'example')} are in {there}{alone}. A score on "
        "examples that were trained on does not hold for new ones."
    )


def unwritten(run: StoredRun | None) -> list[str]:
    """Why there are no texts of what is written in the place of references."""
    return [
        f"What is written in the place of references could not be generated ({reason}); the same "
        "command tries again."
        for reason in (run.unwritten if run else ())
    ]


def how_to_ask(tasks: Sequence[View], run: StoredRun | None) -> str:
    """How a margin that the examples may show is given; the command on a line of its own.

    Nothing where one was given, or there are several adapters, or none is above the base.
    """
    asked = any(of.analysis.question.margin is not None for of in tasks)
    single = all(len(of.keys) == 1 and of.examples for of in tasks)
    if asked or not single or all(not_above_base(of) for of in tasks):
        return ""
    row = min((r for of in tasks for r in of.rows.values()), key=lambda row: row.examples or 0)
    of_tokens = any(of.metric == f"{TOKENS},none" for of in tasks)
    usual = (0.005, 0.01, 0.02, 0.05) if of_tokens else (0.02, 0.05, 0.1, 0.2)
    enough = (m for m in usual if not too_few(row.examples or 0, m, row.clusters))
    margin = next(enough, usual[-1])
    command = f"\n  aurac recommend {shlex.quote(str(run.folder))} --margin {margin}" if run else ""
    names = f"names a rank to ship: one that loses at most {points(margin)}"
    return f"The option --margin {margin} {names}.{command}"


def unfinished(of: View) -> str:
    """The rank at which most answers did not end, where that is so often that it matters."""
    answers = {key: (row.examples or 0) * row.seeds for key, row in of.rows.items()}
    shares = [
        (point.unfinished / answers[point.key], point)
        for point in of.points
        if point.rank and point.unfinished and answers[point.key]
    ]
    share, most = max(shares, key=lambda each: each[0], default=(0.0, None))
    if most is None or share <= _FEW:
        return ""
    limit = of.rows[most.key].curves[0].token_limit
    whose = f" of {of.names[most.key]}" if len(of.keys) > 1 else ""
    within = f"{limit} tokens" if limit else "the limit of tokens"
    return (
        f"{most.unfinished:,} of {answers[most.key]:,} answers{whose} at rank {most.rank} did not "
        f"end within {within}: allow more with --gen-kwargs max_gen_toks=N, or give the task an "
        '"until" that ends an answer.'
    )


def measured_with(run: StoredRun) -> str:
    """The base and its precision, on which every number depends."""
    return f"Base {run.provenance['base']}, dtype {run.provenance['dtype']}"


def other_bases(run: StoredRun | None) -> list[str]:
    """Adapters that were evaluated on another base than they record."""
    base = run.provenance.get("base") if run else None
    other = [a for a in run.adapters if a.base not in (None, base)] if run and base else []
    return [f"{a.name} records the base {a.base} and was evaluated on {base}." for a in other]


def verdict(of: View) -> str:
    """What declared pairs show, or what is significant of the reference or of the leader."""
    about, declared = of.reference or of.keys[0], of.analysis.question.pairs
    mine = [pair for pair in of.pairs if declared or about in (pair.a, pair.b)]
    known = [pair for pair in mine if pair.p is not None]
    told = [*results(of, [pair for pair in known if declared or of.shows(pair)])]
    if len(told) < len(known):
        other = "other " if told else ""
        told.append(f"No {other}difference from {of.names[about]} is significant.")
    if told and of.seeds == 1:
        told.append("Another training run may order them otherwise.")
    return " ".join(told)


def results(of: View, pairs: Iterable[Pair]) -> Iterator[str]:
    """What each comparison shows, in a sentence."""
    for pair in pairs:
        a, b = of.names[pair.a], of.names[pair.b]
        found = interval(pair.difference, pair.low, pair.high, " points")
        if of.shows(pair):
            yield f"{a} is better than {b} ({found})."
        else:
            yield f"The difference {a} − {b} ({found}) is not significant."


def caption_of_pairs(of: View) -> str:
    """What is compared, and what the intervals and p values allow for."""
    text = "Differences of AURAC in points, the larger AURAC first"
    known = [record for record in of.pairs if record.p is not None]
    if known:
        over = "examples and seeds" if max(r.seeds for r in known) > 1 else "examples"
        number, sure = known[0].comparisons, confidence(of.level)
        together = f"intervals ({sure}) and p hold for all {number} together (Bonferroni)"
        text += f", over {over}; {together if number > 1 else f'{sure} intervals'}"
    if of.reference is None:
        return f"{text}."
    return f"{text}. All are compared with {of.names[of.reference]}."


def how_to_compare(of: View) -> str:
    """How other pairs are compared, where not all are."""
    return " --reference takes another adapter, or all pairs." if of.reference else ""
