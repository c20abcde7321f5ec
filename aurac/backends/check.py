"""Whether a server or another backend computes the adapter: its answers beside the engine's.

The engine answers with the base in float32; how far it moves when the base and the adapter have the
served dtype is the noise. A backend whose answers are further off than a few times that is held
against what is known to go wrong: the base alone, another rank, another scaling rule.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from lm_eval.api.instance import Instance

from aurac.adapters import default_rescale, prepare
from aurac.adapters.cut import Cut
from aurac.adapters.truncate import default_basis
from aurac.backends.engine import EngineBackend
from aurac.engine.lm import scoring_requests
from aurac.errors import AuracError
from aurac.models.base import LoadedBase

FLOOR, TIMES_NOISE = 0.02, 4.0  # nats; a server rounds in other places than the engine does
TEXTS_APART = 0.5  # share of texts that may differ: one near tie changes all that follows
_WORDS, _PARTS, _NEW_TOKENS = 120, 4, 16

Asked = Callable[[Cut | None], AbstractContextManager[Any]]
Answers = Sequence[Any]  # log-likelihoods, or texts where there are none


class NotComputedError(AuracError):
    """A backend whose answers are not those of the adapter."""

    exit_code = 4


@dataclass(frozen=True)
class Verdict:
    """What a backend computes at a rank (0: the base).

    Attributes:
        rank: The rank.
        right: Whether its answers are the adapter's.
        says: In words, after "rank r: ".
        distance: Root mean square, in nats, or share of texts, between it and the engine.
        noise: The same between the engine in the served dtype and in float32.
        effect: The same between the adapter and the base.
    """

    rank: int
    right: bool
    says: str
    distance: float | None = None
    noise: float | None = None
    effect: float | None = None


def fits(model: Any) -> bool:
    """Whether a model (its outline) fits this machine's memory in float32 and a second time."""
    numbers = sum(parameter.numel() for parameter in model.parameters())
    return 6 * numbers < 0.8 * float(psutil.virtual_memory().available)


@dataclass(eq=False)
class Check:
    """The questions, and the engine's answers to them.

    Args:
        base: In float32.
        dtype: The served one, as torch calls it.
        prompts: Texts; their parts are scored, or continued where `scores` is false.
        scores: Whether the backend gives log-likelihoods.
    """

    base: LoadedBase
    dtype: str
    prompts: Sequence[str]
    scores: bool = True

    def __post_init__(self) -> None:
        self._exact = EngineBackend(self.base)
        rounded = copy.deepcopy(self.base.model).to(getattr(torch, self.dtype))
        same = LoadedBase(**{**vars(self.base), "model": rounded, "dtype": self.dtype})
        self._rounded = self._exact if self.dtype == "float32" else EngineBackend(same)

    def verdicts(self, lm: Asked, cuts: Sequence[Cut]) -> Iterator[Verdict]:
        """Of the base and of each cut; `lm` gives the lm-eval model of one."""
        self._base = self._answers(self._exact.lm, None)
        self._base_noise = distance(self._base, self._answers(self._rounded.lm, None))
        yield self._verdict(lm, None)
        for cut in cuts:
            yield self._verdict(lm, cut)

    def _verdict(self, lm: Asked, cut: Cut | None) -> Verdict:
        rank = cut.rank if cut else 0
        try:
            served = self._answers(lm, cut)
        except AuracError as error:
            return Verdict(rank, right=False, says=f"is not served: {error}")
        exact = self._answers(self._exact.lm, cut) if cut else self._base
        noise = distance(exact, self._answers(self._rounded.lm, cut))
        noise = max(noise, self._base_noise) if self.scores else noise
        far, effect = distance(served, exact), distance(exact, self._base)
        most = max(FLOOR, TIMES_NOISE * noise) if self.scores else TEXTS_APART
        right = far <= most
        if not right:
            says = self._wrong(served, cut, most) if cut else _OTHER_BASE
        elif cut and effect <= most:
            says = "no difference is seen, and the adapter changes less than rounding does"
        else:
            says = "is computed as it should be"
        return Verdict(rank, right, says, far, noise, effect if cut else None)

    def _wrong(self, served: Answers, cut: Cut, most: float) -> str:
        """The nearest of the known mistakes."""
        known = {_BASE_ALONE: self._base} | {
            says: self._answers(self._exact.lm, other) for says, other in _mistakes(cut).items()
        }
        apart = {says: distance(served, answers) for says, answers in known.items()}
        nearest = min(apart, key=lambda says: apart[says])
        return nearest if apart[nearest] <= most else "it answers as no known rank or scale does"

    def _answers(self, ask: Asked, cut: Cut | None) -> Answers:
        with ask(cut) as lm:
            if self.scores:
                requests = scoring_requests([p for text in self.prompts for p in parts(text)])
                return [value for value, _ in lm.loglikelihood(requests)]
            how = {"until": [], "max_gen_toks": _NEW_TOKENS, "do_sample": False}
            asked = [(head, dict(how)) for text in self.prompts for head, _ in parts(text)[-1:]]
            return list(
                lm.generate_until(
                    [Instance("generate_until", {}, each, i) for i, each in enumerate(asked)]
                )
            )


_BASE_ALONE = "it answers as the base does: it does not compute the adapter"
_OTHER_BASE = "its base is another model, or has another tokenizer"


def _mistakes(cut: Cut) -> Mapping[str, Cut]:
    """What servers have been seen to compute instead of a cut: in words, and as a cut."""
    whole, r = cut.adapter, cut.rank
    factors = {cut.rank: cut.factor} if cut.factor is not None else None
    prepared = prepare(whole, cut.basis, cut.rescale, fit_factors=factors)
    exported = prepared.at(r)
    ranks = {2**k for k in range(r.bit_length() + 3)} | {r - 1, r + 1, whole.rank}
    found, basis, rescale = {}, cut.basis, cut.rescale
    if r == whole.rank:  # where every basis is the adapter itself
        basis = default_basis(whole)
        rescale = default_rescale(whole, basis)
    if factors is None:
        for other in sorted(rank for rank in ranks - {r} if 1 <= rank <= whole.rank):
            found[f"it computes rank {other}"] = Cut(whole, other, basis, rescale)
    root, scale = math.sqrt(r), prepared.scaling(next(iter(exported.modules)), r)
    scales = {
        "its scale is alpha/r and should be alpha/√r (rsLoRA)": 1 / root,
        "its scale is alpha/√r and should be alpha/r": root,
        "its scale is that of the trained rank": _trained(cut) / scale if scale else 1.0,
        "its scale is 1": 1 / scale if scale else 1.0,
        "its scale is twice what it should be": 2.0,
        "its scale is half of what it should be": 0.5,
    }
    for says, factor in scales.items():
        if abs(factor - 1) > 1e-3:
            found[says] = Cut(exported, r, "prefix", "fit", factor)
    return found


def _trained(cut: Cut) -> float:
    module = next(iter(cut.adapter.modules.values()))
    return module.scale(module.rank)


def parts(text: str) -> list[tuple[str, str]]:
    """A text's later parts, each with all that stands before it."""
    words = text.split(" ")[-_WORDS:]
    ends = sorted({len(words) * k // _PARTS for k in range(1, _PARTS + 1)} - {0})
    return [(" ".join(words[:a]), " " + " ".join(words[a:b])) for a, b in itertools.pairwise(ends)]


def distance(a: Answers, b: Answers) -> float:
    """Root mean square between log-likelihoods; the share of texts that differ."""
    if a and isinstance(a[0], str):
        return float(np.mean([x != y for x, y in zip(a, b, strict=True)]))
    return float(np.sqrt(np.mean(np.square(np.subtract(a, b)))))
