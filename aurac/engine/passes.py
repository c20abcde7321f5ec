"""Distinct prefixes, and batches of them: which tokens run in which pass, and who sees whom.

The distinct inputs of a task form a prefix tree. Sorted lexicographically, each input adds the
tokens after its longest common prefix with the one before it, so the sorted list *is* the tree in
depth-first order and needs no pointers.

A forward pass carries *subtrees*: whole subtrees below a prefix whose keys and values are already
cached. Its tokens stand in one row without padding, so the linear layers compute every distinct
token once. Only attention pads, and only among subtrees of similar length.

Within a subtree the tokens are in depth-first order, so token j is an ancestor of token i exactly
when ``j <= i < end[j]``, with ``end[j]`` where the subtree of j ends. That is the tree mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

BRANCH_TOKENS = 256  # a subtree whose branches are smaller than this is one subtree
SAVED_TOKENS = 256  # sharing less than this is not worth a pass of its own


@dataclass(frozen=True)
class Sizes:
    """How work is cut for a kind of device; no answer depends on it beyond rounding.

    A CPU computes what is padded as slowly as the rest; an accelerator waits for the next kernel.
    """

    tokens: int  # most in one pass; a longer prompt is one pass
    similar: float  # subtrees in one attention group are at least this fraction of the longest
    align: int  # of lengths in attention
    queries: int  # most queries of each subtree in a block of attention
    scores: int  # most scores of a head in a block of attention
    width: int  # steps in which decoding slots are widened and read
    rows: int  # rows of logits that are widened to float32 at once


CPU = Sizes(1024, similar=0.8, align=1, queries=128, scores=1 << 40, width=32, rows=32)
ACCELERATOR = Sizes(
    8192, similar=0.5, align=8, queries=1 << 20, scores=1 << 24, width=128, rows=1024
)


def common_prefix(a: IntArray, b: IntArray) -> int:
    """Number of leading entries on which two vectors agree."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


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
class Subtree:
    """A subtree below a cached prefix, in depth-first order."""

    tokens: IntArray  # (L,) token ids
    positions: IntArray  # (L,) positions in the full input
    end: IntArray  # (L,) end of each token's subtree, as an index into the subtree
    nodes: IntArray  # (L,) node numbers of the tree
    first: int  # its first row in the tree
    last: IntArray  # place of the last token of each of its rows

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Group:
    """Subtrees of similar length whose attention is computed together."""

    start: int  # their first row among the padded rows of the pass
    end: IntArray  # (G, L) subtree ends; padding is visible to later padding only


def _none() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """One forward pass."""

    tokens: IntArray  # (T,) token ids
    positions: IntArray  # (T,) positions
    prefix: int  # how many cached tokens every token of this pass sees
    keep: bool  # whether this pass's keys and values extend the cached prefix
    groups: tuple[Group, ...]  # the subtrees, by attention group
    padded: IntArray  # (N,) tokens of the groups, whose padding repeats a subtree's last one
    row: IntArray  # (T,) places of the tokens in ``padded``
    # (S,) places whose logits are wanted, ascending
    select: IntArray = field(default_factory=_none)
    pair: IntArray = field(default_factory=_none)  # (M,) indices of scored pairs
    pair_row: IntArray = field(default_factory=_none)  # (M,) their rows among ``select``


@dataclass(frozen=True, eq=False)
class ScoringPlan:
    """All passes of a layout, in an order in which cached prefixes nest."""

    steps: tuple[ForwardPass, ...]  # the passes
    cached: int  # longest cached prefix in tokens
    last: IntArray  # for each request, the pass that has its last answer


def make_subtree(tree: PrefixTree, low: int, high: int, depth: int) -> Subtree:
    """The subtree of rows ``low:high`` below their first ``depth`` tokens."""
    starts = np.maximum(tree.shared[low:high], depth)
    starts[0] = depth
    lengths = np.asarray([len(row) for row in tree.rows[low:high]], dtype=np.int64) - starts
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    total = int(offsets[-1])
    end = np.full(total, total, dtype=np.int64)
    path = np.zeros(max(len(r) for r in tree.rows[low:high]), dtype=np.int64)
    nodes, previous = [], depth
    for i, row in enumerate(range(low, high)):
        start, stop = int(starts[i]), len(tree.rows[row])
        end[path[start:previous]] = offsets[i]
        path[start:stop] = np.arange(offsets[i], offsets[i + 1])
        previous = stop
        first = int(tree.shared[row])
        head = [tree.node(row, p) for p in range(start, min(first, stop))]
        new = np.arange(max(start, first), stop) - first + tree.offsets[row]
        nodes.append(np.concatenate([np.asarray(head, dtype=np.int64), new]))
    spans = list(zip(starts.tolist(), lengths.tolist(), strict=True))
    return Subtree(
        tokens=np.concatenate([tree.rows[low + i][s:] for i, (s, _) in enumerate(spans)]),
        positions=np.concatenate([np.arange(s, s + n) for s, n in spans]),
        end=end,
        nodes=np.concatenate(nodes),
        first=low,
        last=offsets[1:] - 1,
    )


def row_paths(subtree: Subtree) -> list[IntArray]:
    """For each row of a subtree the places of its tokens: those whose subtrees its last is in."""
    ends = subtree.end
    return [np.flatnonzero(ends[: place + 1] > place) for place in subtree.last.tolist()]


def chain_subtree(tokens: Sequence[int] | IntArray, start: int) -> Subtree:
    """A single row of tokens from position ``start`` on, without branches or node numbers."""
    n = len(tokens)
    return Subtree(
        tokens=np.asarray(tokens, dtype=np.int64),
        positions=np.arange(start, start + n),
        end=np.full(n, n, dtype=np.int64),
        nodes=np.full(n, -1, dtype=np.int64),
        first=0,
        last=np.asarray([n - 1]),
    )


def group_subtrees(
    subtrees: Sequence[Subtree], sizes: Sizes
) -> tuple[tuple[Group, ...], IntArray, IntArray]:
    """Attention groups of subtrees that stand one after another, longest first.

    Also the tokens of their rows (N,), padded, and the rows (T,) of the tokens.
    """
    groups: list[Group] = []
    padded, row = [], []
    at, start, first = 0, 0, 0
    while first < len(subtrees):
        longest, last = len(subtrees[first]), first
        while last < len(subtrees) and len(subtrees[last]) >= sizes.similar * longest:
            last += 1
        longest = -(-longest // sizes.align) * sizes.align
        end = np.full((last - first, longest), longest, dtype=np.int64)
        groups.append(Group(start, end))
        for own, subtree in zip(end, subtrees[first:last], strict=True):
            n = len(subtree)
            own[:n] = np.where(subtree.end == n, longest, subtree.end)
            padded.append(at + np.minimum(np.arange(longest), n - 1))
            row.append(start + np.arange(n))
            at, start = at + n, start + longest
        first = last
    return tuple(groups), np.concatenate(padded), np.concatenate(row)


def make_pass(
    subtrees: Sequence[Subtree], prefix: int, sizes: Sizes, *, keep: bool = False
) -> ForwardPass:
    """A pass over subtrees, longest first, that reads no logits yet."""
    groups, padded, row = group_subtrees(subtrees, sizes)
    return ForwardPass(
        tokens=np.concatenate([s.tokens for s in subtrees]),
        positions=np.concatenate([s.positions for s in subtrees]),
        prefix=prefix,
        keep=keep,
        groups=groups,
        padded=padded,
        row=row,
    )


def batch_subtrees(subtrees: Sequence[Subtree], budget: int) -> list[list[Subtree]]:
    """Subtrees in batches of at most ``budget`` tokens (or one subtree), longest first."""
    batches: list[list[Subtree]] = []
    left = 0
    for subtree in sorted(subtrees, key=len, reverse=True):
        if not batches or len(subtree) > left:
            batches.append([])
            left = budget
        batches[-1].append(subtree)
        left -= len(subtree)
    return batches


def distinct_tokens(tree: PrefixTree, low: int, high: int, depth: int) -> int:
    """Distinct tokens of rows ``low:high`` below their first ``depth`` tokens."""
    return int(tree.offsets[high] - tree.offsets[low] + tree.shared[low]) - depth


def joined(
    tree: PrefixTree, runs: Sequence[tuple[int, int]], depth: int, most: int
) -> list[tuple[int, int]]:
    """Neighbouring runs of rows joined where they have at most ``most`` tokens below ``depth``.

    A run is one subtree: what its rows share is computed once.
    """
    found = [runs[0]]
    for low, high in runs[1:]:
        first = found[-1][0]
        if distinct_tokens(tree, first, high, depth) <= most:
            found[-1] = (first, high)
        else:
            found.append((low, high))
    return found


@dataclass(eq=False)
class Planner:
    """Walks the tree depth first and emits passes, with the nodes of their tokens."""

    tree: PrefixTree
    budget: int
    cached: int  # longest prefix
    sizes: Sizes
    steps: list[tuple[ForwardPass, IntArray]] = field(default_factory=list, init=False)

    def _emit(self, subtrees: Sequence[Subtree], prefix: int, *, keep: bool = False) -> None:
        step = make_pass(subtrees, prefix, self.sizes, keep=keep)
        self.steps.append((step, np.concatenate([s.nodes for s in subtrees])))

    def visit(self, low: int, high: int, depth: int) -> None:
        """Emit every pass for rows ``low:high``, whose first ``depth`` tokens are cached."""
        tree = self.tree
        branches = min(BRANCH_TOKENS, self.budget)
        pending, subtrees, trunks = [(low, high)], [], []
        while pending:
            first, last = pending.pop()
            inner = tree.shared[first + 1 : last]
            total = distinct_tokens(tree, first, last, depth)
            trunk = int(inner.min()) if len(inner) else len(tree.rows[first])
            if last - first == 1 or total - (trunk - depth) <= branches:
                subtrees.append(make_subtree(tree, first, last, depth))
                continue
            cuts = np.flatnonzero(inner == trunk) + first + 1
            children = list(itertools.pairwise([first, *cuts.tolist(), last]))
            if (trunk - depth) * (len(children) - 1) >= SAVED_TOKENS:
                trunks.append((first, last, trunk))
            else:
                pending.extend(joined(tree, children, depth, branches))
        for batch in batch_subtrees(subtrees, self.budget):
            self._emit(batch, depth)
        for first, last, trunk in trunks:
            whole, n = make_subtree(tree, first, first + 1, depth), trunk - depth
            cut = replace(chain_subtree(whole.tokens[:n], depth), nodes=whole.nodes[:n])
            self._emit([cut], depth, keep=True)
            self.cached = max(self.cached, trunk)
            self.visit(first, last, trunk)
