"""A task's requests laid out once: tokens, distinct prefixes, scored positions.

The distinct inputs of a task form a prefix tree. Sorted lexicographically, each input adds the
tokens after its longest common prefix with the one before it, so the sorted list *is* the tree in
depth-first order and needs no pointers. A layout depends on the tokenizer and the length limit,
never on the weights: it is built once and serves every rank and adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aurac.engine.tokens import encode_pairs
from aurac.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

IntArray = NDArray[np.int64]


def common_prefix(a: IntArray, b: IntArray) -> int:
    """Number of leading entries on which two vectors agree."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


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


def shared_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """Number of leading tokens on which all sequences agree."""
    first, last = min(sequences), max(sequences)
    return common_prefix(np.asarray(first), np.asarray(last))


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """Distinct token sequences, sorted, with what each adds to the one before."""

    rows: tuple[IntArray, ...]  # distinct inputs in lexicographic order
    # (n_rows,) length of the prefix that row i shares with row i-1; 0 for the first
    shared: IntArray
    # (n_rows + 1,) row i's own nodes are ``offsets[i]:offsets[i + 1]``, for the positions
    # ``shared[i]:len(rows[i])``
    offsets: IntArray

    @classmethod
    def build(cls, sequences: Sequence[tuple[int, ...]]) -> tuple[PrefixTree, IntArray]:
        """The tree of the sequences, and the row index of each of them."""
        distinct = sorted(set(sequences))
        index = {sequence: i for i, sequence in enumerate(distinct)}
        rows = tuple(np.asarray(sequence, dtype=np.int64) for sequence in distinct)
        shared = np.zeros(len(rows), dtype=np.int64)
        for i in range(1, len(rows)):
            shared[i] = common_prefix(rows[i - 1], rows[i])
        new = np.asarray([len(r) for r in rows], dtype=np.int64) - shared
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(new)])
        return cls(rows, shared, offsets), np.asarray([index[s] for s in sequences], dtype=np.int64)

    @property
    def n_nodes(self) -> int:
        """Number of distinct prefixes: the tokens that must be computed, each once."""
        return int(self.offsets[-1])

    def node(self, row: int, position: int) -> int:
        """The node at a position of a row, whichever row owns it."""
        while position < self.shared[row]:
            row -= 1
        return int(self.offsets[row] + position - self.shared[row])


@dataclass(frozen=True, eq=False)
class ScoringLayout:
    """Log-likelihood requests as a prefix tree with scored (node, next token) pairs."""

    tree: PrefixTree  # the distinct model inputs
    pair_node: IntArray  # (n_pairs,) ascending node whose logits are read
    pair_token: IntArray  # (n_pairs,) the token that is scored there
    request_pairs: tuple[IntArray, ...]  # for each request, the indices of its pairs, in order
    max_length: int  # longest input in tokens
    # Batches derived from this layout, by the budgets they were made for
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)

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
