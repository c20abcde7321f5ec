"""Whether a server or another backend computes the adapter: its answers beside the engine's.

The engine answers in the served dtype, in packed passes and again one row at a time. How far these
two are apart is a rounding, the unit of all distances. The log-probabilities of a backend may be
off by some roundings, and most of its greedy texts are the engine's.
"""

from __future__ import annotations

import itertools
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
from aurac.errors import AuracError, UsageError
from aurac.models.base import load_base, resolve_base
from aurac.models.device import no_memory
from aurac.models.tokenizer import Tokenizer
from aurac.terminal import one_line

PROMPTS = 8  # of a check
FLOOR = 0.01  # nats, the least rounding: a server may add up in another order than the engine does
MOST, MOST_OF_BASE = 3.0, 4.0  # roundings, of a cut and of the base
SEEN = 20.0  # roundings that an adapter must change for most mistakes to be seen
ALIKE = 0.4  # the part of the texts that must be the engine's: rounding parts some of them
_SCORED, _WRITTEN, _PARTS = 128, 64, 4  # tokens of a text; parts that are scored
_SPARE = 8  # a text of n tokens that was cut may have some more when it is tokenised again

Array = NDArray[np.float64]


class NotComputedError(AuracError):
    """A backend whose answers are not those of the adapter."""

    exit_code = 4


@dataclass(frozen=True)
class CheckResult:
    """Whether a backend computes the base or an adapter at a rank.

    Attributes:
        name: What was asked for: the base, or an adapter at a rank.
        right: Whether the answers are the engine's.
        says: In words what is right or wrong.
        rounding: Root mean square, in nats, between two evaluations of the engine.
        distance: The same between the backend and the engine, in roundings; None where the backend
            gives no log-probabilities.
        effect: The same between the adapter and the base; 0 of the base.
        alike: The part of the texts that comes before they leave the engine's; None without texts.
    """

    name: str
    right: bool
    says: str
    rounding: float
    distance: float | None
    effect: float
    alike: float | None

    def __str__(self) -> str:
        parts = [f"a rounding is {self.rounding:.2g} nats"]
        if self.distance is not None:
            parts.insert(0, f"off by {self.distance:.3g} roundings")
        if self.alike is not None:
            parts.append(f"{self.alike:.0%} of the texts are the engine's")
        if self.name != BASE:
            unseen = ", too few to see every mistake" if self.effect < SEEN else ""
            parts.append(f"the adapter changes {self.effect:.3g} roundings{unseen}")
        return f"{self.name}: {self.says} ({'; '.join(parts)})"


BASE = "the base"


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
    def of(cls, requests: Sequence[Any], tokenizer: Any, length: int) -> Questions:
        """Of a run's requests with the longest prompts.

        Half are scored up to `length` tokens, the rest on their last 128. Texts are short and
        greedy.
        """
        pairs: list[tuple[str, str]] = []
        for place, request in enumerate(_longest(requests)):
            text = "".join(part for part in request.args if isinstance(part, str))
            most = length - _SPARE if place < PROMPTS // 2 else min(_SCORED, length - _SPARE)
            pairs += _parts(tokenizer, text, most)
        prompts = []
        for request in _longest([r for r in requests if r.request_type == "generate_until"]):
            text, how = request.args
            limit = min(most_new_tokens(how), _WRITTEN)
            given = {"until": how.get("until") or [], "max_gen_toks": limit, "do_sample": False}
            prompts.append((text, given))
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
class EngineAnswers:
    """The engine's for a cut or the base.

    Attributes:
        scores: Of the pairs, in packed passes.
        apart: The same less the scores of one row at a time.
        texts: Of the prompts.
    """

    scores: Array
    apart: Array
    texts: list[str]


def answers(
    name: str,
    how: Mapping[str, Any],
    tokenizer: Tokenizer,
    length: int,
    questions: Questions,
    cuts: Sequence[Cut],
) -> list[EngineAnswers]:
    """The engine's of the base and of each cut, on the device or, if it has no room, on the CPU.

    The base is loaded (`how` are words of `load_base`), and given back.

    Raises:
        UsageError: The base fits nowhere.
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
    raise UsageError(
        "the base does not fit this machine, so that answers cannot be held against the engine's: "
        "--no-check goes on without"
    )


def _answers(engine: EngineBackend, asked: Questions, cut: Cut | None) -> EngineAnswers:
    with engine.lm(cut) as lm:
        packed, written = asked.scored(lm.loglikelihood), asked.written(lm)
        lm.batch_size_per_gpu = 1
        alone = asked.scored(partial(HFLM.loglikelihood, lm), disable_tqdm=True)
    return EngineAnswers(packed, packed - alone, written)


def results(
    backend: Backend, questions: Questions, right: Sequence[EngineAnswers], cuts: Sequence[Cut]
) -> Iterator[CheckResult]:
    """Of the base and of each cut, as a backend is asked, by the engine's right answers.

    The unit is at least FLOOR, the rounding over all cuts and, after the base, the server's
    distance on it, since other kernels round elsewhere.
    """
    base = right[0]
    least = max(FLOOR, rms(np.concatenate([own.apart for own in right])))
    for cut, own in zip((None, *cuts), right, strict=True):
        rounding, wrong = max(least, rms(own.apart)), None
        effect, distance, alike = rms(own.scores - base.scores) / rounding, None, None
        with backend.lm(cut) as lm:
            if backend.gives_logprobs:
                off = (questions.scored(lm.loglikelihood) - own.scores) / rounding
                distance, wrong = rms(off), _misscored(off, (own.scores - base.scores) / rounding)
            written = [] if wrong else questions.written(lm)
        if written:
            alike = alike_part(written, own.texts)
            if effect >= SEEN and alike < alike_part(written, base.texts):
                wrong = "the adapter is ignored in texts"
            elif alike < ALIKE:
                pair = next(p for p in zip(written, own.texts, strict=True) if p[0] != p[1])
                shown = (one_line(repr(text), 60) for text in pair)
                wrong = "its texts differ: {} where greedy decoding gives {}".format(*shown)
        if cut is None and distance is not None:
            least = max(least, distance * rounding)
        name = f"{cut.adapter.name} at rank {cut.rank}" if cut else BASE
        says = wrong or "is computed as it should be"
        yield CheckResult(name, not wrong, says, rounding, distance, effect, alike)


def _misscored(off: Array, effect: Array) -> str | None:
    """What is wrong with log-likelihoods that are so far off the engine's, both in roundings.

    The effect is the adapter's change of them, 0 of the base.
    """
    distance, applied = rms(off), effect.any()
    if distance <= (MOST if applied else MOST_OF_BASE):
        return None
    if applied and rms(off + effect) <= MOST:
        return "the adapter is ignored"
    return f"its log-probabilities differ by {distance:.3g} roundings"


def alike_part(texts: Sequence[str], expected: Sequence[str]) -> float:
    """The mean part of each two texts that comes before they differ; 1 where all are equal."""
    shares = []
    for pair in zip(texts, expected, strict=True):
        same = itertools.takewhile(lambda both: both[0] == both[1], zip(*pair, strict=False))
        shares.append(1.0 if pair[0] == pair[1] else len([*same]) / max(map(len, pair)))
    return float(np.mean(shares))


def _longest(requests: Sequence[Any]) -> list[Any]:
    """The requests with the longest prompts, which a server would be the first to cut."""
    known = {request.args[0]: request for request in requests}
    return sorted(known.values(), key=lambda request: -len(request.args[0]))[:PROMPTS]


def _parts(tokenizer: Any, text: str, most: int) -> list[tuple[str, str]]:
    """The later parts of the last tokens of a text, each with all before it."""
    tokens = tokenizer(text, add_special_tokens=False).input_ids[-most:]
    ends = sorted({len(tokens) * k // _PARTS for k in range(1, _PARTS + 1)} - {0})
    joined = [tokenizer.decode(tokens[:end]) for end in ends]
    return [(head, all_[len(head) :]) for head, all_ in itertools.pairwise(joined) if head.strip()]


def rms(values: Array) -> float:
    """Root mean square; 0 of no values."""
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
