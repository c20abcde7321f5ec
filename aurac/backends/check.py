"""Whether a server or another backend computes the adapter: its answers beside the engine's.

The engine answers with the base in float32; how far it moves when the base and the adapter have the
served dtype is the rounding. Where log-likelihoods are off by more than that, the difference is
projected on what each known mistake would change: 0 is right, 1 is that mistake. Texts are held
against the engine's greedy ones, up to where rounding may part them.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch
from lm_eval.api.instance import Instance
from numpy.typing import NDArray

from aurac.adapters import Adapter, default_rescale
from aurac.adapters.cut import Cut
from aurac.adapters.truncate import default_basis
from aurac.backends.engine import EngineBackend
from aurac.engine.lm import scoring_requests
from aurac.engine.tokens import most_new_tokens
from aurac.errors import AuracError
from aurac.models.base import LoadedBase
from aurac.terminal import one_line

QUICK = 8  # prompts before a run
FLOOR = 0.01  # nats, the least rounding: a server rounds in other places than the engine does
SUSPECT, MOST = 1.25, 2.0  # roundings: nearer no mistake can be told, farther all is one
SURE = 0.125  # largest standard error of a projection that tells a mistake
NEAR, CLEAR = 2.5, 1.4  # roundings, and times less, that what is named leaves
TIE = 10.0  # roundings of a token by which the engine's may lead the served one
APART = 8  # one text in so many may be led by more
_WORDS, _PARTS, _LONG = 120, 4, 4  # one prompt in four is of the longest, and scored whole
_SLIGHT, _LACKS, _ALIKE, _MOSTLY = 1.02, 0.3, 2, 20

Asked = Callable[[Cut | None], AbstractContextManager[Any]]
Array = NDArray[np.float64]


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
        rounding: Root mean square, in nats, between the log-likelihoods of the engine in the served
            dtype and in float32.
        distance: The same between the backend's and the engine's in float32.
        effect: The same between the adapter's and the base's.
        texts: How many of its texts are the engine's until rounding parts them, and of how many.
    """

    rank: int
    right: bool
    says: str
    rounding: float
    distance: float | None = None
    effect: float | None = None
    texts: tuple[int, int] | None = None

    def __str__(self) -> str:
        told = {"off by ": self.distance, "rounding ": self.rounding, "the adapter ": self.effect}
        parts = [", ".join(f"{what}{x:.3g}" for what, x in told.items() if x is not None) + " nats"]
        if self.right and self.effect and self.distance is not None:
            parts.append(
                f"less than {MOST * self.rounding / self.effect:.1%} of it may not be seen"
            )
        if self.texts:
            parts.append("{} of {} texts as the engine's".format(*self.texts))
        name = f"rank {self.rank}" if self.rank else "base"
        return f"{name}: {self.says} ({'; '.join(parts)})"


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
        requests: lm-eval's, of all tasks: prompts are chosen among them.
        count: How many prompts.
        scores: Whether the backend gives log-likelihoods.
    """

    base: LoadedBase
    dtype: str
    requests: Sequence[Any]
    count: int
    scores: bool = True

    def verdicts(self, lm: Asked, cuts: Sequence[Cut]) -> Iterator[Verdict]:
        """Of the base and of each cut; `lm` gives the lm-eval model of one."""
        with lm(None) as served:  # cuts long prompts; the engine does it likewise
            length = getattr(served, "max_length", None)
        self._exact = EngineBackend(self.base, max_length=length)
        self._rounded = self._exact
        if self.dtype != "float32":
            model = copy.deepcopy(self.base.model).to(getattr(torch, self.dtype))
            same = replace(self.base, model=model, dtype=self.dtype)
            self._rounded = EngineBackend(same, max_length=length)
        self._ask(self._exact.model.max_length)
        self._least, self._base = FLOOR, np.zeros(len(self._pairs))
        for cut in (None, *cuts):
            yield self._verdict(lm, cut)

    def _ask(self, length: int) -> None:
        """Make the requests: parts of prompts to score, and prompts to continue."""
        ids, self._pairs = self.base.tokenizer, []
        bos = ids.bos_token or ""
        long, others = self._chosen(self.requests)
        for request in (*long, *others):
            text = "".join(part for part in request.args if isinstance(part, str))
            start = bos * text.startswith(bos)
            for words in [0] * (request in long) + [_WORDS >> times for times in range(6)]:
                pairs = parts(text, words, start)
                if len(ids("".join(pairs[-1] if pairs else ())).input_ids) < length:
                    break
            self._pairs += pairs
        tokens = ids("".join(part for _, part in self._pairs)).input_ids
        self._tokens = max(1.0, len(tokens) / max(1, len(self._pairs)))  # of a continuation
        written = [r for r in self.requests if r.request_type == "generate_until"]
        long, others = self._chosen(written)
        self._prompts = [
            Instance("generate_until", {}, (r.args[0], _greedy(r.args[1])), number)
            for number, r in enumerate([*long, *others, *long[:1]])  # one of them twice
        ]

    def _chosen(self, requests: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The longest prompts of a run, and others evenly spaced."""
        known = {request.args[0]: request for request in requests}
        long = sorted(known, key=len, reverse=True)[: -(-self.count // _LONG)]
        rest = [known[text] for text in known if text not in long]
        left = self.count - len(long)
        return [known[text] for text in long], rest[:: max(1, len(rest) // max(1, left))][:left]

    def _verdict(self, lm: Asked, cut: Cut | None) -> Verdict:
        exact = self._scored(self._exact.lm, cut)
        rounding = max(self._least, rms(self._scored(self._rounded.lm, cut) - exact))
        if cut is None:
            self._least, self._base = rounding, exact
        effect = rms(exact - self._base) if cut else None
        wrong = distance = texts = None
        if self.scores:
            off = self._scored(lm, cut) - exact
            distance, wrong = rms(off), self._misscored(off, exact, rounding, cut)
        if self._prompts and not wrong:
            texts, wrong = self._miswritten(lm, cut, TIE * rounding / math.sqrt(self._tokens))
        says = wrong or "is computed as it should be"
        if not wrong and effect is not None and effect <= SUSPECT * rounding:
            says = "no difference is seen, and the adapter changes less than rounding does"
        return Verdict(cut.rank if cut else 0, not wrong, says, rounding, distance, effect, texts)

    def _misscored(self, off: Array, exact: Array, rounding: float, cut: Cut | None) -> str | None:
        """What is computed instead, by how far log-likelihoods are off; None where it is right."""
        far, wrong = rms(off), not rms(off) <= MOST * rounding
        if far <= SUSPECT * rounding or (cut is None and not wrong):
            return None
        if cut is None:
            return _OTHER_BASE
        if not math.isfinite(far):
            return "its log-probabilities are no finite numbers"
        left: dict[str, float] = {}
        self._exact.__exit__()  # it lets go of the model
        with EngineBackend(self.base) as engine:
            for says, change in self._changes(engine.lm, off, exact, cut):
                size = float(change @ change)
                if rounding <= SURE * math.sqrt(size) and off @ change > size / 2:
                    wrong, left[says] = True, rms(off - change)
                    if left[says] <= max(SUSPECT * rounding, far / _MOSTLY):
                        break
        if not wrong:
            return None
        best = min(left.values(), default=math.inf)
        known = best <= min(max(NEAR * rounding, far / _MOSTLY), far / CLEAR)
        alike = [says for says, rest in left.items() if rest <= CLEAR * best]
        if not known or len(alike) > _ALIKE:
            return "it answers as no known mistake does"
        return ", or ".join(alike)

    def _changes(
        self, engine: Asked, off: Array, exact: Array, cut: Cut
    ) -> Iterator[tuple[str, Array]]:
        """What known mistakes change, in words and nats; partial ones as they fit best."""

        def change(other: Cut | None) -> Array:
            return self._scored(engine, other) - exact

        def fitting(whole: Array, low: float, high: float) -> float:
            share = float(off @ whole) / max(float(whole @ whole), 1e-9)
            return min(max(share, low), high)

        yield _BASE_ALONE, change(None)
        for says, other in _mistakes(cut).items():
            yield says, change(other)
        exported = cut.prepared().at(cut.rank)
        slight = change(_scaled(exported, _SLIGHT))
        times = fitting(slight, -math.inf, math.inf)
        scale = 1 + times * (_SLIGHT - 1)
        yield f"its scale is about {scale:.3g} times what it should be", times * slight
        for groups in (each for each in _groups(exported) if len(each) > 1):
            names = list(groups)
            alone = [change(_without(exported, groups[name])) for name in names]
            weights = np.linalg.lstsq(np.stack(alone, axis=1), off, rcond=None)[0]
            order = [names[i] for i in np.argsort(-weights) if weights[i] > _LACKS]
            for count in range(1, len(order) + 1):
                gone = set().union(*(groups[name] for name in order[:count]))
                if len(gone) < len(exported.modules):
                    whole = change(_without(exported, gone))
                    says = f"partly applied: {', '.join(order[:count])}"
                    yield says, whole * fitting(whole, 0, 1)

    def _miswritten(
        self, lm: Asked, cut: Cut | None, tie: float
    ) -> tuple[tuple[int, int], str | None]:
        """(texts as the engine's, of how many), and what is wrong where they are too few."""
        served, own = self._written(lm, cut), self._written(self._exact.lm, cut)
        with self._exact.lm(cut) as engine, torch.inference_mode():
            rows = zip(self._prompts, own, served, strict=True)
            bad = [row[1:] for row in rows if _lead(engine, *row) > tie]
        count, wrong = len(served), None
        if len(bad) * APART > count:
            base = self._written(self._exact.lm, None) if cut else []
            right, text = (one_line(repr(each), 60) for each in bad[0])
            wrong = f"it writes {text} where greedy decoding gives {right}"
            if served[0] != served[-1]:
                wrong = "it does not decode greedily: one prompt got two texts"
            elif 2 * sum(map(str.__eq__, served, base)) > count:
                wrong = "it writes as the base does: it does not apply the adapter to generation"
        return (count - len(bad), count), wrong

    def _scored(self, ask: Asked, cut: Cut | None) -> Array:
        with ask(cut) as lm:
            return np.array([value for value, _ in lm.loglikelihood(scoring_requests(self._pairs))])

    def _written(self, ask: Asked, cut: Cut | None) -> list[str]:
        with ask(cut) as lm:
            return list(lm.generate_until(self._prompts))


_BASE_ALONE = "it answers as the base does: it does not compute the adapter"
_OTHER_BASE = "its base is another model, or has another tokenizer"


def _mistakes(cut: Cut) -> Mapping[str, Cut]:
    """What servers have been seen to compute instead of a cut: in words, and as a cut."""
    whole, r = cut.adapter, cut.rank
    prepared = cut.prepared()
    exported = prepared.at(r)
    ranks = {2**k for k in range(r.bit_length() + 3)} | {r - 1, r + 1, whole.rank}
    found, basis, rescale = {}, cut.basis, cut.rescale
    if r == whole.rank:  # where every basis is the adapter itself
        basis = default_basis(whole)
        rescale = default_rescale(whole, basis)
    if cut.factor is None:
        for other in sorted(rank for rank in ranks - {r} if 1 <= rank <= whole.rank):
            found[f"it computes rank {other}"] = Cut(whole, other, basis, rescale)
    module, trained = next(iter(whole.modules.items()))
    root, scale = math.sqrt(r), prepared.scaling(module, r)
    scales = {
        "its scale is alpha/r and should be alpha/√r (rsLoRA)": 1 / root,
        "its scale is alpha/√r and should be alpha/r": root,
        "its scale is that of the trained rank": trained.scale(trained.rank) / (scale or math.nan),
        "its scale is 1": 1 / (scale or math.nan),
        "its scale is twice what it should be": 2.0,
        "its scale is half of what it should be": 0.5,
    }
    for says, factor in scales.items():
        if abs(factor - 1) > 1e-3:
            found[says] = _scaled(exported, factor)
    return found


def _scaled(exported: Adapter, factor: float) -> Cut:
    return Cut(exported, exported.rank, "prefix", "fit", factor)


def _without(exported: Adapter, gone: set[str]) -> Cut:
    kept = {name: f for name, f in exported.modules.items() if name not in gone}
    return _scaled(replace(exported, modules=kept), 1.0)


def _groups(adapter: Adapter) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The modules of each kind, and those of each layer, by name."""
    kinds: dict[str, set[str]] = {}
    layers: dict[str, set[str]] = {}
    for name in adapter.modules:
        kinds.setdefault(name.rpartition(".")[2], set()).add(name)
        if number := re.search(r"\.(\d+)\.", name):
            layers.setdefault(f"layer {number[1]}", set()).add(name)
    return kinds, layers


def _lead(lm: Any, request: Any, own: str, served: str) -> float:
    """In nats, by how much the engine's next token leads the served one where two texts part."""
    if own == served:
        return 0.0

    def ids(text: str) -> list[int]:
        return list(lm.tokenizer(text, add_special_tokens=False).input_ids)

    [prompt], _ = lm.tokens.prompts([request.args])
    a, b = ids(own), ids(served)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    at = len(list(same))
    if at == len(a) >= prompt.max_new_tokens - 1:
        return math.inf  # the served one is longer than it was asked for
    # Of a text that has ended: what could end it, of a stop string also its first character.
    stops = [start for stop in prompt.until for start in (stop, stop[:1])]
    ends = [lm.tokenizer.eos_token_id, *(token for stop in stops for token in ids(stop)[:1])]
    logits = lm.model(torch.tensor([[*prompt.tokens, *a[:at]]])).logits[0, -1].float()
    first, second = (float(logits[part[at : at + 1] or ends].max()) for part in (a, b))
    return first - second


def _greedy(how: Mapping[str, Any]) -> dict[str, Any]:
    """Stop strings and length of a task's texts, whatever the task samples."""
    limit = most_new_tokens(how)
    return {"until": how.get("until") or [], "max_gen_toks": limit, "do_sample": False}


def parts(text: str, words: int = 0, start: str = "") -> list[tuple[str, str]]:
    """The later parts of a text, or of `start` and its last words, each with all before it."""
    pieces = re.findall(r"\s*\S{1,20}", text)
    if 0 < words < len(pieces):
        pieces = [start, *pieces[-words:]]
    ends = sorted({len(pieces) * k // _PARTS for k in range(1, _PARTS + 1)} - {0})
    joined = ["".join(pieces[:end]) for end in ends]
    return [(head, whole[len(head) :]) for head, whole in itertools.pairwise(joined)]


def rms(values: Array) -> float:
    """Root mean square; 0 of no values."""
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
