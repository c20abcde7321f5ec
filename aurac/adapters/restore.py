"""Changes to a live model that can be undone: its structure, and tensors beside the factors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aurac.adapters.formats.peft_config import owner_of
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

Structure = tuple[tuple["nn.Module", dict[str, "nn.Module | None"]], ...]
_DELTA = ".token_adapter.trainable_tokens_delta"


class BaseState:
    """A model's modules, attributes, gradient flags and number of layers at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._structure = structure(model)
        self._attributes = set(vars(model))
        self._gradients = [(p, p.requires_grad) for p in model.parameters()]
        self._training = [(m, m.training) for m in model.modules()]
        self._layers = number_of_layers(model)

    def restore_structure(self) -> None:
        """Put the modules themselves back, in their order."""
        put_structure(self._model, self._structure, self._layers)

    def restore(self) -> None:
        """Put everything back."""
        self.restore_structure()
        for module, training in self._training:
            module.training = training
        for attribute in set(vars(self._model)) - self._attributes:
            delattr(self._model, attribute)
        self.freeze(on=False)

    def freeze(self, *, on: bool) -> None:
        """Freeze the base's parameters as PEFT does, or give them their own gradient flags back.

        torch multiplies some inputs by a frozen weight in another order, which changes last bits.
        """
        for parameter, needed in self._gradients:
            parameter.requires_grad_(needed and not on)


def structure(model: nn.Module) -> Structure:
    """Each module with its children; the order of children matters."""
    return tuple((module, dict(module._modules)) for module in model.modules())


def put_structure(model: nn.Module, modules: Structure, layers: int | None) -> None:
    """Give each module its children back, and the config its number of layers."""
    for module, children in modules:
        if module._modules != children:
            module._modules.clear()
            module._modules.update(children)
    if layers is not None:
        model.config.num_hidden_layers = layers  # type: ignore[union-attr]


def number_of_layers(model: nn.Module) -> int | None:
    """The config's own count of layers, where there is one."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    return count if isinstance(count, int) else None


class ExtraTensors:
    """Replacements for modules of a base that can be switched on and off.

    Whole modules (``modules_to_save``) and token rows are put in copies of the base's modules, so
    that tied weights elsewhere stay the base's own where PEFT leaves them so. Biases and embedding
    matrices that PEFT writes into the base itself are swapped in place.
    """

    def __init__(
        self, model: nn.Module, extras: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> None:
        self._model = model
        self._modules: dict[str, tuple[nn.Module, nn.Module]] = {}
        self._values: list[tuple[Tensor, Tensor, Tensor]] = []
        saved = tuple(config.get("modules_to_save") or ())
        copies: dict[str, dict[str, Tensor]] = {}
        for key, tensor in extras.items():
            owner = owner_of(key, saved)
            if key.endswith(_DELTA):
                self._add_tokens(key.removesuffix(_DELTA), tensor, config)
            elif owner is not None:
                copies.setdefault(owner, {})[key.removeprefix(f"{owner}.")] = tensor
            else:
                self._add_value(key, tensor)
        for owner, state in copies.items():
            self._add_module(owner, state)

    def switch(self, *, on: bool) -> None:
        """Put the replacements in, or the base's own back."""
        for name, (original, replacement) in self._modules.items():
            parent, _, child = name.rpartition(".")
            modules = self._model.get_submodule(parent)._modules
            modules[child] = replacement if on else original
        for parameter, original_value, value in self._values:
            parameter.data = value if on else original_value

    def _add_module(self, name: str, state: Mapping[str, Tensor]) -> None:
        original = _find(self._model, name)
        replacement = copy.deepcopy(original)
        expected = replacement.state_dict()
        wrong = [k for k in {*expected, *state} if k not in expected or k not in state]
        wrong += [k for k in state if k in expected and state[k].shape != expected[k].shape]
        if wrong:
            raise CheckpointError(
                f"the adapter's own copy of {name} does not fit the base's: {min(wrong)}"
            )
        replacement.load_state_dict(dict(state))
        self._modules[name] = (original, replacement)

    def _add_tokens(self, name: str, rows: Tensor, config: Mapping[str, Any]) -> None:
        original = _find(self._model, name)
        indices = _token_indices(name, config)
        weight = getattr(original, "weight", None)
        if (
            weight is None
            or rows.shape != (len(indices), weight.shape[1])
            or max(indices) >= len(weight)
        ):
            raise CheckpointError(f"the adapter's token rows do not fit {name} of the base")
        changed = weight.detach().clone()
        changed[torch.tensor(indices, device=changed.device)] = rows.to(changed)
        tied = [n for n, m in self._model.named_modules() if getattr(m, "weight", None) is weight]
        for other in tied:
            module = _find(self._model, other)
            replacement = copy.copy(module)
            replacement._parameters = dict(module._parameters)
            replacement.weight = nn.Parameter(changed, requires_grad=False)
            self._modules[other] = (module, replacement)

    def _add_value(self, key: str, value: Tensor) -> None:
        key = key.replace(".base_layer.", ".")
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        if key not in parameters or parameters[key].shape != value.shape:
            raise CheckpointError(f"the adapter has a tensor {key} that does not fit the base")
        parameter = parameters[key]
        self._values.append((parameter, parameter.data, value.to(parameter)))


def _token_indices(name: str, config: Mapping[str, Any]) -> list[int]:
    indices = config.get("trainable_token_indices")
    if isinstance(indices, dict):
        indices = next((v for k, v in indices.items() if name == k or name.endswith(f".{k}")), None)
    if not indices:
        raise CheckpointError(
            f"the adapter has token rows for {name} but no trainable_token_indices"
        )
    return list(indices)


def _find(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise CheckpointError(
            f"the adapter replaces {name}, which the base does not have",
            fix="it was trained on another base",
        ) from error
