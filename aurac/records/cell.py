"""A cell: what it is, and the lines of its file.

A cell is one truncation of one adapter on one task. Its file grows by blocks of documents: a first
line with the cell's identity, then a line for each block. Every line carries the hash of its
content, so that a line that was cut off or changed is told from a whole one.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from aurac.errors import RunFolderError, first_line
from aurac.files import Json, open_stored, sha256_json

CELL_SCHEMA = 2
ENGINE_VERSION = 6  # raise when the evaluation engine changes in a way that can change a number
_OPTIONAL = {
    *("tokenizer", "system_instruction", "fewshot_as_multiturn", "gen_kwargs", "repeats"),
    "max_length",
}
SCORING_PARTS = (
    *("filter_list", "metric_list", "process_results", "doc_to_target", "doc_to_choice"),
    *("doc_to_text", "class"),
)
"""What of a task makes scores of answers; a scoring is a short hash of each, joined by `-`."""


def same_scoring(a: str, b: str) -> bool:
    """Whether scores may stand together; that of cells of older versions is not known ("")."""
    return not a or not b or a == b


def changed_parts(a: str, b: str) -> list[str]:
    """The `SCORING_PARTS` in which two scorings differ."""
    pairs = zip(SCORING_PARTS, a.split("-"), b.split("-"), strict=False)
    return [name for name, old, new in pairs if old != new]


class CellIdentity(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that can change the outcome of a document; its hash is the cell's key.

    How many documents were asked for is no part of it: a cell grows.

    Attributes:
        adapter_sha256: Content of the adapter; None at rank 0 (the base alone).
        base_sha256: Content of the base's weights.
        rank: 0 for the base.
        basis, rescale: How the adapter was truncated; None at rank 0.
        fit_factor: The factor that `fit` found, if that is the rescale.
        task: Name of the task.
        task_version: As lm-eval states it.
        num_fewshot, fewshot, fewshot_seed: Which examples stand in each prompt.
        chat_template: SHA-256 of the template that prompts went through; None without one.
        split: The split that was asked for; None where it is the one that lm-eval evaluates.
        tokenizer: What decides its tokens, hashed, where it is not the base's own.
        system_instruction, fewshot_as_multiturn, gen_kwargs, repeats, max_length: Of prompts and
            generation what is not lm-eval's default; None for that, and then no part of the key.
        dtype: What the forward pass computed in.
        device_kind: `cpu`, `cuda` or `mps`.
        engine: Version of the evaluation engine.
        lm_eval: Version of lm-eval, whose filters and metrics were used.
    """

    adapter_sha256: str | None
    base_sha256: str
    rank: int
    basis: str | None
    rescale: str | None
    fit_factor: float | None
    task: str
    task_version: str
    num_fewshot: int | None
    fewshot: str
    fewshot_seed: int
    chat_template: str | None
    split: str | None
    tokenizer: str | None = None
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: str | None = None
    repeats: int | UnsetType = UNSET
    max_length: int | None = None
    dtype: str
    device_kind: str
    engine: int = ENGINE_VERSION
    lm_eval: str = ""

    def to_dict(self) -> dict[str, Json]:
        """Plain values, without the optional ones that are not given."""
        values = msgspec.structs.asdict(self)
        return {n: v for n, v in values.items() if v not in (None, UNSET) or n not in _OPTIONAL}

    @cached_property
    def key(self) -> str:
        """Hex SHA-256 of the identity."""
        return sha256_json(self.to_dict())


_MAY_DIFFER = {"adapter_sha256", "rank", "basis", "rescale", "fit_factor"}


def differences(a: Mapping[str, Json], b: Mapping[str, Json]) -> list[str]:
    """The fields that forbid drawing cells of these identities in one curve or comparison."""
    names = [name for name in CellIdentity.__struct_fields__ if name not in _MAY_DIFFER]
    return [name for name in names if a.get(name) != b.get(name)]


class DocumentKey(msgspec.Struct, frozen=True, array_like=True):
    """A document as it was asked: two outcomes belong together only if all of these agree.

    Attributes:
        id: lm-eval's `doc_id`.
        content: SHA-256 of the document, that of lm-eval's samples.
        prompt: SHA-256 of its requests: contexts, continuations, generation settings.
    """

    id: str
    content: str
    prompt: str


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """What lm-eval's sample logs hold beyond scores and answers; see `aurac.tasks.metrics`."""

    greedy: list[list[bool]] | None = None
    filtered: dict[str, list[Any] | None] = {}
    other: dict[str, list[Any]] = {}


class EngineCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation cost, as it was once counted; None was not."""

    computed_tokens: float | None = 0
    distinct_tokens: float | None = 0
    passes: float | None = 0
    forward_seconds: float | None = 0.0
    flops: float | None = 0.0
    near_ties: int | None = 0
    paths: list[str] = []

    def __add__(self, other: EngineCounts) -> EngineCounts:
        """The counts of both; what one could not count is not known of both."""

        def total(name: str) -> Any:
            a, b = getattr(self, name), getattr(other, name)
            return None if a is None or b is None else a + b

        sums = {name: total(name) for name in self.__struct_fields__ if name != "paths"}
        return EngineCounts(**sums, paths=sorted({*self.paths, *other.paths}))


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of some documents, rows in the order of `documents`.

    Attributes:
        documents: n keys.
        metrics: ``metric,filter`` to n numbers.
        responses: n answers: a text, several, or the choices' log-likelihoods.
        logged: What else lm-eval's logs would hold.
        samples: ``metric,filter`` to n lists of the outcomes of samples, whose mean `metrics` has;
            left out where there is one answer.
        engine: Tokens, passes and seconds inside the model.
        seconds: Wall time.
        notes: What happened meanwhile, such as a batch that was halved for want of memory.
    """

    documents: list[DocumentKey]
    metrics: dict[str, list[float]]
    responses: list[Any]
    logged: Logged
    seconds: float
    engine: EngineCounts = EngineCounts()
    notes: list[str] = []
    samples: dict[str, list[list[float]]] | UnsetType = UNSET


_PASS_AT = re.compile(r"pass@(\d+):(.+)")


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples (1 to n) is right.

    ``1 - C(n-c, k) / C(n, k)`` with c `correct` of n `samples` (Chen et al. 2021, eq. 1, arXiv
    2107.03374).
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def metric_column(
    metrics: Mapping[str, Sequence[float]],
    samples: Mapping[str, Sequence[Sequence[float]]],
    key: str,
) -> list[float] | None:
    """The (n,) scores of documents under a metric, or under pass@k of one, `pass@4:acc,none`.

    None where there is no such metric, fewer than k samples, or one that is not right or wrong.
    """
    if key in metrics:
        return list(metrics[key])
    parsed = _PASS_AT.fullmatch(key)
    outcomes = samples.get(parsed[2]) if parsed else None
    if parsed is None or outcomes is None:
        return None
    k = int(parsed[1])
    if any(len(row) < k or not {*row} <= {0.0, 1.0} for row in outcomes):
        return None
    return [pass_at_k(round(sum(row)), len(row), k) for row in outcomes]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """`failed/<key>.json`: why a cell could not be computed.

    `reason` is one line, `kind` the name of the exception, `seconds` what was spent on the cell.
    """

    schema: int = 1
    key: str
    identity: CellIdentity
    cell: str = ""
    reason: str
    kind: str = ""
    seconds: float = 0.0


class CellHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a cell's file."""

    schema: int
    key: str
    identity: CellIdentity


class Aggregates(msgspec.Struct, frozen=True, kw_only=True):
    """Values over all documents of metrics that are no means; for these documents alone."""

    documents_sha256: str
    values: dict[str, float]


class Recount(msgspec.Struct, frozen=True):
    """Nothing but the number of documents at the end of its line."""


LINES: dict[str, type[Any]] = {
    "cell": CellHead,
    "block": Block,
    "aggregates": Aggregates,
    "recount": Recount,
}
Line = CellHead | Block | Aggregates | Recount


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a cell's file.

    Attributes:
        kind: Which record `content` is, see `LINES`.
        sha256: Of the text of `content`.
        scoring: How its documents were scored, see `SCORING_PARTS`. A line of another scoring than
            those before it supersedes them.
        documents: How many of the documents that are asked for the file holds with this line; the
            last thing in the line, so that a look at the end of a file tells.
    """

    kind: str
    content: msgspec.Raw
    sha256: str
    scoring: str | UnsetType = UNSET
    documents: int


_R = TypeVar("_R", bound=msgspec.Struct)


def read_record(path: Path, kind: type[_R], fix: str | None = None) -> _R:
    """A record from a JSON file; a RunFolderError says where it cannot be read as that."""
    try:
        with open_stored(path) as file:
            return msgspec.json.decode(file.read(), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read ({first_line(error)})", fix=fix) from error


class SchemaNumber(msgspec.Struct, frozen=True):
    """Which schema a record follows, whatever else it holds."""

    schema: Any = None


_KINDS = {record: kind for kind, record in LINES.items()}


def encode_line(content: Line, documents: int, scoring: str = "") -> bytes:
    """A line of a cell's file, see `Envelope`; a ValueError for a metric that is not finite."""
    columns = content.metrics if isinstance(content, Block) else {}
    if isinstance(content, Aggregates):
        columns = {key: [value] for key, value in content.values.items()}
    for key, column in columns.items():
        if not all(map(math.isfinite, column)):
            raise ValueError(f"metric {key} is not a finite number for every document")
    try:
        raw = msgspec.json.encode(content)
    except UnicodeEncodeError:
        raw = msgspec.json.encode(encodable(msgspec.to_builtins(content)))
    envelope = Envelope(
        kind=_KINDS[type(content)],
        content=msgspec.Raw(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        scoring=scoring or UNSET,
        documents=documents,
    )
    return msgspec.json.encode(envelope) + b"\n"


def encodable(value: Any) -> Any:
    """Text with unpaired surrogates, which UTF-8 cannot hold, spells them out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, (list, tuple)) else value


def refuse_newer(schema: Any, known: int, where: object) -> None:
    """Refuse what a newer aurac wrote, which this one could misread or overwrite.

    Raises:
        RunFolderError: The schema number of `where` is above the known one.
    """
    if isinstance(schema, int) and schema > known:
        raise RunFolderError(
            f"{where} has schema {schema}, written by a newer aurac",
            expected=f"schema {known}",
            fix="update aurac, or choose another --out",
        )


def decode_scored(line: bytes, where: object) -> tuple[Line, str]:
    """The content of a line of a cell's file, which is `where`, and its scoring ("": not known).

    Raises:
        RunFolderError: It is whole, and the first line of a cell of a newer schema.
        ValueError: It is cut off, changed, or none of the records of a cell.
    """
    envelope = msgspec.json.decode(line, type=Envelope)
    raw = bytes(envelope.content)
    if hashlib.sha256(raw).hexdigest() != envelope.sha256:
        raise ValueError("its hash does not hold")
    if envelope.kind not in LINES:
        raise ValueError(f"a line of kind {envelope.kind!r}")
    if envelope.kind == _KINDS[CellHead]:
        refuse_newer(msgspec.json.decode(raw, type=SchemaNumber).schema, CELL_SCHEMA, where)
    content: Line = msgspec.json.decode(raw, type=LINES[envelope.kind])
    return content, envelope.scoring or ""
