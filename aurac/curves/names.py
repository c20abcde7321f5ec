"""What cuts, recipes and slots of a server are called, everywhere alike."""

from __future__ import annotations

from os.path import commonprefix
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Container

SLOT_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` may be: it sets aside that much for each adapter it holds."""


def slot_rank(rank: int) -> int:
    """The smallest ``--max-lora-rank`` that serves a rank; itself beyond the largest."""
    return next((step for step in SLOT_RANKS if step >= rank), rank)


def slot_bytes(rank: int, width: int) -> int:
    """What vLLM sets aside in 16 bits for an adapter whose modules have `width` in- and outputs."""
    return 2 * slot_rank(rank) * width


def cut_name(basis: str | None, rescale: str | None, method: str | None = None) -> str | None:
    """A truncation in words: "svd", "prefix", "svd · fit"; None if unknown."""
    if basis is None:
        return rescale
    if rescale == "trained":
        return f"{basis} rescaled"
    if rescale == "rule" and method == "matryoshka":
        return f"{basis} without P"
    own = "keep" if basis == "svd" else "rule"
    return basis if rescale in (None, own) else f"{basis} · {rescale}"


def truncate_options(basis: str | None, rescale: str | None) -> list[str]:
    """With which `aurac truncate` makes a cut; none of a fitted scale, which it does not make."""
    if basis is None or rescale in (None, "fit"):
        return []
    return ["--basis", basis, *(["--rescale", str(rescale)] if basis == "prefix" else [])]


def common_name(names: Collection[str], taken: Container[str] = ()) -> str:
    """The name of a recipe: what the names of its seeds begin with, or all of them."""
    shared = commonprefix([*names])  # noqa: RUF071 - of characters, not of folders
    shared = shared.rstrip("-_ ./0123456789")
    for ending in ("seed", "-s", "_s"):
        shared = shared.removesuffix(ending).rstrip("-_ ./")
    return shared if shared and shared not in taken else " + ".join(names)
