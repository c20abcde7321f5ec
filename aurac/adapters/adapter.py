"""The adapter as a value: factors, scaling rule and how its ranks were trained.

Orientation everywhere is PEFT's: ``A`` is (R, in), ``B`` is (out, R), the update is ``s · B @ A``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aurac.adapters.methods import Nesting, fixed_diagonal
from aurac.adapters.nesting import RULES, Rule, is_rank, peft_alpha, scale
from aurac.errors import CheckpointError, RankError, UsageError
from aurac.records.cut import Derived, TrainingRecord

_EMBEDDING = re.compile(
    r"(?:embed_tokens|embed_in|wte|word_embeddings|lm_head)(?:\.base_layer)*\.weight$"
)
T = TypeVar("T")
Kind = Literal["linear", "embedding", "experts", "merged"]


@dataclass(frozen=True, eq=False)
class Factors:
    """The low-rank update of one module.

    Attributes:
        A: (R, in). A stack of blocks (experts, the groups of a merged layer) has E × in, so that
            the first r rows are rank r for every kind.
        B: (out, R). For a stack of blocks ``out`` is E × out.
        alpha: The α of the scaling rule.
        rule: ``none`` (α), ``rank`` (α/r) or ``sqrt`` (α/√r).
        kind: The kind of module. ``merged`` is loralib's ``MergedLinear``, one matrix whose outputs
            are equal groups, some of them adapted.
        layout: (E,) for a stack of E experts, one 0 or 1 per group of a merged layer.
        magnitude: DoRA's trained norm of each output (arXiv 2402.09353), in PEFT's own shape. The
            module computes ``magnitude / ‖W + s B A‖ · (W + s B A) x``, norms row by row, at every
            rank; ``None`` for plain LoRA.
        parameter: For experts, the parameter that is adapted; empty where it is not known.
    """

    A: Tensor
    B: Tensor
    alpha: float
    rule: Rule
    kind: Kind = "linear"
    layout: tuple[int, ...] = ()
    magnitude: Tensor | None = None
    parameter: str = ""

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise CheckpointError(
                f"factors of shapes {tuple(self.A.shape)} and {tuple(self.B.shape)}",
                expected="A of (R, in) and B of (out, R) with the same R",
            )
        if self.A.shape[0] < 1:
            raise CheckpointError("factors of rank 0", expected="a rank of at least 1")
        if self.rule not in RULES:
            raise UsageError(f"scaling rule {self.rule!r}", expected=f"one of {', '.join(RULES)}")
        if not math.isfinite(self.alpha):
            raise CheckpointError(f"an alpha of {self.alpha}", expected="a finite number")
        if self.magnitude is not None and self.magnitude.numel() != self.features[1]:
            raise CheckpointError(
                f"a magnitude vector of shape {tuple(self.magnitude.shape)}",
                expected=f"one number for each of {self.features[1]} outputs",
            )

    def __repr__(self) -> str:
        inside, out = self.features
        return f"Factors({self.kind}, rank {self.rank}, {inside} → {out}, {self.A.dtype})"

    @property
    def rank(self) -> int:
        """R, the number of components."""
        return int(self.A.shape[0])

    @property
    def blocks(self) -> int:
        """How many independent updates of rank R the factors hold."""
        if self.kind == "merged":
            return sum(self.layout)
        return self.layout[0] if self.kind == "experts" else 1

    @property
    def rank_multiple(self) -> int:
        """R of a plain PEFT layer, divided by the rank: PEFT counts the groups of a layer too."""
        return self.blocks if self.kind == "merged" else 1

    @property
    def peft_scale(self) -> tuple[int, float]:
        """The r and ``lora_alpha`` with which a plain PEFT layer computes the same scale."""
        multiple = self.rank_multiple
        return self.rank * multiple, peft_alpha(self.rule, self.alpha, self.rank, multiple)

    @property
    def features(self) -> tuple[int, int]:
        """(in, out) of the base's own module; for experts that of one of them."""
        inside, out = self.A.shape[1] // self.blocks, self.B.shape[0] // self.blocks
        return inside, out * len(self.layout) if self.kind == "merged" else out

    def stacked(self) -> tuple[Tensor, Tensor]:
        """A as (E, R, in) and B as (E, out, R); E is 1 except for a stack of blocks."""
        E, R = self.blocks, self.rank
        return self.A.reshape(R, E, -1).permute(1, 0, 2), self.B.reshape(E, -1, R)

    def scale(self, r: int) -> float:
        """The scaling rule evaluated at rank ``r``."""
        return scale(self.rule, self.alpha, r)

    def tensors(self, r: int) -> list[Tensor]:
        """All of the module at rank ``r``: ``A[:r]``, ``B[:, :r]`` and any magnitude, as views."""
        r = min(r, self.rank)
        return [self.A[:r], self.B[:, :r], *([] if self.magnitude is None else [self.magnitude])]


class Values(Protocol):
    """The source of an outline's numbers, read on demand."""

    def factors(self, module: str, outline: Factors) -> Factors:
        """The outline of one module with its numbers, checked to be finite."""

    def beside_factors(self, key: str) -> Tensor:
        """One tensor beside the factors, checked to be finite."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank adapter, whatever file it came from; `sha256` is equal where the content is.

    Attributes:
        name: Its name in tables and reports.
        modules: Factors by module path in the base, such as ``model.layers.0.self_attn.q_proj``.
        nesting: How its ranks were trained; ``None`` when that is not recorded.
        base: The name of its base model: as given when it was loaded, else as recorded.
        recorded_base: The name that the checkpoint records, where another was given.
        base_sha256: The content hash of the base that it was trained on, if recorded.
        peft_config: The fields of ``adapter_config.json`` that an export carries over.
        recipe: The training recipe, if recorded.
        seed: The training seed, if recorded.
        source: The folder or file that it was read from.
        notes: What limits or explains its results, one sentence each.
        extras: Tensors beside the low-rank factors (whole modules, biases, token rows), by key in
            the checkpoint without PEFT's prefix. They hold at every rank from 1 on.
        derived: How it was cut from another adapter.
        format: The name of the format that it was read from.
        sidecar_fields: What its file's side-car needs besides (key map, groups) to be read again.
        values: The source of the numbers where the tensors are on the meta device (an outline).
    """

    name: str
    modules: Mapping[str, Factors]
    nesting: Nesting | None = None
    base: str | None = None
    recorded_base: str | None = None
    base_sha256: str | None = None
    peft_config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, object] | None = None
    seed: int | None = None
    source: Path | None = None
    notes: tuple[str, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    derived: Derived | None = None
    format: str = "peft"
    sidecar_fields: Mapping[str, Any] = field(default_factory=dict)
    values: Values | None = None

    def __post_init__(self) -> None:
        if not self.modules:
            raise CheckpointError(f"adapter {self.name!r} has no low-rank factors")
        # The research code leaves the components above the last nested rank untrained.
        if self.nesting is not None and self.derived is None and self.nesting.ranks[-1] > self.rank:
            raise self.wrong_ranks(self.nesting.ranks)

    def __repr__(self) -> str:
        cut = self.derived and self.derived.trained
        method = self.method or (f"cut from {cut.method}" if cut else "method not recorded")
        base = f", base {self.base}" if self.base else ""
        modules = f"{len(self.modules)} modules"
        return f"Adapter({self.name!r}: rank {self.rank}, {modules}, {method}{base})"

    def wrong_ranks(self, ranks: Sequence[int]) -> CheckpointError:
        """The error of nested ranks that do not end at its rank."""
        return CheckpointError(
            f"nested ranks {','.join(map(str, ranks))} of an adapter of rank {self.rank}",
            expected=f"its rank {self.rank} as the last of them",
        )

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(f.rank for f in self.modules.values())

    @property
    def ranks(self) -> tuple[int, ...]:
        """The distinct ranks of its modules, ascending."""
        return tuple(sorted({f.rank for f in self.modules.values()}))

    @property
    def rule(self) -> Rule | None:
        """The scaling rule, or ``None`` when modules differ."""
        return only(f.rule for f in self.modules.values())

    @property
    def alpha(self) -> float | None:
        """The α of the scaling rule, or ``None`` when modules differ."""
        return only(f.alpha for f in self.modules.values())

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embeddings that it brings whole or adapts; ``None`` where it has none."""
        embeddings = {n: f for n, f in self.modules.items() if f.kind == "embedding"}
        rows = {f"{name}.weight": f.features[0] for name, f in embeddings.items()}
        rows |= {key: tensor.shape[0] for key, tensor in self.extras.items()}
        return max((n for key, n in rows.items() if _EMBEDDING.search(key)), default=None)

    @property
    def dora(self) -> bool:
        """Whether it is a DoRA adapter: its modules have magnitudes."""
        return any(f.magnitude is not None for f in self.modules.values())

    @property
    def method(self) -> str | None:
        """The training method, or ``None`` when it is not recorded."""
        return None if self.nesting is None else self.nesting.method

    @property
    def training(self) -> TrainingRecord:
        """How its ranks were trained."""
        n = self.nesting
        if n is None:
            return TrainingRecord()
        return TrainingRecord(n.method, list(n.ranks), list(n.weights), n.update)

    @cached_property
    def sha256(self) -> str:
        """A hash of what decides its outputs: factors, extras, scaling and nesting."""
        if recorded := getattr(self.values, "sha256", None):  # of removed weights
            return str(recorded)
        deque(self.walk(), maxlen=0)
        return str(self.__dict__["sha256"])

    def walk(self) -> Iterator[tuple[str, Factors]]:
        """Yield each module with its numbers, in the order of names, one at a time.

        At the end the hash of everything that was read is kept as ``sha256``.
        """
        digest = hashlib.sha256()
        for name in sorted(self.modules):
            f = self.read(name)
            digest.update(json.dumps([name, f.alpha, f.rule, f.kind, list(f.layout)]).encode())
            for tensor in f.tensors(f.rank):
                _hash_tensor(digest, tensor)
            yield name, f
        for key in sorted(self.extras):
            digest.update(key.encode())
            _hash_tensor(digest, self.read_extra(key))
        nesting = None if self.nesting is None else msgspec.structs.astuple(self.training)
        digest.update(json.dumps(nesting).encode())
        self.__dict__["sha256"] = digest.hexdigest()

    def read(self, module: str) -> Factors:
        """One module with its numbers."""
        f = self.modules[module]
        return f if self.values is None else self.values.factors(module, f)

    def read_extra(self, key: str) -> Tensor:
        """One tensor beside the factors with its numbers."""
        return self.extras[key] if self.values is None else self.values.beside_factors(key)

    def loaded(self) -> Adapter:
        """The adapter with all of its numbers in memory: itself unless it is an outline."""
        if self.values is None:
            return self
        modules = {name: self.read(name) for name in self.modules}
        extras = {key: self.read_extra(key) for key in self.extras}
        return replace(self, modules=modules, extras=extras, values=None)

    def check_rank(self, r: int) -> int:
        """``r`` itself; RankError where it is below 1 or above R."""
        if not is_rank(r) or r > self.rank:
            raise RankError(
                f"rank {r!r} of adapter {self.name!r}",
                expected=f"a whole number from 1 to its trained rank {self.rank}",
            )
        return int(r)

    def member(self, r: int) -> Adapter:
        """The adapter that is evaluated at rank ``r``: itself, where a family has several."""
        self.check_rank(r)
        return self

    def parameters(self, r: int, ranks: Mapping[str, int] | None = None) -> int:
        """The number of parameters at rank ``r``, extras included; 0 at rank 0.

        A module whose own rank is below ``r`` counts with its own rank, or with that in ``ranks``.
        """
        return sum(t.numel() for t in self._tensors(r, ranks))

    def bytes(self, r: int, ranks: Mapping[str, int] | None = None) -> int:
        """The size of the tensors at rank ``r`` in bytes, as an export has them; 0 at rank 0."""
        return sum(t.nbytes for t in self._tensors(r, ranks))

    def rank_weights(self, module: str) -> NDArray[np.float64] | None:
        """The diagonal of P that training used for a module, shape (R,); ``None`` when unknown.

        Where every rank is trained at its own scale (DyLoRA, nested losses) it is that of full
        rank, ``s_R`` on every component.
        """
        f = self.modules[module]
        if self.nesting is None:
            return None
        diagonal = self._diagonal(f)
        return np.full(f.rank, f.scale(f.rank)) if diagonal is None else diagonal

    @property
    def trained_at_each_rank(self) -> bool:
        """Whether every nested rank r was trained at its own ``s_r`` (no fixed diagonal P)."""
        first = next(iter(self.modules.values()))
        return self.nesting is not None and self._diagonal(first) is None

    def _diagonal(self, f: Factors) -> NDArray[np.float64] | None:
        if self.nesting is None:
            return None
        options = (self.recipe or {}).get("method_options")
        own = options if isinstance(options, dict) else {}
        setup = self.nesting.setup(f.rank, f.rule, f.alpha, 0, own)
        return fixed_diagonal(self.nesting.method, setup)

    def _tensors(self, r: int, ranks: Mapping[str, int] | None) -> list[Tensor]:
        if r == 0:
            return []
        self.check_rank(r)
        cuts = (t for n, f in self.modules.items() for t in f.tensors((ranks or {}).get(n, r)))
        return [*cuts, *self.extras.values()]


def only(values: Iterable[T]) -> T | None:
    """The one value that all are, or ``None`` when they differ."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor that is not empty holds neither NaN nor infinities.

    The extremes carry a NaN, so that one pass without a mask of the tensor's size decides.
    """
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _hash_tensor(digest: Any, tensor: Tensor) -> None:
    t = tensor.detach().cpu().contiguous()
    digest.update(json.dumps([str(t.dtype), list(t.shape)]).encode())
    digest.update(t.flatten().view(torch.uint8).numpy().data)
