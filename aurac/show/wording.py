"""The sentences of a screen and a report, each made from records of an analysis."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from aurac.curves.display import truncate_options
from aurac.show.numbers import confidence, counted, interval, listed, points, size, upper
from aurac.show.views import LOSS, MARK, SLOT
from aurac.stats.planning import examples_for_margin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis import Row
    from aurac.analysis.schema import Key, Record
    from aurac.records.run import StoredRun
    from aurac.show.tabular import Columns
    from aurac.show.views import View

LEVEL: Final = 0.95  # of the one-sided tests of a recommendation
_EQUAL: Final = 1e-9  # differences of AURAC below this are rounding
_FEW: Final = 0.02  # of all answers: as many as the usual margin of accuracy


def heading(of: View) -> str:
    """The task, what is measured, and on how many examples."""
    accuracy = f"accuracy in percent ({of.metric})"
    values = f"{of.metric}, lower is better" if of.rolling else accuracy
    count = f", {counted(of.examples, 'example')}" if of.examples else ""
    return f"{of.task}: {values.replace(' ()', '')}{count}"


def notes(of: View, columns: Columns) -> list[str]:
    """What a mark and a column of a table mean, where it has them."""
    margin, found = of.analysis.question.margin, [cuts(of)] if "adapter" in columns else []
    if any(head.startswith("AURAC") for head in columns):
        found.append("AURAC: the area under the curve, which is the mean accuracy over log2 rank")
    if LOSS in columns:
        lost = f"the most with {confidence(LEVEL)} confidence; below 0: a gain"
        found.append(f"{LOSS}: points lost against the trained rank, and {lost}")
    if "unfinished" in columns:
        found.append("unfinished: answers that were cut off")
    if SLOT in columns:
        found.append(f"{SLOT}: the smallest --max-lora-rank that serves it, which sets its memory")
    if margin is not None and "ship" in columns:
        which = "the smallest of these ranks that, like every larger one,"
        found.append(f"ship: {which} loses at most {points(margin)}")
    if any(cell.startswith(MARK) for column in columns.values() for cell in column):
        found.append(f"{MARK}: not significantly above the base")
    if of.seeds == 2:
        found.append("two seeds: intervals reach 12.7 standard errors, add a third seed")
    return found


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
    row, record, name = of.rows[key], of.recommended.get(key), of.names[key]
    if record is None:
        why = "a recommendation needs the base, and every outcome at the trained rank"
        return f"{name}: {why}.", ""
    sentence = _shipped(of, record, f"{name} at " if len(of.keys) > 1 else "")
    if factors := [
        curve.factors[r] for curve in row.curves if (r := record["rank"]) in curve.factors
    ]:
        listed = ", ".join(f"{factor:.3g}" for factor in factors)
        sentence += f" Its scale is the trained one times {listed}, which was fitted to this task."
    if record["rank"] == record["reference"]:
        few = too_few(row.examples or 0, record["margin"], row.clusters)
        return f"{sentence} {few}".rstrip(), ""
    return sentence, truncate_command(row, run, record["rank"]) if record["rank"] else ""


def _shipped(of: View, record: Record, adapter: str) -> str:
    sure, reference = f"({confidence(LEVEL)} confidence)", f"rank {record['reference']}"
    rank = record["rank"]
    if rank is None:
        nothing = f"Ship no rank{adapter and ' of '}{adapter.removesuffix(' at ')}"
        return f"{nothing}: {reference} is not shown to be above the base {sure}."
    if rank == record["reference"]:
        return f"Ship {adapter}{reference}, as trained: {_no_smaller(of, record, sure)}."
    sizes = {point["rank"]: point["bytes"] for point in of.of(record["key"])}
    small, full = sizes.get(rank), sizes.get(record["reference"])
    instead = f"{size(small)} instead of {size(full)}; it" if small and full else "it"
    lost = f"at most {upper(record['bound'])} points" if record["bound"] > 0 else "nothing"
    return f"Ship {adapter}rank {rank}: {instead} loses {lost} against {reference} {sure}."


def _no_smaller(of: View, record: Record, sure: str) -> str:
    """Why no rank below the trained one is shipped: the first that was to be tested failed."""
    key, margin = record["key"], record["margin"]
    known = {point["rank"]: point for point in of.of(key)}
    missing = {rank for curve in of.rows[key].curves for rank in curve.missing}
    below = [rank for rank in {*known, *missing} if 0 < rank < record["reference"]]
    if not below:
        return "no smaller rank was evaluated"
    if max(below) in missing:
        return f"rank {max(below)} has no result"
    bound = known[max(below)]["loss_bound"]
    small = bound is not None and bound <= margin
    fails = "is not shown to be above the base" if small else f"may lose over {points(margin)}"
    return f"rank {max(below)} {fails} {sure}"


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
    if (
        adapter is None
        or not adapter.path
        or adapter.format == "family"
        or row.seeds > 1
        or not made
    ):
        return ""
    path = adapter.path
    words = ["aurac", "truncate", path, "--rank", str(rank), *made]
    taken = {*known, *(_folder(other.path) for other in known.values() if other.path)}
    out = f"{_folder(path)}_r{rank}"
    while out in taken:
        out += "_cut"
    return shlex.join([*words, "--out", out])


def _folder(path: str) -> str:
    """The last part of a path or hub id, without a revision."""
    return path.rstrip("/").rpartition("/")[2].partition("@")[0]


def not_above_base(of: View) -> str:
    """That no rank of the one adapter is shown to be above the base, where it is so."""
    shown = [point["above_base"] for point in of.points if point["above_base"] is not None]
    if len(of.keys) > 1 or not shown or any(shown):
        return ""
    which = f"{of.names[of.keys[0]]} is not shown to be above the base"
    return f"{which} at any rank ({confidence(LEVEL)} confidence)."


def how_to_ask(tasks: Sequence[View], run: StoredRun | None) -> str:
    """How a margin that the examples may show is given; the command on a line of its own."""
    fewest = min(of.examples or 0 for of in tasks)
    margin = next((m for m in (0.02, 0.05, 0.1) if examples_for_margin(m) <= fewest), 0.2)
    command = f"\n  aurac recommend {shlex.quote(str(run.folder))} --margin {margin}" if run else ""
    names = f"names the smallest rank that loses at most {points(margin)}"
    return f"The option --margin {margin} {names}.{command}"


def cut_off(of: View) -> str:
    """That answers did not end, where that is most of all, and so often that it matters."""
    worst, found = _FEW, ""
    for key, row in of.rows.items():
        for point in of.of(key):
            count, total = point["unfinished"] or 0, (row.examples or 0) * row.seeds
            if point["rank"] == 0 or not total or count / total <= worst:
                continue
            worst, limit = count / total, row.curves[0].token_limit
            whose = f" of {of.names[key]}" if len(of.keys) > 1 else ""
            found = (
                f"{count:,} of {total:,} answers{whose} at rank {point['rank']} were cut off"
                f"{f' at {limit} tokens' if limit else ''}: allow more with "
                '--gen-kwargs max_gen_toks=N, or give the task an "until" that ends an answer.'
            )
    return found


def other_bases(run: StoredRun | None) -> list[str]:
    """Adapters that were evaluated on another base than they record."""
    base = run.provenance.get("base") if run else None
    other = [a for a in run.adapters if a.base not in (None, base)] if run and base else []
    return [f"{a.name} records the base {a.base} and was evaluated on {base}." for a in other]


def verdict(of: View) -> str:
    """What the differences between adapters show, in one sentence; nothing where none is known."""
    known = [record for record in of.pairs if record["p"] is not None]
    if not known:
        return ""
    if of.reference is not None:
        return _against_reference(of, known, of.reference)
    leader, name = of.keys[0], of.names[of.keys[0]]
    rows = [record for record in known if record["a"] == leader]
    better = [record for record in rows if record["p"] < 1 - of.level]
    tied = [of.names[record["b"]] for record in rows if abs(record["difference"]) < _EQUAL]
    equal = [r for r in rows if r["p"] >= 1 - of.level and of.names[r["b"]] not in tied]
    which = f"Of these {'methods' if of.seeds > 1 else 'checkpoints'}"
    over = f" over ranks {of.some_ranks}, which all have," if of.some_ranks else ""
    text = f"{which} {listed([name, *tied])} {'have' if tied else 'has'} the largest AURAC{over}"
    if better:
        text += f" and is better than {_losers(of, better)}"
    if equal:
        lead = "the lead" if len(equal) == 1 else "its leads"
        text += f"; {lead} over {_losers(of, equal)} {_are(equal)} not significant"
    return f"{text.replace(',;', ';').removesuffix(',')}."


def primary_results(of: View) -> Iterator[str]:
    """What each comparison shows, in a sentence."""
    for record in of.pairs:
        a, b = of.names[record["a"]], of.names[record["b"]]
        ends = interval(*(record[name] for name in ("difference", "low", "high")))
        found = f"{ends.replace(' [', ' points [')}"
        if record["p"] is not None and record["p"] < 1 - of.level:
            yield f"{a} is better than {b} ({found})."
        else:
            yield f"The difference {a} − {b} ({found}) is not significant."


def _losers(of: View, records: Sequence[Record]) -> str:
    """The losers of some differences; of a single one with its size."""
    names = listed([of.names[record["b"]] for record in records])
    if len(records) > 1:
        return names
    ends = interval(*(records[0][name] for name in ("difference", "low", "high")))
    return f"{names} ({ends.replace(' [', ' points [')})"


def _against_reference(of: View, records: Iterable[Record], reference: Key) -> str:
    """Which adapters are better or worse than the one that all are compared with."""
    found = [record for record in records if record["p"] < 1 - of.level]
    better = [of.names[record["a"]] for record in found if record["b"] == reference]
    worse = [of.names[record["b"]] for record in found if record["a"] == reference]
    both = [(better, "better"), (worse, "worse")]
    parts = [f"{listed(names)} {_are(names)} {how}" for names, how in both if names]
    if not parts:
        return f"No difference from {of.names[reference]} is significant."
    parts[0] += f" than {of.names[reference]}"
    return f"{', and '.join(parts)}."


def caption_of_pairs(of: View) -> str:
    """What is compared, and what the intervals and p values allow for."""
    text = "Differences of AURAC in points, the larger AURAC first"
    known = [record for record in of.pairs if record["p"] is not None]
    if known:
        over = "examples and seeds" if max(r["seeds"] for r in known) > 1 else "examples"
        number, sure = known[0]["comparisons"], confidence(of.level)
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
