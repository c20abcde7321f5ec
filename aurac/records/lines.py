"""A cell: one truncation of one adapter on one task, and the lines of its file.

The file grows by blocks of examples: a first line with the cell's identity, then a line for each
block. Every line carries the hash of its content, so that one that was cut off is told from a whole
one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from aurac.files import sha256_json


class CellIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can change the outcome of an example; its hash is the cell's key.

    How many examples were asked for is no part of it: a cell grows.
    """

    settings: str  #: hash of the run's settings: base, dtype, kind of device, backend
    prompts: str = ""  #: hash of what makes an example's tokens: few-shot settings, tokenizer, …
    adapter: str | None = None  #: hash of the adapter's content; None at rank 0 (the base alone)
    rank: int = 0  #: 0 for the base
    basis: str | None = None  #: None at rank 0
    rescale: str | None = None  #: None at rank 0
    factor: float | None = None  #: that `fit` found, if that is the rescale
    task: str
    version: str = ""  #: lm-eval's of the task
    scoring: str = ""  #: hash of what makes scores of answers

    @property
    def key(self) -> str:
        """Half of the SHA-256 of the identity, in hex."""
        return sha256_json(msgspec.structs.asdict(self))[:32]


class DocumentKey(msgspec.Struct, frozen=True, array_like=True):
    """An example as it was asked: two outcomes belong together only if all of these agree."""

    id: str  #: lm-eval's `doc_id`
    content: str  #: SHA-256 of its content, that of lm-eval's samples
    prompt: str  #: SHA-256 of its requests: contexts, continuations, generation settings


def examples_sha256(keys: Sequence[DocumentKey]) -> str:
    """A hash of examples in their order."""
    return sha256_json(msgspec.to_builtins(keys))[:32]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of n examples: what curves are made of."""

    documents: list[DocumentKey]  #: n keys
    metrics: dict[str, list[Any]]  #: ``metric,filter`` → n numbers (or what is no mean)
    unfinished: list[bool] | None = None  #: n: was it cut off at the token limit? None: not known


class Block(Scores, frozen=True, kw_only=True):
    """The outcome of n examples, with their answers."""

    responses: list[Any] = []  #: n answers: a text, several, or the log-likelihoods of the choices
    greedy: list[list[bool]] | None = None  #: n × choices: is it what greedy decoding gives?
    filtered: dict[str, list[Any] | None] = {}  #: filter → n answers; None where it changes none
    seconds: float = 0.0  #: wall time


class Aggregates(msgspec.Struct, frozen=True, kw_only=True):
    """lm-eval's aggregates of the metrics over a set of examples."""

    examples: str  #: hash of their keys, see `examples_sha256`
    values: dict[str, float]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What greedy decoding writes in the place of n references, or why it could not be asked."""

    documents: list[DocumentKey]
    texts: list[str]
    failed: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Why a cell could not be computed, and when (seconds since 1970)."""

    reason: str
    time: float


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a cell's file."""

    identity: CellIdentity


Line = Head | Block | Aggregates | Written | Failed
LINES: dict[str, Any] = {
    "cell": Head,
    "block": Block,
    "aggregates": Aggregates,
    "written": Written,
    "failed": Failed,
}
_KINDS = {record: kind for kind, record in LINES.items()}
_SCORES = {**LINES, "block": Scores}


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["cell", "block", "aggregates", "written", "failed"]
    sha256: str
    content: msgspec.Raw


def encode_line(content: Line) -> bytes:
    """A line of a cell's file; a ValueError for a metric that is not finite."""
    for key, column in content.metrics.items() if isinstance(content, Block) else ():
        if not all(math.isfinite(v) for v in column if isinstance(v, float)):
            raise ValueError(f"metric {key} is not finite for every example")
    try:
        raw = msgspec.json.encode(content)
    except UnicodeEncodeError:  # halves of surrogate pairs, which are spelled out
        text = json.dumps(msgspec.to_builtins(content), ensure_ascii=False)
        raw = re.sub("[\ud800-\udfff]", lambda half: f"\\\\u{ord(half[0]):x}", text).encode()
    kind, digest = _KINDS[type(content)], hashlib.sha256(raw).hexdigest()
    return (
        msgspec.json.encode({"kind": kind, "sha256": digest, "content": msgspec.Raw(raw)}) + b"\n"
    )


def decode_line(line: bytes, *, whole: bool = True) -> Any:
    """The record of a line; without `whole` `Scores` in the place of a `Block`.

    Raises:
        ValueError: It is cut off, changed, or no record of a cell.
    """
    envelope = msgspec.json.decode(line, type=_Envelope)
    if hashlib.sha256(envelope.content).hexdigest() != envelope.sha256:
        raise ValueError("its hash does not hold")
    kinds = LINES if whole else _SCORES
    return msgspec.json.decode(envelope.content, type=kinds[envelope.kind])
