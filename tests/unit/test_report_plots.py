"""Figures: nothing overlaps, looks follow adapters, and the SVG of a page names itself."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import RunMaker, many_curves, zoo_run

from aurac.report import figures, plots, style
from aurac.report.model import parse


def drawn(curves, axis="log2"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    highlight = {curve.id for curve in curves[: style.MAX_HIGHLIGHTED]}
    labels = [curve.label for curve in curves[: style.MAX_HIGHLIGHTED]] + ["base (rank 0)"]
    with figures.styled():
        figure = figures.single(
            lambda ax: plots.rank_accuracy(ax, curves, axis=axis, highlight=highlight),
            labels=labels,
        )
        FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    """Every text that is drawn, with its box; an annotation without its leader line."""
    from matplotlib.text import Text

    ax, renderer = figure.axes[0], figure.canvas.get_renderer()
    shown = [*ax.texts, ax.xaxis.label, ax.yaxis.label]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        shown += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(t.get_text(), Text.get_window_extent(t, renderer)) for t in shown if t.get_text()]


CASES = {
    "one": lambda folder: many_curves(folder, 1, cells=False),
    "two": lambda folder: many_curves(folder, 2, cells=False),
    "six": lambda folder: many_curves(folder, 6, cells=False),
    "twenty": lambda folder: many_curves(folder, 20, cells=False),
    "flat": lambda folder: many_curves(folder, 8, cells=False, shape="flat"),
    "same end": lambda folder: many_curves(folder, 8, cells=False, shape="same end"),
    "single rank": lambda folder: RunMaker(folder, n=30).add("a", [0.5], ranks=(8,)),
    "missing": lambda folder: RunMaker(folder, n=30).add(
        "a", [0.1, 0.2, 0.3, 0.4, 0.5], missing={4: "out of memory"}
    ),
    "dense": lambda folder: zoo_run(folder, ranks=tuple(range(1, 65)), n=20),
    "uneven ranks": lambda folder: zoo_run(folder, ranks=(1, 2, 3, 31, 32), n=20),
}


@pytest.mark.parametrize("axis", ["log2", "linear"])
@pytest.mark.parametrize("case", CASES)
def test_no_text_touches_another_or_leaves_the_figure(case, axis, tmp_path):
    figure = drawn(parse(CASES[case](tmp_path).results()).curves, axis)
    boxes = texts(figure)
    for (name, box), (other, second) in itertools.combinations(boxes, 2):
        assert not box.overlaps(second), f"{name!r} touches {other!r}"
    frame = figure.bbox
    for name, box in boxes:
        assert frame.x0 <= box.x0, name
        assert box.x1 <= frame.x1, name
        assert frame.y0 <= box.y0, name
        assert box.y1 <= frame.y1, name


def test_a_missing_rank_is_a_gap_in_line_and_band(tmp_path):
    curves = parse(CASES["missing"](tmp_path).results()).curves
    ax = drawn(curves).axes[0]
    line = next(line for line in ax.get_lines() if line.get_gid() == "curve-0")
    assert list(line.get_xdata()) == [1, 2, 4, 8, 16]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, False, True, False, False]
    (band,) = ax.collections
    assert len(band.get_paths()) == 2


def test_published_inference_shares_the_hue_and_is_dashed_and_hollow(tmp_path):
    curves = parse(zoo_run(tmp_path, n=20).results()).curves
    looks = style.looks(curves)
    default, published = looks[style.key(curves[0])], looks[style.key(curves[1])]
    assert (default.colour, default.marker) == (published.colour, published.marker)
    assert default.line == "-"
    assert published.line != "-"
    assert not default.hollow
    assert published.hollow
    assert len({look.marker for look in looks.values()}) == 3


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.floats(0.01, 0.08),
)
def test_spread_keeps_order_gap_and_span(wanted, gap):
    placed = style.spread(wanted, gap, 0.0, 1.0)
    assert min(placed) >= -1e-9
    assert max(placed) <= 1 + 1e-9
    ascending = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    steps = [placed[b] - placed[a] for a, b in itertools.pairwise(ascending)]
    assert all(step >= gap - 1e-9 for step in steps)


def test_spread_leaves_what_is_apart():
    assert style.spread([0.1, 0.9, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.1, 0.9, 0.5])
    # Two that coincide move apart by half a gap each.
    assert style.spread([0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.45, 0.55])


@pytest.mark.parametrize(
    ("ranks", "axis", "shown"),
    [
        ((1, 2, 4, 8, 16), "log2", [1, 2, 4, 8, 16]),
        # At least 255 / 10 apart: the ends first, then 128, 64 and 32; 16 is 15 from 1.
        ((1, 2, 4, 8, 16, 32, 64, 128, 256), "linear", [1, 32, 64, 128, 256]),
        ((8,), "log2", [8]),
    ],
)
def test_ticks(ranks, axis, shown):
    assert plots.ticks(ranks, axis) == shown


def test_inline_svg_is_named_scoped_and_themed(tmp_path):
    curves = parse(zoo_run(tmp_path, n=20).results()).curves
    figure = drawn(curves)
    with figures.styled():
        svg = figures.inline_svg(figure, "fig-1", "A <title>", 'An "alt"', [["p"] * 5, [], [], []])
    assert svg.startswith("<svg ")
    assert 'role="img" aria-labelledby="fig-1-title fig-1-desc"' in svg
    assert '<title id="fig-1-title">A &lt;title&gt;</title>' in svg
    assert "var(--s0)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg), "a colour that would not follow the theme"
    assert all(name.startswith("fig-1-") for name in re.findall(r'\bid="([^"]+)"', svg))
    assert svg.count("<title>p</title>") == 5
    assert "<metadata" not in svg
    assert "font-family" not in svg
