"""What the terminal shows: one adapter, several, several tasks; its width; its sentences."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shown import LORA, RANKS, curve, one, perplexity, stored, three, word_problems

from aurac.analysis import Question, analyse
from aurac.curves.curve import Curve
from aurac.curves.numbers import (
    decimals,
    interval,
    listed,
    loss,
    lower,
    p_value,
    percent,
    size,
    upper,
)
from aurac.curves.question import Key
from aurac.show.screen import screen, shortened
from aurac.stats.estimate import components, one_sided
from aurac.stats.planning import examples_for_margin


def rows(text: str) -> dict[str, list[str]]:
    """The first line of a screen that begins with a word, by that word."""
    lines = [line.split() for line in text.splitlines() if line.split()]
    return {line[0]: line for line in reversed(lines)}


def test_one_adapter_gets_a_table_a_sentence_and_a_command():
    # Rank 4 loses 12 of 200 examples; with 2 more m = 14/202, and m + 1.65 √(m(1 − m)/201) = .0989.
    shown = screen(found := one(margin=0.05), stored(found), 80)
    table = rows(shown)
    assert table["rank"] == ["rank", "ship", "accuracy", "[95", "%]", "loss", "(at", "most)",
                             "size"]  # fmt: skip
    assert table["0"][1] == "5.0"
    assert table["4"][1] == "50.0"
    assert table["4"][4:] == ["6.0", "(9.9)", "10", "MB"]
    assert table["16"][4:] == ["trained", "40", "MB"]
    loses = "Ship rank 8: it loses at most 3.7 points against rank 16 (95 % confidence)."
    assert f"{loses} Its file has 20 MB instead of 40 MB." in " ".join(shown.split())
    assert "\n  aurac truncate zoo/lora --rank 8 --basis svd --out lora_r8" in shown
    assert "AURAC" not in shown


def test_a_cut_that_truncate_does_not_make_has_no_command():
    found = analyse([curve(), curve("b", np.array(LORA) - 0.3)], Question(margin=0.05))
    run = stored(found)
    run.adapters = tuple(msgspec.structs.replace(each, format="family") for each in run.adapters)
    assert "aurac truncate" not in screen(found, run, 80)  # a rank of it is there already
    for rescale, words in (("fit", ""), ("rule", "--basis prefix --rescale rule")):
        found = analyse([curve(basis="prefix", rescale=rescale)], Question(margin=0.05))
        shown = screen(found, stored(found), 80)
        assert ("aurac truncate" in shown, words in shown) == (rescale == "rule", True)


def test_the_factor_of_a_cut_with_a_fitted_scale_is_said():
    """Of the rank to ship; without a command, since `aurac truncate` does not make it."""
    factors = {1: 13.2, 8: 1.4226, 16: 0.96}
    found = analyse([curve(basis="prefix", rescale="fit", factors=factors)], Question(margin=0.05))
    shown = " ".join(screen(found, stored(found), 80).split())
    assert "Its scale is the trained one times 1.42, which was fitted to this task." in shown
    assert "aurac truncate" not in shown


def test_what_vllm_is_started_with_stands_beside_the_size():
    shown = screen(one(margin=0.05, width=1_000_000), width=100)
    assert [rows(shown)[str(rank)][-1] for rank in (0, 1, 2, 16)] == ["–", "1", "8", "16"]
    assert (rows(shown)["8"][1], rows(shown)["8"][-1]) == ("yes", "8")
    unknown = screen(one(margin=0.05), width=100)
    assert "lora-rank" not in unknown
    assert "vLLM" not in unknown


@pytest.mark.parametrize(
    ("margin", "ranks", "said"),
    [
        (0.05, RANKS, "In vLLM it takes a slot of rank 8 instead of 16. Its file"),
        (0.1, RANKS, "vLLM it takes a slot of rank 8 instead of 16; rank 8 would take the same."),
        (0.1, (1, 2, 4, 16), "In vLLM it takes a slot of rank 8 instead of 16. Its file"),
        (0.1, (2, 4, 8), "In vLLM it saves nothing: ranks 4 and 8 both take a slot of rank 8. Its"),
        (0.01, RANKS, "Ship rank 16, as trained: rank 8 may lose over 1 point"),
    ],
)
def test_a_server_pays_for_a_slot_and_the_disk_for_the_file(margin, ranks, said):
    accuracy = [dict(zip(RANKS, LORA, strict=True))[rank] for rank in ranks]
    found = one(margin, ranks=ranks, accuracy=accuracy, width=1000)
    shown = " ".join(screen(found, width=80).split())
    assert said in shown
    assert ("slot" in shown) == ("vLLM it" in said)


def test_an_adapter_that_vllm_does_not_serve_has_no_slot():
    shown = " ".join(screen(one(0.05, width=0), width=80).split())
    assert shown.count("vLLM") == 1
    assert "vLLM does not serve this adapter" in shown
    assert "slot" not in shown


@pytest.mark.parametrize("margin", [None, 0.05])
def test_a_command_stays_on_its_line(margin):
    found = one(margin=margin)
    shown = screen(found, stored(found), 30)
    [command] = [line for line in shown.splitlines() if line.startswith("  aurac ")]
    wanted = (
        "recommend runs/x --margin 0.05" if margin is None else "--rank 8 --basis svd --out lora_r8"
    )
    assert command.endswith(wanted)
    assert ("Ship" in shown) == (margin is not None)


@pytest.mark.parametrize("size", [1, 4])
def test_too_few_examples_for_a_margin(size):
    clusters = {"clusters": tuple(str(i // size) for i in range(100))} if size > 1 else {}
    shown = " ".join(screen(one(margin=0.02, n=100, **clusters)).split())
    needed = f"{examples_for_margin(0.02, size)} {'clusters' if clusters else 'examples'} or more"
    there = 25 if clusters else 100
    assert f"A margin of 2 points needs {needed}, even without a loss; there are {there}." in shown


def test_where_only_the_trained_rank_may_be_shipped_the_next_one_is_named():
    lossy = one(margin=0.05, accuracy=(0.1, 0.55, 0.56, 0.4, 0.56))
    bounds = dict(zip(lossy.points["rank"], lossy.points["loss_bound"], strict=True))
    assert bounds[4] < 0.05 < bounds[8]  # rank 4 would pass; the tests end at rank 8
    low = one(margin=0.5, base=0.4, accuracy=(0.3, 0.3, 0.3, 0.3, 0.6))
    for found, why in (
        (lossy, "rank 8 may lose over 5 points (95 % confidence)."),
        (low, "rank 8 is not shown to be above the base (95 % confidence)."),
        (one(0.05, ranks=(8, 16), accuracy=(0.3, 0.5)), "rank 8 may lose over 5"),
        (one(0.05, ranks=(16,), accuracy=(0.5,)), "no smaller rank was evaluated."),
    ):
        assert f"Ship rank 16, as trained: {why}" in " ".join(screen(found, width=80).split())


def test_a_rank_without_a_result_leaves_the_question_open():
    why = "not finished: 3 of 200 examples"
    for kept, gone, said in (
        ([1, 2, 4, 16], 8, f"Until rank 8 has a result ({why}), ship rank 16, as trained. A m"),
        ([1, 2, 8, 16], 4, f"Until rank 4 has a result ({why}), ship rank 8: it loses at most 3"),
        ([1, 4, 8, 16], 2, "Ship rank 8: it loses at most 3"),  # rank 4 may lose too much
    ):
        found = analyse([replace(curve(n=200).at(kept), missing={gone: why})], Question(0.05))
        if gone == 8:
            found = analyse([replace(curve(n=40).at(kept), missing={gone: why})], Question(0.05))
        assert said in " ".join(screen(found, width=80).split())


@given(st.floats(0.005, 0.4))
def test_examples_for_a_margin_are_the_fewest(margin):
    n = examples_for_margin(margin)
    bounds = [one_sided(components(np.zeros((1, k))))[1] for k in (n - 1, n)]
    assert bounds[1] <= margin < bounds[0]


def test_nothing_is_shipped_of_an_adapter_that_is_not_above_the_base():
    shown = screen(found := one(margin=0.1, base=0.55), stored(found), 80)
    assert "Ship no rank: rank 16 is not shown to be above the base" in shown
    assert "truncate" not in shown
    assert "*: not significantly above the base" in shown
    assert rows(shown)["4"][1] == "*50.0"
    run = stored(found := one(base=0.6))
    said = " ".join(screen(found, run, 80).split())
    assert "lora is not shown to be above the base at any rank (95 % confidence)." in said
    assert "example 1 at rank 16 counts as wrong; its answer: 'The answer is lora 0';" in said
    assert "its reference: '0'." in said
    for read, taken in (
        ("12", "'The answer is lora 0', read as '12'; its"),
        ("[invalid]", "'The answer is lora 0', in which the filter found nothing; its"),
    ):
        run.read = read
        assert taken in " ".join(screen(found, run, 100).split())
    assert "--margin" not in said


def test_several_adapters_are_ordered_by_aurac_winner_first():
    shown = screen(three(), width=80)
    table = [line.split()[0] for line in shown.splitlines()[2:5]]
    assert table == ["matryoshka", "lora", "dylora"]
    assert "(95 %) and p hold for all 3 together" in shown
    for pair in ("matryoshka − lora", "matryoshka − dylora", "lora − dylora"):
        assert f"\n{pair}" in shown
    said = " ".join(shown.split())
    assert "Of these checkpoints matryoshka has the largest AURAC and is better than" in said
    same = analyse([curve(), curve("b"), curve("c", np.array(LORA) - 0.02)])
    said = " ".join(screen(same, width=120).split())
    assert "Of these checkpoints b and lora have the largest AURAC; the lead over c (2.0" in said
    far = analyse([curve(), curve("b"), curve("c", np.array(LORA) / 2)])
    said = " ".join(screen(far, width=120).split())
    assert "b and lora have the largest AURAC and are better than c (" in said


def test_with_a_margin_each_adapter_has_its_rank_and_the_leader_its_sentence():
    shown = screen(found := three(margin=0.15), stored(found), 90)
    advice = dict(zip(found.recommended["adapter"], found.recommended["rank"], strict=True))
    for name, each in advice.items():
        assert f"Ship {name} at rank {each}" in shown
    rank = advice["matryoshka"]
    file = f"Its file has {2.5 * rank:.0f} MB instead of 40 MB."
    assert f"Ship matryoshka at rank {rank}: it loses " in shown
    assert file in " ".join(shown.split())
    assert (
        f"aurac truncate zoo/matryoshka --rank {rank} --basis svd --out matryoshka_r{rank}" in shown
    )


def test_a_reference_is_compared_with_each():
    shown = screen(three(reference="dylora"), width=80)
    assert "hold for all 2 together" in shown
    assert shown.endswith("\n\nmatryoshka and lora are better than dylora.")
    both = three(reference="lora", n=2000)
    assert screen(both, width=80).endswith(
        "\n\nmatryoshka is better than lora, and dylora is worse."
    )


def test_of_listed_pairs_none_is_said_to_be_the_one_of_all():
    curves = [curve(f"a{i}", [x - i / 100 for x in LORA]) for i in range(7)]
    keys = [Key(f"a{i}", "svd", "keep") for i in range(7)]
    found = analyse(curves, Question(pairs=((keys[5], keys[2]), (keys[3], keys[6])), family=4))
    said = " ".join(screen(found, width=80).split())
    assert "p hold for all 4 together" in said
    assert {*zip(found.pairs.a, found.pairs.b, strict=True)} == {("a2", "a5"), ("a3", "a6")}
    assert "compared with" not in said


def test_a_rank_that_is_shown_to_gain_loses_nothing():
    """Rank 8 answers 40 of 200 examples more than rank 16: even the bound of its loss is a gain."""
    found = one(0.05, accuracy=(0.1, 0.2, 0.3, 0.76, 0.56))
    assert found.recommended.bound.iloc[0] < 0
    assert "Ship rank 8: it loses nothing against rank 16" in " ".join(screen(found).split())


def test_seeds_are_methods_and_have_no_command():
    curves = [
        curve(f"{name}-{seed}", np.array(LORA) - lost, seed=seed)
        for name, lost in (("a", 0.0), ("b", 0.08))
        for seed in (0, 1, 2)
    ]
    groups = {name: [f"{name}-{seed}" for seed in range(3)] for name in "ab"}
    found = analyse(curves, Question(margin=0.3, groups=groups))
    shown = screen(found, stored(found), 80)
    assert "these methods" in shown
    assert "over examples and seeds" in " ".join(shown.split())
    assert "Cuts: a and b: svd, 3 seeds" in shown
    assert "Ship a at" in shown
    assert "truncate" not in shown


def test_further_cuts_are_rows_and_their_command_says_the_cut():
    cuts = [curve(), curve(accuracy=(0.5, 0.55, 0.56, 0.57, 0.58), basis="prefix", rescale="rule")]
    found = analyse(cuts, Question(margin=0.3))
    shown = screen(found, stored(found), 80)
    assert "lora (prefix)" in shown
    assert "--rank 1 --basis prefix --rescale rule --out lora_r1" in " ".join(shown.split())


def test_a_lead_over_some_ranks_names_them():
    curves = [curve(), curve("b", np.array(LORA[1:4]) - 0.2, ranks=RANKS[1:4], trained_rank=8)]
    said = " ".join(screen(analyse(curves), width=120).split())
    assert "AURAC over ranks 2, 4, 8, which all have" in said
    assert "lora has the largest AURAC over ranks 2, 4, 8, which all have, and is better" in said
    said = " ".join(screen(analyse(curves, Question(ranks=(1, 2, 4))), width=120).split())
    assert "AURAC over ranks 1, 2, 4 adapter" in said  # b has no rank 1
    assert "lora has the largest AURAC over ranks 1, 2, 4, and" not in said  # it alone has one


def test_accuracies_without_examples_stand_alone():
    curves = [replace(curve(name), outcomes=None, base_scores=None, doc_ids=None) for name in "ab"]
    shown = screen(analyse(curves, Question(margin=0.02)), width=80)
    assert "[" not in shown
    assert "without an interval: the outcomes of its examples are not known" in " ".join(
        shown.split()
    )
    alone = replace(curves[0], base_scores=None, baseline=0.1)
    assert "--margin" not in screen(analyse([alone]), width=80)  # it would name no rank
    assert "a recommendation needs the base, and every outcome" in " ".join(shown.split())


def test_an_interval_of_everything_is_shown_with_its_unit():
    # One example more, 0 or 1, beside the only one: the mean of a right and a wrong answer.
    found = analyse([curve(n=1), curve("b", (0.0,) * 5, n=1)])
    shown = screen(found, width=120)
    assert "the lead over b (100.0 points [−100.0, 100.0]) is not significant" in shown
    assert "without an interval" not in shown
    base = screen(one(base=None, baseline=0.05), width=80)
    assert rows(base)["0"][:2] == ["0", "5.0"]
    assert "without an interval: the outcomes of its examples are not known" in base


def test_a_missing_rank_is_a_dash():
    curves = [curve(), replace(curve("b", LORA[:4], ranks=RANKS[:4]), missing={16: "memory"})]
    shown = rows(screen(analyse(curves), width=80))
    assert shown["b"][1] == shown["b"][-1] == "–"


def test_perplexity_has_no_aurac():
    found = analyse([curve(), perplexity()], Question(margin=0.1))
    shown = screen(found, stored(found), 80)
    text = shown[shown.index("lora on wikitext") :]
    assert text.startswith("lora on wikitext: word_perplexity,none, lower is better")
    assert [line.split()[:2] for line in text.splitlines()[2:]] == [
        ["0", "30"], ["1", "24"], ["2", "23"], ["4", "21"], ["8", "17"], ["16", "9"],
    ]  # fmt: skip


def test_the_lowest_perplexity_stands_first():
    better = replace(perplexity(), adapter="z", accuracy=(20.0, 19.0, 18.0, 12.0, 8.0))
    table = screen(analyse([perplexity(), better]), width=80).splitlines()[2:4]
    assert [line.split()[0] for line in table] == ["z", "lora"]


@pytest.mark.parametrize("count", [20, 30, 300])
def test_a_margin_is_offered_with_the_examples_that_it_needs(count):
    # 20 points need 20 examples, 2 points 215 (`aurac plan`): 1/(n + 2) · 2 and its reach.
    said = " ".join(screen(one(n=count), width=80).split())
    assert "The option --margin" in said
    needs = (
        f"A margin of 2 points needs 215 examples or more, even without a loss; there are {count}."
    )
    assert (needs in said) == (count < 215)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_line_is_wider_than_the_terminal(width):
    full = {"width": 1_000_000, "unfinished": dict.fromkeys((0, *RANKS), 1000)}
    accuracy = (0.9, 0.5, 0.3, 0.2, 1.0)
    for found in (
        three(margin=0.2, tasks=("maths", "a_task_with_a_very_long_name_" + "x" * 40)),
        one(margin=0.3, base=0.3, accuracy=accuracy, **full),
    ):
        for line in screen(found, stored(found), width, details=True).splitlines():
            assert len(line) <= width or "aurac truncate" in line or "_name_" in line, line


@given(st.lists(st.text("ab", min_size=1, max_size=60), unique=True, min_size=1, max_size=5))
def test_shortened_names_stay_different(names):
    assert len({*shortened(names, 12)}) == len(names)


def test_the_readme_run():
    run = word_problems()
    shown = screen(analyse(run.curves), run, 80)
    assert "\nlora        46.9 [37.5, 56.3]   0.0  30.0  46.0  53.0  49.0  49.0\n" in shown


@given(st.floats(-1, 1))
def test_bounds_are_rounded_away_from_the_claim(value):
    low, high = (float(f(value).replace("−", "-")) for f in (lower, upper))
    assert low <= 100 * value + 1e-4
    assert high >= 100 * value - 1e-4
    assert high - low < 0.11


def test_numbers_have_one_form():
    assert interval(0.4104, 0.3841, 0.4369) == "41.0 [38.4, 43.7]"
    assert (interval(0.41, 0.0, 1.0), interval(0.41, None, None)) == ("41.0 [0.0, 100.0]", "41.0")
    assert interval(-0.1, -0.2, 0.1, " points") == "−10.0 points [−20.0, 10.0]"
    assert [loss(0.011, 0.0181), loss(-0.02, 0.033), loss(0.0, None)] == [
        "1.1 (1.9)", "−2.0 (3.3)", "0.0",
    ]  # fmt: skip
    assert [p_value(p) for p in (0.0004, 0.0234, 0.5, 1.0)] == ["< .001", ".023", ".50", "> .99"]
    assert (percent(0.0005), percent(-0.0005), percent(None)) == ("0.1", "−0.1", "–")
    assert decimals(100 * 0.285, 0) == "29"  # a half, whatever its last bits are
    assert (decimals(-0.04, 1), decimals(float("inf"), 1)) == ("0.0", "inf")
    assert [size(x) for x in (None, 12, 20_400_000, 3.2e9)] == ["–", "12 B", "20 MB", "3.2 GB"]
    assert [listed([*"abcdef"][:n]) for n in (1, 2, 6)] == [
        "a",
        "a and b",
        "a, b, c, d and 2 others",
    ]


def test_answers_that_were_cut_off_are_said():
    found = one(unfinished={0: 200, 4: 3, 8: 57, 16: 2}, token_limit=48)
    said = " ".join(screen(found, width=100).split())
    most = "57 of 200 answers at rank 8 were cut off at 48 tokens"
    assert f"{most}: allow more with --gen-kwargs max_gen_toks=N, or give the task" in said
    assert [rows(screen(found, width=100))[r][-3] for r in ("1", "4", "8")] == ["–", "3", "57"]
    assert "max_gen_toks" not in screen(one(unfinished={0: 9, 16: 4}), width=100)
    several = analyse([curve(unfinished={16: 5}), curve("b")])
    said = screen(several, width=120)
    assert "5 of 200 answers of lora at rank 16 were cut off: allow" in said
    most = "50 of 200 answers at rank 2 were cut off"
    assert most in screen(one(unfinished={1: 30, 2: 50, 4: 2, 8: 0, 16: 0}), width=200)
    both = analyse([curve(unfinished={16: 50}), curve("b", unfinished={16: 51})])
    assert "51 of 200 answers of b at rank 16 were cut off" in screen(both, width=200)


def test_another_base_than_the_recorded_one_is_said():
    run = stored(found := one())
    run.adapters = tuple(msgspec.structs.replace(a, base="other/base") for a in run.adapters)
    said = screen(found, run, 100)
    assert "lora records the base other/base and was evaluated on smollm2." in said


def test_details_have_weights_wins_and_losses_and_the_spread_over_seeds():
    pair = three().pairs.iloc[0]
    text = screen(three(), width=120, details=True)
    assert rows(text)["log2"] == ["log2", "12.5", "25.0", "25.0", "25.0", "12.5"]
    line = next(x for x in text.splitlines() if x.startswith("matryoshka − lora"))
    assert line.split()[-2:] == [str(pair.wins), str(pair.losses)]
    seeds = [curve(f"{n}-{s}", np.array(LORA) - 0.05 * s, seed=s) for n in "ab" for s in range(3)]
    found = analyse(seeds, Question(groups={n: [f"{n}-{s}" for s in range(3)] for n in "ab"}))
    assert "SD over seeds" in screen(found, width=120, details=True)


def test_scores_of_ones_own_examples_are_called_what_they_are():
    # Base .60, rank 8 .94, rank 16 .95: (.94 − .60)/(.95 − .60) = .9714 of the gain. With two
    # losses more rank 8 loses (2 + 2)/202 + 1.65 · .0069 = .0312 at most, and rank 4 .041.
    values = np.array([0.60, 0.80, 0.90, 0.93, 0.94, 0.95])
    spread = np.linspace(-0.04, 0.04, 200)
    fields = {"adapter": "lora", "task": "held_out", "metric": "token_accuracy,none"}
    fields |= {"trained_rank": 16, "nats": {0: 2.5, 1: 0.751, 16: 0.25}}
    own = Curve.from_outcomes(
        RANKS, values[1:, None] + spread, base_scores=values[0] + spread, **fields
    )
    found = analyse([own], Question(margin=0.04))
    shown = screen(found, stored(found), 200, details=True)
    assert "held_out: token accuracy in percent, 200 examples" in shown.splitlines()[0]
    assert "not the accuracy of answers" in shown
    assert "points of token accuracy against rank 16 (95 % confidence); as measured it" in shown
    assert "keeps 97.1 % of the gain over the base." in shown
    better = replace(
        own, outcomes=own.outcomes[[0, 1, 2, 4, 3]], accuracy=[*values[[1, 2, 3, 5, 4]]]
    )
    shown_better = screen(analyse([better], Question(margin=0.04)), width=200)
    assert "rank 4: it loses at most 3.2 points of token accuracy" in shown_better
    assert "keeps all of the gain" in screen(analyse([better], Question(margin=0.02)), width=200)
    losses = shown.partition("Mean loss of a token in nats\n")[2].splitlines()
    assert losses[0].split() == ["adapter", "base", "r=1", "r=16"]
    assert losses[1].split() == ["lora", "2.5", "0.751", "0.25"]
    assert "nats" not in screen(found, stored(found), 200)
    whole = replace(own, metric="whole_completion,none")
    assert "so that it is not the accuracy of answers" in screen(analyse([whole]), width=200)


@pytest.mark.parametrize(
    ("metric", "margin", "needs"),
    [("token_accuracy,none", 0.01, 0.005), ("whole_completion,none", 0.02, None)],
)
def test_the_margin_that_is_offered_is_of_the_size_of_the_score(metric, margin, needs):
    # A tenth of a point of token accuracy was a point of answers (docs/explain/own-data.md).
    said = " ".join(screen(one(n=600, metric=metric), width=80).split())
    assert f"The option --margin {margin} names" in said
    assert ("A margin of 0.5 points needs" in said) == (needs is not None)


def test_whole_completions_that_are_never_right_name_the_other_score():
    said = screen(one(metric="whole_completion,none", accuracy=(0,) * 5, base=0.0), width=200)
    assert "lora is not shown to be above the base at any rank" in said
    assert "token_accuracy counts tokens, with a tenth of the margin." in said


def test_a_mean_over_tasks_without_an_interval_says_why():
    """Where tasks share some of their seeds' checkpoints, and not all."""
    seeds = [
        curve(f"{n}{s}", np.array(LORA) - 0.05 * s, seed=s, task=task)
        for task, some in (("maths", (0, 1)), ("words", (1, 2)))
        for n in "ab"
        for s in some
    ]
    groups = {n: tuple(f"{n}{s}" for s in range(3)) for n in "ab"}
    shown = screen(analyse(seeds, Question(groups=groups)), width=200)
    assert "without an interval: its tasks have other training seeds" in shown


def test_a_row_on_fewer_examples_and_one_without_a_rank_are_said():
    none = {"ranks": (), "outcomes": np.zeros((0, 200)), "fewer": {1: 4, 2: 4}}
    look = replace(curve("look"), **none)
    failed = replace(curve("torn").at([1, 2, 8, 16]), missing={4: "out of memory"})
    shown = screen(analyse([look, failed, curve(), curve("b")]), width=200)
    assert "look has no AURAC and is in no difference: it was asked 4 of 200 examples" in shown
    assert "torn has no AURAC and is in no difference: rank 4 has no result: out of memory" in shown
    torn = "torn (rank 4 has no result: out of memory)"
    both = f"{torn} and look (it was asked 4 of 200 examples)"
    assert f"Of these checkpoints, without {both}, b and lora have the largest AURAC" in shown
    assert "200 examples" in shown.splitlines()[0]
