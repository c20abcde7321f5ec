"""Whether a server or another backend computes the adapter: its answers beside the engine's.

The engine answers in the served dtype, in packed passes and again one row at a time. How far these
two are apart is a rounding, the unit of all distances. Log-probabilities may be off by some
roundings, and a greedy text may leave the engine's where two tokens are nearly as likely.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
        prompts: Prompts to continue, each with lm-eval's ``generation_kwargs``.
    """

    pairs: list[tuple[str, str]]
    prompts: list[tuple[str, dict[str, Any]]]

    @classmethod
    def of(cls, requests: Sequence[Any], count: int, tokenizer: Any, length: int) -> Questions:
        """Of a run's requests: `count` prompts, of which some are the longest.

        No prompt that is scored has more than `length` tokens, so that nobody cuts it.
        """
        pairs: list[tuple[str, str]] = []
        bos = tokenizer.bos_token or ""
        for place, request in enumerate(_chosen(requests, count)):
            text = "".join(part for part in request.args if isinstance(part, str))
            start = bos * text.startswith(bos)
            for words in [0] * (place * _LONG < count) + [_WORDS >> times for times in range(6)]:
                some = parts(text, words, start)
                if len(tokenizer("".join(some[-1] if some else ())).input_ids) < length:
                    break
            pairs += some
        prompts = []
        for request in _chosen([r for r in requests if r.request_type == "generate_until"], count):
            text, how = request.args  # whatever the task samples
            given = {"until": how.get("until") or [], "max_gen_toks": most_new_tokens(how)}
            prompts.append((text, given | {"do_sample": False}))
        return cls(pairs, prompts)

    def scored(self, loglikelihood: Callable[..., Any], **how: Any) -> Array:
        """The log-likelihoods of the pairs that an lm-eval model gives."""
        given = loglikelihood(scoring_requests(self.pairs), **how)
        return np.array([value for value, _ in given])

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
        apart: The same less the scores of one row at a time.
        doubled: The scores at twice the scale; None of the base.
        texts: Of the prompts.
    """

    scores: Array
    apart: Array
    doubled: Array | None
    texts: list[Text]


def answers(
    name: str,
    how: Mapping[str, Any],
    tokenizer: Tokenizer,
    length: int,
    questions: Questions,
    cuts: Sequence[Cut],
) -> list[Answers]:
    """The engine's of the base and of each cut, on the device or else on the CPU.

    There are none if the base fits nowhere. It is loaded (`how` are words of `load_base`), and
    given back.
    """
    for device in dict.fromkeys((how["device"], "cpu")):
        files = [file.stat().st_size for file in resolve_base(name).path.glob("*.safetensors")]
        if device == "cpu" and 1.2 * sum(files) > psutil.virtual_memory().available:
            break  # the system would end the process
        try:
            base = tokenizer.adopted_by(load_base(name, **{**how, "device": device}))
            with EngineBackend(base, max_length=length) as engine, torch.inference_mode():
                return [_answers(engine, questions, cut) for cut in (None, *cuts)]
        except (AuracError, RuntimeError) as error:
            if not no_memory(error):
                raise
    return []


def _answers(engine: EngineBackend, asked: Questions, cut: Cut | None) -> Answers:
    doubled = None
    with engine.lm(cut) as lm:
        packed, written = asked.scored(lm.loglikelihood), asked.written(lm)
        texts = [_text(lm, *row) for row in zip(asked.prompts, written, strict=True)]
        lm.batch_size_per_gpu = 1
        alone = asked.scored(partial(HFLM.loglikelihood, lm), disable_tqdm=True)
    if cut:
        exported = cut.prepared().at(cut.rank)
        with engine.lm(Cut(exported, exported.rank, "prefix", "fit", 2.0)) as lm:
            doubled = asked.scored(lm.loglikelihood)
    return Answers(packed, packed - alone, doubled, texts)


def verdicts(
    backend: Backend, questions: Questions, right: Sequence[Answers], cuts: Sequence[Cut]
) -> Iterator[Verdict]:
    """Of the base and of each cut, as a backend is asked, by the engine's right answers.

    The least rounding is that of all cuts, and once the base was asked not less than the served
    base is off the engine's, since other kernels round elsewhere.
    """
    base, tokenizer = right[0], backend.base.tokenizer
    tokens = _tokens(tokenizer, "".join(part for _, part in questions.pairs))
    length = max(1.0, len(tokens) / max(1, len(questions.pairs)))
    least = max(FLOOR, rms(np.concatenate([own.apart for own in right])))
    for cut, own in zip((None, *cuts), right, strict=True):
        rounding = max(least, rms(own.apart))
        effect = (own.scores - base.scores) / rounding
        doubled = None if own.doubled is None else (own.doubled - own.scores) / rounding
        distance = wrong = texts = None
        with backend.lm(cut) as lm:
            if backend.scores:
                off = (questions.scored(lm.loglikelihood) - own.scores) / rounding
                distance, wrong = rms(off), _misscored(off, effect, doubled)
            written = [] if wrong else questions.written(lm)
        if written:
            tie = TIE * rounding / math.sqrt(length)
            tie = max(tie, 2 * max(text.own() for text in own.texts))
            bad = [
                (one_line(repr(served), 60), one_line(repr(text.text), 60))
                for served, text in zip(written, own.texts, strict=True)
                if text.lead(served, _tokens(tokenizer, served)) > tie
            ]
            texts = len(written) - len(bad), len(written)
            if len(bad) * APART > len(written):
                wrong = "its texts differ: {} where greedy decoding gives {}".format(*bad[0])
                same = sum(map(str.__eq__, written, (text.text for text in base.texts)))
                if cut and 2 * same > len(written):
                    wrong = "the adapter is ignored in texts"
        if cut is None and distance is not None:
            least = max(least, distance * rounding)
        says = wrong or "is computed as it should be"
        if cut and not wrong and rms(effect) <= MOST:
            says = "no difference is seen, and the adapter changes hardly more than rounding"
        told = rounding, distance, rms(effect) if cut else None, texts
        yield Verdict(cut.rank if cut else 0, not wrong, says, *told)


def _misscored(off: Array, effect: Array, doubled: Array | None) -> str | None:
    """What is wrong with log-likelihoods that are so far off the engine's, all in roundings.

    The adapter's effect is their change from scale 0 to 1, `doubled` that from 1 to 2 (None of the
    base).
    """
    distance = rms(off)
    if not math.isfinite(distance):
        return "its log-probabilities are no finite numbers"
    differs = f"its log-probabilities differ by {distance:.3g} roundings"
    if doubled is None:
        return differs if distance > MOST_OF_BASE else None
    scale, left = _scale(off, effect, doubled)
    scaled = abs(scale - 1) > SCALE
    if distance <= MOST and not (scaled and rms(effect) >= SEEN):
        return None
    if not scaled or left > max(MOST, distance / 2):
        return differs
    return f"the adapter is scaled by {scale:.2g}" if scale > SCALE else "the adapter is ignored"


def _scale(off: Array, effect: Array, doubled: Array) -> tuple[float, float]:
    """The scale at which the adapter would be nearest to what is served, and what is left then.

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
    ended = logits[:, ends].min(dim=-1).values.tolist()
    rows = zip(near.indices.tolist(), near.values.tolist(), ended, strict=True)
    leads = [{**dict(zip(known, far, strict=True)), _ENDS: end} for known, far, end in rows]
    return Text(text, tokens, asked.max_new_tokens, leads)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _chosen(requests: Sequence[Any], count: int) -> list[Any]:
    """Requests with the longest prompts, one in `_LONG`, and others that are evenly spaced."""
    known = {request.args[0]: request for request in requests}
    long = sorted(known, key=len, reverse=True)[: -(-count // _LONG)]
    rest, left = [text for text in known if text not in long], count - len(long)
    spaced = rest[:: max(1, len(rest) // max(1, left))][:left]
    return [known[text] for text in (*long, *spaced)]


def parts(text: str, words: int, start: str) -> list[tuple[str, str]]:
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
