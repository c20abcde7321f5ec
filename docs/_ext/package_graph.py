"""The packages drawn from their imports: a directive that reads the import graph at build time.

    ```{package-graph}
    ```

gives an inline SVG: every package, and an arrow to each one that it imports and does not reach
through another. A package here is a folder of aurac or a module in its root.
"""

from __future__ import annotations

import html
import importlib
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from collections.abc import Mapping

Packages = dict[str, set[str]]

FOUNDATION = ("errors", "files")
"""Imported by nearly all; drawn as the ground, without arrows."""
_HIDDEN = {"__main__"}
_BOX, _GAP, _FLOOR, _MARGIN = (92, 32), 6, 76, 8


def imports(package: str = "aurac") -> Packages:
    """Package → what it imports when it runs; imports for type checkers alone are left out."""
    import grimp

    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    packages: Packages = {}
    for module in graph.modules:
        here = _package(module)
        if here is None:
            continue
        known = packages.setdefault(here, set())
        known |= {r for m in graph.find_modules_directly_imported_by(module) if (r := _package(m))}
    return {package: known - {package} for package, known in sorted(packages.items())}


def _package(module: str) -> str | None:
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in _HIDDEN:
        return None
    return parts[1]


def levels(packages: Mapping[str, set[str]]) -> dict[str, int]:
    """How far above the ground each package lies: one more than the highest that it imports.

    Raises:
        ValueError: Packages import each other in a circle.
    """
    height: dict[str, int] = {}

    def climb(package: str, path: tuple[str, ...]) -> int:
        if package in path:
            raise ValueError(f"packages import each other: {' → '.join((*path, package))}")
        if package not in height:
            below = [climb(other, (*path, package)) for other in packages[package]]
            height[package] = max(below, default=-1) + 1
        return height[package]

    for package in packages:
        climb(package, ())
    return height


def direct(packages: Mapping[str, set[str]]) -> Packages:
    """Without the imports that another import already implies."""
    reach: Packages = {}

    def all_below(package: str) -> set[str]:
        if package not in reach:
            reach[package] = set().union(*({o} | all_below(o) for o in packages[package]), set())
        return reach[package]

    return {
        package: {o for o in known if not any(o in all_below(p) for p in known if p != o)}
        for package, known in packages.items()
    }


def _places(packages: Packages, width: float) -> dict[str, tuple[float, float]]:
    """Centre of each box; within a level, each package near the middle of what it imports."""
    height = levels(packages)
    rows = [sorted(r for r in packages if height[r] == k) for k in range(max(height.values()) + 1)]
    order = {package: k / max(1, len(row) - 1) for row in rows for k, package in enumerate(row)}
    for sweep in range(8):
        neighbours = packages if sweep % 2 == 0 else _reversed(packages)
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {
                r: sum(order[o] for o in neighbours[r]) / len(neighbours[r])
                if neighbours[r]
                else order[r]
                for r in row
            }
            for k, package in enumerate(sorted(row, key=lambda r: (wish[r], r))):
                order[package] = (k + 0.5) / len(row)
    top = len(rows) - 1
    return {
        package: (_MARGIN + order[package] * (width - 2 * _MARGIN), 30 + (top - k) * _FLOOR)
        for k, row in enumerate(rows)
        for package in row
    }


def _reversed(packages: Packages) -> Packages:
    return {package: {o for o in packages if package in packages[o]} for package in packages}


def draw(packages: Packages) -> str:
    """The picture; colours are the page's own."""
    upper = {r: k - set(FOUNDATION) for r, k in packages.items() if r not in FOUNDATION}
    most = max(list(levels(upper).values()).count(k) for k in range(len(upper)))
    width = max(most * (_BOX[0] + _GAP) + 2 * _MARGIN, 640)
    places = _places(upper, width)
    ground = max(y for _, y in places.values()) + _FLOOR
    lines = [
        _arrow(places[package], places[other])
        for package, known in direct(upper).items()
        for other in sorted(known)
    ]
    boxes = [_box(package, *place) for package, place in places.items()]
    label = " · ".join(r for r in FOUNDATION if r in packages)
    boxes.append(
        f'<rect x="{_MARGIN}" y="{ground - 16}" width="{width - 2 * _MARGIN}" height="32" rx="5" '
        'fill="currentColor" fill-opacity=".08" stroke="currentColor" stroke-opacity=".4"/>'
        f'<text x="{width / 2}" y="{ground + 4}" text-anchor="middle">{html.escape(label)}</text>'
    )
    words = "Each package stands above those that it imports."
    return (
        f'<svg role="img" aria-label="{words}" viewBox="0 0 {width} {ground + 26}" '
        'font-size="13.5" font-family="sans-serif" fill="currentColor" '
        f'style="width:100%;height:auto;min-width:{width * 0.6:.0f}px">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker>'
        f"</defs>{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1, x2, y2 = start[0], start[1] + _BOX[1] / 2, end[0], end[1] - _BOX[1] / 2 - 2
    bend = (y2 - y1) / 2
    # Around the boxes between two packages that stand above each other, not behind them.
    aside = _BOX[0] * 1.2 if y2 - y1 > _FLOOR and abs(x1 - x2) < _BOX[0] else 0.0
    curve = (
        f"M{x1:.0f} {y1:.0f} C{x1 + aside:.0f} {y1 + bend:.0f} "
        f"{x2 + aside:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
    )
    return (
        f'<path d="{curve}" fill="none" stroke="currentColor" stroke-opacity=".45" '
        'marker-end="url(#tip)"/>'
    )


def _box(package: str, x: float, y: float) -> str:
    w, h = _BOX
    return (
        f'<g><title>{html.escape(purpose(package))}</title><rect x="{x - w / 2:.0f}" '
        f'y="{y - h / 2:.0f}" width="{w}" height="{h}" rx="5" '
        'fill="var(--color-background-primary, white)" stroke="currentColor"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{html.escape(package)}</text></g>'
    )


def purpose(package: str) -> str:
    """The first line of the package's own docstring."""
    text = importlib.import_module(f"aurac.{package}").__doc__ or ""
    return text.strip().splitlines()[0].rstrip(".")


class PackageGraph(Directive):
    """`{package-graph}`: the picture."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        """Read the imports and draw."""
        packages = imports()
        wrong = {
            r: packages[r] - set(FOUNDATION) for r in FOUNDATION if packages[r] - set(FOUNDATION)
        }
        if wrong:
            raise self.error(f"packages of the foundation import others: {wrong}")
        picture = f'<div style="overflow-x:auto">{draw(packages)}</div>'
        return [nodes.raw("", picture, format="html")]


def setup(app: object) -> dict[str, bool]:
    """Sphinx's hook."""
    app.add_directive("package-graph", PackageGraph)  # type: ignore[attr-defined]
    return {"parallel_read_safe": True}
