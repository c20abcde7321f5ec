"""The adapter as a value: factors, scaling rule and how its ranks were trained.

Orientation everywhere is PEFT's: ``A`` is (R, in), ``B`` is (out, R), the update is ``s · B @ A``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aurac.adapters.methods import Nesting, method_named
from aurac.adapters.nesting import Rule, is_rank, scale
from aurac.curves.checks import only
from aurac.errors import CheckpointError, RankError
from aurac.files import sha256_json

_EMBEDDING = re.compile(
    r"(?:embed_tokens|embed_in|wte|word_embeddings|lm_head)(?:\.base_layer)*\.weight$"
)
# Of a recipe, what fixes the examples of each step and, with the seed, their order
_DATA_ORDER = (
    *("base", "data_sha256", "prompt", "prompt_without", "target", "documents", "max_tokens"),
    *("steps", "epochs", "batch_size"),
)
Kind = Literal["linear", "embedding", "experts"]


@dataclass(frozen=True, eq=False, repr=False)
class Factors:
    """The low-rank update of one module; shapes that belong together, else a CheckpointError."""

    A: Tensor  #: (R, in); of E experts (R, E · in), so that the first r rows are rank r
    B: Tensor  #: (out, R); of E experts (E · out, R)
    alpha: float  #: the α of the scaling rule
    rule: Rule  #: ``none`` (α), ``rank`` (α/r) or ``sqrt`` (α/√r)
    kind: Kind = "linear"  #: ``experts``: a parameter of one or several (out, in) matrices
    blocks: int = 1  #: E, how many independent updates of rank R the factors hold
    #: DoRA's trained norm of each output (arXiv 2402.09353), in PEFT's own shape. The module
    #: computes ``magnitude / ‖W + s B A‖ · (W + s B A) x``, norms row by row, at every rank.
    magnitude: Tensor | None = None
    parameter: str = ""  #: of experts the one that is adapted; empty where it is not known

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise CheckpointError(
                f"factors of shapes {tuple(self.A.shape)} and {tuple(self.B.shape)} are not "
                "(R, in) and (out, R), those of a linear layer"
            )

    @property
    def rank(self) -> int:
        """R, the number of components."""
        return int(self.A.shape[0])

    @property
    def features(self) -> tuple[int, int]:
        """(in, out) of the base's own module; for experts that of one of them."""
        return self.A.shape[1] // self.blocks, self.B.shape[0] // self.blocks

    def stacked(self) -> tuple[Tensor, Tensor]:
        """A as (E, R, in) and B as (E, out, R); E is 1 except for experts."""
        E, R = self.blocks, self.rank
        return self.A.reshape(R, E, -1).permute(1, 0, 2), self.B.reshape(E, -1, R)

    def scale(self, r: int) -> float:
        """The scaling rule evaluated at rank ``r``."""
        return scale(self.rule, self.alpha, r)

    def tensors(self, r: int) -> list[Tensor]:
        """All of the module at rank ``r``: ``A[:r]``, ``B[:, :r]`` and any magnitude, as views."""
        return [self.A[:r], self.B[:, :r], *([] if self.magnitude is None else [self.magnitude])]


@dataclass(frozen=True)
class Derived:
    """How an adapter was cut from another one."""

    basis: str
    rescale: str
    rank: int  #: that it was cut to
    from_rank: int  #: the trained rank of the adapter that was not cut
    from_sha256: str  #: the hash of that adapter
    trained: Nesting | None = None  #: how its ranks were trained, if recorded
    fit_factor: float | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.from_rank} (basis {self.basis}, rescale {self.rescale})"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank adapter, whatever file it came from; `sha256` is equal where the content is."""

    name: str  #: in tables and reports
    modules: Mapping[str, Factors]  #: by path in the base: ``model.layers.0.self_attn.q_proj``
    nesting: Nesting | None = None  #: how its ranks were trained, if recorded
    folded: bool = False  #: whether A has P folded in, so that it is p / s_R times the trained one
    base: str | None = None  #: its base's name: as given when it was loaded, else as recorded
    base_sha256: str | None = None  #: hash of the base that it was trained on, if recorded
    #: the fields of ``adapter_config.json`` that an export carries over
    peft_config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, object] | None = None  #: of its training, if recorded
    seed: int | None = None  #: of its training, if recorded
    source: Path | None = None  #: the folder or file that it was read from
    notes: tuple[str, ...] = ()  #: what limits or explains its results, one sentence each
    #: tensors beside the low-rank factors (whole modules, biases, token rows), by key in the
    #: checkpoint without PEFT's prefix. They hold at every rank from 1 on.
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    derived: Derived | None = None  #: how it was cut from another adapter
    format: str = "peft"  #: of the files that it was read from

    def __post_init__(self) -> None:
        if not self.modules:
            raise CheckpointError(f"adapter {self.name!r} has no low-rank factors")
        # The research code leaves the components above the last nested rank untrained.
        if self.nesting and self.derived is None and self.nesting.ranks[-1] > self.rank:
            raise CheckpointError(
                f"adapter {self.name!r} is of rank {self.rank}, below its last nested rank "
                f"{self.nesting.ranks[-1]}"
            )

    def __repr__(self) -> str:
        how = self.trained.method if self.trained else "method not recorded"
        return f"Adapter({self.name!r}: rank {self.rank}, {len(self.modules)} modules, {how})"

    @property
    def rank(self) -> int:
        """The trained rank: the largest of any module."""
        return max(f.rank for f in self.modules.values())

    @property
    def rule(self) -> Rule | None:
        """The scaling rule, or ``None`` when modules differ."""
        return only(f.rule for f in self.modules.values())

    @property
    def alpha(self) -> float | None:
        """The α of the scaling rule, or ``None`` when modules differ."""
        return only(f.alpha for f in self.modules.values())

    @property
    def dtype(self) -> str:
        """The precision of its factors, such as "bfloat16"; several are joined by "/"."""
        return "/".join(sorted({str(f.A.dtype)[6:] for f in self.modules.values()}))

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embeddings that it brings whole or adapts; ``None`` where it has none."""
        rows = {key: tensor.shape[0] for key, tensor in self.extras.items()}
        adapted = self.modules.items()
        rows |= {f"{n}.weight": f.features[0] for n, f in adapted if f.kind == "embedding"}
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
    def trained(self) -> Nesting | None:
        """How the ranks were trained that it has, or had before it was cut."""
        return self.derived.trained if self.derived and self.nesting is None else self.nesting

    @property
    def data_order(self) -> str | None:
        """A hash of what fixes its training examples and, with the seed, their order.

        ``None`` where the recipe does not say all of it.
        """
        recipe = self.recipe or {}
        if not set(recipe).issuperset(_DATA_ORDER):
            return None
        fixed = (*_DATA_ORDER, "validation")
        return sha256_json({name: recipe[name] for name in fixed if name in recipe})

    @cached_property
    def sha256(self) -> str:
        """A hash of what decides its outputs: factors, extras, scaling and nesting."""
        digest = hashlib.sha256()
        for name, f in sorted(self.modules.items()):
            blocks = [f.blocks] if f.kind == "experts" else []
            digest.update(json.dumps([name, f.alpha, f.rule, f.kind, blocks]).encode())
            for tensor in f.tensors(f.rank):
                _hash_tensor(digest, tensor)
        for key, tensor in sorted(self.extras.items()):
            digest.update(key.encode())
            _hash_tensor(digest, tensor)
        if rows := self.peft_config.get("trainable_token_indices"):  # which the extras are
            digest.update(json.dumps(rows).encode())
        n = self.nesting
        digest.update(json.dumps(n and [n.method, n.ranks, n.weights, n.update]).encode())
        digest.update(b"folded" if self.folded and n else b"")
        return digest.hexdigest()

    def check_rank(self, r: int) -> int:
        """``r`` itself; RankError where it is below 1 or above R."""
        if not is_rank(r) or r > self.rank:
            raise RankError(
                f"adapter {self.name!r} has the ranks 1 to {self.rank}, and {r!r} is none of them"
            )
        return int(r)

    def member(self, r: int) -> Adapter:
        """The adapter that is evaluated at rank ``r``: itself, where a family has several."""
        self.check_rank(r)
        return self

    def parameters(self, r: int) -> int:
        """The number of parameters at rank ``r``, extras included."""
        return sum(t.numel() for t in self._tensors(r))

    @property
    def width(self) -> int:
        """Inputs and outputs of all adapted modules: the parameters of one rank in each."""
        return sum((f.A.numel() + f.B.numel()) // f.rank for f in self.modules.values())

    def bytes(self, r: int) -> int:
        """The size of the tensors at rank ``r`` in bytes, as an export has them."""
        return sum(t.nbytes for t in self._tensors(r))

    def rank_weights(self, module: str) -> NDArray[np.float64] | None:
        """The diagonal of P that training used for a module, shape (R,); ``None`` when unknown.

        Where every rank is trained at its own scale (DyLoRA, nested losses) there is none.
        """
        f = self.modules[module]
        if self.nesting is None:
            return None
        return self.nesting.diagonal(f.rank, f.rule, f.alpha, None if self.derived else f.rank)

    @property
    def trained_at_each_rank(self) -> bool:
        """Whether every nested rank r was trained at its own ``s_r`` (no fixed diagonal P)."""
        return self.nesting is not None and not method_named(self.nesting.method).summed

    def _tensors(self, r: int) -> list[Tensor]:
        self.check_rank(r)
        cuts = (t for f in self.modules.values() for t in f.tensors(r))
        return [*cuts, *self.extras.values()]


def _hash_tensor(digest: Any, tensor: Tensor) -> None:
    t = tensor.detach().cpu().contiguous()
    digest.update(json.dumps([str(t.dtype), list(t.shape)]).encode())
    digest.update(t.flatten().view(torch.uint8).numpy().data)
