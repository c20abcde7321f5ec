"""An adapter on a live model: attached once, its rank switched without reloading; or merged in.

PEFT's own layers are injected, so that every linear path it knows (Conv1D, quantised, experts)
computes exactly what a loaded checkpoint would. A rank is chosen by giving those layers the first r
components and the scale of an export at r; rank 0 switches the layers off. Removing the adapter
puts the base's own modules back.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aurac.adapters.compatibility import check_fits, is_conv1d, model_name, name_in_base
from aurac.adapters.formats.peft import from_state
from aurac.adapters.formats.peft_shapes import peft_shapes
from aurac.adapters.nesting import Rule, peft_alpha
from aurac.adapters.restore import (
    BaseState,
    ExtraTensors,
    number_of_layers,
    put_structure,
    structure,
)
from aurac.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aurac.adapters.adapter import Adapter, Factors, Nesting
    from aurac.adapters.truncate import Prepared

NAME = "aurac"
_HALF = (torch.float16, torch.bfloat16)


class LiveAdapter:
    """A handle on an attached adapter.

    Attributes:
        model: The model, of its own class, with the adapter in it.
        prepared: What is attached.
    """

    def __init__(self, model: nn.Module, prepared: Prepared, *, half: bool = False) -> None:
        self.model = model
        self.prepared = prepared
        self._rank = 0
        self._closed = False
        self._repeats = bool(prepared.adapter.peft_config.get("layer_replication"))
        self._base = BaseState(model)
        self._extras = ExtraTensors(model, prepared.adapter.extras, prepared.adapter.peft_config)
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        try:
            self._layers = _inject(model, prepared.adapter)
            self._injected = structure(model), number_of_layers(model)
            for name, layer in self._layers.items():
                A, B = prepared.modules[name]
                self._factors[name] = _copy(A, layer, half=half), _copy(B, layer, half=half)
                magnitude = prepared.adapter.modules[name].magnitude
                if magnitude is not None:  # PEFT would start at the base's norms
                    weight = nn.Parameter(_copy(magnitude, layer, half=half), requires_grad=False)
                    layer.lora_magnitude_vector[NAME].weight = weight
            self.set_rank(max(prepared.fit_factors or (prepared.rank,)))
        except BaseException:
            self.remove()
            raise

    @property
    def rank(self) -> int:
        """The rank in use; 0 is the base."""
        return self._rank

    def set_rank(self, r: int) -> None:
        """Switch to rank ``r``; 0 switches the adapter off, which leaves the base itself.

        Raises:
            RankError: For a rank that the adapter does not have.
            UsageError: After :meth:`remove`.
        """
        if self._closed:
            raise UsageError("a rank for an adapter that was removed", fix="attach it again")
        if r != 0:
            self.prepared.adapter.check_rank(r)
            ranks = self.prepared.module_ranks(r)
            scaling = {name: self.prepared.scaling(name, r, ranks[name]) for name in self._layers}
            for name, layer in self._layers.items():
                self._set_factors(name, layer, ranks[name])
                layer.scaling[NAME] = scaling[name]
        if self._repeats and r == 0:
            self._base.restore_structure()
        elif self._repeats:
            put_structure(self.model, *self._injected)
        for layer in self._layers.values():
            layer._disable_adapters = r == 0
        self._base.freeze(on=r != 0)
        self._extras.switch(on=r != 0)
        self._rank = r

    def remove(self) -> None:
        """Put the base's own modules back; the model is then bit-identical to what it was."""
        if self._closed:
            return
        self._closed = True
        self._extras.switch(on=False)
        self._base.restore()

    def _set_factors(self, name: str, layer: Any, module_rank: int) -> None:
        f = self.prepared.adapter.modules[name]
        full_a, full_b = self._factors[name]
        A, B = peft_shapes(f, full_a[:module_rank], full_b[:, :module_rank].contiguous())
        for param, value in zip(_parameters(layer, f), (A, B), strict=True):
            param.data = value.contiguous()
        layer.r[NAME] = module_rank * f.rank_multiple


@contextmanager
def attach(model: nn.Module, prepared: Prepared, *, half: bool = False) -> Iterator[LiveAdapter]:
    """Attach a prepared adapter to ``model`` for the length of a ``with`` block.

    Args:
        model: A base model without an adapter; it is changed in place and restored at the end.
        prepared: From :func:`~aurac.adapters.truncate.prepare`.
        half: Keep factors in the base's own 16-bit type. By default they are computed in fp32
            there, as ``PeftModel.from_pretrained`` does.

    Yields:
        The handle, at full rank (with fitted factors at the largest rank that has one).

    Raises:
        CheckpointError: When the adapter does not fit the model.
        UsageError: When the model carries an adapter already.
    """
    check_fits(prepared.adapter, model)
    live = LiveAdapter(model, prepared, half=half)
    try:
        yield live
    finally:
        live.remove()


def adapter_from_peft(
    model: Any,
    adapter_name: str = "default",
    *,
    nesting: Nesting | None,
    rule: Rule,
    alpha: float,
    base: str | None = None,
    base_sha256: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int | None = None,
    name: str = "adapter",
) -> Adapter:
    """The adapter in a live ``PeftModel``, its factors copied to the CPU.

    Args:
        model: The ``PeftModel``.
        adapter_name: Which of its adapters.
        nesting: How its ranks are being trained.
        rule: The scaling rule that training used.
        alpha: The α of that rule. For ``none`` PEFT itself has ``lora_alpha = α·R``.
        base: The base's name.
        base_sha256: The base's content hash.
        recipe: The recipe.
        seed: The seed.
        name: What to call it.

    Raises:
        CheckpointError: When the model's own scale is not the one that is claimed, or it has a
            feature that is refused.
    """
    from peft import get_peft_model_state_dict

    # As the JSON that PEFT would save; it keeps some fields as sets.
    config = json.loads(json.dumps(model.peft_config[adapter_name].to_dict(), default=sorted))
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    copied = {key: _whole(t).to("cpu", copy=True) for key, t in state.items()}
    adapter = from_state(config, copied, where=f"model adapter {adapter_name!r}", name=name)
    modules = {}
    for module, f in adapter.modules.items():
        lora_alpha = peft_alpha(rule, alpha, f.rank)
        same_rule = (f.rule == "sqrt") == (rule == "sqrt")
        if not same_rule or not math.isclose(f.alpha, lora_alpha, rel_tol=1e-9):
            raise CheckpointError(
                f"{module} of the model scales with lora_alpha {f.alpha:g} ({f.rule})",
                expected=f"{lora_alpha:g}: rule {rule} with alpha {alpha:g} at rank {f.rank}",
            )
        modules[module] = replace(f, rule=rule, alpha=float(alpha))
    return replace(
        adapter,
        modules=modules,
        nesting=nesting,
        base=base or adapter.base,
        base_sha256=base_sha256,
        recipe=recipe,
        seed=seed,
    )


def _inject(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """PEFT's layers around the adapter's modules, by module path, empty and on the meta device."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    training = {id(m): m.training for m in model.modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = LoraConfig(**_peft_options(adapter, model))
            inject_adapter_in_model(config, model, adapter_name=NAME, low_cpu_mem_usage=True)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise CheckpointError(
                f"PEFT cannot place adapter {adapter.name!r} in base {model_name(model)}: {error}"
            ) from error
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    mismatched = sorted(set(layers) ^ set(adapter.modules))
    if mismatched:
        raise CheckpointError(
            f"adapter {adapter.name!r} and base {model_name(model)} disagree about {mismatched[0]}"
            + (f" and {len(mismatched) - 1} more" if len(mismatched) > 1 else "")
        )
    for layer in layers.values():
        layer.training = training.get(id(layer.base_layer), model.training)
    return layers


def _peft_options(adapter: Adapter, model: nn.Module) -> dict[str, Any]:
    """The fields of a ``LoraConfig`` that names the adapter's modules, at the lowest rank."""
    modules = adapter.modules
    names = [name for name, f in modules.items() if f.kind != "experts"]
    ends = tuple(f".{name}" for name in names)  # PEFT takes a name for the end of others too
    beyond = [n for n, _ in model.named_modules() if n.endswith(ends) and n not in modules]
    repeats = adapter.peft_config.get("layer_replication") or ()
    in_base = [model.get_submodule(name_in_base(name, repeats)) for name in names]
    groups = {re.escape(n): f.blocks for n, f in modules.items() if f.kind == "grouped_conv"}
    return {
        "r": 1,
        "lora_alpha": 1,
        # As a list: of some bases with experts PEFT reads a pattern as the last names alone.
        "target_modules": names,
        "exclude_modules": "|".join(map(re.escape, beyond)) or None,
        "rank_pattern": groups,  # a grouped convolution takes no rank below its number of groups
        "target_parameters": list(adapter.peft_config.get("target_parameters") or ()) or None,
        "fan_in_fan_out": any(map(is_conv1d, in_base)),
        "layer_replication": [tuple(pair) for pair in repeats] or None,
        "use_dora": adapter.dora,
        "inference_mode": True,
    }


def _copy(tensor: Tensor, layer: Any, *, half: bool) -> Tensor:
    """A copy where a layer computes its adapter, in the type that PEFT would compute it in."""
    weight = _reference_weight(layer)
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    if dtype in _HALF and not half:
        dtype = torch.float32
    # Of a base that is spread or offloaded (accelerate), the layer's own place during a pass.
    hook = getattr(layer.get_base_layer(), "_hf_hook", None)
    device = getattr(hook, "execution_device", None) if weight.is_meta else weight.device
    # Always a copy: inside a loaded file a tensor may be aligned so that products round otherwise.
    return tensor.to(device, dtype, copy=True)


def _reference_weight(layer: Any) -> Tensor:
    if hasattr(layer, "parameter_name"):
        return layer.get_param()
    base = layer.get_base_layer()
    for attribute in ("qweight", "W_q", "weight"):
        weight = getattr(base, attribute, None)
        if isinstance(weight, Tensor):
            return weight
    return next(base.parameters())


def _parameters(layer: Any, f: Factors) -> tuple[nn.Parameter, nn.Parameter]:
    """The layer's own A and B parameters, made real the first time they are used."""
    if f.kind == "embedding":
        places = [(part, NAME) for part in (layer.lora_embedding_A, layer.lora_embedding_B)]
    else:
        places = [(part[NAME]._parameters, "weight") for part in (layer.lora_A, layer.lora_B)]
    for holder, key in places:
        if holder[key].is_meta:
            holder[key] = nn.Parameter(torch.empty(0), requires_grad=False)
    A, B = (holder[key] for holder, key in places)
    return A, B


def _whole(tensor: Tensor) -> Tensor:
    """The tensor; of one that FSDP has sharded all its parts, for which every process must ask."""
    gathered = getattr(tensor.detach(), "full_tensor", None)
    return gathered() if callable(gathered) else tensor.detach()


def merge(model: nn.Module, prepared: Prepared, rank: int) -> None:
    """Add ``s · B[:, :r] · A[:r]`` to the weights of ``model`` in place, in fp64, rounded once.

    The rows of a DoRA adapter's modules then get its magnitudes as their norms. Modules whose
    weight cannot take the update and tensors beside the factors are refused.
    """
    adapter = prepared.adapter
    adapter.check_rank(rank)
    check_fits(adapter, model)
    if adapter.extras or adapter.peft_config.get("layer_replication"):
        raise CheckpointError(
            f"adapter {adapter.name!r} has tensors beside its factors or repeats layers",
            expected="low-rank factors alone, to be merged",
            fix="merge it with PEFT",
        )
    ranks = prepared.module_ranks(rank)
    targets = {name: _weight(model, name, prepared) for name in adapter.modules}
    for name, (weight, transposed) in targets.items():
        f, r, (A, B) = adapter.modules[name], ranks[name], prepared.modules[name]
        A, B = peft_shapes(f, A[:r].double(), B[:, :r].double())
        update = prepared.scaling(name, rank, r) * (B @ A)
        update = (update.T if transposed else update).to(weight.device)
        merged = weight.data.double() + update
        if f.magnitude is not None:
            norms = merged.norm(dim=0 if transposed else 1, keepdim=True)
            merged *= f.magnitude.to(weight.device).double().view_as(norms) / norms
        weight.data = merged.to(weight.dtype)


def _weight(model: nn.Module, name: str, prepared: Prepared) -> tuple[Tensor, bool]:
    """The weight of a linear layer, and whether it is kept as (in, out)."""
    kind = prepared.adapter.modules[name].kind
    module = model.get_submodule(name) if kind in ("linear", "merged") else None
    weight = getattr(module, "weight", None)
    conv1d = module is not None and is_conv1d(module)
    plain = conv1d or type(module) is nn.Linear
    if weight is None or not weight.dtype.is_floating_point or not plain:
        raise CheckpointError(f"{name} is not a plain linear layer, so nothing is merged into it")
    shared = [n for n, p in model.named_parameters(remove_duplicate=False) if p is weight]
    if len(shared) > 1:
        raise CheckpointError(f"{name} shares its weight with {shared[0]}, which would change too")
    return weight, conv1d
