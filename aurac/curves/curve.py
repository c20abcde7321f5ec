"""A rank-accuracy curve: one adapter on one task, frozen and validated when made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.checks import check_ranks, fractions, numbers, whole_rank
from aurac.curves.names import cut_name
from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    from numpy.typing import NDArray

_LABELS = ("doc_ids", "doc_hashes", "prompts", "clusters")


@dataclass(frozen=True, eq=False)
class Curve:
    """The accuracy of one adapter on one task at K ranks, with the examples where known.

    Two curves are `==` only where they are the same object, whatever their numbers.

    Attributes:
        ranks: K ranks >= 1, ascending (unsorted input is sorted, with everything that follows it).
        accuracy: K fractions; of outcomes their means.
        outcomes: (K, n) score in [0, 1] of every example at every rank, read-only; or None.
        doc_ids: n identities on which two curves are joined.
        doc_hashes: n content hashes. Examples with another content or prompt are other examples.
        clusters: n labels of what examples share (a passage).
        adapter, task: Names.
        metric: Which of the task's metrics is the accuracy, as ``metric,filter``.
        method: Training method, such as "matryoshka".
        basis, rescale: How it was truncated: "prefix" or "svd"; "rule", "keep", "trained" or "fit".
        seed: The training seed.
        data_order: Hash of what fixes the training data and, with the seed, their order: training
            seeds of curves that agree in it are paired.
        prompts: n hashes of the examples' prompts.
        baseline: Accuracy of the base (rank 0), a fraction; never part of AURAC.
        base_scores: (n,) score of the base on every example; `baseline` is then their mean.
        missing: ``rank -> reason`` for ranks without an accuracy; never imputed.
        fewer: ``rank -> examples`` for ranks that were asked fewer examples than the curve has;
            they are no part of it.
        sizes: ``rank -> bytes`` of the adapter truncated there.
        unfinished: ``rank -> answers`` that were cut off at `token_limit`; rank 0 is the base. Of
            a rank that is absent it is not known.
        nats: ``rank -> mean loss`` of a token, of the user's own examples; rank 0 is the base.
        factors: ``rank -> factor`` of the scale, of rescale "fit".
        token_limit: Tokens that an answer may have.
        trained_rank: The adapter's own rank, to which it was trained.
        width: Inputs and outputs of all adapted modules; 0: vLLM does not serve it; None: unknown.
        rolling: Whether `accuracy` is a metric such as perplexity, any number, without an area.

    Raises:
        CurveError: Numbers that are no fractions, ranks that are none or repeat, labels and scores
            that do not fit together, or no rank at all, not even one in `missing` or `fewer`.
    """

    ranks: tuple[int, ...]
    accuracy: tuple[float, ...] = ()
    outcomes: NDArray[np.float64] | None = field(default=None, repr=False)
    doc_ids: tuple[str, ...] | None = field(default=None, repr=False)
    doc_hashes: tuple[str, ...] | None = field(default=None, repr=False)
    clusters: tuple[str, ...] | None = field(default=None, repr=False)
    adapter: str | None = None
    task: str | None = None
    metric: str | None = None
    method: str | None = None
    basis: str | None = None
    rescale: str | None = None
    seed: int | None = None
    data_order: str | None = None
    prompts: tuple[str, ...] | None = field(default=None, repr=False)
    baseline: float | None = None
    base_scores: NDArray[np.float64] | None = field(default=None, repr=False)
    missing: Mapping[int, str] = field(default_factory=dict)
    fewer: Mapping[int, int] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)
    unfinished: Mapping[int, int] = field(default_factory=dict)
    nats: Mapping[int, float] = field(default_factory=dict)
    factors: Mapping[int, float] = field(default_factory=dict)
    token_limit: int | None = None
    trained_rank: int | None = None
    width: int | None = None
    rolling: bool = False

    def __post_init__(self) -> None:
        """Validate and sort."""
        if self.seed is not None:
            self._set("seed", whole_rank(self.seed, "Seed"))
        known = self.ranks or not (self.missing or self.fewer)
        ranks = check_ranks(self.ranks) if known else []
        checked = numbers if self.rolling else fractions
        single = self.outcomes is None
        what = "accuracies" if single else "example scores"
        values = checked(self.accuracy if single else self.outcomes, what)
        if len(values) != len(ranks):
            raise CurveError(f"{len(values)} rows of {what} for {len(ranks)} ranks.")
        self._set("ranks", tuple(sorted(ranks)))
        values = values[np.argsort(ranks)]
        if not single:
            if values.ndim != 2 or values.shape[1] == 0:
                raise CurveError(f"{what} of shape {values.shape} are not (ranks, examples).")
            values.setflags(write=False)
            self._set("outcomes", values)
            values = values.mean(axis=1)
        self._set("accuracy", tuple(values.tolist()))
        if self.base_scores is not None:
            base = fractions(self.base_scores, "the base's scores")
            if base.shape != (self.n_docs,):
                raise CurveError(f"Base_scores of shape {base.shape} for {self.n_docs} examples.")
            base.setflags(write=False)
            self._set("base_scores", base)
            self._set("baseline", float(base.mean()))
        elif self.baseline is not None:
            self._set("baseline", float(checked([self.baseline], "the baseline")[0]))
        if not self.rolling:  # its texts have no scores
            self._check_labels()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_labels(self) -> None:
        for name in _LABELS:
            labels = getattr(self, name)
            if labels is None:
                continue
            if len(labels) != self.n_docs:
                raise CurveError(f"{len(labels)} {name} for {self.n_docs} examples.")
            absent = sum(x is None or x == "" or x != x for x in labels)  # noqa: PLR0124 - NaN
            if absent:
                raise CurveError(f"{absent} of {len(labels)} examples have no label in {name}.")
            if not isinstance(labels, tuple) or not all(isinstance(text, str) for text in labels):
                self._set(name, tuple(map(str, labels)))
        if self.doc_ids is not None and len(set(self.doc_ids)) != self.n_docs:
            twice, _ = Counter(self.doc_ids).most_common(1)[0]
            raise CurveError(f"Example {twice!r} appears twice.")

    @property
    def n_docs(self) -> int | None:
        """Examples behind the curve, or None for point values."""
        return None if self.outcomes is None else int(self.outcomes.shape[1])

    @property
    def cluster_codes(self) -> NDArray[np.intp] | None:
        """(n,) numbers 0.. of what examples share; None for independent ones."""
        if self.clusters is None:
            return None
        return np.asarray(np.unique(np.array(self.clusters), return_inverse=True)[1], dtype=np.intp)

    @property
    def cut(self) -> str | None:
        """How the adapter was truncated, in words."""
        return cut_name(self.basis, self.rescale, self.method)

    @property
    def label(self) -> str:
        """Adapter, cut, seed and task as far as known, for messages."""
        seed = None if self.seed is None else f"seed {self.seed}"
        name = ", ".join(part for part in (self.adapter, self.cut, seed) if part)
        return f"{name or 'the curve'}{f' on {self.task}' if self.task else ''}"

    @property
    def frame(self) -> pd.DataFrame:
        """Its scores or accuracies as a DataFrame that `aurac.analyse` takes."""
        import pandas as pd

        names = ("adapter", "task", "metric", "method", "basis", "rescale", "seed", "trained_rank")
        ranks, rows, base, value = [*self.ranks], self.outcomes, self.base_scores, "score"
        if rows is None:
            rows, value = np.array(self.accuracy)[:, None], "accuracy"
            base = None if self.baseline is None else np.array([self.baseline])
        if base is not None:
            ranks, rows = [0, *ranks], np.vstack([base, rows])
        n = rows.shape[1]
        made = pd.DataFrame({"rank": np.repeat(ranks, n), value: rows.ravel()})
        if self.n_docs is not None:
            made["example"] = [*(self.doc_ids or map(str, range(n)))] * len(ranks)
            if self.clusters:
                made["cluster"] = [*self.clusters] * len(ranks)
        return made.assign(**{name: getattr(self, name) for name in names})

    def __repr__(self) -> str:
        known = zip(self.ranks, self.accuracy, strict=True)
        points = ", ".join(f"{rank}: {value:.4g}" for rank, value in known)
        examples = f", {self.n_docs} examples" if self.n_docs is not None else ""
        return f"Curve({self.label}: {{{points}}}{examples})"

    @classmethod
    def from_outcomes(cls, ranks: Iterable[int], outcomes: Any, **labels: Any) -> Curve:
        """A curve from (K, n) scores in [0, 1], rows following the K `ranks`; `labels` are fields.

        Raises:
            CurveError: Ragged rows, no examples, a number that is not finite or outside [0, 1].
        """
        return cls(tuple(ranks), outcomes=outcomes, **labels)

    @classmethod
    def from_examples(cls, scores: Mapping[int, Mapping[Any, float]], **labels: Any) -> Curve:
        """A curve from ``rank -> {example: score}``; every rank must have the same examples.

        Rank 0 is the base. Where it has other examples, only its mean is kept.

        Raises:
            CurveError: A rank lacks examples that another has.
        """
        ranks, base = [rank for rank in scores if rank != 0], scores.get(0)
        first: Mapping[Any, float] = scores[ranks[0]] if ranks else {}
        for rank in ranks:
            if unequal := first.keys() ^ scores[rank].keys():
                raise CurveError(
                    f"Ranks {ranks[0]} and {rank} have different examples ({len(unequal)} differ, "
                    f"{min(map(str, unequal))!r} among them)."
                )
        rows = [[scores[rank][doc] for doc in first] for rank in ranks]
        labels["doc_ids"] = tuple(map(str, first))
        if base and base.keys() == first.keys():
            labels["base_scores"] = [base[doc] for doc in first]
        elif base:
            labels["baseline"] = float(np.mean(list(base.values())))
        return cls.from_outcomes(ranks, rows, **labels)

    def at(self, ranks: Iterable[int]) -> Curve:
        """The same curve at some of its ranks; missing ranks are left behind.

        Raises:
            CurveError: A rank that the curve does not have.
        """
        wanted = sorted(check_ranks(ranks))
        if absent := {*wanted} - {*self.ranks}:
            raise CurveError(f"{self.label} has no rank {min(absent)}.")
        rows = [self.ranks.index(r) for r in wanted]
        return replace(
            self,
            ranks=tuple(wanted),
            accuracy=tuple(self.accuracy[i] for i in rows),
            outcomes=None if self.outcomes is None else self.outcomes[rows],
            missing={},
            fewer={},
        )

    def in_order(self, places: NDArray[np.intp]) -> Curve:
        """The same curve with its examples in another order, given by their places here."""
        changed: dict[str, Any] = {
            name: tuple(values[i] for i in places)
            for name in _LABELS
            if (values := getattr(self, name)) is not None
        }
        for name in ("outcomes", "base_scores"):
            if (scores := getattr(self, name)) is not None:
                changed[name] = scores[..., places]
        return replace(self, **changed)
