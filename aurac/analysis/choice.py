"""The configuration to ship: the smallest that is shown to be within a margin of the best.

`choose` answers for the curves of a task and for a single curve alike, so that what is said of a
run agrees with what is said of its rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET

from aurac.analysis.choice_rows import Choice, Configuration, RankRow, RankTest
from aurac.analysis.groups import RecipeGroup, find_groups, group_of
from aurac.analysis.rows import Options
from aurac.analysis.sentences import ALL_ZERO, choice_sentences, rank_sentence
from aurac.curves.matching import labelled
from aurac.curves.names import curve_names
from aurac.errors import CurveError
from aurac.stats.mean import Layout, layout_of
from aurac.stats.noninferiority import Candidate, Procedure, bound, seeds_needed
from aurac.stats.seeds import components, mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

Place = tuple[RecipeGroup, int]  # a curve and one of its ranks


NO_OUTCOMES = "no per-document outcomes"


def choose(
    groups: Sequence[RecipeGroup],
    settings: Options,
    *,
    others: Sequence[RecipeGroup] = (),
    task: Sequence[RecipeGroup] = (),
) -> Choice:
    """The smallest configuration of some curves that is shown to be within the margin of the best.

    Args:
        groups: The curves, of one task.
        settings: The margin, the demands, the error rate.
        others: Those that are not the default truncation of their adapter.
        task: Every curve of the task, among which a named reference is; `groups` by default.

    Raises:
        CurveError: A declared rank that a curve does not have, or a reference that is not there.
    """
    return _choose(groups, settings, others, task)[0]


def recommend(
    group: RecipeGroup,
    settings: Options,
    *,
    others: Sequence[RecipeGroup] = (),
    task: Sequence[RecipeGroup] = (),
) -> RankRow:
    """The smallest rank of one curve, chosen as `choose` does, with its tests."""
    choice, search = _choose([group], settings, others, task)
    row = RankRow(
        adapter=group.name,
        task=group.task,
        truncation=group.truncation,
        other=group in others,
        choice=choice,
    )
    row = _tested(row, search) if search else row
    return replace(row, sentence=rank_sentence(row))


def non_inferior_rank(
    curves: Any, *, margin: float, alpha: float = 0.05, reference: int | None = None
) -> RankRow:
    """The smallest rank that is shown to lose less than a margin against the best rank.

    With a declared `reference` the ranks below it are compared with it alone, downward, each at
    full alpha, up to the first failure; by default with every rank, as `aurac.stats.noninferiority`
    says, since any of them may be the best. With fewer than ten differing documents a test is the
    Clopper-Pearson bound on the share of documents that lose.

    From one seed the claim is of that checkpoint. From several it is of the recipe, and needs
    `seeds_needed` of them; what holds for each checkpoint by itself is told apart from it, at the
    same alpha (all must pass, so no adjustment is needed: Berger 1982).

    Args:
        curves: A `Curve` with outcomes (or what `as_curve` accepts), a list of them that are
            training seeds of one recipe, or a `RecipeGroup`.
        margin: A tolerable loss of accuracy, a fraction, declared before looking.
        alpha: Error rate.
        reference: The rank to compare with; None: the best of all ranks.

    Raises:
        CurveError: No outcomes, a margin or alpha out of range, no rank below the reference.
    """
    group = curves if isinstance(curves, RecipeGroup) else group_of(curves)
    row = recommend(group, Options(margin=margin, alpha=alpha, reference=reference))
    if row.reason is not None:
        raise CurveError(f"{group.first.label} has no rank to recommend: {row.reason}")
    return row


def above_base(group: RecipeGroup, alpha: float) -> dict[int, bool] | None:
    """Rank → whether it is shown to be above the base, one-sided at `alpha`, each by itself.

    Document by document where the base's outcomes are known, else the lower end of the accuracy's
    interval against the base's accuracy. None without a base, and without documents.
    """
    if group.first.baseline is None or not group.has_documents:
        return None
    demands = _Demands(group, group.layout, None)
    return {rank: demands.above(group.scores(rank), alpha) for rank in group.ranks}


def _choose(
    groups: Sequence[RecipeGroup],
    settings: Options,
    others: Sequence[RecipeGroup],
    task: Sequence[RecipeGroup],
) -> tuple[Choice, _Search | None]:
    first, reference = groups[0], settings.reference
    choice = Choice(
        task=first.task,
        margin=settings.margin,
        min_accuracy=settings.min_accuracy,
        alpha=settings.alpha,
        reference=reference,
        curves=len(groups),
        seeds=max(group.seeds for group in groups),
        baseline=first.first.baseline,
    )
    task = task or groups
    named = _named(reference, task, others) if isinstance(reference, str) else None
    every = [*groups, *([named[0]] if named and named[0] not in groups else [])]
    names = curve_names(group.way for group in task)

    def said(choice: Choice) -> Choice:
        def called(row: Configuration) -> str:
            name = names.get((row.adapter, row.truncation), row.label)
            return f"{name} at rank {row.rank}"

        return replace(choice, sentences=tuple(choice_sentences(choice, called=called)))

    if named:
        group, rank = named
        choice = replace(choice, against=f"{names.get(group.way, group.label)} at rank {rank}")

    try:
        alike = _on_same_documents(every, settings)
    except CurveError as error:
        return said(replace(choice, reason=error.text)), None
    at = every.index(named[0]) if named else 0
    place = (alike[at], named[1]) if named else None
    search = _Search(alike[: len(groups)], [group in others for group in groups], place, settings)
    return said(search.answer(choice)), search


def _named(reference: str, task: Sequence[RecipeGroup], others: Sequence[RecipeGroup]) -> Place:
    """The configuration that a text names, as `find_groups` does, and ``@RANK`` or its largest."""
    if (typed := re.fullmatch("(.+):([0-9]+)", reference)) and "@" not in reference:
        fix = f"did you mean {typed[1]}@{typed[2]}?"
        raise CurveError(f"reference {reference!r}", expected="ADAPTER@RANK", fix=fix)
    name, at, rank = reference.rpartition("@")
    name, rank = (name, rank) if at else (reference, "")
    default = [group for group in task if group not in others]
    group = find_groups(name, default, task, f"reference {reference!r}", "a rank, or one of ")[0]
    named = int(rank) if rank.isdigit() else max(group.ranks, default=0)
    if named not in group.ranks or not (rank.isdigit() or not at):
        listed = ", ".join(map(str, group.ranks))
        raise CurveError(f"reference {reference!r}", expected=f"{name}@ one of {listed}")
    return group, named


def _on_same_documents(groups: Sequence[RecipeGroup], settings: Options) -> list[RecipeGroup]:
    """The groups with their documents in one order; a CurveError says why they cannot be."""
    if not any(group.has_documents for group in groups):
        raise CurveError(NO_OUTCOMES)
    for group in groups:
        if not group.has_documents:
            raise CurveError(f"{group.first.label} has no per-document outcomes, others have")
        if not group.ranks or (group.lost and settings.reference is None):
            raise CurveError(group.lost or group.absent or "no rank")
    if not any(any(group.accuracy) for group in groups):
        raise CurveError(ALL_ZERO.format(""))
    return [group.like(groups[0].first) for group in groups]


@dataclass(eq=False)
class _Demands:
    """What a configuration has to show beside its loss: accuracy, and to be above the base."""

    group: RecipeGroup
    layout: Layout
    minimum: float | None

    def met(self, scores: NDArray[np.float64], alpha: float) -> tuple[bool, bool]:
        """Of (S, n) scores: for the recipe, and in each checkpoint."""
        every = self._shown(scores, alpha)
        if len(scores) == 1:
            return every, every
        return every, all(self._shown(seed[None], alpha) for seed in scores)

    def _shown(self, scores: NDArray[np.float64], alpha: float) -> bool:
        if self.minimum is not None and _lowest(scores, self.layout, alpha) < self.minimum:
            return False
        return self.group.first.baseline is None or self.above(scores, alpha)

    def above(self, scores: NDArray[np.float64], alpha: float) -> bool:
        """Whether (S, n) scores are shown to be above the base."""
        known, base = self.group.first.base_scores, self.group.first.baseline
        if known is None:
            return base is None or _lowest(scores, self.layout, alpha) > base
        parts = components([scores, known[None]], [1, -1], self.layout, signed=True)
        return bool(parts.value - parts.reach(1.0 - 2.0 * alpha)[0] > 0.0)


def _lowest(scores: NDArray[np.float64], layout: Layout, alpha: float) -> float:
    """One-sided lower bound on the accuracy."""
    low = mean_of_seeds(scores, layout, 1.0 - 2.0 * alpha).low
    return 0.0 if low is None else low


class _Search:
    """The configurations of some curves on the same documents, tested."""

    def __init__(
        self,
        groups: Sequence[RecipeGroup],
        others: Sequence[bool],
        named: Place | None,
        settings: Options,
    ) -> None:
        self.settings, self.groups, self.others = settings, groups, others
        firsts = [group.first for group in groups]
        self.layout = layout_of(labelled(firsts[0], firsts))
        rank = settings.reference if isinstance(settings.reference, int) else None
        for group in groups if rank is not None else ():
            _check_reference(rank, group, groups)
        self.curves = [
            {r: _candidate(group, r) for r in reversed(group.ranks) if rank is None or r <= rank}
            for group in groups
        ]
        every = (pair for curve in self.curves for pair in curve.items())
        self.references = [candidate for r, candidate in every if rank in (None, r)]
        if named is not None:
            at = next((i for i, group in enumerate(groups) if group is named[0]), None)
            self.references = [_candidate(*named) if at is None else self.curves[at][named[1]]]
        demands = {
            id(candidate): _Demands(group, self.layout, settings.min_accuracy)
            for group, curve in zip(groups, self.curves, strict=True)
            for candidate in curve.values()
        }
        unasked = settings.margin is None and settings.min_accuracy is not None
        self.procedure = Procedure(
            curves=[list(curve.values()) for curve in self.curves],
            references=[] if unasked else self.references,
            layout=self.layout,
            alpha=settings.alpha,
            met=lambda candidate, alpha: demands[id(candidate)].met(candidate.scores, alpha),
        )

    @cached_property
    def best(self) -> Candidate:
        """The most accurate of the references, the smallest of equal ones."""
        return max(reversed(self.references), key=lambda candidate: float(candidate.scores.mean()))

    def answer(self, choice: Choice) -> Choice:
        """The choice with its configurations, the smallest first."""
        margins = self.procedure.margins(self.settings.margin)
        number = sum(map(len, self.curves))
        rows: list[Configuration] = []
        sole = self.references[0] if len(self.references) == 1 else None
        against_itself: Configuration | None = None
        for group, other, curve, needed in zip(
            self.groups, self.others, self.curves, margins, strict=True
        ):
            above, shown = above_base(group, self.settings.alpha) or {}, self._reached(curve)
            for at, (rank, candidate) in enumerate(curve.items()):
                level = 1.0 - (1.0 - self.settings.level) / number
                ends = mean_of_seeds(candidate.scores, self.layout, level)
                both = [1.0, 1.0] if needed is None else needed[at].tolist()
                recipe, each = (margin if margin < 1.0 else None for margin in both)
                rows.append(
                    Configuration(
                        adapter=group.name,
                        task=group.task,
                        truncation=group.truncation,
                        other=other,
                        rank=rank,
                        accuracy=float(candidate.scores.mean()),
                        low=ends.low,
                        high=ends.high,
                        bytes=group.first.sizes.get(rank),
                        seconds=group.first.seconds.get(rank),
                        above_base=above.get(rank),
                        needed=recipe,
                        checkpoints=each,
                        least=shown[at] if shown else UNSET,
                    )
                )
                against_itself = rows[-1] if candidate is sole else against_itself
        known = {group.way: group.first.parameters for group in self.groups}
        counts = [known[row.adapter, row.truncation].get(row.rank) for row in rows]
        sizes = next(
            each
            for each in ([row.bytes for row in rows], counts, [row.rank for row in rows])
            if None not in each
        )

        def place(sized: tuple[Any, Configuration]) -> tuple[Any, ...]:
            large, row = sized
            return large, -row.accuracy, _least(row), row.label, row.rank

        rows = [row for _, row in sorted(zip(sizes, rows, strict=True), key=place)]
        level = self.procedure.levels[0]
        least, rare = seeds_needed(level), seeds_needed(level, 0.1)
        choice = replace(choice, seeds_needed=least, rare_seeds_needed=rare)
        return _chosen(choice, rows, against_itself)

    def _reached(self, curve: Mapping[int, Candidate]) -> list[float]:
        """What a curve's ranks are shown to reach, as `Procedure` tests them; [] if not asked."""
        if self.settings.min_accuracy is None:
            return []
        along, alone = (
            np.array([_lowest(each.scores, self.layout, alpha) for each in curve.values()])
            for alpha in (self.procedure.levels[0], self.procedure.levels[1] or self.settings.alpha)
        )
        reached = np.minimum.accumulate(along)
        hidden = (reached < along) & bool(self.procedure.levels[1])
        return list(np.where(hidden, np.maximum(reached, alone), reached).tolist())


def _check_reference(rank: int | None, group: RecipeGroup, groups: Sequence[RecipeGroup]) -> None:
    if rank not in group.ranks:
        ranks = ", ".join(map(str, group.ranks))
        have = next((other.name for other in groups if rank in other.ranks), None)
        raise CurveError(
            f"reference rank {rank} of {group.name}",
            expected=f"one of {ranks}",
            fix=have and f"{have}@{rank} is a reference for all",
        )
    if rank == min(group.ranks):
        raise CurveError(f"{group.first.label} has no rank below {rank} to recommend")


def _candidate(group: RecipeGroup, rank: int) -> Candidate:
    return Candidate(group.scores(rank), _checkpoints(group))


def _checkpoints(group: RecipeGroup) -> tuple[Any, ...]:
    """What the checkpoints of a curve are paired by: the seed, the adapter where it has none."""
    seeds = [curve.seed for curve in group.curves]
    names: Sequence[Any] = group.names if None in seeds else seeds
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple((group.name, group.truncation, at) for at in range(len(names)))  # its own ranks


def _least(row: Configuration) -> float:
    """The margin that a configuration needs; infinite where none is enough."""
    return np.inf if row.needed is None else row.needed


def _chosen(
    choice: Choice, rows: Sequence[Configuration], against_itself: Configuration | None
) -> Choice:
    """The choice among configurations, the smallest first; of few seeds no reference itself."""

    def passing(needed: Callable[[Configuration], float | None]) -> Configuration | None:
        known = ((row, needed(row)) for row in rows if choice.declared)
        least = choice.margin
        return next((r for r, m in known if m is not None and (least is None or m < least)), None)

    frontier: list[Configuration] = []
    for row in rows:
        if all(row.accuracy > each.accuracy or _least(row) < _least(each) for each in frontier):
            frontier.append(row)
    found = replace(
        choice,
        configurations=tuple(rows),
        chosen=passing(lambda row: row.needed),
        in_checkpoints=passing(lambda row: row.checkpoints),
        best=max(rows, key=lambda row: row.accuracy, default=None),
        frontier=tuple(frontier),
        needed=min((row.needed for row in rows if row.needed is not None), default=None),
    )
    if choice.margin is None and choice.declared:  # an accuracy alone says nothing of margins
        bare = {id(row): replace(row, needed=None, checkpoints=None) for row in rows}
        return replace(
            found,
            configurations=tuple(bare.values()),
            chosen=bare.get(id(found.chosen)),
            in_checkpoints=bare.get(id(found.in_checkpoints)),
            best=bare.get(id(found.best)),
            frontier=tuple(bare[id(row)] for row in frontier),
            needed=None,
        )
    if not found.few_seeds:
        return found
    each = passing(lambda row: None if row is against_itself else row.checkpoints)
    return replace(found, chosen=None, in_checkpoints=each)


def _tested(row: RankRow, search: _Search) -> RankRow:
    """The row with the tests of a single curve, whose bounds hold at alpha each by itself."""
    (group,), (curve,) = search.groups, search.curves
    choice, best = row.choice, search.best
    needed = {each.rank: each.needed for each in choice.configurations}
    tests = []
    for rank, candidate in curve.items():
        against = [other for other in search.references if other is not candidate]
        if not against:
            continue
        bounds = [bound(candidate, other, search.layout, choice.alpha) for other in against]
        worst = max(bounds, key=lambda each: each.recipe)
        own = 0.0 if candidate in search.references else -1.0  # it may be the best itself
        least, (loss, _) = needed[rank], candidate.loss(best)
        tests.append(
            RankTest(
                rank=rank,
                loss=float(loss.mean()),
                upper=max(worst.recipe, own),
                passed=None not in (least, choice.margin) and least < choice.margin,  # type: ignore[operator]
                flip_rate=float(np.mean(np.abs(loss) > 1e-12)),
                margin_needed=least,
                method=worst.method,
                checkpoints=max(each.checkpoints for each in bounds),
            )
        )
    named = next((rank for rank, candidate in curve.items() if candidate is best), None)
    smaller = [t.margin_needed for t in tests if named is None or t.rank < named]
    small, large = (group.first.sizes.get(at or 0) for at in (row.rank, max(curve)))
    return replace(
        row,
        best=named,
        tests=tuple(tests),
        flip_rate=next((test.flip_rate for test in tests if test.rank == row.rank), 0.0),
        smallest_margin=min((m for m in smaller if m is not None), default=None),
        saved=None if small is None or not large else 1.0 - small / large,
    )
