"""The sentences of a screen and a report, each made from records of an analysis."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from aurac.curves.display import slot_rank, truncate_options
from aurac.curves.metrics import TOKENS
from aurac.curves.numbers import confidence, counted, interval, listed, percent, points, size, upper
from aurac.show.views import LOSS, MARK, OWN, SLOT
from aurac.stats.planning import examples_for_margin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis import Row
    from aurac.analysis.schema import Advice, Pair, Point
    from aurac.curves.question import Key
    from aurac.records.run import StoredRun
    from aurac.show.tabular import Columns
    from aurac.show.views import View

LEVEL: Final = 0.95  # of the one-sided tests of a recommendation
_OWN: Final = {
    "Token accuracy": "token accuracy: of the tokens of a completion those that the model would "
    "choose after the true ones before them; it is not the accuracy of answers",
    "Whole completions": "whole completions: those that greedy decoding would write; other right "
    "answers do not count, so that it is not the accuracy of answers",
}
_EQUAL: Final = 1e-9  # differences of AURAC below this are rounding
_FEW: Final = 0.02  # of all answers: as many as the usual margin of accuracy


def heading(of: View) -> str:
    """The task, what is measured, and on how many examples."""
    named = "" if of.metric in OWN else f" ({of.metric})"
    accuracy = f"{of.measure.lower()} in percent{named}"
    values = f"{of.metric}, lower is better" if of.rolling else accuracy
    count = f", {counted(of.examples, 'example')}" if of.examples else ""
    return f"{of.task}: {values.replace(' ()', '')}{count}"


def notes(of: View, columns: Columns) -> list[str]:
    """What a mark and a column of a table mean, where it has them."""
    margin, found = of.analysis.question.margin, [cuts(of)] if "adapter" in columns else []
    found += [_OWN[of.measure]] if of.measure in _OWN else []
    if any(head.startswith("AURAC") for head in columns):
        found.append("AURAC: the area under the curve, which is the mean accuracy over log2 rank")
    if LOSS in columns:
        lost = f"the most with {confidence(LEVEL)} confidence; below 0: a gain"
        found.append(f"{LOSS}: points lost against the trained rank, and {lost}")
    if "unfinished" in columns:
        found.append("unfinished: answers that were cut off")
    if SLOT in columns:
        found.append(f"{SLOT}: the smallest --max-lora-rank that serves it, which sets its memory")
    elif "rank" in columns and any(c.width == 0 for row in of.rows.values() for c in row.curves):
        found.append("vLLM does not serve this adapter")
    if "rank" in columns and not of.rolling and any(point.low is None for point in of.points):
        found.append("without an interval: the outcomes of its examples are not known")
    if margin is not None and "ship" in columns:
        which = "the smallest of these ranks that, like every larger one,"
        found.append(f"ship: {which} loses at most {points(margin)}")
    if any(cell.startswith(MARK) for column in columns.values() for cell in column):
        found.append(f"{MARK}: not significantly above the base")
    if of.seeds == 2:
        found.append("two seeds: intervals reach 12.7 standard errors, add a third seed")
    return [*found, *apart(of)]


def apart(of: View) -> list[str]:
    """Which rows and seeds are not compared with the others or have no interval, and why."""
    return [*dict.fromkeys(_apart(of))]


def _apart(of: View) -> Iterator[str]:
    for area in of.scores:
        row, name = of.rows.get(area.key), of.names[area.key]
        if row and row.lacks and of.rolling:
            yield f"{name}: {row.lacks}"
        elif area.reason and not of.rolling and (len(of.keys) > 1 or not row or row.lacks):
            lacks = f"{name} has no AURAC and is in no difference"
            yield f"{lacks if area.aurac is None else 'without an interval'}: {area.reason}"
        for curve in row.curves if row else ():
            fewer = [f"{rank} ({n:,})" for rank, n in curve.fewer.items() if curve.ranks]
            if fewer:
                every = len(curve.doc_ids or ())
                yield f"{name} was asked fewer than {every:,} examples at rank {listed(fewer)}"


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
    """What to ship of each adapter, and the command that makes it, where there is a margin."""
    asked = of.analysis.question.margin is not None and not of.rolling
    return [_advice(of, key, run) for key in of.keys if asked]


def _advice(of: View, key: Key, run: StoredRun | None) -> tuple[str, str]:
    row, record, name = of.rows[key], of.recommended[key], of.names[key]
    if record.reference is None:
        return f"{name}: {record.reason}.", ""
    sentence = _shipped(of, record, f"{name} at " if len(of.keys) > 1 else "")
    if factors := [
        curve.factors[r] for curve in row.curves if (r := record.rank or 0) in curve.factors
    ]:
        listed = ", ".join(f"{factor:.3g}" for factor in factors)
        sentence += f" Its scale is the trained one times {listed}, which was fitted to this task."
    if record.rank == record.reference:
        few = too_few(row.examples or 0, record.margin, row.clusters)
        return f"{sentence} {few}".rstrip(), ""
    return sentence, truncate_command(row, run, record.rank) if record.rank else ""


def _shipped(of: View, record: Advice, adapter: str) -> str:
    sure, reference = f"({confidence(LEVEL)} confidence)", f"rank {record.reference}"
    rank = record.rank
    if rank is None:
        nothing = f"Ship no rank{adapter and ' of '}{adapter.removesuffix(' at ')}"
        return f"{nothing}: {record.reason} {sure}."
    known = {point.rank: point for point in of.of(record.key)}
    missing = {r: why for c in of.rows[record.key].curves for r, why in c.missing.items()}
    below = max((r for r in {*known, *missing} if r < rank), default=0)  # it was to be tested next
    until = below in missing
    ship = f"Until rank {below} has a result ({missing[below]}), ship" if until else "Ship"
    if rank == record.reference:
        why = "" if until else f": {_fails(known.get(below), record.margin, sure)}"
        return f"{ship} {adapter}{reference}, as trained{why}."
    bound = record.bound or 0.0
    lost = f"at most {upper(bound)} points" if bound > 0 else "nothing"
    files = record.bytes, known[record.reference or 0].bytes
    file = f" Its file has {size(files[0])} instead of {size(files[1])}." if all(files) else ""
    own = of.metric in OWN  # a few points of these may be much of what was learnt
    what = f" of {of.measure.lower()}" if own and bound > 0 else ""
    claim = f"{ship} {adapter}rank {rank}: it loses {lost}{what} against {reference} {sure}"
    if own:
        base, kept, whole = (known[r].accuracy for r in (0, rank, record.reference or 0))
        share = "all" if kept >= whole else f"{percent((kept - base) / (whole - base))} %"
        claim += f"; as measured it keeps {share} of the gain over the base"
    return f"{claim}.{_slot(record)}{file}"


def _slot(record: Advice) -> str:
    """What a rank takes in vLLM, which sets the same memory aside for all ranks of a slot."""
    rank, reference, slot = record.rank, record.reference, record.slot
    if slot is None:
        return ""
    if record.same_slot_rank == reference:
        both = f"ranks {rank} and {reference} both take a slot of rank {slot}"
        return f" In vLLM it saves nothing: {both}."
    free = f"; rank {same} would take the same" if (same := record.same_slot_rank) else ""
    return f" In vLLM it takes a slot of rank {slot} instead of {slot_rank(reference or 0)}{free}."


def _fails(point: Point | None, margin: float, sure: str) -> str:
    """Why the rank below the trained one is not shipped."""
    if point is None or not point.rank:
        return "no smaller rank was evaluated"
    small = point.loss_bound is not None and point.loss_bound <= margin
    fails = "is not shown to be above the base" if small else f"may lose over {points(margin)}"
    return f"rank {point.rank} {fails} {sure}"


def too_few(examples: int, margin: float, clusters: Any = None) -> str:
    """How many examples or clusters show that a rank which loses nothing is within a margin."""
    groups = examples if clusters is None else int(clusters.max()) + 1
    needed = examples_for_margin(margin, 1 if clusters is None else round(examples / groups))
    if groups >= needed:
        return ""
    what = counted(needed, "example" if clusters is None else "cluster")
    needs = f"A margin of {points(margin)} needs {what} or more, even without a loss"
    return f"{needs}; there are {groups:,}."


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


def not_above_base(of: View) -> str:
    """That no rank of the one adapter is shown to be above the base, where it is so."""
    shown = [point.above_base for point in of.points if point.above_base is not None]
    if len(of.keys) > 1 or not shown or any(shown):
        return ""
    which = f"{of.names[of.keys[0]]} is not shown to be above the base"
    return f"{which} at any rank ({confidence(LEVEL)} confidence)."


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
    few = {m: too_few(row.examples or 0, m, row.clusters) for m in usual}
    margin = next((m for m, text in few.items() if not text), usual[-1])
    command = f"\n  aurac recommend {shlex.quote(str(run.folder))} --margin {margin}" if run else ""
    names = f"names the smallest rank that loses at most {points(margin)}"
    needs = few[margin] or few[usual[0]]
    return f"The option --margin {margin} {names}.{needs and ' '}{needs}{command}"


def cut_off(of: View) -> str:
    """The rank at which most answers did not end, where that is so often that it matters."""
    found = [
        (point.unfinished or 0, total, point.rank, key)
        for key, row in of.rows.items()
        for point in of.of(key)
        if point.rank and (total := (row.examples or 0) * row.seeds)
    ]
    count, total, rank, key = max(
        found, key=lambda each: each[0] / each[1], default=(0, 1, 0, None)
    )
    if key is None or count / total <= _FEW:
        return ""
    limit = of.rows[key].curves[0].token_limit
    whose = f" of {of.names[key]}" if len(of.keys) > 1 else ""
    return (
        f"{count:,} of {total:,} answers{whose} at rank {rank} were cut off"
        f"{f' at {limit} tokens' if limit else ''}: allow more with "
        '--gen-kwargs max_gen_toks=N, or give the task an "until" that ends an answer.'
    )


def other_bases(run: StoredRun | None) -> list[str]:
    """Adapters that were evaluated on another base than they record."""
    base = run.provenance.get("base") if run else None
    other = [a for a in run.adapters if a.base not in (None, base)] if run and base else []
    return [f"{a.name} records the base {a.base} and was evaluated on {base}." for a in other]


def verdict(of: View) -> str:
    """What the differences between adapters show, in one sentence; nothing where none is known."""
    known = [record for record in of.pairs if record.p is not None]
    if not known:
        return ""
    if of.reference is not None:
        return _against_reference(of, known, of.reference)
    leader, name = of.keys[0], of.names[of.keys[0]]
    rows = [record for record in known if record.a == leader]
    better = [record for record in rows if of.shows(record)]
    tied = [of.names[record.b] for record in rows if abs(record.difference) < _EQUAL]
    equal = [r for r in rows if not of.shows(r) and of.names[r.b] not in tied]
    gone = [f"{of.names[r.key]} ({r.reason})" for r in of.scores if r.aurac is None]
    which = f"Of these {'methods' if of.seeds > 1 else 'checkpoints'}"
    which += f", without {listed(gone)}," if gone else ""
    over = f" over ranks {of.some_ranks}," if of.some_ranks else ""
    text = f"{which} {listed([name, *tied])} {'have' if tied else 'has'} the largest AURAC{over}"
    if better:
        text += f" and {_are([name, *tied])} better than {_losers(of, better)}"
    if equal:
        lead = "the lead" if len(equal) == 1 else f"{'their' if tied else 'its'} leads"
        text += f"; {lead} over {_losers(of, equal)} {_are(equal)} not significant"
    return f"{text.replace(',;', ';').removesuffix(',')}."


def primary_results(of: View) -> Iterator[str]:
    """What each comparison shows, in a sentence."""
    for record in of.pairs:
        a, b = of.names[record.a], of.names[record.b]
        found = interval(record.difference, record.low, record.high, " points")
        if of.shows(record):
            yield f"{a} is better than {b} ({found})."
        else:
            yield f"The difference {a} − {b} ({found}) is not significant."


def _losers(of: View, records: Sequence[Pair]) -> str:
    """The losers of some differences; of a single one with its size."""
    names = listed([of.names[record.b] for record in records])
    if len(records) > 1:
        return names
    record = records[0]
    ends = interval(record.difference, record.low, record.high, " points")
    return f"{names} ({ends})"


def _against_reference(of: View, records: Iterable[Pair], reference: Key) -> str:
    """Which adapters are better or worse than the one that all are compared with."""
    found = [record for record in records if of.shows(record)]
    better = [of.names[record.a] for record in found if record.b == reference]
    worse = [of.names[record.b] for record in found if record.a == reference]
    both = [(better, "better"), (worse, "worse")]
    parts = [f"{listed(names)} {_are(names)} {how}" for names, how in both if names]
    if not parts:
        return f"No difference from {of.names[reference]} is significant."
    parts[0] += f" than {of.names[reference]}"
    return f"{', and '.join(parts)}."


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


def _are(names: Sequence[Any]) -> str:
    return "is" if len(names) == 1 else "are"
