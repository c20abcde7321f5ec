"""An adapter on a live model: attached once, its rank switched without reloading.

PEFT's own layers are injected, so that every linear path it knows (Conv1D, quantised, experts)
computes exactly what a loaded checkpoint would. A rank is chosen by giving those layers the first r
components and the scale of an export at r; rank 0 switches the layers off. Removing the adapter
puts the base's own modules back.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.compatibility import check_fits, model_name
from aurac.adapters.formats.peft import adapter_from_peft, peft_shapes
from aurac.adapters.formats.peft_config import PREFIX
from aurac.adapters.nesting import peft_scale
from aurac.adapters.truncate import Prepared, prepare
from aurac.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from peft import LoraConfig


NAME = "aurac"
_DELTA = ".token_adapter.trainable_tokens_delta"


class LiveAdapter:
    """A handle on an attached adapter.

    Attributes:
        model: The model, of its own class, with the adapter in it.
        rank: The rank in use; 0 is the base.
    """

    def __init__(self, model: nn.Module, prepared: Prepared) -> None:
        self.model, self.rank = model, 0
        self._prepared = prepared
        self._base = BaseState(model)
        self._extras = _extras(model, prepared.adapter)
        self._layers: dict[str, Any] = {}

    def _insert(self) -> None:
        self._layers = _inject(self.model, self._prepared.adapter)
        self._prepared = _copied(self._prepared, self._layers, _copy)
        for name, layer in self._layers.items():
            magnitude = self._prepared.adapter.modules[name].magnitude
            if magnitude is not None:  # PEFT would start at the base's norms
                weight = nn.Parameter(_copy(magnitude, layer), requires_grad=False)
                layer.lora_magnitude_vector[NAME].weight = weight
        self.set_rank(0 if self._prepared.rescale == "fit" else self._prepared.rank)

    def set_rank(self, r: int, factor: float | None = None) -> None:
        """Switch to rank ``r``; 0 switches the adapter off, which leaves the base itself.

        The rescale ``fit`` needs its factor of that rank.

        Raises:
            RankError: For a rank that the adapter does not have.
            UsageError: After the end of the ``with`` block.
        """
        if not self._layers:
            raise UsageError("the adapter was removed from the model: attach it again")
        if r != 0:
            _switch(self._layers, NAME, self._prepared, r, factor)
        for layer in self._layers.values():
            layer._disable_adapters = r == 0
        self._base.freeze(on=r != 0)
        for holder, key, own, replacement in self._extras:
            holder[key] = own if r == 0 else replacement
        self.rank = r

    def _remove(self) -> None:
        """Put the base's own modules back; the model is then bit-identical to what it was."""
        for holder, key, own, _ in self._extras:
            holder[key] = own
        self._base.restore()
        self._layers = {}


def _copied(
    prepared: Prepared, layers: Mapping[str, Any], copied: Callable[[Tensor, Any], Tensor]
) -> Prepared:
    """What is prepared, its factors copied to where their layers compute."""
    places: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def moved(modules: Mapping[str, Factors]) -> dict[str, Factors]:
        there = {}
        for name, f in modules.items():
            key = name, id(f.A)  # one copy of what full rank and lower ones share
            if key not in places:
                places[key] = copied(f.A, layers[name]), copied(f.B, layers[name])
            A, B = places[key]
            there[name] = replace(f, A=A, B=B)
        return there

    return replace(prepared, full=moved(prepared.full), sliced=moved(prepared.sliced))


def _switch(
    layers: Mapping[str, Any],
    adapter_name: str,
    copied: Prepared,
    r: int,
    factor: float | None = None,
) -> None:
    """Give PEFT's layers the copied factors and the scales of rank ``r``."""
    copied.adapter.check_rank(r)
    cut = {name: copied.module(name, r, factor) for name in layers}
    for name, layer in layers.items():
        f = cut[name]
        pair = peft_shapes(f, f.A, f.B.contiguous())
        for (holder, key), value in zip(_places(layer, adapter_name), pair, strict=True):
            holder[key] = nn.Parameter(value.contiguous(), requires_grad=False)
        layer.r[adapter_name] = f.rank
        layer.scaling[adapter_name] = peft_scale(f.rule, f.alpha, f.rank)


def peft_layers(model: nn.Module, adapter_name: str) -> dict[str, Any]:
    """The layers of an adapter of a ``PeftModel``, by module path in the base."""
    from peft.tuners.lora import LoraLayer

    found = ((n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer))
    return {n.removeprefix(PREFIX): m for n, m in found if adapter_name in m.r}


@contextmanager
def rank_switch(model: nn.Module, adapter_name: str) -> Iterator[Callable[[int], None]]:
    """Yield what sets an adapter of a live ``PeftModel`` to the ranks of its default truncation."""
    layers = peft_layers(model, adapter_name)
    prepared = prepare(adapter_from_peft(model, adapter_name), "auto")
    scales = [(layer.r[adapter_name], layer.scaling[adapter_name]) for layer in layers.values()]
    places = [place for layer in layers.values() for place in _places(layer, adapter_name)]
    own = [holder[key] for holder, key in places]

    def beside(tensor: Tensor, layer: Any) -> Tensor:
        holder, key = _places(layer, adapter_name)[0]
        return tensor.to(holder[key])

    try:
        copied = _copied(prepared, layers, beside)
        yield partial(_switch, layers, adapter_name, copied)
    finally:
        for (holder, key), parameter in zip(places, own, strict=True):
            holder[key] = parameter
        for layer, (rank, scaling) in zip(layers.values(), scales, strict=True):
            layer.r[adapter_name], layer.scaling[adapter_name] = rank, scaling


@contextmanager
def attach(model: nn.Module, prepared: Prepared) -> Iterator[LiveAdapter]:
    """Attach a prepared adapter to ``model`` for the length of a ``with`` block.

    Args:
        model: A base model without an adapter; it is changed in place and restored at the end.
        prepared: From :func:`~aurac.adapters.truncate.prepare`. On a 16-bit base its factors are
            computed in fp32, as ``PeftModel.from_pretrained`` does.

    Yields:
        The handle, at full rank; with rescale ``fit`` the adapter is switched off.

    Raises:
        CheckpointError: When the adapter does not fit the model.
        UsageError: When the model carries an adapter already.
    """
    check_fits(prepared.adapter, model)
    live = LiveAdapter(model, prepared)
    try:
        live._insert()
        yield live
    finally:
        live._remove()


def _inject(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """PEFT's layers around the adapter's modules, by module path, empty and on the meta device."""
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = _lora_config(adapter, model)
        inject_adapter_in_model(config, model, adapter_name=NAME, low_cpu_mem_usage=True)
    layers = peft_layers(model, NAME)
    if mismatched := sorted(set(layers) ^ set(adapter.modules)):
        raise CheckpointError(
            f"adapter {adapter.name!r} and base {model_name(model)} disagree about {mismatched[0]}"
            + (f" and {len(mismatched) - 1} more" if len(mismatched) > 1 else "")
        )
    return layers


def _lora_config(adapter: Adapter, model: nn.Module) -> LoraConfig:
    """PEFT's config that names the adapter's modules, at the lowest rank."""
    from peft import LoraConfig

    modules = adapter.modules
    names = [name for name, f in modules.items() if f.kind != "experts"]
    ends = tuple(f".{name}" for name in names)  # PEFT takes a name for the end of others too
    beyond = [n for n, _ in model.named_modules() if n.endswith(ends) and n not in modules]
    return LoraConfig(
        r=1,
        lora_alpha=1,
        # As a list: of some bases with experts PEFT reads a pattern as the last names alone.
        target_modules=names,
        exclude_modules="|".join(map(re.escape, beyond)) or None,
        target_parameters=list(adapter.peft_config.get("target_parameters") or ()) or None,
        use_dora=adapter.dora,
        inference_mode=True,
    )


def _copy(tensor: Tensor, layer: Any) -> Tensor:
    """A copy where a layer computes its adapter, in the type that PEFT would compute it in."""
    base = layer.get_base_layer()
    weight = next(chain(base.parameters(), base.buffers()))
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    # Of a base that is spread or offloaded (accelerate), the layer's own place during a pass.
    hook = getattr(base, "_hf_hook", None)
    device = getattr(hook, "execution_device", None) if weight.is_meta else weight.device
    # Always a copy: inside a loaded file a tensor may be aligned so that products round otherwise.
    return tensor.to(device, dtype, copy=True)


def _places(layer: Any, adapter_name: str) -> list[tuple[Any, str]]:
    """The mappings, each with the key, that hold a layer's own A and B."""
    if adapter_name in layer.lora_embedding_A:
        return [(part, adapter_name) for part in (layer.lora_embedding_A, layer.lora_embedding_B)]
    return [(part[adapter_name]._parameters, "weight") for part in (layer.lora_A, layer.lora_B)]


class BaseState:
    """A model's modules with their children, attributes and gradient flags."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._children = [(module, dict(module._modules)) for module in model.modules()]
        self._attributes = set(vars(model))
        self._gradients = [(p, p.requires_grad) for p in model.parameters()]

    def restore(self) -> None:
        """Put everything back."""
        for module, children in self._children:
            if module._modules != children:
                module._modules.clear()
                module._modules.update(children)
        for attribute in set(vars(self._model)) - self._attributes:
            delattr(self._model, attribute)
        self.freeze(on=False)

    def freeze(self, *, on: bool) -> None:
        """Freeze the base's parameters as PEFT does, or give them their own gradient flags back.

        torch multiplies some inputs by a frozen weight in another order, which changes last bits.
        """
        for parameter, needed in self._gradients:
            parameter.requires_grad_(needed and not on)


def _extras(model: nn.Module, adapter: Adapter) -> list[tuple[dict[str, Any], str, Any, Any]]:
    """Of each tensor beside the factors who holds it, by which key, the base's own and the new one.

    Tensors of whole modules (``modules_to_save``) take the place of one module's, as in PEFT; where
    weights are tied, token rows, biases and embedding matrices take that of all.
    """
    saved = tuple(adapter.peft_config.get("modules_to_save") or ())
    found = []
    for key, tensor in adapter.extras.items():
        place = key.replace(".base_layer.", ".").replace(_DELTA, ".weight")
        path, _, leaf = place.rpartition(".")
        holders = [m._parameters for m in model.modules()] + [m._buffers for m in model.modules()]
        module = dict(model.named_modules()).get(path, nn.Module())
        own: Any = {**module._buffers, **module._parameters}.get(leaf)
        new = tensor
        if own is not None and key.endswith(_DELTA):
            rows = torch.tensor(_token_rows(path, adapter), device=own.device)
            new = own.detach().index_copy(0, rows, tensor.to(own))
        if own is None or own.shape != new.shape:
            raise CheckpointError(f"the adapter has a tensor {key} that does not fit the base")
        # PEFT takes a name in ``modules_to_save`` for the end of others, too.
        if any(head.endswith(saved) for head in accumulate(path.split("."), "{}.{}".format)):
            holders = [module._parameters, module._buffers]
        new = nn.Parameter(new.to(own, copy=True), requires_grad=False)
        found += [(h, name, own, new) for h in holders for name in h if h[name] is own]
    return found


def _token_rows(name: str, adapter: Adapter) -> list[int]:
    rows: Any = adapter.peft_config["trainable_token_indices"]
    if isinstance(rows, dict):
        return next(v for k, v in rows.items() if name == k or name.endswith(f".{k}"))
    return list(rows)
