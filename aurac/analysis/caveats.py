"""Caveats: what to know before quoting a number, as codes with numbers (`record.Caveat`)."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from aurac.analysis.record import Caveat, Code
from aurac.analysis.rows import grouped
from aurac.records.run import seeds_of
from aurac.stats.intervals import NEAR_AN_END
from aurac.stats.seeds import UNEVEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aurac.analysis.rows import ScoreRow
    from aurac.records.run import StoredRun

_FEW_DOCUMENTS = 200
_UNLIKE = 1.05  # times the parameters at one rank, more than what `energy` leaves unspent
_TIES = 0.02  # of the documents
# Reading every cell of a larger run only to check it would take minutes.
_CHECKED = 50


def _caveat(code: Code, task: str | None, *curves: str, note: str = "", **numbers: float) -> Caveat:
    return Caveat(code, task, curves, {name: float(n) for name, n in numbers.items()}, note)


def caveats_of(scores: Sequence[ScoreRow]) -> tuple[Caveat, ...]:
    """The caveats that follow from the scores, in their order."""
    caveats = []
    for row in scores:
        own = row.task, row.label
        if row.seeds > 1:
            caveats.append(_caveat("seeds", *own, seeds=row.seeds))
        elif row.ranks:
            caveats.append(_caveat("one training", *own))
        caveats += [_caveat("note", *own, note=note) for note in row.notes]
        if row.log2 and row.n_docs and any(way in row.log2.method for way in (NEAR_AN_END, UNEVEN)):
            nearer = min(row.log2.value, 1 - row.log2.value)
            caveats.append(_caveat("few events", *own, events=row.n_docs * nearer))
        if row.below_base and row.baseline is not None:
            caveats.append(_caveat("below base", *own, baseline=row.baseline))
        for lower, upper, size in row.drops:
            caveats.append(_caveat("falls", *own, lower=lower, upper=upper, size=size))
    scored = (row for row in scores if row.log2 is not None)
    for task, rows in grouped(scored, lambda row: row.task).items():
        if len({row.ranks for row in rows}) > 1:
            caveats.append(_caveat("unequal ranks", task, *(row.label for row in rows)))
    return tuple(caveats)


def caveats_of_run(run: StoredRun) -> tuple[Caveat, ...]:
    """The caveats that follow from what a run has stored, in the order of a report."""
    return (
        *padded(run),
        *_published(run),
        *_training(run),
        *_sizes(run),
        *_few_documents(run),
        *_near_ties(run),
        *_drawn(run),
        *(_caveat("limit", task.name, limit=task.limit) for task in run.tasks if task.limit),
        *_bases(run),
        *_missing(run),
        *_unread(run),
    )


def padded(run: StoredRun) -> Iterator[Caveat]:
    """Of each task the most answers that are scored 0 for their white space or case alone."""
    rows = [row for curve in run.curves for row in curve.members or (curve,)]
    worst: dict[str, Caveat] = {}
    for row in rows if len(rows) <= _CHECKED else ():
        task = run.task(row.task)
        if task.output_type != "generate_until" or not (row.source and row.ranks):
            continue
        cells = row.source.cells(row, row.ranks[-1])
        if cells is None or len(cells) > 1:  # the tasks of a group have curves of their own
            continue
        (cell,), words = cells, row.source.questions(row.task)
        answers = zip(cell.doc_ids, cell.responses, cell.scores(row.metric) or [], strict=True)
        wrong = ((doc, said) for doc, said, score in answers if not score and doc in words)
        alike = sum(_alike(said, words[doc].target) for doc, said in wrong)
        if alike > (worst[row.task].numbers["answers"] if row.task in worst else 0):
            worst[row.task] = _caveat(
                *("padded", row.task, row.name),
                rank=row.ranks[-1],
                answers=alike,
                n_docs=len(cell.documents),
            )
    return iter(worst.values())


def _alike(answer: object, target: str) -> bool:
    """Whether an answer equals a reference except for white space or case."""
    words = target.casefold().split()
    return bool(words) and isinstance(answer, str) and answer.casefold().split() == words


def _published(run: StoredRun) -> Iterator[Caveat]:
    scored = [curve for curve in run.curves if curve.log2]
    for curve in (curve for curve in scored if curve.published and not curve.is_default):
        for own in (c for c in scored if (c.adapter, c.task) == (curve.adapter, curve.task)):
            if own.is_default:
                yield _caveat(
                    *("as published", curve.task, own.name, curve.name),
                    default=own.area,
                    published=curve.area,
                )


def _training(run: StoredRun) -> Iterator[Caveat]:
    """Adapters that were not trained to be truncated, or of which nobody knows."""
    families = [curve.adapter for curve in run.curves if curve.family]
    cut = [
        curve.adapter
        for curve in run.curves
        if (curve.method, curve.basis, curve.is_default) == ("lora", "prefix", True)
        and curve.adapter not in families
        and curve.ranks
        and (curve.trained_rank is None or curve.ranks[0] < curve.trained_rank)
    ]
    by_svd = {curve.adapter for curve in run.curves if curve.basis == "svd"}
    named: dict[Code, list[str]] = {
        "one rank each": families,
        "trained at one rank": cut,
        "not cut by svd": [name for name in cut if name not in by_svd],
        "unknown method": [curve.adapter for curve in run.curves if curve.method is None],
    }
    return (_caveat(code, None, *dict.fromkeys(names)) for code, names in named.items() if names)


def _sizes(run: StoredRun) -> Iterator[Caveat]:
    """The first rank at which adapters differ in size."""
    sized: dict[int, dict[str, tuple[int, str]]] = {}
    for curve in run.curves if len(run.adapters) > 1 else ():
        for rank, amount in zip(curve.ranks, curve.parameters, strict=True):
            if amount and curve.is_default:
                sized.setdefault(rank, {})[curve.label] = amount, curve.name
    for rank, by_label in sized.items():
        (small, a), (large, b) = (end(by_label.values(), key=itemgetter(0)) for end in (min, max))
        if large > _UNLIKE * small:
            yield _caveat("unequal sizes", None, a, b, rank=rank, small=small, large=large)
            return


def _few_documents(run: StoredRun) -> Iterator[Caveat]:
    few = {c.task: c.n_docs for c in run.curves if c.n_docs and c.n_docs < _FEW_DOCUMENTS}
    return (_caveat("few documents", task, n_docs=n) for task, n in few.items())


def _near_ties(run: StoredRun) -> Iterator[Caveat]:
    """The checkpoint and rank of each task with the largest share of near ties."""
    dtypes = " and ".join(dict.fromkeys(str(p.dtype) for p in run.provenance if p.dtype))
    known = (
        ((count or 0) / (curve.n_docs or 1), curve, {"rank": rank, "documents": count or 0})
        for curve in run.curves
        for seed in curve.members or (curve,)
        for rank, count in zip(seed.ranks, seed.near_ties, strict=False)
    )
    for task, ties in grouped(known, lambda tie: tie[1].task).items():
        share, curve, numbers = max(ties, key=itemgetter(0))
        if share > _TIES:
            numbers["n_docs"] = curve.n_docs or 1
            yield _caveat("near ties", task, curve.name, note=dtypes, **numbers)


def _drawn(run: StoredRun) -> Iterator[Caveat]:
    """How much of the variance of each task's scores comes from samples, and from the examples."""
    records = [(c.task, c.record) for c in run.curves if c.record]
    samples = ((task, s.samples, s.share) for task, c in records if (s := c.sampling))
    draws = ((task, d.draws, d.share) for task, c in records if (d := c.fewshot_draws))
    each: dict[Code, Iterator[tuple[str, int, float | None]]]
    each = {"samples": samples, "draws": draws}
    for code, known in each.items():
        for (task, number), rows in grouped(known, itemgetter(0, 1)).items():
            if shares := [share for *_, share in rows if share is not None]:
                yield _caveat(code, task, number=number, low=min(shares), high=max(shares))


def _bases(run: StoredRun) -> Iterator[Caveat]:
    absent = {c.task: c.baseline_reason for c in run.curves if c.baseline is None and c.ranks}
    for task, reason in absent.items():
        yield _caveat("no base", task, note=reason or "the base model was not evaluated")
    noted = ((note, a.name) for a in run.adapters for note in a.notes if "rank 0" in note)
    for note, each in grouped(noted, itemgetter(0)).items():
        yield _caveat("not the base", None, *(name for _, name in each), note=note)


def _missing(run: StoredRun) -> Iterator[Caveat]:
    holes = [(c, rank, why) for c in run.curves for rank, why in c.missing.items()]
    for curve, rank, why in holes:
        yield _caveat("missing", curve.task, curve.name, rank=rank, note=why)
    known = {(curve.adapter, curve.task, rank) for curve, rank, _ in holes}
    for f in (f for f in run.failures if (f.adapter, f.task, f.rank) not in known):
        names = (f.adapter,) if f.adapter else ()
        yield _caveat("failed", f.task, *names, rank=f.rank, note=f.reason)


def _unread(run: StoredRun) -> Iterator[Caveat]:
    for curve in run.curves if len(run.curves) <= _CHECKED else ():
        if curve.ranks and seeds_of(curve) is None:
            yield _caveat("no documents", curve.task, curve.name)
