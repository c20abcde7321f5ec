"""What the terminal shows: whole screens, their width, and how numbers are written.

`AURAC_UPDATE_GOLDEN=1 pytest tests/show` writes the stored screens and reports anew, to be read.
"""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shown import LORA, RANKS, curve, golden, one, perplexity, stored, three

from aurac.analysis import Question, analyse
from aurac.curves import numbers
from aurac.curves.curve import Curve
from aurac.curves.question import Key
from aurac.show.screen import screen, shortened
from aurac.stats.estimate import components, one_sided
from aurac.stats.planning import examples_for_margin

SERVED = {"width": 1_000_000}
SPREAD = np.linspace(-0.04, 0.04, 200)


def own_examples():
    """Token accuracy, whose examples are right in parts."""
    fields = {"adapter": "lora", "task": "held_out", "metric": "token_accuracy,none"}
    fields |= {"trained_rank": 16, "nats": {0: 2.5, 1: 0.751, 16: 0.25}}
    values = np.array([0.80, 0.90, 0.93, 0.94, 0.95])[:, None] + SPREAD
    own = Curve.from_outcomes(RANKS, values, base_scores=0.6 + SPREAD, **fields)
    return analyse([own], Question(margin=0.04))


def seeds():
    """Two recipes with three seeds each."""
    curves = [
        curve(f"{name}-{seed}", np.array(LORA) - lost - 0.01 * seed, seed=seed)
        for name, lost in (("a", 0.0), ("b", 0.08))
        for seed in range(3)
    ]
    groups = {name: [f"{name}-{seed}" for seed in range(3)] for name in "ab"}
    return analyse(curves, Question(margin=0.3, groups=groups))


def cuts():
    """One adapter under three cuts."""
    whole = (0.5, 0.55, 0.56, 0.57, 0.58)
    fitted = {"rescale": "fit", "factors": {1: 13.2, 4: 1.4226, 16: 0.96}}
    ways = [{}, {"accuracy": whole, "rescale": "rule"}, {"accuracy": whole, **fitted}]
    basis = ["svd", "prefix", "prefix"]
    curves = [curve(basis=name, **way) for name, way in zip(basis, ways, strict=True)]
    return analyse(curves, Question(margin=0.05))


def unequal():
    """One adapter on fewer examples, one with a failed rank, one without the largest ranks."""
    none = {"ranks": (), "outcomes": np.zeros((0, 200)), "fewer": {1: 4, 2: 4}}
    look = replace(curve("look"), **none)
    torn = replace(curve("torn").at([1, 2, 8, 16]), missing={4: "out of memory"})
    short = curve("short", np.array(LORA[1:4]) - 0.2, ranks=RANKS[1:4], trained_rank=8)
    return analyse([look, torn, curve(), curve("b"), short])


def unfinished():
    """Answers that did not end, of an adapter that records another base."""
    return one(0.05, unfinished={0: 200, 4: 3, 8: 57, 16: 2}, token_limit=48)


def missing():
    """Rank 4 has no result."""
    lost = {"missing": {4: "3 of 200 examples: repeat the command"}}
    return analyse([replace(curve(**SERVED).at([1, 2, 8, 16]), **lost)], Question(margin=0.05))


def no_examples():
    """Accuracies alone, and a perplexity."""
    both = [replace(curve(name), outcomes=None, base_scores=None, doc_ids=None) for name in "ab"]
    return analyse([*both, perplexity()], Question(margin=0.02))


def never_right():
    """Whole completions, which are long."""
    losses = {"nats": {0: 1.78, 1: 2.5, 16: 3.57}}
    return one(metric="whole_completion,none", accuracy=(0,) * 5, base=0.0, n=4, **losses)


def pairs():
    """Two declared comparisons of four that hold together."""
    keys = [Key(f"a{i}", "svd", "keep") for i in range(4)]
    curves = [curve(f"a{i}", [x - i / 20 for x in LORA]) for i in range(4)]
    return analyse(curves, Question(pairs=((keys[3], keys[0]), (keys[1], keys[2])), family=4))


MADE = {
    "one_adapter": (lambda: one(0.1, **SERVED), {}),
    "not_served": (lambda: one(0.1, width=0), {}),
    "same_slot": (lambda: one(0.1, ranks=(2, 4, 8), accuracy=LORA[1:4], **SERVED), {}),
    "too_few_examples": (lambda: one(0.02, n=100, **SERVED), {}),
    "a_missing_rank": (missing, {}),
    "close_to_the_margin": (lambda: one(0.038, **SERVED), {}),
    "not_above_the_base": (lambda: one(0.1, base=0.6), {"read": "[invalid]"}),
    "no_margin": (lambda: one(n=30), {}),
    "unfinished": (unfinished, {"base": "other/base"}),
    "several_adapters": (lambda: three(margin=0.15, **SERVED), {}),
    "a_reference": (lambda: three(reference="lora", n=2000), {}),
    "seeds": (seeds, {}),
    "two_tasks": (lambda: three(tasks=("maths", "reading")), {"details": True}),
    "cuts": (cuts, {}),
    "unequal": (unequal, {}),
    "own_examples": (own_examples, {"details": True}),
    "never_right": (never_right, {"details": True, "target": "a long completion " * 20}),
    "no_examples": (no_examples, {}),
    "pairs": (pairs, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_the_screen(name):
    make, about = MADE[name]
    run = stored(found := make())
    run.read, run.target = about.get("read"), about.get("target")
    recorded = {"base": about.get("base")}
    run.adapters = tuple(msgspec.structs.replace(each, **recorded) for each in run.adapters)
    shown = screen(found, run, 80, details="details" in about) + "\n"
    assert shown == golden(f"{name}.txt", shown)


def said(found, *more):
    return " ".join(screen(found, *more).split())


def test_a_cut_that_truncate_does_not_make_has_no_command():
    found = analyse([curve(), curve("b", np.array(LORA) - 0.3)], Question(margin=0.05))
    run = stored(found)
    assert "aurac truncate" in screen(found, run, 80)
    run.adapters = tuple(msgspec.structs.replace(each, format="family") for each in run.adapters)
    assert "aurac truncate" not in screen(found, run, 80)  # a rank of it is there already


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (one(0.05, accuracy=(0.1, 0.55, 0.56, 0.4, 0.56)), "rank 8 may lose over 5 points"),
        (one(0.5, base=0.4, accuracy=(0.3, 0.3, 0.3, 0.3, 0.6)), "rank 8 is not shown to be above"),
        (one(0.05, ranks=(16,), accuracy=(0.5,)), "no smaller rank was evaluated."),
    ],
)
def test_where_only_the_trained_rank_may_be_shipped_the_reason_is_named(found, why):
    assert f"Ship rank 16, as trained: {why}" in said(found)


def test_a_rank_that_is_shown_to_gain_loses_nothing():
    """Rank 8 answers 40 of 200 examples more than rank 16: even the bound of its loss is a gain."""
    found = one(0.05, accuracy=(0.1, 0.2, 0.3, 0.76, 0.56))
    assert found.recommended.bound.iloc[0] < 0
    assert "Ship rank 8: it loses nothing against rank 16" in said(found)


@pytest.mark.parametrize("margin", [0.05, 0.0549, 0.0551, 0.06])
def test_a_bound_within_two_examples_of_the_margin_is_named(margin):
    """Of 200 examples two are a point. The bounds are those of the screen: 3.7 of rank 8."""
    found = one(margin, accuracy=(0.1, 0.2, 0.3, 0.525, 0.56))
    bound = found.points["loss_bound"].dropna().iloc[-1]
    near = abs(bound - margin) < 2 / 200
    word = "failing" if bound <= margin else "passing"
    told = re.search(
        r"Rank 8 \(at most \d\.\d points\) is within two answers of (\w+);", said(found)
    )
    assert (told and told[1]) == (word if near else None)


def test_clusters_are_too_few_for_a_margin():
    clusters = tuple(str(i // 4) for i in range(100))
    needed = f"even a rank that loses nothing needs {examples_for_margin(0.02, 4)}."
    few = f"25 clusters are too few for a margin of 2 points: {needed}"
    assert few in said(one(0.02, n=100, clusters=clusters))


@given(st.floats(0.005, 0.4))
def test_examples_for_a_margin_are_the_fewest(margin):
    n = examples_for_margin(margin)
    bounds = [one_sided(components(np.zeros((1, k))))[1] for k in (n - 1, n)]
    assert bounds[1] <= margin < bounds[0]


@pytest.mark.parametrize(
    ("metric", "margin"), [("token_accuracy,none", 0.01), ("whole_completion,none", 0.02)]
)
def test_the_margin_that_is_offered_is_of_the_size_of_the_score(metric, margin):
    # A tenth of a point of token accuracy was a point of answers (docs/explain/own-data.md).
    assert f"The option --margin {margin} names" in said(one(n=600, metric=metric))


def test_of_several_adapters_the_most_unfinished_answers_are_said():
    both = analyse([curve(unfinished={16: 50}), curve("b", unfinished={16: 51})])
    assert "51 of 200 answers of b at rank 16 did not end within the limit of tokens" in said(both)
    assert "max_gen_toks" not in said(one(unfinished={0: 9, 16: 4}))


def test_of_short_completions_none_is_said_to_be_too_long():
    shown = said(found := never_right(), stored(found))
    assert "example 1 at rank 16 counts as wrong; its answer: 'The answer is lora 0'" in shown
    assert "token_accuracy" not in shown


@pytest.mark.parametrize("width", [50, 120])
def test_no_line_is_wider_than_the_terminal_but_for_commands(width):
    full = {"width": 1_000_000, "unfinished": dict.fromkeys((0, *RANKS), 1000)}
    accuracy = (0.9, 0.5, 0.3, 0.2, 1.0)
    for found in (
        three(margin=0.2, tasks=("maths", "a_task_with_a_very_long_name_" + "x" * 40)),
        one(margin=0.3, base=0.3, accuracy=accuracy, **full),
        one(),
    ):
        for line in screen(found, stored(found), width, details=True).splitlines():
            assert len(line) <= width or line.startswith("  aurac ") or "_name_" in line, line


@given(st.lists(st.text("ab", min_size=1, max_size=60), unique=True, min_size=1, max_size=5))
def test_shortened_names_stay_different(names):
    assert len({*shortened(names, 12)}) == len(names)


@given(st.floats(-1, 1))
def test_bounds_are_rounded_away_from_the_claim(value):
    low, high = (float(f(value).replace("−", "-")) for f in (numbers.lower, numbers.upper))
    assert low <= 100 * value + 1e-4
    assert high >= 100 * value - 1e-4
    assert high - low < 0.11


def test_numbers_have_one_form():
    assert numbers.interval(0.4104, 0.3841, 0.4369) == "41.0 [38.4, 43.7]"
    assert (numbers.interval(0.41, 0.0, 1.0), numbers.interval(0.41, None, None)) == (
        "41.0 [0.0, 100.0]",
        "41.0",
    )
    assert numbers.interval(-0.1, -0.2, 0.1, " points") == "−10.0 points [−20.0, 10.0]"
    losses = [numbers.loss(0.011, 0.0181), numbers.loss(-0.02, 0.033), numbers.loss(0.0, None)]
    assert losses == ["1.1 (1.9)", "−2.0 (3.3)", "0.0"]
    assert [numbers.p_value(p) for p in (0.0004, 0.0234, 0.5, 1.0)] == [
        "< .001",
        ".023",
        ".50",
        "> .99",
    ]
    assert (numbers.percent(0.0005), numbers.percent(-0.0005), numbers.percent(None)) == (
        "0.1",
        "−0.1",
        "–",
    )
    assert numbers.decimals(100 * 0.285, 0) == "29"  # a half, whatever its last bits are
    assert (numbers.decimals(-0.04, 1), numbers.decimals(float("inf"), 1)) == ("0.0", "inf")
    assert [numbers.size(x) for x in (None, 12, 20_400_000, 3.2e9)] == [
        "–",
        "12 B",
        "20 MB",
        "3.2 GB",
    ]
    named = [numbers.listed([*"abcdef"][:n]) for n in (1, 2, 6)]
    assert named == ["a", "a and b", "a, b, c, d and 2 others"]
