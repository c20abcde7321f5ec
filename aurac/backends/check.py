"""Whether a server or another backend computes the adapter: its answers beside the engine's.

The engine answers in the served dtype, in packed passes and again one row at a time. How far these
two are apart is a rounding, the unit of all distances. Log-probabilities may be off by some
roundings, and a greedy text may leave the engine's where two tokens are nearly as likely.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from numpy.typing import NDArray

from aurac.adapters.cut import Cut
from aurac.backends.backend import Backend
from aurac.backends.engine import EngineBackend
from aurac.engine.lm import scoring_requests
from aurac.engine.tokens import most_new_tokens
from aurac.errors import AuracError
from aurac.models.base import load_base, resolve_base
from aurac.models.device import no_memory
from aurac.models.tokenizer import Tokenizer
from aurac.terminal import one_line

QUICK = 8  # prompts before a run
FLOOR = 0.01  # nats, the least rounding: a server may add up in another order than the engine does
MOST, MOST_OF_BASE = 3.0, 4.0  # roundings, of a cut and of the base
SCALE, SEEN = 0.05, 20.0  # a scale off by more is wrong where the effect has so many roundings
TIE, APART = 10.0, 8  # roundings of a token between two of a text; one text in so many may part
_SCALES = np.linspace(0.0, 2.5, 251)
_BROKEN = "\ufffd"  # bytes that are no text
_NEAREST, _ENDS = 64, -1  # tokens that are kept of each place of a text; what ends the text
_WORDS, _PARTS, _LONG = 120, 4, 4  # one prompt in four is of the longest, and scored whole

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
        rounding: Root mean square, in nats, between two evaluations of the engine.
        distance: The same between the backend and the engine, in roundings; None without scores.
        effect: The same between the adapter and the base.
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
        parts = [f"a rounding is {self.rounding:.2g} nats"]
        if self.distance is not None:
            parts.insert(0, f"off by {self.distance:.3g} roundings")
        if self.effect is not None:
            parts.append(f"the adapter changes {self.effect:.3g} roundings")
        if self.texts:
            parts.append("{} of {} texts are the engine's".format(*self.texts))
        if self.effect is not None and self.effect < SEEN:
            parts.append("a scale that is off by 10 % or a part that is left out cannot be seen")
        name = f"rank {self.rank}" if self.rank else "base"
        return f"{name}: {self.says} ({'; '.join(parts)})"


@dataclass(frozen=True)
class Questions:
    """What everyone is asked.

    Attributes:
        pairs: Beginnings of prompts, each with the words after it that are scored.
        rows: Of each prompt its shortest beginning, with all the rest.
        prompts: Prompts to continue, each with lm-eval's ``generation_kwargs``.
    """

    pairs: list[tuple[str, str]]
    rows: list[tuple[str, str]]
    prompts: list[tuple[str, dict[str, Any]]]

    @classmethod
    def of(cls, requests: Sequence[Any], count: int, tokenizer: Any, length: int) -> Questions:
        """Of a run's requests: `count` prompts, of which some are the longest.

        No prompt that is scored has more than `length` tokens, so that nobody cuts it.
        """
        made: list[list[tuple[str, str]]] = []
        bos = tokenizer.bos_token or ""
        long, others = _chosen(requests, count)
        for request in (*long, *others):
            text = "".join(part for part in request.args if isinstance(part, str))
            start = bos * text.startswith(bos)
            for words in [0] * (request in long) + [_WORDS >> times for times in range(6)]:
                some = parts(text, words, start)
                if len(tokenizer("".join(some[-1] if some else ())).input_ids) < length:
                    break
            made += [some] if some else []
        pairs = [pair for some in made for pair in some]
        rows = [(some[0][0], "".join(part for _, part in some)) for some in made]
        written = [r for r in requests if r.request_type == "generate_until"]
        chosen = [each.args for part in _chosen(written, count) for each in part]
        return cls(pairs, rows, [(text, _greedy(how)) for text, how in chosen])

    def scored(self, lm: Any, *, rows: bool = False) -> Array:
        """The log-likelihoods of the pairs, and of the rows, that an lm-eval model gives."""
        asked = scoring_requests([*self.pairs, *(self.rows if rows else ())])
        return np.array([value for value, _ in lm.loglikelihood(asked)])

    def written(self, lm: Any) -> list[str]:
        """The texts that an lm-eval model gives."""
        asked = [Instance("generate_until", {}, each, n) for n, each in enumerate(self.prompts)]
        return list(lm.generate_until(asked)) if asked else []


@dataclass(frozen=True)
class Text:
    """What the engine writes: its tokens, and for each place its nearest tokens.

    Attributes:
        text: Decoded.
        tokens: The n tokens, up to where bytes are no text: they cannot be told from their text.
        most: How many tokens were asked for.
        leads: For n + 1 places: token (`_ENDS` for whatever ends the text) → by how many nats the
            likeliest token leads it.
    """

    text: str
    tokens: list[int]
    most: int
    leads: list[dict[int, float]]

    def lead(self, served: str, tokens: Sequence[int]) -> float:
        """In nats, by how much the engine's token leads the served one where two texts part."""
        pairs = zip(self.tokens, tokens, strict=False)
        at = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        if served == self.text or (at == len(self.tokens) and _BROKEN in self.text):
            return 0.0
        if at == len(self.tokens) >= self.most - 1:
            return math.inf  # the served one is longer than it was asked for
        return self._lead(at, tokens[at] if at < len(tokens) else _ENDS)

    def own(self) -> float:
        """The same of its own tokens, since packed rows wrote them and one row gave the leads."""
        return max(itertools.starmap(self._lead, enumerate(self.tokens)), default=0.0)

    def _lead(self, place: int, token: int) -> float:
        """At least that of the farthest token that is known."""
        return self.leads[place].get(token, max(self.leads[place].values()))


@dataclass(frozen=True)
class Answers:
    """The engine's for a cut or the base.

    Attributes:
        scores: Of the pairs, in packed passes.
        apart: In nats for each row, between packed passes and one row at a time, as far as a part
            of it would be.
        doubled: The scores at twice the scale; None of the base.
        texts: Of the prompts.
    """

    scores: Array
    apart: Array
    doubled: Array | None
    texts: list[Text]


@dataclass(frozen=True)
class Reference:
    """All that the engine needs to answer; it can be sent to another process."""

    name: str
    device: str
    dtype: str
    tokenizer: Tokenizer
    length: int | None
    questions: Questions
    cuts: Sequence[Cut]
    trust_remote_code: bool = False

    def answers(self) -> list[Answers]:
        """Of the base and of each cut, on the device or else on the CPU; none if it fits nowhere.

        The base is loaded, and given back.
        """
        try:
            return self._answers()
        except (AuracError, RuntimeError) as error:
            if not no_memory(error):
                raise
        return replace(self, device="cpu").answers() if self.device != "cpu" else []

    def _answers(self) -> list[Answers]:
        trust = self.trust_remote_code
        if self.device == "cpu" and not _fits(self.name):
            return []
        base = load_base(self.name, dtype=self.dtype, device=self.device, trust_remote_code=trust)
        base = self.tokenizer.adopted_by(base)
        with EngineBackend(base, max_length=self.length) as engine, torch.inference_mode():
            return [self._of(engine, cut) for cut in (None, *self.cuts)]

    def _of(self, engine: EngineBackend, cut: Cut | None) -> Answers:
        asked, count, doubled = self.questions, len(self.questions.pairs), None
        with engine.lm(cut) as lm:
            packed, written = asked.scored(lm, rows=True), asked.written(lm)
            texts = [_text(lm, *row) for row in zip(asked.prompts, written, strict=True)]
            lm.batch_size_per_gpu = 1
            rows = HFLM.loglikelihood(lm, scoring_requests(asked.rows), disable_tqdm=True)
        apart = packed[count:] - np.array([value for value, _ in rows])
        if cut:
            exported = cut.prepared().at(cut.rank)
            with engine.lm(Cut(exported, exported.rank, "prefix", "fit", 2.0)) as lm:
                doubled = asked.scored(lm)
        share = math.sqrt(len(asked.rows) / max(1, count))
        return Answers(packed[:count], apart * share, doubled, texts)


@dataclass
class Judge:
    """Holds what a backend answers against the engine's answers, the base's first.

    Attributes:
        backend: Who is asked.
        questions: What.
        answers: The engine's for the base and each cut.
        rounding: In nats, of all cuts; once the base was asked not less than the served base is off
            the engine's, since other kernels round elsewhere.
    """

    backend: Backend
    questions: Questions
    answers: Sequence[Answers]
    rounding: float = field(init=False)

    def __post_init__(self) -> None:
        apart = np.concatenate([each.apart for each in self.answers])
        self.rounding = max(FLOOR, rms(apart))

    def verdicts(self, cuts: Sequence[Cut]) -> Iterator[Verdict]:
        """Of the base and of each cut, as they are asked."""
        for cut, own in zip((None, *cuts), self.answers, strict=True):
            rounding = max(self.rounding, rms(own.apart))
            distance = wrong = texts = None
            with self.backend.lm(cut) as lm:
                if self.backend.scores:
                    off = self.questions.scored(lm) - own.scores
                    distance, wrong = rms(off) / rounding, self._misscored(off, own, rounding)
                written = [] if wrong else self.questions.written(lm)
            if written:
                texts, wrong = self._miswritten(written, own, rounding)
            if cut is None and distance is not None:
                self.rounding = max(self.rounding, distance * rounding)
            effect = rms(own.scores - self.answers[0].scores) / rounding if cut else None
            says = wrong or "is computed as it should be"
            if not wrong and effect is not None and effect <= MOST:
                says = "no difference is seen, and the adapter changes hardly more than rounding"
            yield Verdict(
                cut.rank if cut else 0, not wrong, says, rounding, distance, effect, texts
            )

    def _misscored(self, off: Array, own: Answers, rounding: float) -> str | None:
        """What is wrong with log-likelihoods that are off the engine's."""
        distance = rms(off) / rounding
        if not math.isfinite(distance):
            return "its log-probabilities are no finite numbers"
        differs = f"its log-probabilities differ by {distance:.3g} roundings"
        if own.doubled is None:
            return differs if distance > MOST_OF_BASE else None
        effect = own.scores - self.answers[0].scores
        scale, left = _scale(off, effect, own.doubled - own.scores)
        scaled = abs(scale - 1) > SCALE
        if distance <= MOST and not (scaled and rms(effect) >= SEEN * rounding):
            return None
        if not scaled or left > max(MOST * rounding, rms(off) / 2):
            return differs
        return (
            f"the adapter is scaled by {scale:.2g}" if scale > SCALE else "the adapter is ignored"
        )

    def _miswritten(
        self, served: list[str], own: Answers, rounding: float
    ) -> tuple[tuple[int, int], str | None]:
        """(texts as the engine's, of how many), and what is wrong where they are too few."""
        tokenizer, pairs = self.backend.base.tokenizer, self.questions.pairs
        scored = _tokens(tokenizer, "".join(part for _, part in pairs))
        tie = TIE * rounding / math.sqrt(max(1.0, len(scored) / max(1, len(pairs))))
        tie = max(tie, 2 * max(text.own() for text in own.texts))
        both = list(zip(served, own.texts, strict=True))
        bad = [(t, own.text) for t, own in both if own.lead(t, _tokens(tokenizer, t)) > tie]
        texts = len(served) - len(bad), len(served)
        if len(bad) * APART <= len(served):
            return texts, None
        base = [each.text for each in self.answers[0].texts]
        if own.doubled is not None and 2 * sum(map(str.__eq__, served, base)) > len(served):
            return texts, "the adapter is ignored in texts"
        text, right = (one_line(repr(each), 60) for each in bad[0])
        return texts, f"its texts differ: {text} where greedy decoding gives {right}"


def _scale(off: Array, effect: Array, doubled: Array) -> tuple[float, float]:
    """The scale at which the adapter would be nearest to what is served, and what is left in nats.

    Each log-likelihood is a parabola of the scale, by the changes from 0 to 1 and from 1 to 2.
    """
    bend, slope = (doubled - effect) / 2, (doubled + effect) / 2
    left = [rms(off - slope * (f - 1) - bend * (f - 1) ** 2) for f in _SCALES]
    best = int(np.argmin(left))
    return float(_SCALES[best]), left[best]


def _text(lm: Any, prompt: tuple[str, dict[str, Any]], text: str) -> Text:
    """A text of the engine with what else it might have written at each place."""
    [asked], _ = lm.tokens.prompts([prompt])
    tokens = _tokens(lm.tokenizer, text.partition(_BROKEN)[0])
    row = torch.tensor([[*asked.tokens, *tokens]], device=lm.device)
    logits = lm.model(row).logits[0, len(asked.tokens) - 1 :].float()
    logits = logits.max(dim=-1, keepdim=True).values - logits
    stops = [start for stop in asked.until for start in (stop, stop[:1])]  # or what begins one
    ends = [lm.tokenizer.eos_token_id, *(t for s in stops for t in _tokens(lm.tokenizer, s)[:1])]
    near = logits.topk(min(_NEAREST, logits.shape[-1]), largest=False)
    leads = [
        dict(zip(*row, strict=True))
        for row in zip(near.indices.tolist(), near.values.tolist(), strict=True)
    ]
    for place, end in zip(leads, logits[:, ends].min(dim=-1).values.tolist(), strict=True):
        place[_ENDS] = end
    return Text(text, tokens, asked.max_new_tokens, leads)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _fits(name: str) -> bool:
    """Whether the weights of a base fit this machine's memory."""
    files = sum(f.stat().st_size for f in resolve_base(name).path.glob("*.safetensors"))
    return 1.2 * files < float(psutil.virtual_memory().available)


def _chosen(requests: Sequence[Any], count: int) -> tuple[list[Any], list[Any]]:
    """Requests with the longest prompts, and others that are evenly spaced."""
    known = {request.args[0]: request for request in requests}
    long = sorted(known, key=len, reverse=True)[: -(-count // _LONG)]
    rest = [known[text] for text in known if text not in long]
    left = count - len(long)
    return [known[text] for text in long], rest[:: max(1, len(rest) // max(1, left))][:left]


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
