"""What a curve is called, in every figure, table and sentence alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Mapping

Way = tuple[str, str]  # adapter, truncation such as "svd · keep"


LENGTH = 60  # characters of an adapter's name in sentences and tables; files have it whole
LISTED = 5  # names in a sentence
_SCALES = {"keep": "scale kept", "fit": "fitted"}


def curve_names(ways: Iterable[Way], labels: Mapping[str, str] | None = None) -> dict[Way, str]:
    """The name of each curve of which basis and rescale are known.

    `labels` are adapter → what to call it. A truncation has one name in every run. It is left out
    where an adapter has the prefix alone.
    """
    every = {way: way[1].split(" · ") for way in ways if " · " in way[1]}
    names = {}
    for way, (basis, rescale) in every.items():
        scales = [scale for (adapter, _), (_, scale) in every.items() if adapter == way[0]]
        cut = _truncation(basis, rescale, with_p="trained" in scales)
        name = one_line((labels or {}).get(way[0], way[0]), LENGTH)
        names[way] = name if len(scales) == 1 and cut == "prefix" else f"{name} ({cut})"
    return names


def cut_name(basis: str | None, rescale: str | None, method: str | None = None) -> str | None:
    """A truncation in words: "svd", "prefix", "prefix, with P", "svd · fit"; None if unknown."""
    if basis is None:
        return None
    if rescale == "trained":
        return f"{basis}, with P"
    if rescale == "rule" and method == "matryoshka":
        return f"{basis}, without P"
    own = "keep" if basis == "svd" else "rule"
    return basis if rescale in (None, own) else f"{basis} · {rescale}"


def some(names: Iterable[str], most: int = LISTED) -> str:
    """Names each once, cut after a few."""
    listed = list(dict.fromkeys(names))
    if len(listed) <= most:
        return ", ".join(listed)
    return f"{', '.join(listed[:most])} and {len(listed) - most} more"


def common_name(names: Collection[str], taken: Container[str] = ()) -> str:
    """The name of a recipe: what the names of its seeds begin with, or all of them."""
    first, last = min(names), max(names)
    same = (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y)
    shared = first[: next(same, len(first))].rstrip("-_ ./0123456789")
    for ending in ("seed", "-s", "_s"):
        shared = shared.removesuffix(ending).rstrip("-_ ./")
    return shared if shared and shared not in taken else " + ".join(names)


def label_names(labels: Iterable[str]) -> dict[str, str]:
    """Label in a run, ``adapter · basis · rescale`` → the name of the curve."""
    parts = {label: label.rsplit(" · ", 2) for label in labels}
    ways = {label: (each[0], " · ".join(each[1:])) for label, each in parts.items()}
    names = curve_names(ways.values())
    return {label: names.get(way, label) for label, way in ways.items()}


def _truncation(basis: str, rescale: str, *, with_p: bool) -> str:
    """A truncation in words; `with_p` is of an adapter that is also shown with its trained P."""
    cut = "SVD" if basis == "svd" else basis
    if rescale == ("rule" if basis == "prefix" else "keep") and not (with_p and rescale == "rule"):
        return cut
    scale = {"trained": "with P", "rule": "without P" if with_p else "rule"}.get(rescale)
    if basis == "prefix" and scale and scale.endswith("P"):
        return scale
    return f"{cut}, {scale or _SCALES.get(rescale, rescale)}"
