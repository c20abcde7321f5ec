"""The base model as a reader asks for it: its shapes, and only where needed its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


class BaseSource(Protocol):
    """A base that is looked at while a checkpoint is read."""

    def skeleton(self, *, needed: bool) -> nn.Module | None:
        """The model's modules, on the meta device; ``None`` when that would mean to fetch it.

        Args:
            needed: Whether something depends on it, so that fetching is right.
        """

    def whole(self) -> nn.Module:
        """The model with its numbers."""


class HeldBase:
    """A model that is in memory already (on the meta device will do for its shapes)."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def skeleton(self, *, needed: bool) -> nn.Module:  # noqa: ARG002 - it is always at hand
        """The model itself."""
        return self._model

    def whole(self) -> nn.Module:
        """The model itself."""
        return self._model


class NoBase:
    """Nothing is known of the base."""

    def skeleton(self, *, needed: bool) -> None:
        """Nothing."""

    def whole(self) -> nn.Module:
        """An empty model, which vouches for nothing."""
        from torch import nn

        return nn.Module()
