"""Figures made, saved and inlined: the same bytes from the same curves, on every machine."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.show import appearance
from aurac.show.appearance import LABEL_SIZE
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = Path(__file__).parent / "templates"
# Colour in a figure → custom property of the page, so that one SVG serves light and dark.
_PROPERTIES = {
    **{
        getattr(appearance, name): f"--{name.lower()}"
        for name in ("INK", "AXIS", "GRID", "PAPER", "BASE", "REST")
    },
    **{colour: f"--s{i}" for i, colour in enumerate(appearance.SERIES)},
}
WIDTH, NARROW = 5.6, 3.25  # inches: beside the text, and a telephone's or a paper's column
_BESIDE = 2.3  # inches of names at the right, above which a figure becomes wider
PAPER_WIDTHS = {"column": NARROW, "wide": 6.75}
_HEIGHT, _NARROW_HEIGHT = 3.9, 2.35
_LEGEND = 7
_LEGEND_ROW = 0.14  # inches


@contextmanager
def styled(*, small: bool = False) -> Iterator[None]:
    """The package's style, `small` for a column, and nothing of the reader's own matplotlibrc."""
    import matplotlib as mpl
    from matplotlib import style

    with mpl.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the text formats have it whole.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        style.use([_STYLES / "paper.mplstyle", *([_STYLES / "column.mplstyle"] if small else [])])
        yield


def single(
    draw: Callable[[Axes], Axes],
    *,
    title: str = "",
    left: Sequence[str] = (),
    height: float = _HEIGHT,
    top: float = 0.45,
) -> Figure:
    """A figure with one Axes, rows named at the `left`, room for names at the right, `top` inches.

    It becomes wider where names at the right are long.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    start = (text_width(left) + 16) / 72 if left else 0.115 * WIDTH
    below, high = 0.5 / height, 1 - (0.5 + top) / height
    ax = draw(figure.add_axes((start / WIDTH, below, 0.97 - start / WIDTH, high)))
    names = [text.get_text() for text in ax.texts if str(text.get_gid()).endswith("-label")]
    if names:
        beside = (text_width(names) + 44) / 72
        width = WIDTH + max(0, beside - _BESIDE)
        figure.set_size_inches(width, height)
        ax.set_position((start / width, below, (width - beside - start) / width, high))
    _title(figure, title)
    return figure


def _title(figure: Figure, title: str) -> None:
    if title:
        height = figure.get_figheight()
        figure.text(0.015, 1 - 0.05 / height, one_line(title, 70), va="top", fontsize=LABEL_SIZE)


def text_width(labels: Sequence[str], size: float = LABEL_SIZE) -> float:
    """Width in points of the longest label; text that stays text may come out a little wider."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font, paths = FontProperties(size=size), TextToPath()
    return max(
        paths.get_text_width_height_descent(label, font, ismath=False)[0] for label in labels
    )


def grid(
    draws: Sequence[Callable[[Axes], Axes]],
    *,
    across: int,
    height: float,
    width: float = WIDTH,
    title: str = "",
    axes_titles: tuple[str, str] = ("", ""),
    keys: Sequence[tuple[str, dict[str, Any]]] = (),
    key_across: int = 3,
) -> Figure:
    """Small multiples, `across` in a row, each `height` inches high, a key above.

    `axes_titles` are those of all x and of all y axes. A key is the look of a line, or of a patch.
    """
    from matplotlib import rcParams
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    down = -(-len(draws) // across)
    down_key = -(-len(keys) // key_across)
    row = 0.02 * FontProperties(size=rcParams["legend.fontsize"]).get_size_in_points()
    above = (0.24 if title else 0) + row * down_key + (0.06 if keys else 0)
    total = down * height + above
    figure = Figure(figsize=(width, total), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - above / total))  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(down, across, squeeze=False)
    for ax, draw in zip(axes.flat, draws, strict=False):
        draw(ax)
    for ax in list(axes.flat)[len(draws) :]:
        ax.remove()
    _title(figure, title)
    for name, put in zip(axes_titles, (figure.supxlabel, figure.supylabel), strict=True):
        if name:
            put(name, fontsize=LABEL_SIZE)
    if keys:
        handles: list[Any] = [
            Line2D([], [], label=label, **look) if "marker" in look else Patch(label=label, **look)
            for label, look in keys
        ]
        at = (0.005, 1 - (0.22 if title else 0) / total)
        key = figure.legend(handles=handles, loc="upper left", bbox_to_anchor=at, ncols=key_across)
        key.set(in_layout=False)
    return figure


def column(
    draw: Callable[..., Axes],
    width: float = NARROW,
    called: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """One Axes with its legend below, since a column has no room for names beside the lines.

    `called` are other names for lines by those in the Axes ("": none), in the order of the legend;
    `title` is above them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, _NARROW_HEIGHT), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]
    ax = draw(figure.add_subplot(), labels=False)
    known = zip(*ax.get_legend_handles_labels(), strict=True)
    places = {own: at for at, own in enumerate(called or {})}
    drawn = sorted(known, key=lambda each: places.get(each[1], len(places)))
    lines = [(line, name) for line, own in drawn if (name := (called or {}).get(own, own))]
    across = _columns([text_width([name], _LEGEND) + 24 for _, name in lines], width)
    down = -(-len(lines) // across) + bool(title)
    figure.set_size_inches(width, _NARROW_HEIGHT + _LEGEND_ROW * down)
    look = {"title": title or None, "title_fontsize": _LEGEND, "alignment": "left"}
    figure.legend(*zip(*lines, strict=True), loc="outside lower center", ncols=across, **look)
    return figure


def _columns(sizes: Sequence[float], width: float) -> int:
    """How many columns of a legend with entries of these points fit in `width` inches."""
    splits = {across: np.array_split(sizes, across) for across in range(1, len(sizes) + 1)}
    fitting = [n for n, split in splits.items() if sum(map(max, split)) <= 72 * width - 4]
    return max(fitting, default=1)


def save(figure: Figure, stem: Path, *, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Write `stem` in every format without a date, a version or a random id in the file."""
    paths = []
    for kind in formats:
        path, content = stem.with_name(f"{stem.name}.{kind}"), io.BytesIO()
        figure.savefig(content, format=kind, metadata=_anonymous(kind))
        path.write_bytes(content.getvalue())  # on a full disk matplotlib raises an AttributeError
        paths.append(path)
    return paths


def save_for_paper(column_of: Callable[..., Figure], stem: Path) -> list[Path]:
    r"""Vector PDF at the width of a column and of a page, fonts embedded.

    Set them with `\includegraphics{NAME-column.pdf}`, without scaling: text is then 8 points.
    """
    paths = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    for name, width in PAPER_WIDTHS.items():
        with styled(small=True):
            figure = column_of(width=width)
            paths += save(figure, stem.with_name(f"{stem.name}-{name}"), formats=("pdf",))
    return paths


def _anonymous(kind: str) -> Any:
    names = {
        "svg": ("Date", "Creator", "Format", "Type"),
        "png": ("Software",),
        "pdf": ("Creator", "Producer", "CreationDate"),
    }
    return dict.fromkeys(names.get(kind, ()))


def inline_svg(
    figure: Figure, name: str, title: str, alt: str, hover: Sequence[Sequence[str]] = ()
) -> str:
    """The figure as an `<svg>` element for a page.

    Text stays text, colours are custom properties that the page defines for light and dark, ids
    carry `name` so that many figures fit in one page, and title and description name it. `hover`
    holds for the curve with the gid `curve-0`, `curve-1`, … a text for each of its points.
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
    for colour, variable in _PROPERTIES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([0-9.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = re.sub(r"font: (bold|700) ([0-9.]+px) [^;\"]+", r"font-weight: 700; font-size: \2", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    return _named(svg, name, title, alt)


def _with_hover(svg: str, gid: str, texts: Sequence[str]) -> str:
    """Give each marker of a line a `<title>`, which browsers show and readers can reach."""
    before, start, rest = svg.partition(f'<g id="{gid}">')
    group, end, after = rest.partition("<g id=")
    if group.count("<use ") != len(texts):
        return svg
    titles = (f"<title>{escape(one_line(text))}</title></use>" for text in texts)
    filled = re.sub(r"(<use [^>]*?)/>", lambda marker: f"{marker[1]}>{next(titles)}", group)
    return f"{before}{start}{filled}{end}{after}"


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
    # in tags alone: a name such as lr0.004 is text
    rest = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), rest)
    return re.sub(r"\s*\n\s*", "\n", f"{head}{labels}{rest}").strip()
