r"""Figures for a paper: vector PDF at the width of a column and of a page, fonts embedded.

The names stand in a legend below the axes, since a column has no room for them beside the lines.
Set them with `\includegraphics{NAME-column.pdf}`, without scaling: text is then 8 points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.report.figures import save, styled, text_width
from aurac.report.style import BASE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: a column and the text width of the common two-column layouts.
WIDTHS = {"column": 3.25, "wide": 6.75}
HEIGHT = 2.35
LEGEND = 7.5
SMALL = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": LEGEND,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
}
_ROW = 0.16  # inches of a legend's row


def write(draw: Callable[..., Axes], stem: Path) -> list[Path]:
    """Draw and save both widths.

    Args:
        draw: Draws on the Axes given; takes `labels`, which is switched off.
        stem: Path of the files without `-column.pdf` and `-wide.pdf`.
    """
    import matplotlib as mpl

    paths = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    for name, width in WIDTHS.items():
        with styled():
            mpl.rcParams.update(SMALL)  # type: ignore[arg-type]
            drawn = figure(draw, width)
            paths += save(drawn, stem.with_name(f"{stem.name}-{name}"), formats=("pdf",))
    return paths


def figure(draw: Callable[..., Axes], width: float) -> Figure:
    """One Axes with its legend below."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, HEIGHT), layout="constrained")
    drawn.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]
    ax = draw(drawn.add_subplot(), labels=False)
    handles = _handles(ax)
    longest = text_width([str(handle.get_label()) for handle in handles], LEGEND)
    across = max(1, min(len(handles), int((72 * width - 10) // (longest + 34))))
    rows = -(-len(handles) // across)
    drawn.set_size_inches(width, HEIGHT + _ROW * rows)
    drawn.legend(
        handles=handles,
        loc="outside lower center",
        ncols=across,
        handlelength=2.2,
        columnspacing=1.0,
    )
    return drawn


def _handles(ax: Axes) -> list[Any]:
    """The named curves, then what else is in the axes: base, level line, ring."""
    from matplotlib.lines import Line2D

    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    kinds = {str(line.get_gid()).rpartition("-")[2] for line in ax.get_lines()}
    others = {
        "base": {"color": BASE, "linestyle": (0, (6, 3)), "label": "base (rank 0)"},
        "full": {"color": BASE, "linestyle": (0, (1, 2)), "label": "full rank of the best"},
        "ring": {
            "color": BASE,
            "linestyle": "none",
            "marker": "o",
            "markersize": 7,
            "markerfacecolor": "none",
            "label": "non-inferior rank",
        },
    }
    more: list[Any] = [
        Line2D([], [], linewidth=1.0, **looks)  # type: ignore[arg-type]
        for kind, looks in others.items()
        if kind in kinds
    ]
    return [*lines, *more]
