"""Between text and tokens, by the rules of lm-eval's ``HFLM``: pairs, prompts, stop strings.

What is made here depends on the tokenizer and the length limit, never on the weights: it is made
once and serves every rank and adapter.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aurac.engine.passes import (
    CPU,
    SAVED_TOKENS,
    ForwardPass,
    IntArray,
    Planner,
    PrefixTree,
    ScoringPlan,
    Sizes,
    shared_prefix,
)
from aurac.errors import TaskError

Pair = tuple[list[int], list[int]]
Ids = tuple[int, ...]


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


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]], prefix: int) -> list[Pair]:
    """(context tokens, continuation tokens) of each pair.

    Trailing white space of a context moves to its continuation; both are then tokenised as one text
    and split at the context's token count, whatever the seam between them does. An empty context is
    the prefix token. A context of nothing but white space and a continuation without tokens are
    refused.
    """
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
            raise TaskError(f"the continuation {rest[:60]!r} has no token of its own")
        encoded.append((list(ctx), list(cont)))
    return encoded


def model_input(
    context: Sequence[int], continuation: Sequence[int], max_length: int
) -> tuple[int, ...]:
    """What a model reads to score a continuation: all but the last token, cut on the left."""
    if len(continuation) > max_length:
        raise TaskError(
            f"a continuation of {len(continuation)} tokens is longer than the model's {max_length}"
        )
    return tuple([*context, *continuation][-(max_length + 1) :][:-1])


@dataclass(frozen=True, eq=False)
class ScoringLayout:
    """Log-likelihood requests as a prefix tree with scored (node, next token) pairs."""

    tree: PrefixTree  # the distinct model inputs
    pair_node: IntArray  # (n_pairs,) ascending node whose logits are read
    pair_token: IntArray  # (n_pairs,) the token that is scored there
    request_pairs: tuple[IntArray, ...]  # for each request, the indices of its pairs, in order
    # Passes over this layout, by token budget, length of the header, and sizes
    _plans: dict[tuple[int, int, Sizes], ScoringPlan] = field(default_factory=dict, repr=False)

    @classmethod
    def build(cls, encoded: Sequence[Pair], max_length: int) -> ScoringLayout:
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
        )

    def plan(self, budget: int, header: int = 0, sizes: Sizes = CPU) -> ScoringPlan:
        """The passes that score it, of at most ``budget`` tokens; kept for the next rank.

        The first ``header`` tokens, with which every input begins and none of which is scored, are
        in the cache before the first pass.
        """
        key = budget, header, sizes
        if key not in self._plans:
            planner = Planner(self.tree, budget, cached=header, sizes=sizes)
            planner.visit(0, len(self.tree.rows), header)
            steps = tuple(self._with_pairs(planner.steps))
            pass_of = np.zeros(len(self.pair_node), dtype=np.int64)
            for number, step in enumerate(steps):
                pass_of[step.pair] = number
            last = np.asarray([pass_of[index].max() for index in self.request_pairs])
            self._plans[key] = ScoringPlan(steps, planner.cached, last)
        return self._plans[key]

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
_LIMIT_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_GREEDY = frozenset({"until", "do_sample", "temperature", "top_p", "top_k", *_LIMIT_NAMES})


def most_new_tokens(kwargs: Mapping[str, Any]) -> int:
    """The token limit in a task's ``generation_kwargs``, by whichever name it goes there."""
    limits = [kwargs[name] for name in _LIMIT_NAMES if kwargs.get(name) is not None]
    return int(limits[0]) if limits else DEFAULT_NEW_TOKENS


def samples_text(kwargs: Mapping[str, Any]) -> bool:
    """Whether a task's ``generation_kwargs`` ask for sampling, by the rules of lm-eval 0.4.13."""
    sample = kwargs.get("do_sample")
    return bool(sample or (sample is None and float(kwargs.get("temperature") or 0.0) > 0.0))


def decodes_greedily(kwargs: Mapping[str, Any]) -> bool:
    """Whether ``generation_kwargs`` ask for plain greedy decoding, without penalties or beams."""
    return not samples_text(kwargs) and set(kwargs) <= _GREEDY and most_new_tokens(kwargs) > 0


@dataclass(frozen=True)
class Prompt:
    """A text to continue greedily, in tokens."""

    tokens: tuple[int, ...]
    until: tuple[str, ...]  # the text ends before the first of these; EOS is among them
    max_new_tokens: int


def encode_prompts(
    tokenizer: Any, requests: Sequence[tuple[str, Mapping[str, Any]]], max_length: int
) -> list[Prompt]:
    """A prompt for each (context, ``generation_kwargs``), cut on the left if it leaves no room."""
    eos = tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
    tokens = encode_texts(tokenizer, (context for context, _ in requests), tokenizer.bos_token)
    prompts = []
    for context, kwargs in requests:
        new = most_new_tokens(kwargs)
        if new >= max_length:
            raise TaskError(f"{new} new tokens leave no room for a prompt of {max_length} in all")
        kept = tuple(tokens[context][new - max_length :])
        if not kept:
            raise TaskError("a prompt has no tokens")
        until = kwargs.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        prompts.append(Prompt(kept, stops if eos in stops else (*stops, eos), new))
    return prompts


_SHORTEST = 16  # tokens; a shorter header is computed with each input


def header_tokens(inputs: Sequence[tuple[int, ...]], most: int) -> tuple[int, ...]:
    """The beginning that all inputs (at least one) share; empty if it is not worth a pass.

    It has at most ``most`` tokens: the token after it must be computed with each input.
    """
    length = min(shared_prefix(inputs), most)
    worth = length >= _SHORTEST and length * (len(inputs) - 1) >= SAVED_TOKENS
    return inputs[0][:length] if worth else ()


class Tokens:
    """Requests in tokens: tokenised and laid out once for every state of a model.

    With each request it keeps its header: the beginning of all requests that were added together.
    """

    def __init__(self, tokenizer: Any, max_length: int, prefix: int) -> None:
        self._tokenizer, self._max_length, self._prefix = tokenizer, max_length, prefix
        self._pairs: dict[tuple[str, str], tuple[Pair, Ids]] = {}
        self._prompts: dict[tuple[str, str], tuple[Prompt, Ids]] = {}
        self._layouts: dict[tuple[tuple[str, str], ...], tuple[ScoringLayout, Ids]] = {}

    def add_pairs(self, requests: Sequence[tuple[str, str]]) -> None:
        """Tokenise (context, continuation) texts that are not known yet."""
        new = [pair for pair in dict.fromkeys(requests) if pair not in self._pairs]
        if new:
            pairs = encode_pairs(self._tokenizer, new, self._prefix)
            inputs = [model_input(*pair, self._max_length) for pair in pairs]
            scored = min(len(i) - len(pair[1]) for i, pair in zip(inputs, pairs, strict=True))
            header = header_tokens(inputs, scored)
            self._pairs.update((n, (pair, header)) for n, pair in zip(new, pairs, strict=True))

    def lengths(self, requests: Sequence[tuple[str, str]]) -> list[int]:
        """How many tokens the model reads to score each of the (context, continuation) texts."""
        self.add_pairs(requests)
        known = (self._pairs[request][0] for request in requests)
        return [min(len(ctx) + len(cont) - 1, self._max_length) for ctx, cont in known]

    def pairs(self, requests: Sequence[tuple[str, str]]) -> tuple[ScoringLayout, Ids]:
        """(context, continuation) texts laid out for scoring, and the header of all."""
        key = tuple(requests)
        if key not in self._layouts:
            self.add_pairs(key)
            known = [self._pairs[pair] for pair in key]
            layout = ScoringLayout.build([pair for pair, _ in known], self._max_length)
            self._layouts[key] = layout, _common({header for _, header in known})
        return self._layouts[key]

    def add_prompts(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Tokenise (context, ``generation_kwargs``) that are not known yet."""
        asked = {_key(*request): request for request in requests}
        new = [key for key in asked if key not in self._prompts]
        if new:
            prompts = encode_prompts(self._tokenizer, [asked[n] for n in new], self._max_length)
            inputs = [prompt.tokens for prompt in prompts]
            header = header_tokens(inputs, min(map(len, inputs)) - 1)
            self._prompts.update((n, (p, header)) for n, p in zip(new, prompts, strict=True))

    def prompts(self, requests: Sequence[tuple[str, Any]]) -> tuple[list[Prompt], Ids]:
        """The prompts of (context, ``generation_kwargs``), and the header of all."""
        self.add_prompts(requests)
        known = [self._prompts[_key(*request)] for request in requests]
        return [prompt for prompt, _ in known], _common({header for _, header in known})


def _key(context: str, kwargs: Mapping[str, Any]) -> tuple[str, str]:
    return context, repr(sorted(kwargs.items()))


def _common(headers: set[Ids]) -> Ids:
    """The beginning that headers of several tasks share."""
    first = min(headers, key=len)
    return first[: shared_prefix(list(headers))]


_EXTRA = 2  # HFLM looks back two tokens further than the stop string's own tokens
_BROKEN = "�"  # an incomplete UTF-8 sequence decodes to this


class StopTable:
    """The stop strings of a request, by ``HFLM``'s own test.

    A text stops where a stop string lies in its decoded last tokens, as many as the stop string
    itself has and two more. Only where one of these tokens can end a stop string are they decoded:
    it need not be the newest, since bytes that are no UTF-8 hide a stop string while they are among
    the last tokens.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [
            (stop, len(tokenizer.encode(stop, add_special_tokens=False)) + _EXTRA) for stop in until
        ]
        self._may_end = functools.cache(self._could_end)

    def stopped(self, generated: Sequence[int]) -> bool:
        """Whether the text stops with the newest of its tokens."""
        for stop, window in self._stops:
            tail = generated[-window:]
            if any(map(self._may_end, tail)) and stop in self._tokenizer.decode(list(tail)):
                return True
        return False

    def _could_end(self, token: int) -> bool:
        """Whether a stop string can end in this token; False only if its text rules that out."""
        text = self._tokenizer.decode([token])
        if not text or _BROKEN in text:
            return True
        # Decoded alone, a word-initial token loses its space in some tokenizers.
        forms = (text, " " + text, text.lstrip())
        return any(
            stop in form or any(form.startswith(stop[k:]) for k in range(len(stop)))
            for stop, _ in self._stops
            for form in forms
        )
