"""The house drawn from its imports: a directive that reads the import graph at build time.

    ```{house}
    ```

gives an inline SVG (every room, an arrow to each room that it imports and does not reach through
another) and the whole list of imports as a table. A room is a folder of the package or a module in
its root; modules of `PARTS` are drawn as rooms of their own.
"""

from __future__ import annotations

import html
import importlib
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from collections.abc import Mapping

Rooms = dict[str, set[str]]

FOUNDATION = ("errors", "files")
"""Imported by nearly all; drawn as the ground, without arrows."""
PARTS = {"runs.schema": "run files", "runs.store": "run files"}
"""What readers and reports import of the room that runs them, under the name of its own box."""
_PURPOSE = {"run files": "runs.schema"}  # the module whose docstring says what a part is
_HIDDEN = {"__main__"}
_BOX, _GAP, _FLOOR, _MARGIN = (92, 32), 6, 76, 8


def imports(package: str = "aurac") -> Rooms:
    """Room → rooms that it imports when it runs; imports for type checkers alone are left out."""
    import grimp

    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    rooms: Rooms = {}
    for module in graph.modules:
        here = _room(module)
        if here is None:
            continue
        known = rooms.setdefault(here, set())
        known |= {r for m in graph.find_modules_directly_imported_by(module) if (r := _room(m))}
    return {room: known - {room} for room, known in sorted(rooms.items())}


def _room(module: str) -> str | None:
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in _HIDDEN:
        return None
    return PARTS.get(".".join(parts[1:]), parts[1])


def floors(rooms: Mapping[str, set[str]]) -> dict[str, int]:
    """How far above the ground each room lies: one more than the highest room that it imports.

    Raises:
        ValueError: Rooms import each other in a circle.
    """
    height: dict[str, int] = {}

    def climb(room: str, path: tuple[str, ...]) -> int:
        if room in path:
            raise ValueError(f"rooms import each other: {' → '.join((*path, room))}")
        if room not in height:
            below = [climb(other, (*path, room)) for other in rooms[room]]
            height[room] = max(below, default=-1) + 1
        return height[room]

    for room in rooms:
        climb(room, ())
    return height


def direct(rooms: Mapping[str, set[str]]) -> Rooms:
    """Without the imports that another import already implies."""
    reach: Rooms = {}

    def all_below(room: str) -> set[str]:
        if room not in reach:
            reach[room] = set().union(*({o} | all_below(o) for o in rooms[room]), set())
        return reach[room]

    return {
        room: {o for o in known if not any(o in all_below(p) for p in known if p != o)}
        for room, known in rooms.items()
    }


def _places(rooms: Rooms, width: float) -> dict[str, tuple[float, float]]:
    """Centre of each box; within a floor, each room near the middle of what it imports."""
    height = floors(rooms)
    levels = [sorted(r for r in rooms if height[r] == k) for k in range(max(height.values()) + 1)]
    order = {room: k / max(1, len(level) - 1) for level in levels for k, room in enumerate(level)}
    for sweep in range(8):
        neighbours = rooms if sweep % 2 == 0 else _reversed(rooms)
        for level in levels if sweep % 2 == 0 else reversed(levels):
            wish = {
                r: sum(order[o] for o in neighbours[r]) / len(neighbours[r])
                if neighbours[r]
                else order[r]
                for r in level
            }
            for k, room in enumerate(sorted(level, key=lambda r: (wish[r], r))):
                order[room] = (k + 0.5) / len(level)
    top = len(levels) - 1
    return {
        room: (_MARGIN + order[room] * (width - 2 * _MARGIN), 30 + (top - k) * _FLOOR)
        for k, level in enumerate(levels)
        for room in level
    }


def _reversed(rooms: Rooms) -> Rooms:
    return {room: {o for o in rooms if room in rooms[o]} for room in rooms}


def draw(rooms: Rooms) -> str:
    """The picture; colours are the page's own."""
    upper = {r: k - set(FOUNDATION) for r, k in rooms.items() if r not in FOUNDATION}
    most = max(list(floors(upper).values()).count(k) for k in range(len(upper)))
    width = max(most * (_BOX[0] + _GAP) + 2 * _MARGIN, 640)
    places = _places(upper, width)
    ground = max(y for _, y in places.values()) + _FLOOR
    lines = [
        _arrow(places[room], places[other])
        for room, known in direct(upper).items()
        for other in sorted(known)
    ]
    boxes = [_box(room, *place) for room, place in places.items()]
    label = " · ".join(r for r in FOUNDATION if r in rooms)
    boxes.append(
        f'<rect x="{_MARGIN}" y="{ground - 16}" width="{width - 2 * _MARGIN}" height="32" rx="5" '
        'fill="currentColor" fill-opacity=".08" stroke="currentColor" stroke-opacity=".4"/>'
        f'<text x="{width / 2}" y="{ground + 4}" text-anchor="middle">{html.escape(label)}</text>'
    )
    words = "Each room stands above the rooms that it imports; the table below lists every import."
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
    # Around the boxes between two rooms that stand above each other, not behind them.
    aside = _BOX[0] * 1.2 if y2 - y1 > _FLOOR and abs(x1 - x2) < _BOX[0] else 0.0
    curve = (
        f"M{x1:.0f} {y1:.0f} C{x1 + aside:.0f} {y1 + bend:.0f} "
        f"{x2 + aside:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
    )
    return (
        f'<path d="{curve}" fill="none" stroke="currentColor" stroke-opacity=".45" '
        'marker-end="url(#tip)"/>'
    )


def _box(room: str, x: float, y: float) -> str:
    w, h = _BOX
    return (
        f'<g><title>{html.escape(purpose(room))}</title><rect x="{x - w / 2:.0f}" '
        f'y="{y - h / 2:.0f}" width="{w}" height="{h}" rx="5" '
        'fill="var(--color-background-primary, white)" stroke="currentColor"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{html.escape(room)}</text></g>'
    )


def purpose(room: str) -> str:
    """The first line of the room's own docstring."""
    text = importlib.import_module(f"aurac.{_PURPOSE.get(room, room)}").__doc__ or ""
    return text.strip().splitlines()[0].rstrip(".")


class House(Directive):
    """`{house}`: the picture and the table."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        """Read the imports and draw."""
        rooms = imports()
        wrong = {r: rooms[r] - set(FOUNDATION) for r in FOUNDATION if rooms[r] - set(FOUNDATION)}
        if wrong:
            raise self.error(f"rooms of the foundation import others: {wrong}")
        picture = f'<div style="overflow-x:auto">{draw(rooms)}</div>'
        return [nodes.raw("", picture, format="html"), _table(rooms)]


def _table(rooms: Rooms) -> nodes.table:
    head = ("room", "what it is", "imports")
    group = nodes.tgroup(cols=3)
    group += [nodes.colspec(colwidth=width) for width in (14, 46, 40)]
    height = floors(rooms)
    body = nodes.tbody()
    for room in sorted(rooms, key=lambda r: (-height[r], r)):
        body += _row((room, purpose(room).replace("`", ""), ", ".join(sorted(rooms[room])) or "–"))
    group += [nodes.thead("", _row(head)), body]
    return nodes.table("", group)


def _row(cells: tuple[str, ...]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in cells))


def setup(app: object) -> dict[str, bool]:
    """Sphinx's hook."""
    app.add_directive("house", House)  # type: ignore[attr-defined]
    return {"parallel_read_safe": True}
