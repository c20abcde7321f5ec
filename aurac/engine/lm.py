"""The engine as an lm-eval model: packed passes, and lm-eval's own ``HFLM`` for all else.

Its answers are those of ``HFLM`` with the same model and tokenizer: log-likelihoods, and text until
a stop string. Each distinct token of log-likelihoods is computed once, and no generated text waits
for another.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from numpy.typing import NDArray
from torch import Tensor

from aurac.engine.decoding import Decoder
from aurac.engine.probe import probe
from aurac.engine.running import (
    Budgets,
    Header,
    finite_logits,
    packed_model,
    plainly_greedy,
    run_pass,
    score_logits,
    sizes_of,
    sparing,
)
from aurac.engine.tokens import Ids, Prompt, Tokens, decodes_greedily, most_new_tokens
from aurac.errors import CellError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class Scored(tuple[float, bool]):  # noqa: SLOT001 - a tuple's own would have no place
    """A log-likelihood and whether it is of greedy decoding, as lm-eval has them, and the tokens.

    Attributes:
        hits: For each of the m tokens of the continuation whether it is the argmax.
    """

    hits: list[bool]

    @classmethod
    def of(cls, logprob: NDArray[np.float64], hit: NDArray[np.float64]) -> Scored:
        """Of the (m,) log-probabilities of tokens, and whether each is the argmax."""
        scored = cls((float(logprob.sum()), bool(hit.all())))
        scored.hits = hit.astype(bool).tolist()
        return scored


class EngineLM(HFLM):
    """Answers lm-eval's requests with a model as it is now; when it changes, call `forget`.

    Where memory does not suffice, less is computed at once, until the model has changed.

    Args:
        model: A transformers model, possibly with PEFT layers in it.
        tokenizer: Its tokenizer.
        batch_size: Most sequences decoded at once; None for 256, or as many as memory takes. What
            ``HFLM`` answers it answers with this batch size, or 1 (on accelerators 16).
        max_length: Longest input in tokens; None asks the model's configuration.

    Attributes:
        progress: Called with the number of requests newly answered.
        unfinished: For each text of the last `generate_until`, whether the token limit ended it.
            Texts that ``HFLM`` wrote are judged by their length in tokens, which may miss some.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        budgets = Budgets.of(model, batch_size)
        logger = logging.getLogger(HFLM.__module__)
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns of every model that is loaded already
        super().__init__(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),  # HFLM gives it a padding token
            batch_size=budgets.rows,
            max_length=max_length,
            softmax_dtype="float32",
            logits_cache=False,  # it puts unequal splits of a text in wrong places
        )
        logger.setLevel(level)
        self.tokens = Tokens(tokenizer, self.max_length, self.prefix_token_id)
        self.budgets, self._whole = budgets, replace(budgets)
        self.progress: Callable[[int], None] = lambda _count: None
        self.unfinished: list[bool] = []
        self._header = Header()

    def prepare(self, requests: Sequence[Any]) -> None:
        """Tokenise all requests of a task, for every state of the model.

        The beginning that all of them share is then computed once for a state of the model. Without
        this call each later one finds out what its own requests share.
        """
        if self.backend == "causal":
            self.tokens.add_pairs([r.args for r in requests if r.request_type == "loglikelihood"])
            written = [r.args for r in requests if r.request_type == "generate_until"]
            self.tokens.add_prompts([args for args in written if decodes_greedily(args[1])])

    def forget(self) -> None:
        """Drop the keys and values that are kept: the model has changed."""
        self._header = Header()
        self.budgets.grow(self._whole)  # memory may not be short any more

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of each continuation; log-softmax is in float32.

        Those of packed passes are `Scored`.

        Raises:
            TaskError: A request that does not fit the model's length.
            CellError: A log-likelihood is no finite number.
        """
        known: dict[int, tuple[float, bool]] = {}
        with torch.inference_mode():
            packed: list[int] = []
            if self.backend == "causal":
                packed = self._packed(self.tokens.lengths([r.args for r in requests]))
            while left := [i for i in packed if i not in known]:
                answers = self._score([requests[i] for i in left])
                known.update((left[place], answer) for place, answer in answers)
            if rest := [i for i in range(len(requests)) if i not in known]:
                others = self._ask(super().loglikelihood, [requests[i] for i in rest])
                known.update(zip(rest, others, strict=True))
        return _finite(requests, [known[i] for i in range(len(requests))])

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """The log-likelihood of each text, from ``HFLM``."""
        with torch.inference_mode():
            return _finite(requests, self._ask(super().loglikelihood_rolling, requests))

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The text that continues each context, without its stop string.

        Samples and decoding that is not greedy come from ``HFLM``.
        """
        greedy = [i for i, request in enumerate(requests) if decodes_greedily(request.args[1])]
        texts: dict[int, tuple[str, bool]] = {}
        with torch.inference_mode():
            if greedy and self.backend == "causal" and plainly_greedy(self.model):
                prompts, header = self.tokens.prompts([requests[i].args for i in greedy])
                packed = self._packed([len(p.tokens) + p.max_new_tokens for p in prompts])
                written = self._write([prompts[i] for i in packed], header)
                texts.update((greedy[i], text) for i, text in zip(packed, written, strict=True))
            if rest := [i for i in range(len(requests)) if i not in texts]:
                with finite_logits(self.model):
                    answers = self._ask(super().generate_until, [requests[i] for i in rest])
                for i, text in zip(rest, answers, strict=True):
                    limit = most_new_tokens(requests[i].args[1])
                    tokens = self.tokenizer(text, add_special_tokens=False).input_ids
                    texts[i] = text, len(tokens) >= limit
        self.unfinished = [texts[i][1] for i in range(len(requests))]
        return [texts[i][0] for i in range(len(requests))]

    def _packed(self, lengths: Sequence[int]) -> list[int]:
        """The places of those inputs to which packed passes give the model's own answers."""
        longest = self._repeated(lambda: probe(self.model)).longest
        return [place for place, length in enumerate(lengths) if length <= longest]

    def _score(self, requests: list[Any]) -> list[tuple[int, Scored]]:
        """(place, answer) of each request, or of some, where memory does not suffice for all."""
        layout, ids = self.tokens.pairs([request.args for request in requests])
        sizes, header, passes = sizes_of(self.model), self._header_of(ids), 0
        plan = layout.plan(self.budgets.tokens, len(header), sizes)
        finished = np.bincount(plan.last, minlength=len(plan.steps)).tolist()
        scored: list[Tensor] = []
        with sparing(self.budgets), packed_model(self.model):
            header.compute(self.model, plan.cached)
            for step in plan.steps:
                pairs = step.pair_row, layout.pair_token[step.pair]
                logits, (row, token) = run_pass(self.model, step, header.cache, *pairs)
                if len(step.pair):
                    scored.append(torch.stack(score_logits(logits, row, token, sizes.rows)))
                self.progress(finished[passes])
                passes += 1
        if not scored:
            return []
        values = np.empty((2, len(layout.pair_node)))
        order = np.concatenate([step.pair for step in plan.steps[:passes]])
        values[:, order] = self._repeated(lambda: torch.cat(scored, dim=1).cpu().numpy())
        (logprob, hit), pairs_of = values, layout.request_pairs
        return [
            (place, Scored.of(logprob[pairs_of[place]], hit[pairs_of[place]]))
            for place in np.flatnonzero(plan.last < passes).tolist()
        ]

    def _write(self, prompts: Sequence[Prompt], ids: Ids) -> list[tuple[str, bool]]:
        repeats = Counter(prompts)
        distinct = list(repeats)
        decoder = Decoder(
            self.model,
            self.tokenizer,
            distinct,
            self._header_of(ids),
            self.budgets,
            lambda number: self.progress(repeats[distinct[number]]),
        )
        text_of = {}
        for prompt, (tokens, unfinished) in zip(distinct, decoder.run(), strict=True):
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            for stop in filter(None, prompt.until):  # one after another, as lm-eval does
                text = text.split(stop, maxsplit=1)[0]
            text_of[prompt] = text, unfinished
        return [text_of[prompt] for prompt in prompts]

    def _header_of(self, ids: Ids) -> Header:
        if self._header.tokens != ids:
            self._header = Header(ids)
        return self._header

    def _repeated(self, answer: Callable[[], _Answer]) -> _Answer:
        """The result of a function that is called again while memory does not suffice."""
        while True:
            with sparing(self.budgets):
                return answer()

    def _ask(self, ask: Callable[..., list[_Answer]], requests: list[Any]) -> list[_Answer]:
        """The answers of ``HFLM``, by one of its methods."""
        log.info("lm-eval's own model answers %d requests", len(requests))

        def answer() -> list[_Answer]:
            self.batch_size_per_gpu = self.budgets.rows
            return ask(requests, disable_tqdm=True)

        answers = self._repeated(answer)
        self.progress(len(requests))
        return answers


def scoring_requests(pairs: Sequence[tuple[str, str]]) -> list[Instance]:
    """(context, continuation) texts as requests for a log-likelihood each."""
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def _finite(requests: Sequence[Any], answers: list[Any]) -> list[Any]:
    """The answers, if all are finite numbers.

    NaN compares false with everything, so an argmax would quietly call an example wrong.
    """
    for request, answer in zip(requests, answers, strict=True):
        value = answer[0] if isinstance(answer, tuple) else answer
        if not math.isfinite(value):
            raise CellError(
                f"the model gave doc_id {request.doc_id} of task {request.task_name!r} the "
                f"log-likelihood {value}"
            )
    return answers
