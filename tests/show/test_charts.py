"""Figures: what is drawn, in which order and look."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure
from shown import LORA, MATRYOSHKA, RANKS, curve, one, three

from aurac.analysis import Question, analyse
from aurac.curves.numbers import percent
from aurac.curves.question import Key
from aurac.show.charts import COLOURS, REST, plot, plot_differences, save
from aurac.show.charts import looks as looks_of
from aurac.show.views import View


def drawn_on(found, ax=None, **how):
    return plot(View(found, "maths"), ax or Figure().subplots(), **how)


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_lines_are_the_accuracies_and_the_legend_is_by_aurac():
    found = three()
    ax = drawn_on(found)
    areas = [percent(a) for a in found.scores["aurac"]]
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert names == [f"matryoshka {areas[0]}", f"lora {areas[1]}", f"dylora {areas[2]}", "base"]
    drawn = lines(ax)[names[0]]
    assert drawn.get_xdata().tolist() == pytest.approx(RANKS, rel=0.06)
    assert drawn.get_ydata().tolist() == pytest.approx([100 * a for a in MATRYOSHKA])


def test_an_axes_that_is_given_is_drawn_on():
    ax = Figure().subplots()
    assert drawn_on(three(), ax, legend=None) is ax
    assert not ax.figure.legends
    inside = drawn_on(one(), Figure().subplots(), legend="inside")
    assert [text.get_text() for text in inside.get_legend().get_texts()] == ["lora", "base"]
    assert not inside.figure.legends


def test_every_cut_and_every_adapter_has_a_look_of_its_own():
    ways = [
        ("svd", None),
        ("prefix", "rule"),
        ("prefix", "keep"),
        ("svd", "fit"),
        ("prefix", "fit"),
    ]
    cuts = analyse([curve(basis=basis, rescale=rescale) for basis, rescale in ways])
    of = View(cuts, "maths")
    looks = looks_of(of, of.keys).values()
    assert len({look["color"] for look in looks}) == 1
    assert len({str(look["linestyle"]) for look in looks}) == 5
    assert {looks_of(of, [key])[key]["linestyle"] for key in of.keys} == {"-"}
    many = analyse([curve(f"a{i}", [x - i / 100 for x in LORA]) for i in range(9)])
    colours = [line.get_color() for line in drawn_on(many).lines if len(line.get_xdata()) > 2]
    assert set(colours) == {*COLOURS, REST}


def test_a_missing_rank_is_left_out():
    short = curve("b", LORA[1:4], ranks=RANKS[1:4], trained_rank=8)
    ax = drawn_on(analyse([curve(), short]))
    assert [2, 4, 8] in [[round(x) for x in line.get_xdata()] for line in ax.lines]


def test_differences_are_those_of_the_frame():
    of = View(three(), "maths")
    pair = tuple(Key(name, "svd", "keep") for name in ("matryoshka", "dylora"))
    ax = plot_differences(of, [pair], Figure().subplots())
    values = [100 * record.difference for (*two, _), record in of.rank_pairs.items()
              if tuple(two) == pair]  # fmt: skip
    drawn = next(line for line in ax.lines if len(line.get_xdata()) == 5)
    assert drawn.get_ydata().tolist() == pytest.approx(values)


def test_the_rank_to_ship_and_the_margin_are_marked():
    found = analyse([curve()], Question(margin=0.05))
    shipped = int(found.recommended["rank"][0])
    ax = drawn_on(found)
    drawn = lines(ax)
    (bars,) = (part for part in ax.collections if part.get_segments())
    for (low, _), bound in zip(bars.get_segments(), found.points["loss_bound"][1:-1], strict=False):
        assert low[1] == pytest.approx(100 * (LORA[-1] - bound))  # above the margin: it fits
    assert drawn[f"ship rank {shipped}"].get_xdata().tolist() == [shipped]
    assert drawn["margin: 5 points below rank 16"].get_ydata()[0] == pytest.approx(
        100 * (LORA[-1] - 0.05)
    )


def test_a_base_far_below_does_not_flatten_the_bars_of_a_margin():
    high = (0.9, 0.94, 0.95, 0.95, 0.95)
    found = analyse([curve(accuracy=high, base=0.0)], Question(margin=0.05))
    ax = drawn_on(found)
    lowest = min(0.95 - bound for bound in found.points["loss_bound"].dropna())
    bottom, top = ax.get_ylim()
    assert 0 < bottom < 100 * lowest
    assert 5 / (top - bottom) > 0.2  # the margin takes a fifth of the axis
    assert "base: 0.0 %" in lines(ax)
    assert drawn_on(analyse([curve(accuracy=high, base=0.0)])).get_ylim()[0] < 0


def test_files_are_anonymous_and_as_wide_as_a_column(tmp_path):
    paths = save(lambda ax: drawn_on(three(), ax), tmp_path / "a")
    assert [path.suffix for path in paths] == [".svg", ".png", ".pdf"]
    content = paths[-1].read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", content)
    assert float(box[1]) == pytest.approx(72 * 3.25, abs=0.1)
    assert b"/FontFile2" in content
    for name in (b"/CreationDate", b"/Type3"):
        assert name not in content
    assert "dc:date" not in paths[0].read_text()
