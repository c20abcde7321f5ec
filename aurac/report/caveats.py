"""The caveats that apply to this run and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.report.answers import scored_defaults
from aurac.report.pool import seeds_of
from aurac.report.tables import percent
from aurac.report.words import LISTED, some

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aurac.report.model import CurveRow, Run

# Below this many expected documents at the nearer end a reader is told how the interval was made.
_FEW_EVENTS = 30
_FEW_DOCUMENTS = 200
# Reading every cell of a larger run only to check it would take minutes.
_CHECKED = 50


def caveats(run: Run) -> list[str]:
    """What a reader has to know before quoting a number of this run."""
    checks = (
        _seeds,
        _scale,
        _never_nested,
        _unknown_method,
        _grids,
        _small,
        _rough,
        _near_ties,
        _limited,
        _drops,
        _baselines,
        _missing,
        _failures,
        _without_documents,
        _bands,
    )
    return [line for check in checks for line in check(run)]


def _seeds(run: Run) -> Iterator[str]:
    several = {curve.adapter: curve.seeds for curve in run.curves if curve.members}
    single = {curve.adapter for curve in run.curves if not curve.members and curve.ranks}
    if several:
        counts = ", ".join(f"{name} {n}" for name, n in several.items())
        few = (
            " Two seeds of a recipe do not show how much seeds vary, and three little."
            if min(several.values()) < 4
            else ""
        )
        yield (
            f"Over training seeds as well as documents: {counts}. Their intervals and differences "
            f"hold for another draw of both.{few}"
        )
    if single:
        who = f"{some(single)}: conditional" if several else "Conditional"
        yield (
            f"{who} on these checkpoints: the intervals cover the choice of documents. They do not "
            "say how another training run of the same method, with another seed, would have done."
        )
    yield from run.notes


def _scale(run: Run) -> Iterator[str]:
    published = [c for c in run.curves if c.role == "published" and c.log2]
    pairs = [
        (default, curve)
        for curve in published
        for default in scored_defaults(run, curve.task)
        if default.adapter == curve.adapter
    ]
    for default, curve in pairs[:LISTED]:
        if default.log2 and curve.log2:
            yield (
                f"The scale after truncation matters. On {curve.task}, {curve.adapter} has an "
                f"AURAC of {percent(default.log2.value)} % with {default.rescale} and "
                f"{percent(curve.log2.value)} % with {curve.rescale}, the published inference. Say "
                "which one you quote."
            )
    if len(pairs) > LISTED:
        yield f"{len(pairs) - LISTED} further adapters and tasks also have both in the tables."


def _never_nested(run: Run) -> Iterator[str]:
    cut = [
        curve.adapter
        for curve in run.curves
        if curve.method == "lora" and curve.basis == "prefix" and curve.is_default and curve.ranks
        if curve.trained_rank is None or curve.ranks[0] < curve.trained_rank
    ]
    if not cut:
        return
    rivals = {curve.adapter for curve in run.curves if curve.basis == "svd"}
    absent = " Its natural rival, truncation by SVD, is not in this run."
    yield (
        f"{some(cut)}: trained at one rank only. Taking a prefix of its components is not what its "
        f"training prepared it for.{'' if set(cut) <= rivals else absent}"
    )


def _unknown_method(run: Run) -> Iterator[str]:
    names = [curve.adapter for curve in run.curves if curve.method is None]
    if names:
        yield (
            f"{some(names)}: the checkpoint does not say how it was trained, so it is shown "
            "without a method, with the scaling that its own configuration gives."
        )


def _grids(run: Run) -> Iterator[str]:
    unequal = {
        task: len(grids)
        for task in run.task_names
        if len(grids := {curve.ranks for curve in run.of_task(task) if curve.log2}) > 1
    }
    if unequal:
        yield (
            f"More than one set of ranks on {some(unequal)}. The same curve has another area over "
            "another range: AURACs compare only between rows with the same ranks."
        )


def _small(run: Run) -> Iterator[str]:
    few = {c.task: c.n_docs for c in run.curves if c.n_docs and c.n_docs < _FEW_DOCUMENTS}
    if few:
        smallest = min(few.values())
        yield (
            f"Few documents: {some(f'{task} ({n})' for task, n in few.items())}. With {smallest} "
            f"the accuracy at one rank is known to about ±{percent(0.98 / smallest**0.5, 0)} "
            "points at worst."
        )


def _rough(run: Run) -> Iterator[str]:
    near = [
        curve.label
        for curve in run.curves
        if curve.log2 and curve.n_docs
        if curve.n_docs * min(curve.log2.value, 1 - curve.log2.value) < _FEW_EVENTS
    ]
    if near:
        yield (
            f"{some(near)}: few documents are right (or wrong). The interval, or over seeds the "
            "documents' part of it, is on each side the wider of Clopper and Pearson's and of "
            "Student's t on the logit; results.json names it."
        )


def _near_ties(run: Run) -> Iterator[str]:
    """The curve and rank of each task with the largest share of near ties, from one in fifty on."""
    dtypes = {str(p.get("dtype")) for p in run.provenance if p.get("dtype")}
    worst: dict[str, tuple[float, CurveRow, int, int]] = {}
    for curve in run.curves:
        for rank, count in zip(curve.ranks, curve.near_ties, strict=False):
            share = (count or 0) / (curve.n_docs or 1)
            if share > max(worst.get(curve.task, (0.02,))[0], 0.02):
                worst[curve.task] = (share, curve, rank, count or 0)
    for task, (_, curve, rank, count) in list(worst.items())[:LISTED]:
        yield (
            f"On {task}, up to {count} of {curve.n_docs} documents ({curve.label}, rank {rank}) "
            f"hold a token or choice that was decided within the rounding of "
            f"{' and '.join(dtypes)}: on another machine some of these answers can come out "
            "otherwise. --dtype float32 has fewer."
        )


def _limited(run: Run) -> Iterator[str]:
    limited = [f"{t.get('name')} ({t['limit']})" for t in run.tasks if t.get("limit")]
    if limited:
        yield (
            f"Evaluated on a limited number of documents: {some(limited)}. A limit takes the first "
            "documents of a task, which is not a random sample of it."
        )


def _drops(run: Run) -> Iterator[str]:
    falls = [(size, c, a, b) for c in run.curves for a, b, size in c.drops]
    if not falls:
        return
    size, curve, lower, upper = max(falls, key=lambda fall: fall[0])
    falling = len({id(fall[1]) for fall in falls})
    where = "1 curve falls" if falling == 1 else f"{falling} curves fall"
    yield (
        f"Higher is not always better: {where} somewhere as the rank grows. The largest drop is "
        f"{percent(size)} points, {curve.label} on {curve.task} from rank {lower} to {upper}."
    )


def _baselines(run: Run) -> Iterator[str]:
    absent = {c.task: c.baseline_reason for c in run.curves if c.baseline is None and c.ranks}
    if absent:
        why = dict.fromkeys(
            reason or "the base model was not evaluated" for reason in absent.values()
        )
        yield f"No base line on {some(absent)} ({some(why)})."


def _missing(run: Run) -> Iterator[str]:
    holes = [(c, rank, why) for c in run.curves for rank, why in c.missing.items()]
    for curve, rank, why in holes[:LISTED]:
        yield f"{curve.label} on {curve.task}, rank {rank}: missing ({why}). It is not filled in."
    if len(holes) > LISTED:
        yield f"{len(holes) - LISTED} more cells are missing; points.csv has the reasons."


def _failures(run: Run) -> Iterator[str]:
    known = {(c.adapter, c.task, str(rank)) for c in run.curves for rank in c.missing}
    rest = [
        failure
        for failure in run.failures
        if (failure.get("adapter"), failure.get("task"), str(failure.get("rank"))) not in known
    ]
    for failure in rest[:LISTED]:
        who, rank = failure.get("adapter") or "the base model", failure.get("rank")
        yield f"{who} on {failure.get('task')}, rank {rank}: failed ({failure.get('reason')})."
    if len(rest) > LISTED:
        yield f"{len(rest) - LISTED} more cells failed; results.json lists them."


def _without_documents(run: Run) -> Iterator[str]:
    if len(run.curves) > _CHECKED:
        return
    absent = [c.label for c in run.curves if c.ranks and seeds_of(c) is None]
    if absent:
        yield (
            f"{some(absent)}: the stored documents are missing, damaged, or do not average to the "
            "accuracies of results.json, so nothing here is paired with them."
        )


def _bands(run: Run) -> Iterator[str]:
    if any(low is not None for curve in run.curves for low in curve.low):
        yield (
            "Bands are pointwise 95 % intervals: each holds for its own rank, not for the whole "
            "curve. Adapters answer the same documents, so overlapping bands do not show that two "
            "are equal."
        )
