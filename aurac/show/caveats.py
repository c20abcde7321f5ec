"""The caveats that apply to this run and no other: a sentence for each code of the analysis."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from aurac.analysis.caveats import padded
from aurac.curves.display import count as whole
from aurac.curves.display import percent
from aurac.curves.names import LISTED, some
from aurac.records.decisions import UNDECLARED
from aurac.show.sentences import all_zero, limit_of, published_pairs, two_ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from aurac.analysis.record import Caveat, Code
    from aurac.records.run import StoredRun
    from aurac.show.findings import Findings

# One sentence for all caveats with a code.
_TOGETHER: Mapping[Code, str] = {
    "one rank each": "{who}: an adapter trained for each rank, not one that is truncated. Its "
    "sizes are of one rank; to serve all ranks takes all of them.",
    "unknown method": "{who}: the checkpoint does not record how it was trained, so it is scaled "
    "as its own configuration says and, unless --basis says otherwise, cut by SVD. Give "
    "--method and --nested-ranks if its ranks were nested.",
    "unequal ranks": "More than one set of ranks on {tasks}. AURAC compares only between rows with "
    "the same ranks.",
    "few events": "{who}: too few correct (or wrong) answers for a t interval over documents "
    "(fewer than 100 effective events), so each end, over seeds the documents' part of it, is the "
    "wider of Clopper and Pearson's and of Student's t on the logit.",
    "no base": "No base line on {tasks} ({notes}).",
    "no documents": "{who}: the stored documents are missing, damaged, or do not average to the "
    "accuracies of results.json, so nothing is paired with them.",
}
# A sentence for each of the first few caveats with a code, and one for the number of the others.
_EACH: Mapping[Code, str] = {
    "padded": "On {task}, {answers:.0f} of {n_docs:.0f} answers ({who}, rank {rank:.0f}) are "
    "scored 0 and, before the task's filters, equal the reference but for white space or case: "
    "look at these filters; remove_whitespace is one, and ignore_case an option of metrics.",
    "near ties": "Of an adapter's answers on {task}, up to {documents:.0f} of {n_docs:.0f} ({who}, "
    "rank {rank:.0f}) have a token or choice decided within the rounding of {note}. Another "
    "machine can give other answers; --dtype float32 has fewer such documents.",
    "samples": "On {task}, {number:.0f} sampled answers of each document are averaged. Sampling "
    "causes {share} of the variance of AURAC, the choice of documents the rest. The intervals "
    "cover both.",
    "draws": "On {task}, scores are means over {number:.0f} draws of the few-shot examples, the "
    "same for all adapters. The draws cause {share} of the variance of AURAC. The intervals of "
    "AURAC, accuracies and pairs hold for other draws too, a recommended rank for these draws "
    "only.",
    "not the base": "{who}: {note}.",
    "missing": "{who} on {task}, rank {rank:.0f}: missing ({note}). It is not filled in.",
    "failed": "{who} on {task}, rank {rank:.0f}: failed ({note}).",
}
_IN_STUDY = {  # by the number of families; 0: the p values are not those of the study
    0: "One task of the study {note}: these p values are adjusted for this task alone. Quote "
    "those of the study's report.md, adjusted over all of its tasks.",
    1: "One task of the study {note}: p values are those of its report.md, adjusted over "
    f"all of its {{tests:.0f}} comparisons. {UNDECLARED}",
    2: "One task of the study {note}: p values are those of its report.md, adjusted within "
    "{primary:.0f} primary and {exploratory:.0f} exploratory tests.",
}
_OTHERS: Mapping[Code, str] = {
    "missing": "{} more cells are missing; points.csv has the reasons.",
    "failed": "{} more cells failed; results.json lists them.",
}
_ADAPTERS = ("one rank each", "trained at one rank", "unknown method", "not the base", "failed")


def caveats(findings: Findings) -> list[str]:
    """What a reader has to know before quoting a number of this run."""
    return [line for say, _ in _SAID for line in say(findings)]


def lost_documents(findings: Findings) -> list[str]:
    """That documents which the run stored are not there, for the terminal."""
    return [*_together(findings, "no documents")]


def study_sentences(caveats: Iterable[Caveat]) -> list[str]:
    """Of which studies runs are tasks, and over what their p values are adjusted."""
    found = (c for c in caveats if c.code == "task of a study")
    return [_IN_STUDY[len(c.numbers)].format(note=c.note, **c.numbers) for c in found]


def doubts(run: StoredRun) -> list[str]:
    """What speaks for an error in a task rather than in the adapters, for the terminal."""
    zero = (all_zero(run, task) for task in run.task_names)
    found = ((c, {"task": c.task, "who": some(c.curves), **c.numbers}) for c in padded(run))
    return [*filter(None, zero), *(_EACH[c.code].format(**fields) for c, fields in found)]


def _who(findings: Findings, *found: Caveat) -> str:
    """Whom caveats are about, as the page calls them."""
    called = {curve.adapter: curve.called for curve in findings.run.curves}
    names = (
        called.get(name, name) if caveat.code in _ADAPTERS else findings.label(caveat.task, name)
        for caveat in found
        for name in caveat.curves
    )
    return some(names) or "the base model"


def _together(findings: Findings, code: Code) -> Iterator[str]:
    if found := findings.caveats(code):
        tasks, notes = (some(str(getattr(c, name)) for c in found) for name in ("task", "note"))
        yield _TOGETHER[code].format(who=_who(findings, *found), tasks=tasks, notes=notes)


def _each(findings: Findings, code: Code) -> Iterator[str]:
    found = findings.caveats(code)
    for c in found[:LISTED]:
        fields = {"task": c.task, "note": c.note, "share": _share(c), **c.numbers}
        yield _EACH[code].format(who=_who(findings, c), **fields)
    if code in _OTHERS and len(found) > LISTED:
        yield _OTHERS[code].format(len(found) - LISTED)


def _share(caveat: Caveat) -> str:
    low, high = (percent(caveat.numbers.get(end), 0) for end in ("low", "high"))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _study(findings: Findings) -> Iterator[str]:
    yield from study_sentences(findings.analysis.caveats)


def _below_base(findings: Findings) -> Iterator[str]:
    weak: dict[str, list[Caveat]] = {}
    for caveat in findings.caveats("below base"):
        where = f"{caveat.task} ({percent(caveat.numbers['baseline'])} %)"
        weak.setdefault(where, []).append(caveat)
    for where, found in weak.items():
        yield f"{_who(findings, *found)}: no rank is shown to be above the base on {where}."


def _seeds(findings: Findings) -> Iterator[str]:
    run = findings.run
    several = {curve.called: curve.seeds for curve in run.curves if curve.members}
    single = [curve.called for curve in run.curves if not curve.members and curve.ranks]
    if several:
        counts = ", ".join(f"{name} {n}" for name, n in several.items())
        few = " Two seeds do not show how much seeds vary, and three little."
        yield (
            f"Intervals cover documents and training seeds ({counts}). They and the tests assume "
            "that seeds vary about normally."
            f"{few if min(several.values()) < 4 else ''}"
        )
    if single:
        who = f"{some(single)}: one training run each" if several else "One training run each"
        yield (
            f"{who}. The intervals cover the choice of documents, not what another seed of the "
            "same method would have given."
        )
    for curve in (curve for curve in run.curves if curve.members):
        yield from (f"{curve.label} on {curve.task}: {note}." for note in curve.score_notes)
    yield from run.notes


def _scale(findings: Findings) -> Iterator[str]:
    pairs = [p for p in published_pairs(findings) if len({percent(c.area) for c in p}) > 1]
    for default, curve in pairs[:LISTED]:
        yield (
            f"On {curve.task}, {curve.called} has an AURAC of {two_ways(default, curve)}. Say "
            "which one you quote."
        )
    if len(pairs) > LISTED:
        yield f"{len(pairs) - LISTED} more adapters and tasks have both in the tables."


def _cut(findings: Findings) -> Iterator[str]:
    if cut := findings.caveats("trained at one rank"):
        names, absent = [name for c in cut for name in c.curves], ""
        if without := findings.caveats("not cut by svd"):
            whose = f" of {_who(findings, *without)}" if len(names) > 1 else ""
            absent = f" Truncation{whose} by SVD, the fair comparison, is not in this run."
        yield (
            f"{_who(findings, *cut)}: trained at one rank only, so nothing prepared it for "
            f"truncation to its first components.{absent}"
        )


def _sizes(findings: Findings) -> Iterator[str]:
    for caveat in findings.caveats("unequal sizes"):
        small, large = (findings.label(None, name) for name in caveat.curves)
        rank, less, more = (round(caveat.numbers[name]) for name in ("rank", "small", "large"))
        yield (
            f"Equal ranks are not equal sizes: at rank {rank}, {large} has {whole(more)} "
            f"parameters and {small} {whole(less)}. aurac report --axis parameters compares "
            "adapters over the parameters that both have."
        )


def _documents(findings: Findings) -> Iterator[str]:
    run, tasks = findings.run, [str(c.task) for c in findings.caveats("limit")]
    limits = {task: limit_of(run, run.task(task)) for task in tasks}
    few = {str(c.task): round(c.numbers["n_docs"]) for c in findings.caveats("few documents")}
    listed = some(f"{task} ({number})" for task, number in {**few, **limits}.items())
    text = f"{'A limited number of' if limits else 'Few'} documents: {listed}."
    if few:
        least = min(few.values())
        text += f" With {least} documents the accuracy at one rank is known to about "
        text += f"±{percent(0.98 / least**0.5, 0)} points at worst."
    if limits:
        text += " A limit takes the first documents of a task, which is not a random sample."
    if listed:
        yield text


def _falls(findings: Findings) -> Iterator[str]:
    if falls := findings.caveats("falls"):
        most = percent(max(caveat.numbers["size"] for caveat in falls))
        falling = len({(caveat.task, caveat.curves) for caveat in falls})
        where = "1 curve falls" if falling == 1 else f"{falling} curves fall"
        places = [
            f"{_who(findings, c)} on {c.task} from rank {c.numbers['lower']:.0f} to "
            f"{c.numbers['upper']:.0f}"
            for c in falls
            if percent(c.numbers["size"]) == most
        ]
        size = f"drops are {most} points each" if places[1:] else f"drop is {most} points"
        yield (
            f"Accuracy does not rise at every step: {where} somewhere, which is not tested. The "
            f"largest {size}: {some(places)}."
        )


def _bands(findings: Findings) -> Iterator[str]:
    if any(low is not None for curve in findings.run.curves for low in curve.accuracy_low):
        yield (
            "Bands are 95 % intervals for each rank alone, not for the whole curve. Overlapping "
            "bands do not show that two adapters are equal: they answered the same documents."
        )


def _primary(findings: Findings) -> Iterator[str]:
    if declared := findings.analysis.primary or findings.run.primary:
        names = {curve.name: curve.label for curve in findings.run.curves}
        pairs = [(names.get(a, a), names.get(b, b)) for a, b in declared.pairs]
        yield structs.replace(declared, pairs=pairs).sentence


def _said(code: Code) -> tuple[Callable[[Findings], Iterator[str]], tuple[Code, ...]]:
    return partial(_together if code in _TOGETHER else _each, code=code), (code,)


# What is said, in the order of a report, and the codes that it is said of.
_SAID: tuple[tuple[Callable[[Findings], Iterator[str]], tuple[Code, ...]], ...] = (
    (_study, ("task of a study",)),
    _said("padded"),
    (_below_base, ("below base",)),
    (_seeds, ("seeds", "one training", "note")),
    (_primary, ()),
    (_scale, ("as published",)),
    _said("one rank each"),
    (_cut, ("trained at one rank", "not cut by svd")),
    _said("unknown method"),
    _said("unequal ranks"),
    (_sizes, ("unequal sizes",)),
    (_documents, ("few documents", "limit")),
    _said("few events"),
    _said("near ties"),
    _said("samples"),
    _said("draws"),
    (_falls, ("falls",)),
    _said("no base"),
    _said("not the base"),
    _said("missing"),
    _said("failed"),
    _said("no documents"),
    (_bands, ()),
)
SENTENCES = frozenset(code for _, codes in _SAID for code in codes)
"""The codes that a report says something of."""
