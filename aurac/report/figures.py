"""Figures made, saved and inlined: the same bytes from the same curves, on every machine."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from aurac.report.escape import one_line
from aurac.report.plots import LABEL_SIZE
from aurac.report.style import PROPERTIES, STYLE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.6
HEIGHT = 3.7
_POINTS = 72


@contextmanager
def styled() -> Iterator[None]:
    """The package's style and nothing of the reader's own matplotlibrc."""
    import matplotlib as mpl
    from matplotlib import style

    with mpl.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the text formats have it whole.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        style.use(STYLE_FILE)
        yield


def single(
    draw: Callable[[Axes], Axes],
    *,
    labels: Sequence[str] = (),
    height: float = HEIGHT,
    top: float = 0.12,
) -> Figure:
    """A figure with one Axes, a right margin that holds `labels`, and `top` inches above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    margin = (text_width(labels) + 24) / _POINTS / WIDTH if labels else 0.03
    ax = figure.add_axes((0.115, 0.5 / height, 0.885 - margin, 1 - (0.5 + top) / height))
    draw(ax)
    return figure


def text_width(labels: Sequence[str], size: float = LABEL_SIZE) -> float:
    """Width in points of the longest label; text that stays text may come out a little wider."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font, paths = FontProperties(size=size), TextToPath()
    return max(
        paths.get_text_width_height_descent(label, font, ismath=False)[0] for label in labels
    )


def grid(draws: Sequence[Callable[[Axes], Axes]], *, across: int, height: float) -> Figure:
    """Small multiples, `across` in a row, each `height` inches high."""
    from matplotlib.figure import Figure

    down = -(-len(draws) // across)
    figure = Figure(figsize=(WIDTH, down * height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for ax, draw in zip(axes.flat, draws, strict=False):
        draw(ax)
    for ax in list(axes.flat)[len(draws) :]:
        ax.remove()
    return figure


def rows(
    draw: Callable[[Axes], Axes], *, labels: Sequence[str], height: float, top: float
) -> Figure:
    """A figure with one Axes whose rows are named at the left by `labels`.

    Args:
        draw: Draws on the Axes.
        labels: Of the rows.
        height: Of the rows and the axis below, in inches.
        top: Inches above, for a legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height + top))
    left = (text_width(labels) + 16) / _POINTS / WIDTH
    height += top
    ax = figure.add_axes((left, 0.5 / height, 0.97 - left, 1 - (0.5 + top) / height))
    draw(ax)
    return figure


def save(figure: Figure, stem: Path, *, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Write `stem` in every format without a date, a version or a random id in the file."""
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        figure.savefig(path, format=kind, metadata=_anonymous(kind))
        paths.append(path)
    return paths


def _anonymous(kind: str) -> dict[str, str | None]:
    return {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    }.get(kind, {})  # type: ignore[return-value]


def inline_svg(
    figure: Figure, name: str, title: str, alt: str, hover: Sequence[Sequence[str]] = ()
) -> str:
    """The figure as an `<svg>` element for a page.

    Text stays text, colours are custom properties that the page defines for light and dark, ids
    carry `name` so that many figures fit in one page, and title and description name it.

    Args:
        figure: A drawn figure.
        name: A prefix for ids; letters, digits, dots, dashes and underscores.
        title: What the figure is.
        alt: What it shows.
        hover: For the curve with the gid `curve-0`, `curve-1`, … a text for each of its points.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "savefig.transparent": True}):
        figure.savefig(buffer, format="svg", metadata=_anonymous("svg"))
    raw = buffer.getvalue()
    svg = raw[raw.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for at, texts in enumerate(hover):
        svg = _with_hover(svg, f"curve-{at}", texts)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for colour, variable in PROPERTIES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([0-9.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = re.sub(r"font: (bold|700) ([0-9.]+px) [^;\"]+", r"font-weight: 700; font-size: \2", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    return _named(svg, name, title, alt)


def _with_hover(svg: str, gid: str, texts: Sequence[str]) -> str:
    """Give each marker of a line a `<title>`, which browsers show and readers can reach."""
    start = svg.find(f'<g id="{gid}">')
    if start < 0:
        return svg
    end = svg.find("<g id=", start + 1)
    end = len(svg) if end < 0 else end
    group = svg[start:end]
    if group.count("<use ") != len(texts):
        return svg
    titles = iter(texts)
    filled = re.sub(
        r"(<use [^>]*?)/>",
        lambda m: f"{m[1]}><title>{escape(one_line(next(titles)))}</title></use>",
        group,
    )
    return svg[:start] + filled + svg[end:]


def _named(svg: str, name: str, title: str, alt: str) -> str:
    """Role, title and description; the size is left to the page, coordinates to two decimals."""
    head, rest = svg[: svg.index(">") + 1], svg[svg.index(">") + 1 :]
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    names = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    head = head.replace("<svg ", f"<svg {names} ", 1)
    labels = (
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(alt)}</desc>'
    )
    rest = re.sub(r"(\d\.\d\d)\d+", r"\1", rest)
    return re.sub(r"\s*\n\s*", "\n", f"{head}{labels}{rest}").strip()
