"""Figures: nothing overlaps, looks follow adapters, and the SVG of a page names itself."""

from __future__ import annotations

import itertools
import math
import re
from functools import partial
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from report_runs import RunMaker, many_curves, run_from, zoo_run

from aurac.analysis.findings import MOST_CLOSE
from aurac.analysis.record import Changes, Step, StratumRow
from aurac.curves.display import percent
from aurac.show import appearance, figures, plots
from aurac.show.findings import Findings
from aurac.show.forest import WIDE, Difference, differences
from aurac.show.pictures import KEY, Pictures
from aurac.stats.mean import Estimate

TITLE = "a task with a long name · a base with a long name · 1000 documents"


def drawn(curves, axis="log2"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    highlight = {curve.id for curve in curves[:MOST_CLOSE]}
    with figures.styled():
        figure = figures.single(
            lambda ax: plots.rank_accuracy(ax, curves, axis=axis, highlight=highlight), title=TITLE
        )
        FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    """Every text that is drawn, with its box; an annotation without its leader line."""
    from matplotlib.text import Text

    ax, renderer = figure.axes[0], figure.canvas.get_renderer()
    shown = [*figure.texts, *ax.texts, ax.xaxis.label, ax.yaxis.label]
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
    figure = drawn(run_from(CASES[case](tmp_path).results()).curves, axis)
    boxes = texts(figure)
    for (name, box), (other, second) in itertools.combinations(boxes, 2):
        assert not box.overlaps(second), f"{name!r} touches {other!r}"
    frame = figure.bbox
    for name, box in boxes:
        assert frame.x0 <= box.x0, name
        assert box.x1 <= frame.x1, name
        assert frame.y0 <= box.y0, name
        assert box.y1 <= frame.y1, name


def boxes_of(figure):
    """Every text of a figure with its box: ticks in view, labels, titles, legends, names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    shown = [t for legend in figure.legends for t in (*legend.get_texts(), legend.get_title())]
    shown += figure.texts
    for ax in figure.axes:
        shown += [*ax.texts, ax.title, ax._left_title]
        for one in (ax, *ax.child_axes):
            for axis in (one.xaxis, one.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
                shown += [t for tick in ticks for t in (tick.label1, tick.label2)] + [axis.label]
        shown += ax.get_legend().get_texts() if ax.get_legend() else []
    return [
        (t.get_text(), Text.get_window_extent(t, renderer))
        for t in shown
        if t.get_text() and t.get_visible()
    ]


def assert_apart(figure):
    boxes = boxes_of(figure)
    assert boxes
    for (name, box), (other, second) in itertools.combinations(boxes, 2):
        assert not box.overlaps(second), f"{name!r} touches {other!r}"
    frame = figure.bbox
    for name, box in boxes:
        across = frame.x0 <= box.x0 <= box.x1 <= frame.x1
        upright = frame.y0 <= box.y0 <= box.y1 <= frame.y1
        assert across, f"{name!r} leaves the figure"
        assert upright, f"{name!r} leaves the figure"


SHAPES = ["one", "two", "six", "twenty", "flat", "same end", "single rank", "missing", "dense"]


@pytest.mark.parametrize("case", SHAPES)
def test_texts_of_cost_and_paper_figures_are_apart(case, tmp_path):
    curves = run_from(CASES[case](tmp_path).results()).curves
    highlight = {curve.id for curve in curves[:MOST_CLOSE]}
    some = [curve for curve in curves if curve.id in highlight]
    draw = partial(plots.rank_accuracy, curves=curves, highlight=highlight)
    with figures.styled(small=True):
        for width in figures.PAPER_WIDTHS.values():
            assert_apart(figures.column(draw, width))
            assert_apart(figures.column(partial(plots.cost, curves=some), width))
    with figures.styled():
        assert_apart(figures.single(partial(plots.cost, curves=some), title=TITLE, top=0.78))


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("panels", [1, 2, 6])
@pytest.mark.parametrize("steps", [1, 5, 9])
def test_texts_of_gained_and_lost_are_apart(panels, steps, shares):
    def item(at):
        ends = [2**i for i in range(steps + 1)]
        found = [Step(a, b, 999 if at else 3, 0 if at % 2 else 400) for a, b in pairwise(ends)]
        return Changes(f"an adapter with a long name {at}", "t", 1000, tuple(found))

    draw = partial(plots.gained_lost, most=(0.999, 0.4), shares=shares)
    draws = [partial(draw, changes=item(at)) for at in range(panels)]
    with figures.styled():
        across = 1 if steps > 6 or panels == 1 else 2
        assert_apart(figures.grid(draws, across=across, height=1.9, title=TITLE, keys=KEY))


def test_bars_of_curves_with_unequal_seeds_are_labelled_with_their_heights():
    rows = [Changes(n, "t", docs, (Step(1, 2, 90, 30),)) for n, docs in (("a", 300), ("b", 500))]
    with figures.styled():
        for row, said in zip(rows, (["30.0", "10.0"], ["18.0", "6.0"]), strict=True):
            ax = plots.gained_lost(Figure().add_subplot(), row, shares=True)
            assert [label.get_text() for label in ax.texts] == said
            heights = [abs(100 * bar.get_height()) for bar in ax.patches]
            assert heights == pytest.approx([float(text) for text in said])


@pytest.mark.parametrize("groups", [2, 24])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_texts_of_groups_are_apart(count, groups, tmp_path):
    curves = run_from(many_curves(tmp_path, count, cells=False).results()).curves
    area = Estimate(0.5, 0.1, 0.3, 0.7, "made up")
    strata = [
        StratumRow("word_problems", curve.adapter, f"group number {at:02d}", 30, area, (), None)
        for curve in curves
        for at in range(groups)
    ]
    run = run_from(many_curves(tmp_path, count, cells=False).results())
    pictures = Pictures(Findings(run, 0.02), tmp_path)
    kept = []
    pictures._save = lambda name, wide, **_: kept.append(wide)
    pictures.groups("word_problems", strata, {curve.adapter: curve for curve in curves})
    with figures.styled():
        assert_apart(kept[0]())


def test_a_non_inferior_rank_has_a_ring(tmp_path):
    from matplotlib.figure import Figure

    curves = run_from(many_curves(tmp_path, 2, cells=False).results()).curves
    first = curves[0]
    with figures.styled():
        ax = plots.rank_accuracy(Figure().subplots(), curves, ringed={first.id: 8})
    lines = {line.get_gid(): line for line in ax.get_lines()}
    ring = lines["curve-0-ring"]
    assert list(ring.get_xdata()) == [8]
    assert list(ring.get_ydata()) == [100 * first.accuracy[first.ranks.index(8)]]
    assert "curve-1-ring" not in lines


def seeded(folder):
    """A curve that is the mean of two seeds."""
    run = run_from(many_curves(folder, 2, cells=False).results())
    return msgspec.structs.replace(run.curves[0], members=run.curves)


@pytest.mark.parametrize("seeds", [False, True])
def test_single_seeds_are_drawn_where_they_are_asked_for(seeds, tmp_path):
    ax = plots.rank_accuracy(Figure().subplots(), [seeded(tmp_path)], seeds=seeds)
    assert ("curve-0-seeds" in {line.get_gid() for line in ax.get_lines()}) == seeds


def test_the_best_truncation_of_the_three_best_adapters_has_a_band(tmp_path):
    maker = RunMaker(tmp_path, n=20, cells=False)
    for name, accuracy in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4)):
        maker.add(name, [accuracy] * 2, ranks=(1, 2))
    maker.add("a", [0.5] * 2, ranks=(1, 2), basis="svd", rescale="keep", role="extra")
    curves = run_from(maker.results()).curves
    drawn = {
        item.get_gid() for item in plots.rank_accuracy(Figure().subplots(), curves).collections
    }
    best = [("a", "svd"), ("d", "prefix"), ("c", "prefix")]
    assert [(c.adapter, c.basis) for c in plots.banded(curves)] == best
    assert drawn == {f"curve-{at}-band" for at, c in enumerate(curves) if c in plots.banded(curves)}


def test_all_that_may_be_the_best_are_in_colour_where_they_are_few_beside_every_default_one(
    tmp_path,
):
    maker = RunMaker(tmp_path, n=20, cells=False)
    for at in range(MOST_CLOSE):
        maker.add(f"a{at}", [0.1, 0.1], ranks=(1, 2))
    for basis in ("energy", "svd"):
        maker.add("a0", [0.9] * 2, ranks=(1, 2), basis=basis, rescale="keep", role="extra")
    findings = Findings(run_from(maker.results()))
    (task,) = findings.candidates
    others = [curve for curve in findings.run.curves if not curve.is_default]
    findings.candidates[task] = others
    shown = findings.highlighted(task)
    assert {curve.id for curve in shown} == {curve.id for curve in findings.run.curves}


def test_two_further_truncations_of_one_adapter_have_lines_of_their_own(tmp_path):
    maker = RunMaker(tmp_path, n=30, cells=False).add("a", [0.1, 0.2], ranks=(1, 2))
    for rescale in ("keep", "fit"):
        maker.add("a", [0.1, 0.2], ranks=(1, 2), basis="svd", rescale=rescale, role="extra")
    styles = appearance.styles(run_from(maker.results()).curves)
    assert len({str(style.line) for style in styles.values()}) == 3


WAYS = ("prefix", "rule"), ("svd", "keep")


def looks(folder, *curves, ways=WAYS):
    """The styles of a run with curves (adapter, method); the first of the `ways` is compared."""
    maker = RunMaker(folder, n=20, cells=False)
    for adapter, method in curves:
        cuts = ways if method == "lora" else [("prefix", "rule")]
        for at, (basis, rescale) in enumerate(cuts):
            role = "extra" if at else "default"
            cut = {"basis": basis, "rescale": rescale, "role": role}
            maker.add(adapter, [0.1, 0.2], ranks=(1, 2), method=method, **cut)
    return appearance.styles(run_from(maker.results()).curves)


def test_a_curve_looks_alike_whichever_truncation_is_compared_and_what_stands_beside_it(tmp_path):
    lora, dylora, longer = ("lora", "lora"), ("dylora", "dylora"), ("dylora_long", "dylora")
    first = looks(tmp_path, lora, dylora, longer)
    second = looks(tmp_path, dylora, longer, lora, ways=WAYS[::-1])
    assert first == second
    assert first["lora", "svd", "keep"].line == "-"
    assert first["lora", "prefix", "rule"].published == "prefix"
    assert first["dylora", "prefix", "rule"].line == "-"
    assert len({style.colour for style in first.values()}) == 3


def test_names_of_methods_in_tables_have_their_hues_and_other_names_those_that_are_left(tmp_path):
    names = ["ours", "MatryoshkaLoRA", "LoRA", *"bcdef"]
    found = looks(tmp_path, *((name, None) for name in names))
    hues = {adapter: style.colour for (adapter, *_), style in found.items()}
    assert (hues["LoRA"], hues["MatryoshkaLoRA"]) == (appearance.SERIES[0], appearance.SERIES[2])
    assert len({*hues.values()}) == len(names)


def test_every_figure_names_its_axes(tmp_path):
    run = run_from(zoo_run(tmp_path / "run", n=20).results(), tmp_path / "run")
    curves = list(run.curves)
    ax = plots.rank_accuracy(Figure().subplots(), curves)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Rank (log2 axis)", "Accuracy (%)")
    for axis, area in (("log2", curves[0].log2), ("linear", curves[0].linear)):
        names = [text.get_text() for text in drawn(curves, axis).axes[0].texts]
        assert f"AURAC {axis} (%)" in names
        assert f"{curves[0].label} {percent(area.value)}" in names
    assert plots.cost(Figure().subplots(), curves).get_ylabel() == "Accuracy (%)"
    made = {}
    pictures = Pictures(Findings(run, 0.02), tmp_path)
    pictures._save = lambda name, wide, *_, **__: made.setdefault(name, wide())
    pictures.overview(run.task_names)
    changes = Changes("a", "t", 30, (Step(1, 2, 3, 4),))
    pictures.changes("word_problems", [changes], [msgspec.structs.replace(curves[0], label="a")])
    rows = [Difference("t", "a − b", Estimate(0.1, 0.1, 0.0, 0.2, "made up"), significant=True)]
    titles = [(figure.get_supxlabel(), figure.get_supylabel()) for figure in made.values()]
    assert titles == [("Rank (log2 axis)", "Accuracy (%)"), ("Rank step", "")]
    panels = [ax.get_ylabel() for figure in made.values() for ax in figure.axes]
    assert panels == ["", "Documents"]
    assert differences(rows).get_supxlabel() == "Difference in AURAC (points)"


@pytest.mark.parametrize("tasks", [1, 3, 4])
@pytest.mark.parametrize("width", [figures.NARROW, WIDE])
def test_texts_of_differences_are_apart(width, tasks):
    pairs = ["LoRA at each rank − MatryoshkaLoRA (with P)", "LoRA: SVD − prefix", "a − b"]
    rows = [
        Difference(f"a task {at}", name, Estimate(at - 0.1, 0.1, at - 0.3, at, ""), at > 1)
        for at in range(tasks)
        for name in pairs[at % 2 :]
    ]
    with figures.styled(small=True):
        figure = differences(rows, width=width)
        assert_apart(figure)


def test_a_legend_is_in_the_order_of_aurac_then_the_base_and_what_is_not_drawn(tmp_path):
    maker = RunMaker(tmp_path, n=20, cells=False)
    for name, accuracy in (("a", 0.1), ("b", 0.4), ("c", 0.3)):
        maker.add(name, [accuracy] * 2, ranks=(1, 2))
    curves = run_from(maker.results()).curves
    draw = partial(plots.rank_accuracy, curves=curves, left=2)
    figure = figures.column(draw, called=appearance.area_labels(curves), title="AURAC log2 (%)")
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    falling = sorted(curves, key=lambda curve: -curve.log2.value)
    named = [f"{curve.label} {percent(curve.log2.value)}" for curve in falling]
    assert [name[0] for name in named] == ["b", "c", "a"]
    assert shown == [*named, appearance.BASE_LABEL, "2 more curves not drawn"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("A x (SVD) − A x (prefix)", "A x: SVD − prefix"),
        ("A 9 steps (SVD) − B 9 steps", "A (SVD) − B, both 9 steps"),
        ("A 9 steps − A 3 steps", "A 9 steps − A 3 steps"),
    ],
)
def test_what_both_names_of_a_difference_have_stands_there_once(name, shown):
    row = Difference("t", name, Estimate(0.1, 0.1, 0.0, 0.2, "made up"), significant=True)
    (label,) = differences([row]).axes[0].get_yticklabels()
    assert label.get_text() == shown


def test_a_missing_rank_is_a_gap_in_line_and_band(tmp_path):
    curves = run_from(CASES["missing"](tmp_path).results()).curves
    ax = drawn(curves).axes[0]
    line = next(line for line in ax.get_lines() if line.get_gid() == "curve-0")
    assert list(line.get_xdata()) == [1, 2, 4, 8, 16]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, False, True, False, False]
    (band,) = ax.collections
    assert len(band.get_paths()) == 2


def test_published_inference_shares_the_hue_and_is_dashed_and_hollow(tmp_path):
    curves = run_from(zoo_run(tmp_path, n=20).results()).curves
    styles = appearance.styles(curves)
    default, published = styles[appearance.key(curves[0])], styles[appearance.key(curves[1])]
    assert (default.colour, default.marker) == (published.colour, published.marker)
    assert default.line == "-"
    assert published.line != "-"
    assert published.published == "without P"
    with figures.styled():
        faces = [style.options["markerfacecolor"] for style in (default, published)]
    assert faces == [default.colour, appearance.PAPER]
    assert len({style.marker for style in styles.values()}) == 3


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.floats(0.01, 0.08),
)
def test_spread_keeps_order_gap_and_span(wanted, gap):
    placed = appearance.spread(wanted, gap, 0.0, 1.0)
    assert min(placed) >= -1e-9
    assert max(placed) <= 1 + 1e-9
    ascending = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    steps = [placed[b] - placed[a] for a, b in itertools.pairwise(ascending)]
    assert all(step >= gap - 1e-9 for step in steps)


def test_spread_leaves_what_is_apart():
    assert appearance.spread([0.1, 0.9, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.1, 0.9, 0.5])
    # Two that coincide move apart by half a gap each.
    assert appearance.spread([0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.45, 0.55])


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
    assert appearance.ticks(ranks, axis) == shown


def test_numbers_in_names_keep_their_digits_in_a_page():
    with figures.styled():
        figure = Figure()
        figure.subplots().set_title("lr0.0005-seed42")
        svg = figures.inline_svg(figure, "f", "a", "b")
    assert "lr0.0005-seed42" in svg
    assert not re.search(r'd="[^"]*\d\.\d{3}', svg)


def test_inline_svg_is_named_scoped_and_themed(tmp_path):
    curves = run_from(zoo_run(tmp_path, n=20).results()).curves
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


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_a_full_disk_is_an_os_error(kind, tmp_path):
    """The commands report an OSError. Matplotlib alone raises an AttributeError for a PDF."""
    (tmp_path / f"figure.{kind}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        figures.save(Figure(), tmp_path / "figure", formats=(kind,))


def test_the_best_other_truncations_are_highlighted_after_the_default_curves(tmp_path):
    maker = RunMaker(tmp_path, n=20, cells=False)
    for at in range(MOST_CLOSE - 1):
        maker.add(f"a{at}", [0.1, 0.1], ranks=(1, 2))
    for basis, accuracy in (("energy", 0.5), ("svd", 0.9)):
        maker.add("a0", [accuracy] * 2, ranks=(1, 2), basis=basis, rescale="keep", role="extra")
    run = run_from(maker.results())
    shown = Findings(run).highlighted(run.task_names[0])
    assert [(c.adapter, c.basis) for c in shown if not c.is_default] == [("a0", "svd")]
    assert len(shown) == MOST_CLOSE
