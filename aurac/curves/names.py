"""What a cut and a recipe are called, in every figure, table and sentence alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Container


def cut_name(basis: str | None, rescale: str | None, method: str | None = None) -> str | None:
    """A truncation in words: "svd", "prefix", "prefix, with P", "svd · fit"; None if unknown."""
    if basis is None:
        return rescale
    if rescale == "trained":
        return f"{basis}, with P"
    if rescale == "rule" and method == "matryoshka":
        return f"{basis}, without P"
    own = "keep" if basis == "svd" else "rule"
    return basis if rescale in (None, own) else f"{basis} · {rescale}"


def common_name(names: Collection[str], taken: Container[str] = ()) -> str:
    """The name of a recipe: what the names of its seeds begin with, or all of them."""
    first, last = min(names), max(names)
    same = (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y)
    shared = first[: next(same, len(first))].rstrip("-_ ./0123456789")
    for ending in ("seed", "-s", "_s"):
        shared = shared.removesuffix(ending).rstrip("-_ ./")
    return shared if shared and shared not in taken else " + ".join(names)
