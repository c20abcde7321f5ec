"""A rank-accuracy curve: one adapter on one task, frozen and validated when made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from aurac.curves.checks import (
    check_amounts,
    check_labelled,
    check_ranks,
    check_unit_interval,
    fractions,
    refuse_masked,
)
from aurac.curves.names import curve_names, cut_name
from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from typing_extensions import Unpack


_SHOWN = 12  # ranks in a line
DOCUMENT_LABELS = ("doc_ids", "doc_hashes", "clusters", "strata")


class DocumentLabels(TypedDict, total=False):
    """The fields of `Curve` that label its documents."""

    doc_ids: tuple[str, ...] | None
    doc_hashes: tuple[str, ...] | None
    clusters: tuple[str, ...] | None
    strata: tuple[str, ...] | None


class CurveLabels(TypedDict, total=False):
    """The fields of `Curve` that say whose it is."""

    adapter: str | None
    task: str | None
    metric: str | None
    method: str | None
    base: str | None
    basis: str | None
    rescale: str | None
    seed: int | None
    role: str | None
    data_order: str | None


class Amounts(TypedDict, total=False):
    """The fields of `Curve` that are amounts of each rank."""

    sizes: Mapping[int, int]
    parameters: Mapping[int, int]


class CurveFields(DocumentLabels, CurveLabels, Amounts, total=False):
    """The fields of `Curve` beside ranks, accuracies and outcomes."""

    prompts: str | None
    baseline: float | None
    missing: Mapping[int, str]
    intervals: Mapping[int, tuple[float, float]]
    seconds: Mapping[int, float]
    draws: NDArray[np.float64] | None
    base_scores: Any
    trained_rank: int | None
    rolling: bool


@dataclass(frozen=True, eq=False)
class Curve:
    """The accuracy of one adapter on one task at K ranks, with the documents where known.

    Two curves are `==` only where they are the same object, whatever their numbers.

    Attributes:
        ranks: K ranks >= 1, ascending (unsorted input is sorted, with everything that follows it).
        accuracy: K fractions.
        outcomes: (K, n) score in [0, 1] of every document at every rank, read-only; or None.
        draws: (N, K, n) the same under each of N draws of the few-shot examples, of which
            `outcomes` is the mean; or None.
        doc_ids: n identities on which two curves are joined.
        doc_hashes: n content hashes; two curves whose hashes differ are not compared.
        clusters: n labels of what documents share (a passage).
        strata: n labels of fixed groups (a benchmark's subjects).
        adapter, task, base: Names.
        metric: Which of the task's metrics is the accuracy, as ``metric,filter``.
        method: Training method, such as "matryoshka".
        basis, rescale: How it was truncated: "prefix" or "svd"; "rule", "keep", "trained" or "fit".
        seed: The training seed.
        data_order: Hash of what fixes the training data and, with the seed, their order: training
            seeds of curves that agree in it are paired.
        prompts: Hash of the prompts; two curves whose prompts differ are not compared.
        baseline: Accuracy of the base (rank 0), a fraction; never part of AURAC.
        base_scores: (n,) score of the base on every document, of which `baseline` is the mean.
        missing: ``rank -> reason`` for ranks without an accuracy; never imputed.
        sizes: ``rank -> bytes`` of the adapter truncated there.
        parameters: ``rank -> parameters`` of the adapter truncated there.
        intervals: ``rank -> (low, high)``, 95 % intervals that came with accuracies without
            documents.
        seconds: ``rank -> wall seconds for a document`` as measured there.
        trained_rank: The adapter's own rank, to which it was trained.
        rolling: Whether `accuracy` is a metric such as perplexity, any number, without an area.
        role: "default", "published" (as the method is published, where that is not the default) or
            "extra".
    """

    ranks: tuple[int, ...]
    accuracy: tuple[float, ...]
    outcomes: NDArray[np.float64] | None = field(default=None, repr=False)
    doc_ids: tuple[str, ...] | None = field(default=None, repr=False)
    doc_hashes: tuple[str, ...] | None = field(default=None, repr=False)
    clusters: tuple[str, ...] | None = field(default=None, repr=False)
    strata: tuple[str, ...] | None = field(default=None, repr=False)
    adapter: str | None = None
    task: str | None = None
    metric: str | None = None
    method: str | None = None
    base: str | None = None
    basis: str | None = None
    rescale: str | None = None
    seed: int | None = None
    prompts: str | None = None
    baseline: float | None = None
    missing: Mapping[int, str] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)
    role: str | None = None
    parameters: Mapping[int, int] = field(default_factory=dict)
    draws: NDArray[np.float64] | None = field(default=None, repr=False)
    data_order: str | None = None
    base_scores: NDArray[np.float64] | None = field(default=None, repr=False)
    trained_rank: int | None = None
    rolling: bool = False

    def __reduce__(self) -> tuple[type[Curve], tuple[object, ...]]:
        """For `pickle` and `copy`: its fields, the read-only mappings as dictionaries."""
        values = [getattr(self, each.name) for each in fields(self)]
        return Curve, tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    def __post_init__(self) -> None:
        """Validate and sort; a `CurveError` names what was given."""
        ranks = check_ranks(self.ranks)
        numbers = map(float, self.accuracy) if self.rolling else self.accuracy
        accuracy = np.asarray([*numbers] if self.rolling else fractions(numbers, "accuracies"))
        if accuracy.shape != (len(ranks),):
            raise CurveError(
                f"{accuracy.size} accuracies for {len(ranks)} ranks", expected="one for each rank"
            )
        if self.base_scores is not None:
            self._set_base(self.base_scores)
        if self.baseline is not None and not self.rolling:
            self._set("baseline", fractions([self.baseline], "baseline")[0])
        order = np.argsort(ranks, kind="stable")
        self._set("ranks", tuple(ranks[i] for i in order))
        self._set("accuracy", tuple(float(accuracy[i]) for i in order))
        missing = {int(r): str(why) for r, why in self.missing.items()}
        self._set("missing", MappingProxyType(missing))
        for name in ("sizes", "parameters"):
            self._set(name, MappingProxyType(check_amounts(getattr(self, name), name)))
        seconds = {int(r): float(s) for r, s in self.seconds.items()}
        self._set("seconds", MappingProxyType(seconds))
        self._set("intervals", MappingProxyType(self._checked_intervals()))
        if self.outcomes is not None:
            self._set_outcomes(self.outcomes, order)
        if self.draws is not None:
            self._set("draws", np.asarray(self.draws, dtype=np.float64)[:, order])
        self._check_documents()

    def _checked_intervals(self) -> dict[int, tuple[float, float]]:
        known = dict(zip(self.ranks, self.accuracy, strict=True))
        result = {}
        for rank, (low, high) in self.intervals.items():
            low, high = fractions([low, high], "ends of intervals")  # noqa: PLW2901
            if rank in known and not low - 1e-9 <= known[rank] <= high + 1e-9:
                raise CurveError(
                    f"accuracy {known[rank]:.6g} at rank {rank} outside of its interval "
                    f"{low:.6g} to {high:.6g}"
                )
            result[int(rank)] = (low, high)
        return result

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _set_outcomes(self, values: Any, order: NDArray[np.intp]) -> None:
        outcomes = _outcome_array(values)
        if outcomes.shape[0] != len(self.ranks):
            raise CurveError(
                f"outcomes of shape {outcomes.shape} for {len(self.ranks)} ranks",
                expected="one row for each rank: (ranks, documents)",
            )
        if not np.array_equal(order, np.arange(order.size)):
            outcomes = outcomes[order]
        outcomes.setflags(write=False)
        means = outcomes.mean(axis=1)
        worst = int(np.argmax(np.abs(means - self.accuracy)))
        if abs(means[worst] - self.accuracy[worst]) > 1e-6:
            raise CurveError(
                f"accuracy {self.accuracy[worst]:.6g} at rank {self.ranks[worst]} with documents "
                f"that average {means[worst]:.6g}",
                fix="use Curve.from_outcomes, which computes the accuracies",
            )
        self._set("outcomes", outcomes)

    def _set_base(self, values: Any) -> None:
        refuse_masked(values, "scores of the base")
        scores = np.array(values, dtype=np.float64)
        known = None if self.outcomes is None else np.shape(self.outcomes)[1:]
        if scores.shape != known:
            raise CurveError(
                f"base_scores of shape {scores.shape}", expected=f"one for each document, {known}"
            )
        check_unit_interval(scores, "scores of the base")
        scores.setflags(write=False)
        mean = float(scores.mean())
        if self.baseline is not None and abs(mean - self.baseline) > 1e-6:
            raise CurveError(
                f"baseline {self.baseline:.6g} with base_scores that average {mean:.6g}",
                fix="leave baseline out: it is their mean",
            )
        self._set("base_scores", scores)
        self._set("baseline", mean)

    def _check_documents(self) -> None:
        n = self.n_docs
        for name in DOCUMENT_LABELS:
            labels = getattr(self, name)
            if labels is None:
                continue
            if n is None:
                raise CurveError(f"{name} without outcomes", fix="give outcomes (K, n) as well")
            refuse_masked(labels, name)
            if len(labels) != n:
                raise CurveError(f"{len(labels)} {name} for {n} documents", expected="one for each")
            check_labelled(labels, name)
            if not isinstance(labels, tuple) or not all(isinstance(text, str) for text in labels):
                self._set(name, tuple(map(str, labels)))
        if self.doc_ids is not None and len(set(self.doc_ids)) != n:
            twice, _ = Counter(self.doc_ids).most_common(1)[0]
            raise CurveError(f"document {twice!r} appears twice")

    @property
    def n_docs(self) -> int | None:
        """Documents behind the curve, or None for point values."""
        return None if self.outcomes is None else int(self.outcomes.shape[1])

    @property
    def cluster_codes(self) -> NDArray[np.intp] | None:
        """(n,) numbers 0.. of what examples share; None for independent ones."""
        if self.clusters is None:
            return None
        return np.asarray(np.unique(np.array(self.clusters), return_inverse=True)[1], dtype=np.intp)

    @cached_property
    def right(self) -> NDArray[np.bool_] | None:
        """(K, n) whether each document scores 1; None where a score is neither 0 nor 1."""
        if self.outcomes is None:
            return None
        ones = self.outcomes == 1.0
        return ones if np.count_nonzero(self.outcomes) == np.count_nonzero(ones) else None

    @property
    def cut(self) -> str | None:
        """How the adapter was truncated, in words."""
        return cut_name(self.basis, self.rescale, self.method)

    @property
    def truncations(self) -> tuple[str, ...]:
        """Basis and rescale where both are known; of a published one also what is compared."""
        if not (self.basis and self.rescale):
            return ()
        compared = "prefix · trained" if self.method == "matryoshka" else "svd · keep"
        own = f"{self.basis} · {self.rescale}"
        return (own, compared) if self.role == "published" else (own,)

    def name_of(self, adapter: str) -> str:
        """What tables call an adapter that is truncated as this one."""
        cuts = self.truncations
        return curve_names((adapter, cut) for cut in cuts)[adapter, cuts[0]] if cuts else adapter

    @property
    def label(self) -> str:
        """The curve's name as in tables, and its task, as far as known."""
        on = f" on {self.task}" if self.task else ""
        return f"{self.name_of(self.adapter or '')}{on}".strip() or "the curve"

    def __repr__(self) -> str:
        known = zip(self.ranks, self.accuracy, strict=True)
        points = ", ".join(f"{rank}: {value:.4g}" for rank, value in [*known][:_SHOWN])
        more = f", … {len(self.ranks)} ranks" if len(self.ranks) > _SHOWN else ""
        documents = f", {self.n_docs} documents" if self.n_docs is not None else ""
        return f"Curve({self.label}: {{{points}{more}}}{documents})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from aurac.curves.display import curve_html

        return curve_html(self)

    @classmethod
    def from_outcomes(
        cls, ranks: Iterable[int], outcomes: Any, **labels: Unpack[CurveFields]
    ) -> Curve:
        """A curve from (K, n) scores in [0, 1], rows following the K `ranks`; `labels` are fields.

        Raises:
            CurveError: Ragged rows, no documents, a number that is not finite or outside [0, 1].
        """
        array = _outcome_array(outcomes)
        return cls(tuple(ranks), tuple(array.mean(axis=1)), outcomes=array, **labels)

    @classmethod
    def from_documents(
        cls, scores: Mapping[int, Mapping[Any, float]], **labels: Unpack[CurveFields]
    ) -> Curve:
        """A curve from ``rank -> {document: score}``; every rank must have the same documents.

        Rank 0 is the base. Where it has other documents, only its mean is kept.

        Raises:
            CurveError: A rank lacks documents that another has.
        """
        ranks, base = [rank for rank in scores if rank != 0], scores.get(0)
        if not ranks:
            raise CurveError("no ranks", expected="at least one rank with its documents")
        first = list(scores[ranks[0]])
        for rank in ranks[1:]:
            unequal = set(first) ^ set(scores[rank])
            if unequal:
                shown = min(map(str, unequal))
                raise CurveError(
                    f"ranks {ranks[0]} and {rank} have different documents ({len(unequal)} differ, "
                    f"{shown!r} among them)",
                    expected="the same documents at every rank",
                )
        rows = [[scores[rank][doc] for doc in first] for rank in ranks]
        labels["doc_ids"] = tuple(map(str, first))
        if base and base.keys() == set(first):
            labels["base_scores"] = [base[doc] for doc in first]
        elif base:
            labels["baseline"] = float(np.mean(list(base.values())))
        return cls.from_outcomes(ranks, rows, **labels)

    def at(self, ranks: Iterable[int]) -> Curve:
        """The same curve at some of its ranks; missing ranks are left behind.

        Raises:
            CurveError: A rank that the curve does not have.
        """
        wanted = check_ranks(ranks)
        absent = [r for r in wanted if r not in self.ranks]
        if absent:
            raise CurveError(
                f"{self.label} has no rank {absent[0]}",
                expected=f"some of {', '.join(map(str, self.ranks))}",
            )
        rows = [self.ranks.index(r) for r in sorted(wanted)]
        return replace(
            self,
            ranks=tuple(self.ranks[i] for i in rows),
            accuracy=tuple(self.accuracy[i] for i in rows),
            outcomes=None if self.outcomes is None else self.outcomes[rows],
            draws=None if self.draws is None else self.draws[:, rows],
            missing={},
            intervals={r: ends for r, ends in self.intervals.items() if r in wanted},
        )

    def in_order(self, places: NDArray[np.intp]) -> Curve:
        """The same curve with its n documents in another order, given by their places (n,) here."""
        changed: dict[str, Any] = {
            name: tuple(values[i] for i in places)
            for name in DOCUMENT_LABELS
            if (values := getattr(self, name)) is not None
        }
        for name in ("outcomes", "draws", "base_scores"):
            if (scores := getattr(self, name)) is not None:
                changed[name] = scores[..., places]
        return replace(self, **changed)


def _outcome_array(values: Any) -> NDArray[np.float64]:
    """(K, n) float64, owned or read-only, checked; a read-only float64 array is not copied."""
    refuse_masked(values, "document scores")
    if isinstance(values, np.ndarray):
        frozen = values.dtype == np.float64 and not values.flags.writeable
        array = values if frozen else np.array(values, dtype=np.float64)
    else:
        array = _stack(values)
    if array.ndim != 2:
        raise CurveError(f"outcomes of shape {array.shape}", expected="(ranks, documents)")
    if array.shape[1] == 0:
        raise CurveError("outcomes without a document", expected="at least one document")
    check_unit_interval(array, "document scores")
    return array


def _stack(rows: Any) -> NDArray[np.float64]:
    for row in rows:
        refuse_masked(row, "document scores")
    try:
        arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    except (TypeError, ValueError):
        raise CurveError(
            "document scores that are not numbers", expected="fractions in [0, 1]"
        ) from None
    lengths = [row.size for row in arrays]
    if len(set(lengths)) > 1:
        raise CurveError(
            f"ragged outcomes: {min(lengths)} to {max(lengths)} documents per rank",
            expected="the same documents at every rank",
        )
    if not arrays or arrays[0].ndim != 1:
        raise CurveError("outcomes must be a matrix", expected="(ranks, documents)")
    return np.stack(arrays)
