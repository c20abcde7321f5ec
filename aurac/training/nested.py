"""Nested training of a live PEFT model: a diagonal between its LoRA factors.

PEFT computes `lora_B(lora_A(x)) * s_R`. A forward hook on `lora_A` multiplies its output (…, R) by
p / s_R, so that the layer computes `B · diag(p) · A · x`. Hooks on the base choose the p of each
forward pass: for training what the method draws, otherwise that of the whole adapter.

Plain PEFT computes the whole adapter from an A that has p / s_R folded in. So hooks fold it into
what a state dict takes from `lora_A`, and take it out of what is loaded; merging and `remove` fold
it in as well. PEFT's config has the record, and writes ``aurac.json`` beside each file.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed.tensor.experimental as sharding
from msgspec import convert, structs
from peft import LoraConfig
from transformers import TrainerCallback

from aurac.adapters import Adapter, Nesting, adapter_from_peft
from aurac.adapters.attach import peft_layers, rank_switch
from aurac.adapters.formats.peft import NESTED
from aurac.adapters.formats.peft_config import NOTE
from aurac.adapters.formats.sidecar import Sidecar, recorded
from aurac.adapters.methods import Pass, TrainingSetup
from aurac.adapters.nesting import Rule, Update, rank_weights
from aurac.adapters.truncate import relative_weights, times_p
from aurac.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)
REFERENCE = "ref"  # what TRL calls its frozen copy of the adapter


def nested(
    model: PeftModel,
    method: str,
    *,
    ranks: Sequence[int] = (),
    weights: Sequence[float] = (),
    scaling: Rule | None = None,
    alpha: float | None = None,
    update: Update = "prefix",
    seed: int = 0,
    accumulation: int = 1,
    adapter_name: str = "default",
) -> Nested:
    """Train an adapter of a live PEFT model at nested ranks, in any trainer.

    The P of `lora`, `matryoshka` or `dylora` stays between the factors until `remove`, or the end
    of a ``with`` block, which fold it into them. Whatever saves the adapter, before or after that,
    writes plain PEFT with P folded in, and method and ranks in ``aurac.json`` beside it. An adapter
    that was saved so is trained on from where it was.

    Args:
        model: The ``PeftModel``.
        method: The method's name.
        ranks: S, the nested ranks; by default 1, 2, 4, … and R, and all with update `frozen`.
        weights: Of each nested rank: w_r for `matryoshka`, its odds for `dylora`; by default 1.
        scaling: The rule s_r: `none` α, `rank` α/r, `sqrt` α/√r; by default that of PEFT's config.
        alpha: The α of the rule; by default that of PEFT's config.
        update: Of `dylora`: `prefix` or `frozen`.
        seed: Of the ranks that `dylora` draws.
        accumulation: Forward passes per optimizer step. The HF Trainer tells it to its callbacks.
        adapter_name: The adapter.

    Raises:
        UsageError: For nested losses, DoRA, layers that are not linear, and no such adapter.
        CheckpointError: For a scaling or alpha by which PEFT does not scale.
    """
    if method not in ("lora", "matryoshka", "dylora"):
        raise UsageError(
            f"method {method!r} is not lora, matryoshka or dylora (nested_loss: `aurac train`)"
        )
    layers = peft_layers(model, adapter_name).values()
    R = max((layer.r[adapter_name] for layer in layers), default=1)
    setup = TrainingSetup(Nesting.make(method, R, ranks, weights, update), seed)
    return Nested(model, setup, scaling, alpha, accumulation, adapter_name)


class RecordedConfig(LoraConfig):
    """PEFT's config of an adapter, which also writes the ``aurac.json`` that it notes."""

    def save_pretrained(self, save_directory: str, **settings: Any) -> None:
        """Write both. What PEFT gives for `auto_mapping` would replace the note."""
        mapping = {**self.auto_mapping, **(settings.pop("auto_mapping_dict", None) or {})}
        super().save_pretrained(save_directory, auto_mapping_dict=mapping, **settings)
        convert(mapping[NOTE], Sidecar).write(Path(save_directory))


class Nested(TrainerCallback, AbstractContextManager["Nested"]):
    """A method's P in a live PEFT model, see `nested`; a context manager and a `TrainerCallback`.

    Attributes:
        model: The model.
        micro_batch: The number, from 0, of the coming micro-batch, by which `dylora` draws. Each
            training pass is one; a loop that resumes sets it to step × accumulation.
        forced: A pass to compute instead, of a micro-batch that has several.
        is_cut: Whether a cut is being evaluated.
    """

    def __init__(
        self,
        model: Any,
        setup: TrainingSetup,
        rule: Rule | None = None,
        alpha: float | None = None,
        accumulation: int = 1,
        adapter_name: str = "default",
    ) -> None:
        if NESTED in vars(model):
            raise UsageError("the model is nested already: `remove` that first")
        self.model, self.setup, self.adapter_name = model, setup, adapter_name
        self.accumulation, self.micro_batch = accumulation, 0
        self.forced: Pass | None = None
        self.is_cut, self._depth = False, 0
        self._exact = False  # whether state dicts have A in float64, to be resumed bit for bit
        self._state: tuple[Any, ...] = ()
        self._factors: dict[tuple[Any, ...], torch.Tensor] = {}
        self._groups: dict[tuple[Any, ...], Any] = {}  # of layers with one P: the A of one of them
        self._handles: list[Any] = []
        self._folding: list[tuple[Any, Any, torch.Tensor]] = []  # layers, their lora_A, p / s_R
        self._open: set[Pass] = set()  # passes drawn since the last recompute of a checkpoint
        self._held: list[tuple[Any, torch.Tensor]] = []  # modules with held rows, their weights
        before = adapter_from_peft(model, adapter_name)
        plain = Adapter(before.name, before.modules, setup.nesting, base=before.base)
        stated = structs.replace(Sidecar.of(plain), rule=rule or plain.rule, alpha=alpha)
        adapter = recorded(plain, stated, f"model adapter {adapter_name!r}")
        for name, f in adapter.modules.items():
            if f.kind != "linear" or f.magnitude is not None:
                kind = f.kind if f.magnitude is None else "DoRA"
                raise UsageError(f"{name} ({kind}) takes no P: leave it out of target_modules")
        if before.trained not in (None, setup.nesting):
            told = adapter_name, before.trained.method, before.trained.ranks, setup.nesting.method
            logger.warning("Adapter %s, trained by %s at the ranks %s, goes on by %s", *told)
        self._whole = self._drawn = setup.nesting.whole(adapter.rank)
        self._scales = {n: (f.rank, f.rule, f.alpha) for n, f in adapter.modules.items()}
        self._relative = {n: relative_weights(adapter, n) for n in adapter.modules}
        self._silent = {name.rpartition(".")[2] for name in adapter.modules}
        self._names: list[str] = []
        for name in (adapter_name, *({REFERENCE} & model.peft_config.keys())):
            self._hook(name, folded=before.folded)
        self.record = Sidecar.of(adapter)
        self.note(folded=bool(self._folding))
        # Every pass calls the base; the tuner of older releases of PEFT only its `forward`.
        for module in (model.base_model, model.get_base_model()):
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after, always_call=True))
        vars(model)[NESTED] = self
        self._put(self._drawn)

    def note(self, **facts: Any) -> None:
        """Add to the record, which PEFT's config keeps from now on."""
        self.record = structs.replace(self.record, **facts)
        for name in self._names:
            config = copy.copy(self.model.peft_config[name])  # the user's own stays as it is
            config.__class__ = RecordedConfig
            config.auto_mapping = {**(config.auto_mapping or {}), **self.record.note}
            self.model.peft_config[name] = config

    def _hook(self, adapter_name: str, *, folded: bool = False) -> None:
        self._names.append(adapter_name)
        for name, layer in peft_layers(self.model, adapter_name).items():
            A, B, leaf = layer.lora_A[adapter_name], layer.lora_B, name.rpartition(".")[2]
            group = adapter_name, *self._scales[name], layer.scaling[adapter_name], A.weight.device
            self._groups.setdefault(group, A)
            self._handles.append(A.register_forward_hook(partial(self._multiply, group, leaf)))
            if self.setup.nesting.update == "frozen" and adapter_name == self.adapter_name:
                for dim, part in enumerate((A, B[adapter_name])):
                    self._held.append((part, part.weight))
                    self._handles.append(part.weight.register_hook(partial(self._one_row, dim)))
            if (p := self._relative[name]) is None:
                continue
            if folded:
                A.weight.data.copy_(_times_p(A.weight.data, p, -1))
            self._folding.append((layer, A, p))
            self._handles.append(A.register_state_dict_post_hook(partial(self._carry, p, 1)))
            self._handles.append(A.register_load_state_dict_pre_hook(partial(self._carry, p, -1)))
            merging = partial(self._delta, layer.get_delta_weight, adapter_name, A, p)
            vars(layer)["get_delta_weight"] = merging

    def _carry(
        self, p: torch.Tensor, folds: int, A: Any, state: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        """Fold P into what a state dict has of a `lora_A`, or take it out of what is loaded."""
        if (key := f"{prefix}weight") in state and not self.is_cut:
            dtype = torch.float64 if folds > 0 and self._exact else A.weight.dtype
            state[key] = _times_p(state[key].detach(), p, folds, dtype)

    def _delta(
        self, own: Callable[[str], torch.Tensor], name: str, A: Any, p: torch.Tensor, asked: str
    ) -> torch.Tensor:
        """What a layer adds to its base when it is merged, with P."""
        if asked != name or self.is_cut:
            return own(asked)
        kept = A.weight.data
        try:
            A.weight.data = _times_p(kept, p, 1).to(kept.device)
            return own(asked)
        finally:
            A.weight.data = kept

    def _multiply(
        self, group: tuple[Any, ...], leaf: str, _: Any, __: Any, output: torch.Tensor
    ) -> torch.Tensor | None:
        self._silent.discard(leaf)
        if not self._depth and torch.is_grad_enabled():  # of a gradient checkpoint
            if len(self._open) > 1:
                raise UsageError("with gradient checkpointing dylora takes one pass per backward")
            self._open.clear()
        factor = self._factors.get(group)
        return None if factor is None else (output * factor).to(output.dtype)

    def _one_row(self, dim: int, gradient: torch.Tensor) -> torch.Tensor:
        """Keep the gradient of the drawn row of A (column of B); the others are held."""
        if not self._drawn.row:
            return gradient
        rows = torch.arange(1, gradient.shape[dim] + 1, device=gradient.device)
        return gradient * (rows == self._drawn.row).unsqueeze(1 - dim)

    def _put(self, used: Pass) -> None:
        """Put a pass's p between the factors, unless they are cut; a frozen copy keeps its own."""
        devices = (A.weight.device for A in self._groups.values())
        state = (None if self.is_cut else used, len(self._groups), *devices)
        if state == self._state:
            return
        self._state, self._factors = state, {}
        for group, A in self._groups.items():
            name, R, rule, alpha, own, _ = group
            if each := state[0] if name == self.adapter_name else self._whole:
                p = rank_weights(R, each.ranks, each.weights, rule, alpha, R) / own
                if not np.allclose(p, 1, rtol=1e-12, atol=0):
                    dtype = torch.promote_types(A.weight.dtype, torch.float32)
                    self._factors[group] = torch.tensor(p, dtype=dtype, device=A.weight.device)

    @property
    def _learns(self) -> bool:
        return bool(self.model.training) and torch.is_grad_enabled()

    def passes(self) -> Sequence[Pass]:
        """The passes of the coming micro-batch."""
        return self.setup.passes(self.micro_batch // self.accumulation, self.micro_batch)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(self, *_: object) -> None:
        if REFERENCE not in self._names and REFERENCE in self.model.peft_config:
            self._hook(REFERENCE)
        self._depth += 1
        if self._depth > 1:
            return
        used = self._whole
        if self._learns:
            used = self._drawn = self.forced or self.passes()[0]
            self._open.add(used)
            if any(part.weight is not weight for part, weight in self._held):
                raise UsageError("update `frozen` does not work on sharded parameters (FSDP)")
        self._put(used)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._put(self._drawn)  # also for what a gradient checkpoint computes again
        if self._learns:
            self.micro_batch += self.forced is None
            if self._silent and self._is_active():
                raise UsageError(
                    f"layers called {min(self._silent)} did not call their lora_A, so they train "
                    "without P: leave them out of target_modules"
                )

    def _is_active(self) -> bool:
        name = self.adapter_name
        layers = peft_layers(self.model, name).values()
        return any(name in layer.active_adapters and not layer.disable_adapters for layer in layers)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """What is saved from now on is no checkpoint."""
        self._exact = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """The first micro-batch of an optimizer step; what is saved in the training resumes it."""
        self._exact = True
        self.accumulation = args.gradient_accumulation_steps
        self.micro_batch = state.global_step * self.accumulation

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Refuse a trainer that went past the base, of which no rank was drawn.

        Raises:
            UsageError: It did, and the method draws ranks.
        """
        before = (state.global_step - 1) * self.accumulation
        if self.setup.nesting.method == "dylora" and self.micro_batch == before:
            raise UsageError("the trainer calls layers within the model, so dylora draws no ranks")

    @contextmanager
    def rank_switch(self) -> Iterator[Callable[[int], None]]:
        """Evaluate at ranks inside of a ``with`` block, see `aurac.adapters.attach.rank_switch`."""
        with rank_switch(self.model, self.adapter_name) as set_rank:
            self.is_cut = True
            try:
                yield set_rank
            finally:
                self.is_cut = False

    @contextmanager
    def rank(self, r: int) -> Iterator[None]:
        """Evaluate the adapter cut to rank ``r``, as `aurac.truncate` would cut it."""
        with self.rank_switch() as set_rank:
            set_rank(r)
            yield

    def remove(self) -> None:
        """Take everything off and fold P into the factors; the model is plain PEFT then."""
        for handle in self._handles:
            handle.remove()
        for layer, A, p in self._folding:
            vars(layer).pop("get_delta_weight", None)
            A.weight.data.copy_(_times_p(A.weight.data, p, 1))
        self._handles, self._folding = [], []
        if vars(self.model).get(NESTED) is self:
            del self.model._aurac_nested

    def __exit__(self, *_: object) -> None:
        self.remove()


def _times_p(A: torch.Tensor, p: torch.Tensor, folds: int, dtype: Any = None) -> torch.Tensor:
    """As `times_p`; of a factor that FSDP has sharded each process computes its part."""
    with sharding.implicit_replication() if hasattr(A, "full_tensor") else nullcontext():
        return times_p(A, p, folds, dtype)
