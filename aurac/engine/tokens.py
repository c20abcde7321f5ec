"""Between text and tokens, by the rules of lm-eval's ``HFLM``: pairs, prompts, stop strings.

A layout of a task's requests depends on the tokenizer and the length limit, never on the weights:
it is built once and serves every rank and adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aurac.engine import UnsupportedRequestError
from aurac.engine.passes import ForwardPass, IntArray, Planner, PrefixTree, ScoringPlan
from aurac.errors import TaskError

DEFAULT_MAX_LENGTH = 2048
_LENGTH_ATTRIBUTES = ("n_positions", "max_position_embeddings", "n_ctx")
_NO_LIMIT = 10**18  # tokenizers write about 1e30 for "unset"


def resolve_max_length(model: Any, tokenizer: Any, wanted: int | None = None) -> int:
    """The longest input in tokens: the caller's, the model's, the tokenizer's, or 2048."""
    if wanted is not None:
        return wanted
    config = model.config
    config = getattr(config, "text_config", None) or config
    for name in _LENGTH_ATTRIBUTES:
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < _NO_LIMIT else DEFAULT_MAX_LENGTH


def prefix_token_id(tokenizer: Any) -> int:
    """The token that stands for an empty context: BOS, else EOS."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise TaskError("the tokenizer has neither a BOS nor an EOS token", fix="set one of them")


def _encode_all(tokenizer: Any, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: the warning about a model's length would come before the truncation.
    encoded = tokenizer(list(texts), verbose=False, add_special_tokens=special)
    return list(encoded["input_ids"])


def encode_texts(tokenizer: Any, texts: Iterable[str], prefix: str | None) -> dict[str, list[int]]:
    """Tokens of each distinct text, without special ones where it begins with ``prefix`` (BOS)."""
    distinct = list(dict.fromkeys(texts))
    begun = [t for t in distinct if prefix is not None and t.startswith(prefix)]
    plain = [t for t in distinct if prefix is None or not t.startswith(prefix)]
    encoded = dict(zip(plain, _encode_all(tokenizer, plain), strict=True))
    encoded.update(zip(begun, _encode_all(tokenizer, begun, special=False), strict=True))
    return encoded


def encode_pairs(
    tokenizer: Any, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """(context tokens, continuation tokens) of each pair.

    Trailing white space of a context moves to its continuation; both are then tokenised as one text
    and split at the context's token count, whatever the seam between them does. An empty context is
    the prefix token. A context of nothing but white space and a continuation without tokens are
    refused.
    """
    prefix = prefix_token_id(tokenizer)
    moved = [(c.rstrip(), c[len(c.rstrip()) :] + continuation) for c, continuation in pairs]
    bare = list(dict.fromkeys(c for (raw, _), (_, c) in zip(pairs, moved, strict=True) if not raw))
    bare_tokens = dict(zip(bare, _encode_all(tokenizer, bare, special=False), strict=True))
    texts = [t for context, rest in moved if context for t in (context, context + rest)]
    whole = encode_texts(tokenizer, texts, tokenizer.decode(prefix))
    encoded = []
    for (raw, _), (context, rest) in zip(pairs, moved, strict=True):
        if raw and not context:
            raise TaskError(f"the context {raw!r} is nothing but white space")
        if raw:
            ctx = whole[context]
            cont = whole[context + rest][len(ctx) :]
        else:
            cont = bare_tokens[rest]
            ctx, cont = (cont[:1], cont[1:]) if cont[:1] == [prefix] else ([prefix], cont)
        if not cont or not ctx:
            raise TaskError(
                f"the continuation {rest[:60]!r} has no token of its own after its context",
                fix="check the task's choices for an empty one",
            )
        encoded.append((list(ctx), list(cont)))
    return encoded


def model_input(
    context: Sequence[int], continuation: Sequence[int], max_length: int
) -> tuple[int, ...]:
    """What a model reads to score a continuation: all but the last token, cut on the left."""
    if len(continuation) > max_length:
        raise TaskError(
            f"a continuation of {len(continuation)} tokens",
            expected=f"at most the model's length, {max_length}",
        )
    return tuple([*context, *continuation][-(max_length + 1) :][:-1])


@dataclass(frozen=True, eq=False)
class ScoringLayout:
    """Log-likelihood requests as a prefix tree with scored (node, next token) pairs."""

    tree: PrefixTree  # the distinct model inputs
    pair_node: IntArray  # (n_pairs,) ascending node whose logits are read
    pair_token: IntArray  # (n_pairs,) the token that is scored there
    request_pairs: tuple[IntArray, ...]  # for each request, the indices of its pairs, in order
    max_length: int  # longest input in tokens
    # Passes over this layout, by token budget and length of the header
    _plans: dict[tuple[int, int], ScoringPlan] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls, tokenizer: Any, pairs: Sequence[tuple[str, str]], max_length: int
    ) -> ScoringLayout:
        """Tokenise (context, continuation) pairs and lay them out."""
        return cls.from_tokens(encode_pairs(tokenizer, pairs), max_length)

    @classmethod
    def from_tokens(
        cls, encoded: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int
    ) -> ScoringLayout:
        """Lay out tokenised pairs; inputs keep their last ``max_length`` tokens."""
        inputs = [model_input(*pair, max_length) for pair in encoded]
        tree, row_of = PrefixTree.build(inputs)
        index_of: dict[tuple[int, int], int] = {}
        requests = []
        for row, (_, continuation) in zip(row_of.tolist(), encoded, strict=True):
            start = len(tree.rows[row]) - len(continuation)
            keys = [(tree.node(row, start + j), token) for j, token in enumerate(continuation)]
            requests.append([index_of.setdefault(key, len(index_of)) for key in keys])
        order = sorted(index_of, key=lambda key: key[0])
        place = np.empty(len(index_of), dtype=np.int64)
        place[[index_of[key] for key in order]] = np.arange(len(index_of))
        table = np.asarray(order, dtype=np.int64).reshape(-1, 2)
        return cls(
            tree=tree,
            pair_node=table[:, 0].copy(),
            pair_token=table[:, 1].copy(),
            request_pairs=tuple(place[np.asarray(r, dtype=np.int64)] for r in requests),
            max_length=max_length,
        )

    def __len__(self) -> int:
        return len(self.request_pairs)

    def finished_by(self, parts: Sequence[IntArray]) -> tuple[int, ...]:
        """How many requests have the last of their pairs in each part, in order."""
        part_of = np.zeros(len(self.pair_node), dtype=np.int64)
        for number, pairs in enumerate(parts):
            part_of[pairs] = number
        last = [int(part_of[index].max()) for index in self.request_pairs]
        return tuple(np.bincount(last, minlength=len(parts)).tolist())

    @property
    def longest(self) -> int:
        """Tokens of the longest input."""
        return max(len(row) for row in self.tree.rows)

    def plan(self, budget: int, header: int = 0) -> ScoringPlan:
        """The passes that score it, of at most ``budget`` tokens; kept for the next rank.

        The first ``header`` tokens, with which every input begins and none of which is scored, are
        in the cache before the first pass.
        """
        if (budget, header) not in self._plans:
            planner = Planner(self.tree, budget, cached=header)
            planner.visit(0, len(self.tree.rows), header)
            steps = tuple(self._with_pairs(planner.steps))
            finished = self.finished_by([step.pair for step in steps])
            self._plans[budget, header] = ScoringPlan(steps, planner.cached, finished)
        return self._plans[budget, header]

    def _with_pairs(self, steps: Sequence[tuple[ForwardPass, IntArray]]) -> Iterator[ForwardPass]:
        """Give every scored pair to the first pass that computes its node."""
        bounds = np.searchsorted(self.pair_node, np.arange(self.tree.n_nodes + 1))
        counts = np.diff(bounds)
        done = np.zeros(self.tree.n_nodes, dtype=bool)
        for step, nodes in steps:
            select = np.flatnonzero((counts[nodes] > 0) & ~done[nodes])
            _, once = np.unique(nodes[select], return_index=True)
            select = select[np.sort(once)]
            done[nodes[select]] = True
            pair = [np.arange(bounds[n], bounds[n + 1]) for n in nodes[select].tolist()]
            rows = np.repeat(np.arange(len(select)), counts[nodes[select]])
            pairs = np.concatenate([np.zeros(0, dtype=np.int64), *pair])
            yield replace(step, select=select, pair=pairs, pair_row=rows)


DEFAULT_NEW_TOKENS = 256
_SIMILAR_LENGTH = 64  # prompts that differ by less may be taken in any order
_LIMIT_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLED = ("temperature", "top_k", "top_p", "min_p")
_SILENT = frozenset({"until", "do_sample", "temperature", "top_p", "top_k", *_LIMIT_NAMES})


def most_new_tokens(kwargs: Mapping[str, Any]) -> int:
    """The token limit in a task's ``generation_kwargs``, by whichever name it goes there."""
    limits = [kwargs[name] for name in _LIMIT_NAMES if kwargs.get(name) is not None]
    return int(limits[0]) if limits else DEFAULT_NEW_TOKENS


def samples_text(kwargs: Mapping[str, Any]) -> bool:
    """Whether a task's ``generation_kwargs`` ask for sampling, by the rules of lm-eval 0.4.13."""
    sample = kwargs.get("do_sample")
    return bool(sample or (sample is None and float(kwargs.get("temperature") or 0.0) > 0.0))


@dataclass(frozen=True)
class Sampling:
    """How one text is sampled."""

    seed: int  # of its own stream of random numbers, so that it depends on no other text
    # Name and value of what is given of temperature, top_k, top_p and min_p; the rest is as the
    # model's own generation has it
    settings: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class GenerationRequest:
    """Continue a context, greedily or by sampling."""

    context: str  # the prompt
    # Stop strings; the text ends before the first of them. EOS is always added.
    until: tuple[str, ...] = ()
    max_new_tokens: int = DEFAULT_NEW_TOKENS  # most tokens to generate
    sampling: Sampling | None = None  # ``None`` for greedy decoding

    @classmethod
    def from_kwargs(
        cls, context: str, kwargs: Mapping[str, Any], seed: int | None = None
    ) -> GenerationRequest:
        """From a task's ``generation_kwargs``, by the rules of lm-eval 0.4.13.

        Sampling without a ``seed`` and other kinds of decoding are an UnsupportedRequestError.
        """
        sampling = None
        if samples_text(kwargs):
            if seed is None:
                raise UnsupportedRequestError("a request that samples", expected="a seed")
            values = [(name, kwargs.get(name)) for name in _SAMPLED]
            sampling = Sampling(seed, tuple((n, float(v)) for n, v in values if v is not None))
        if most_new_tokens(kwargs) < 1:
            raise UnsupportedRequestError("max_new_tokens must be at least 1")
        unknown = sorted(set(kwargs) - _SILENT - set(_SAMPLED if sampling else ()))
        if unknown:
            raise UnsupportedRequestError(
                f"generation settings {', '.join(unknown)}", expected="until and a token limit"
            )
        until = kwargs.get("until") or []
        stops = (until,) if isinstance(until, str) else tuple(until)
        return cls(context, stops, most_new_tokens(kwargs), sampling)


@dataclass(frozen=True)
class Prompt:
    """A distinct request, tokenised: what the decoders work on."""

    tokens: tuple[int, ...]
    until: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling | None = None

    @property
    def order(self) -> tuple[int, tuple[int, ...]]:
        """Longest first, so that slots are made wide once; similar ones as they begin."""
        return -(len(self.tokens) // _SIMILAR_LENGTH), self.tokens


@dataclass(frozen=True, eq=False)
class GenerationLayout:
    """Generation requests tokenised once, duplicates merged."""

    # Distinct requests, left-truncated to leave room for the new tokens
    prompts: tuple[Prompt, ...]
    index: tuple[int, ...]  # for each request, its prompt

    @classmethod
    def build(
        cls, tokenizer: Any, requests: Sequence[GenerationRequest], max_length: int
    ) -> GenerationLayout:
        """Tokenise requests and lay them out: see `tokenise`."""
        return cls.of(tokenise(tokenizer, requests, max_length))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return max(len(prompt.tokens) + prompt.max_new_tokens for prompt in self.prompts)

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> GenerationLayout:
        """One prompt for each request, repeats allowed."""
        index_of: dict[Prompt, int] = {}
        index = tuple(index_of.setdefault(prompt, len(index_of)) for prompt in prompts)
        return cls(tuple(index_of), index)

    def __len__(self) -> int:
        return len(self.index)


def tokenise(
    tokenizer: Any, requests: Sequence[GenerationRequest], max_length: int
) -> list[Prompt]:
    """A prompt for each request, cut on the left so that its new tokens fit."""
    eos = tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
    tokens = encode_texts(tokenizer, (r.context for r in requests), tokenizer.bos_token)
    prompts = []
    for request in requests:
        most = max_length - request.max_new_tokens
        if most < 1:
            raise TaskError(
                f"{request.max_new_tokens} new tokens with a model length of {max_length}",
                expected="room for a prompt",
                fix="raise the length or lower the task's limit",
            )
        context = tuple(tokens[request.context][-most:])
        if not context:
            raise TaskError("a prompt without tokens", expected="a non-empty context")
        until = request.until if eos in request.until else (*request.until, eos)
        prompts.append(Prompt(context, until, request.max_new_tokens, request.sampling))
    return prompts


_EXTRA = 2  # HFLM looks back two tokens further than the stop string's own tokens
_BROKEN = "�"  # an incomplete UTF-8 sequence decodes to this


class StopTable:
    """The stop strings of a request.

    ``stopped`` is ``HFLM``'s own test: a stop string lies in the decoded last tokens, as many as
    the stop string itself has and two more. ``may_stop`` tells from the newest token's text alone
    whether one can end there, so that nearly every step costs one look-up and no detokenisation.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [
            (stop, len(tokenizer.encode(stop, add_special_tokens=False)) + _EXTRA) for stop in until
        ]
        self._may: dict[int, bool] = {}

    def may_stop(self, token: int) -> bool:
        """False only if no stop string can end in this token."""
        known = self._may.get(token)
        if known is None:
            known = self._may[token] = self._could_end(self._tokenizer.decode([token]))
        return known

    def _could_end(self, text: str) -> bool:
        if not text or _BROKEN in text:
            return True
        # Decoded alone, a word-initial token loses its space in some tokenizers.
        forms = (text, " " + text, text.lstrip())
        return any(
            stop in form or any(form.startswith(stop[k:]) for k in range(len(stop)))
            for stop, _ in self._stops
            for form in forms
        )

    def stopped(self, generated: Sequence[int]) -> bool:
        """Whether a stop string lies in the tail of the generated tokens."""
        return any(
            stop in self._tokenizer.decode(list(generated[-window:]))
            for stop, window in self._stops
        )
