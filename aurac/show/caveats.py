"""The caveats that apply to this run and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.curves.display import count as whole
from aurac.curves.display import percent
from aurac.records.run import seeds_of
from aurac.show.sentences import LISTED, published_pairs, some, two_ways

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aurac.records.run import CurveRow, StoredRun
    from aurac.show.findings import Findings

# Below this many expected documents at the nearer end a reader is told how the interval was made.
_FEW_EVENTS = 30
_FEW_DOCUMENTS = 200
_UNLIKE = 1.05  # times the parameters at one rank
# Reading every cell of a larger run only to check it would take minutes.
_CHECKED = 50


def caveats(findings: Findings) -> list[str]:
    """What a reader has to know before quoting a number of this run."""
    run = findings.run
    return [
        *_below_base(findings),
        *_seeds(run),
        *((run.primary.sentence,) if run.primary else ()),
        *_scale(run),
        *_methods(run),
        *_grids(findings),
        *(run.rank_choice.sentences if run.rank_choice else ()),
        *_sizes(run),
        *_documents(run),
        *_near_ties(run),
        *_sampling(run),
        *_limits(run),
        *_falls(findings),
        *_bases(run),
        *_missing(run),
        *_bands(run),
    ]


def _seeds(run: StoredRun) -> Iterator[str]:
    several = {curve.adapter: curve.seeds for curve in run.curves if curve.members}
    single = {curve.adapter for curve in run.curves if not curve.members and curve.ranks}
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


def _scale(run: StoredRun) -> Iterator[str]:
    pairs = published_pairs(run)
    for default, curve in pairs[:LISTED]:
        yield (
            f"On {curve.task}, {curve.adapter} has an AURAC of {two_ways(default, curve)}. Say "
            "which one you quote."
        )
    if len(pairs) > LISTED:
        yield f"{len(pairs) - LISTED} more adapters and tasks have both in the tables."


def _methods(run: StoredRun) -> Iterator[str]:
    families = [adapter.name for adapter in run.adapters if adapter.format == "family"]
    if families:
        yield (
            f"{some(families)}: an adapter trained for each rank, not one that is truncated. Its "
            "sizes are of one rank; to serve all ranks takes all of them."
        )
    cut = [
        curve.adapter
        for curve in run.curves
        if (curve.method, curve.basis, curve.is_default) == ("lora", "prefix", True)
        and curve.adapter not in families
        and curve.ranks
        and (curve.trained_rank is None or curve.ranks[0] < curve.trained_rank)
    ]
    if cut:
        by_svd = {curve.adapter for curve in run.curves if curve.basis == "svd"}
        absent = " Truncation by SVD, the fair comparison, is not in this run."
        yield (
            f"{some(cut)}: trained at one rank only, so nothing prepared it for truncation to its "
            f"first components.{'' if set(cut) <= by_svd else absent}"
        )
    if unknown := [curve.adapter for curve in run.curves if curve.method is None]:
        yield (
            f"{some(unknown)}: the checkpoint does not record how it was trained, so it is scaled "
            "as its own configuration says and, unless --basis says otherwise, cut by SVD. Give "
            "--method and --nested-ranks if its ranks were nested."
        )


def _below_base(findings: Findings) -> Iterator[str]:
    weak: dict[str, list[str]] = {}
    for caveat in findings.caveats("below base"):
        where = f"{caveat.task} ({percent(caveat.numbers['baseline'])} %)"
        weak.setdefault(where, []).append(findings.label(caveat.task, caveat.curves[0]))
    for where, labels in weak.items():
        yield f"{some(labels)}: no rank is shown to be above the base on {where}."


def _grids(findings: Findings) -> Iterator[str]:
    if unequal := [str(caveat.task) for caveat in findings.caveats("unequal ranks")]:
        yield (
            f"More than one set of ranks on {some(unequal)}. AURAC compares only between rows with "
            "the same ranks."
        )


def _sizes(run: StoredRun) -> Iterator[str]:
    """Adapters that differ in size at the same rank, by more than what `energy` leaves unspent."""
    sized: dict[int, dict[str, int]] = {}
    for curve in run.curves if len(run.adapters) > 1 else ():
        for rank, amount in zip(curve.ranks, curve.parameters, strict=True):
            if amount and curve.is_default:
                sized.setdefault(rank, {})[curve.label] = amount
    for rank, by_name in sized.items():
        small, large = (end(by_name, key=lambda n: by_name[n]) for end in (min, max))
        if by_name[large] > _UNLIKE * by_name[small]:
            yield (
                f"Equal ranks are not equal sizes: at rank {rank}, {large} has "
                f"{whole(by_name[large])} parameters and {small} {whole(by_name[small])}. aurac "
                "report --axis parameters compares adapters over the parameters that both have."
            )
            return


def _documents(run: StoredRun) -> Iterator[str]:
    few = {c.task: c.n_docs for c in run.curves if c.n_docs and c.n_docs < _FEW_DOCUMENTS}
    if few:
        smallest = min(few.values())
        yield (
            f"Few documents: {some(f'{task} ({n})' for task, n in few.items())}. With {smallest} "
            f"documents the accuracy at one rank is known to about "
            f"±{percent(0.98 / smallest**0.5, 0)} points at worst."
        )
    near = [
        curve.label
        for curve in run.curves
        if curve.log2 and curve.n_docs
        if curve.n_docs * min(curve.area, 1 - curve.area) < _FEW_EVENTS
    ]
    if near:
        yield (
            f"{some(near)}: few correct (or few wrong) answers, so each end of the interval is the "
            "wider of Clopper and Pearson's and of Student's t on the logit."
        )


def _near_ties(run: StoredRun) -> Iterator[str]:
    """The curve and rank of each task with the largest share of near ties, from one in fifty on."""
    dtypes = {str(p.dtype) for p in run.provenance if p.dtype}
    worst: dict[str, tuple[float, CurveRow, int, int]] = {}
    for curve in run.curves:
        for rank, count in zip(curve.ranks, curve.near_ties, strict=False):
            share = (count or 0) / (curve.n_docs or 1)
            if share > max(worst.get(curve.task, (0.02,))[0], 0.02):
                worst[curve.task] = (share, curve, rank, count or 0)
    for task, (_, curve, rank, count) in list(worst.items())[:LISTED]:
        yield (
            f"On {task}, up to {count} of {curve.n_docs} documents ({curve.label}, rank {rank}) "
            f"have a token or choice decided within the rounding of {' and '.join(dtypes)}. "
            "Another machine can give other answers; --dtype float32 has fewer such documents."
        )


def _sampling(run: StoredRun) -> Iterator[str]:
    """How much of the variance of each task's scores comes from samples, and from the examples."""
    records = [(c.task, c.record) for c in run.curves if c.record]
    samples = [(task, record.sampling) for task, record in records]
    for task, count, share in _shares((t, s.samples, s.share) for t, s in samples if s):
        yield (
            f"On {task}, {count} sampled answers of each document are averaged. Sampling causes "
            f"{share} of the variance of AURAC, the choice of documents the rest. The intervals "
            "cover both."
        )
    draws = [(task, record.fewshot_draws) for task, record in records]
    for task, count, share in _shares((t, d.draws, d.share) for t, d in draws if d):
        yield (
            f"On {task}, scores are means over {count} draws of the few-shot examples, the same "
            f"for all adapters. The draws cause {share} of the variance of AURAC. The intervals "
            "of AURAC, accuracies and pairs hold for other draws too, a recommended rank for these "
            "draws only."
        )


def _shares(known: Iterable[tuple[str, int, float | None]]) -> Iterator[tuple[str, int, str]]:
    """(task, number, share of the variance in percent, as a range over its curves)."""
    shares: dict[tuple[str, int], list[float]] = {}
    for task, number, share in known:
        if share is not None:
            shares.setdefault((task, number), []).append(share)
    for (task, number), each in list(shares.items())[:LISTED]:
        low, high = (percent(end(each), 0) for end in (min, max))
        yield task, number, f"{low} %" if low == high else f"{low} to {high} %"


def _limits(run: StoredRun) -> Iterator[str]:
    if limited := [f"{task.name} ({task.limit})" for task in run.tasks if task.limit]:
        yield (
            f"A limited number of documents: {some(limited)}. A limit takes the first documents of "
            "a task, which is not a random sample."
        )


def _falls(findings: Findings) -> Iterator[str]:
    falls = findings.caveats("falls")
    if falls:
        worst = max(falls, key=lambda caveat: caveat.numbers["size"])
        falling = len({(caveat.task, caveat.curves) for caveat in falls})
        where = "1 curve falls" if falling == 1 else f"{falling} curves fall"
        lower, upper = (round(worst.numbers[end]) for end in ("lower", "upper"))
        yield (
            f"A higher rank is not always better: {where} somewhere. The largest drop is "
            f"{percent(worst.numbers['size'])} points, "
            f"{findings.label(worst.task, worst.curves[0])} on {worst.task} from rank {lower} to "
            f"{upper}."
        )


def _bases(run: StoredRun) -> Iterator[str]:
    absent = {c.task: c.baseline_reason for c in run.curves if c.baseline is None and c.ranks}
    if absent:
        why = (reason or "the base model was not evaluated" for reason in absent.values())
        yield f"No base line on {some(absent)} ({some(why)})."
    known: dict[str, list[str]] = {}  # of which the base is not the limit of small ranks
    for adapter in run.adapters:
        for note in (note for note in adapter.notes if "rank 0" in note):
            known.setdefault(note, []).append(adapter.name)
    for note, names in known.items():
        yield f"{some(names)}: {note}."


def _missing(run: StoredRun) -> Iterator[str]:
    holes = [(c, rank, why) for c in run.curves for rank, why in c.missing.items()]
    for curve, rank, why in holes[:LISTED]:
        yield f"{curve.label} on {curve.task}, rank {rank}: missing ({why}). It is not filled in."
    if len(holes) > LISTED:
        yield f"{len(holes) - LISTED} more cells are missing; points.csv has the reasons."
    known = {(c.adapter, c.task, rank) for c, rank, _ in holes}
    failures = [f for f in run.failures if (f.adapter, f.task, f.rank) not in known]
    for failure in failures[:LISTED]:
        who = failure.adapter or "the base model"
        yield f"{who} on {failure.task}, rank {failure.rank}: failed ({failure.reason})."
    if len(failures) > LISTED:
        yield f"{len(failures) - LISTED} more cells failed; results.json lists them."


def _bands(run: StoredRun) -> Iterator[str]:
    """What pairs and bands are not."""
    curves = run.curves if len(run.curves) <= _CHECKED else ()
    if absent := [c.label for c in curves if c.ranks and seeds_of(c) is None]:
        yield (
            f"{some(absent)}: the stored documents are missing, damaged, or do not average to the "
            "accuracies of results.json, so nothing is paired with them."
        )
    if any(low is not None for curve in run.curves for low in curve.accuracy_low):
        yield (
            "Bands are 95 % intervals for each rank alone, not for the whole curve. Overlapping "
            "bands do not show that two adapters are equal: they answered the same documents."
        )
