"""Nested training of a live PEFT model: a diagonal between its LoRA factors.

PEFT computes `lora_B(lora_A(x)) * s_R`. A forward hook on `lora_A` multiplies its output (…, R) by
p / s_R, so that the layer computes `B · diag(p) · A · x`. Hooks on the base choose the p of each
forward pass: for training what the method draws, otherwise that of the whole adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec import structs
from transformers import TrainerCallback

from aurac.adapters import Nesting, adapter_from_peft
from aurac.adapters.attach import cuts, peft_layers
from aurac.adapters.formats.peft import NESTED
from aurac.adapters.formats.peft_config import CONFIG
from aurac.adapters.formats.sidecar import Sidecar, recorded
from aurac.adapters.methods import Pass, TrainingSetup
from aurac.adapters.nesting import Rule, Update, rank_weights
from aurac.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel

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
    of a ``with`` block. Until then `save_pretrained` writes plain PEFT, with method and ranks in
    ``aurac.json`` beside it.

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
        UsageError: For nested losses, DoRA, and layers that are not linear.
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


class Nested(TrainerCallback, AbstractContextManager["Nested"]):
    """A method's P in a live PEFT model, see `nested`; a context manager and a `TrainerCallback`.

    Attributes:
        model: The model.
        record: What ``aurac.json`` says.
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
        self._drawn, self.is_cut, self._depth = setup.nesting.whole, False, 0
        self._state: tuple[Any, ...] = ()
        self._factors: dict[tuple[Any, ...], torch.Tensor] = {}
        self._groups: dict[tuple[Any, ...], Any] = {}  # of layers with one P: the A of one of them
        self._handles: list[Any] = []
        self._open: set[Pass] = set()  # what was drawn since a gradient checkpoint computed again
        self._held: list[
            tuple[Any, torch.Tensor]
        ] = []  # modules whose rows are held, their weights
        plain = replace(adapter_from_peft(model, adapter_name), nesting=setup.nesting)
        stated = structs.replace(Sidecar.of(plain), rule=rule or plain.rule, alpha=alpha)
        adapter = recorded(plain, stated, f"model adapter {adapter_name!r}")
        for name, f in adapter.modules.items():
            if f.kind != "linear" or f.magnitude is not None:
                kind = f.kind if f.magnitude is None else "DoRA"
                raise UsageError(f"{name} ({kind}) takes no P: leave it out of target_modules")
        self.record = Sidecar.of(adapter)
        self._scales = {n: (f.rank, f.rule, f.alpha) for n, f in adapter.modules.items()}
        self._silent = {name.rpartition(".")[2] for name in adapter.modules}
        self._names: list[str] = []
        self._hook(adapter_name)
        # Every pass calls the base; the tuner of older releases of PEFT only its `forward`.
        for module in (model.base_model, model.get_base_model()):
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after, always_call=True))
        vars(model).update({NESTED: self, "save_pretrained": self._save})
        self._put(self._drawn)

    def _hook(self, adapter_name: str) -> None:
        self._names.append(adapter_name)
        for name, layer in peft_layers(self.model, adapter_name).items():
            A, B, leaf = layer.lora_A[adapter_name], layer.lora_B, name.rpartition(".")[2]
            own = layer.scaling[adapter_name]
            group = adapter_name, *self._scales[name], own, A.weight.device
            self._groups.setdefault(group, A)
            self._handles.append(A.register_forward_hook(partial(self._multiply, group, leaf)))
            if self.setup.nesting.update == "frozen" and adapter_name == self.adapter_name:
                for dim, part in enumerate((A, B[adapter_name])):
                    self._held.append((part, part.weight))
                    self._handles.append(part.weight.register_hook(partial(self._one_row, dim)))

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
        state = (
            None if self.is_cut else used,
            len(self._groups),
            *(A.weight.device for A in self._groups.values()),
        )
        if state == self._state:
            return
        self._state, self._factors = state, {}
        for group, A in self._groups.items():
            name, R, rule, alpha, own, _ = group
            if each := state[0] if name == self.adapter_name else self.setup.nesting.whole:
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
        used = self.setup.nesting.whole
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
        layer = next(iter(peft_layers(self.model, self.adapter_name).values()))
        return self.adapter_name in layer.active_adapters and not layer.disable_adapters

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """The first micro-batch of an optimizer step."""
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

    def _save(self, folder: str | Path, *args: Any, **settings: Any) -> None:
        type(self.model).save_pretrained(self.model, folder, *args, **settings)
        for name in self._names if settings.get("is_main_process", True) else ():
            place = Path(folder) / ("" if name == "default" else name)
            if (place / CONFIG).exists():
                self.record.write(place)

    @contextmanager
    def cuts(self) -> Iterator[Callable[[int], None]]:
        """Evaluate cuts inside of a ``with`` block, see `aurac.adapters.attach.cuts`."""
        with cuts(self.model, self.adapter_name) as set_rank:
            self.is_cut = True
            try:
                yield set_rank
            finally:
                self.is_cut = False

    @contextmanager
    def rank(self, r: int) -> Iterator[None]:
        """Evaluate the adapter cut to rank ``r``, as `aurac.truncate` would cut it."""
        with self.cuts() as set_rank:
            set_rank(r)
            yield

    def remove(self) -> None:
        """Take everything off; the model is plain PEFT again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if vars(self.model).get(NESTED) is self:
            del self.model._aurac_nested, self.model.save_pretrained

    def __exit__(self, *_: object) -> None:
        self.remove()
