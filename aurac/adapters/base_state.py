"""What injecting an adapter changes on a model, remembered so that it can be put back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

Structure = tuple[tuple["nn.Module", dict[str, "nn.Module | None"]], ...]
_LAYER = re.compile(r"(?P<head>.*?\b(?:layers|layer|h)\.)(?P<index>\d+)(?P<tail>\..+)?")


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
        for parameter, needed in self._gradients:
            parameter.requires_grad_(needed)


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


def name_in_base(name: str, replication: Sequence[Sequence[int]]) -> str:
    """The base's own name of a module whose layers were repeated by ``layer_replication``.

    The ranges [start, end) are laid end to end: [[0, 4], [2, 5]] makes layer 4 the base's layer 2.
    """
    match = _LAYER.fullmatch(name)
    if not replication or match is None:
        return name
    order = [i for start, end in replication for i in range(start, end)]
    index = int(match["index"])
    if index >= len(order):
        return name
    return f"{match['head']}{order[index]}{match['tail'] or ''}"
