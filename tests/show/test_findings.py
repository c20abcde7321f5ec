"""Training seeds in a report: one mean, intervals over documents and seeds, single seeds thin."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from report_runs import RunMaker, run_from, stored_scores

from aurac.analysis.combine import pooled
from aurac.cli import cli
from aurac.errors import AuracError
from aurac.records.run import Speed
from aurac.show import plots, write_report
from aurac.show.caveats import caveats
from aurac.show.documents import speeds
from aurac.show.figures import styled
from aurac.show.findings import Findings
from aurac.stats import over_seeds
from aurac.stats.paired import difference

RANKS = (1, 2, 4)


def maker_of(folder, n=80):
    maker = RunMaker(folder, seed=4, n=n)
    for seed in (1, 2, 3):
        maker.add(f"lora-seed{seed}", [0.3, 0.45, 0.6], ranks=RANKS, seed=seed)
    for seed in (1, 2, 3):
        accuracy = [0.5, 0.6, 0.7 + seed / 50]
        maker.add(f"nested-seed{seed}", accuracy, ranks=RANKS, method="matryoshka", seed=seed)
    return maker


GROUPS = {
    "lora": ["lora-seed1", "lora-seed2", "lora-seed3"],
    "nested": ["nested-seed1", "nested-seed2", "nested-seed3"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    maker = maker_of(folder)
    maker.write()
    scores = {
        c["adapter"]: np.array([stored_scores(folder, c["cells"][str(r)]) for r in RANKS])
        for c in maker.curves
    }
    return folder, run_from(maker.results(), folder), scores


def test_a_group_is_the_mean_over_documents_and_seeds(found):
    _, run, scores = found
    arm = pooled(run, GROUPS).curves[0]
    stack = np.stack([scores[name] for name in GROUPS["lora"]])  # (S, K, n)
    assert arm.seeds == 3
    assert arm.label == "lora"
    assert arm.accuracy == pytest.approx(stack.mean(axis=(0, 2)))
    areas = np.einsum("k,skn->sn", [0.25, 0.5, 0.25], stack)  # log2: 1, 2, 4 are evenly spaced
    oracle = over_seeds(areas)
    assert arm.log2.value == pytest.approx(areas.mean())
    assert (arm.log2.low, arm.log2.high) == pytest.approx((oracle.low, oracle.high))
    last = over_seeds(stack[:, -1])
    assert (arm.accuracy_low[-1], arm.accuracy_high[-1]) == pytest.approx((last.low, last.high))


def test_near_ties_are_the_most_of_any_seed(found):
    _, run, _ = found
    ties = dict(zip(GROUPS["lora"], ([3, 1, 0], [0, 30, 2], [4, 4, 4]), strict=True))
    curves = tuple(
        msgspec.structs.replace(curve, near_ties=ties.get(curve.adapter, [0, 0, 0]))
        for curve in run.curves
    )
    lines = "\n".join(caveats(Findings(pooled(replace(run, curves=curves), GROUPS))))
    assert "up to 30 of 80 (lora, rank 2)" in lines


def test_a_speed_is_the_median_of_the_seeds(found):
    _, run, _ = found
    arm = pooled(run, GROUPS).curves[0]
    measured = [Speed(30.0, 0.2), Speed(10.0, 0.9), Speed(20.0, 0.3)]
    timed = tuple(
        msgspec.structs.replace(member, source=SimpleNamespace(speed=lambda *_, s=speed: s))
        for member, speed in zip(arm.members, measured, strict=True)
    )
    shown = speeds(msgspec.structs.replace(arm, members=timed))
    assert shown == dict.fromkeys(RANKS, Speed(20.0, 0.3))


def test_differences_of_groups_are_over_documents_and_seeds(found):
    _, run, scores = found
    both = pooled(run, GROUPS)
    (pair,) = Findings(both, 0.02).pairs("word_problems")
    gap = pair.estimate
    areas = {
        name: np.einsum("k,skn->sn", [0.25, 0.5, 0.25], np.stack([scores[m] for m in members]))
        for name, members in GROUPS.items()
    }
    oracle = difference(areas["lora"], areas["nested"])
    assert (pair.b, pair.a) == ("nested", "lora")
    assert gap.value == pytest.approx(oracle.estimate.value)
    assert (gap.low, gap.high) == pytest.approx((oracle.estimate.low, oracle.estimate.high))
    assert pair.p_holm == pytest.approx(oracle.p)  # the only test of its family


def test_gained_and_lost_are_those_of_every_seed(found):
    _, run, scores = found
    [item, _] = Findings(pooled(run, GROUPS)).changes("word_problems")
    assert (item.label, item.n_docs) == ("lora", 240)
    for step in item.steps:
        if step.lower == 0:
            continue
        places = RANKS.index(step.upper), RANKS.index(step.lower)
        rises = [scores[name][places[0]] - scores[name][places[1]] for name in GROUPS["lora"]]
        assert step.gained == sum(int((rise > 0).sum()) for rise in rises)
        assert step.lost == sum(int((rise < 0).sum()) for rise in rises)
    assert [step.upper for step in item.steps] == list(RANKS)


def test_recorded_recipes_pool_by_themselves(found):
    _, run, _ = found
    recipe = {"rank": 4, "steps": 9}
    adapters = tuple(
        msgspec.structs.replace(a, recipe={**recipe, "seed": a.seed}) for a in run.adapters
    )
    alone = pooled(replace(run, adapters=adapters))
    assert [(c.adapter, c.seeds) for c in alone.curves] == [("lora", 3), ("nested", 3)]


def test_seeds_that_do_not_fit_stay_apart_and_it_is_said(tmp_path):
    maker = maker_of(tmp_path, n=20)
    path = tmp_path / maker.curves[1]["cells"]["2"]
    path.write_text(path.read_text().replace("1.0", "0.0", 1))
    run = pooled(run_from(maker.results(), tmp_path), {"lora": GROUPS["lora"]})
    assert [c.adapter for c in run.curves] == [*GROUPS["lora"], "nested"]
    assert "lora on word_problems are not pooled" in run.notes[0]
    assert "lora-seed2 are missing or damaged" in run.notes[0]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"g": ["nobody", "lora-seed1"]}, "nobody"),
        ({"g": ["lora-seed1"], "h": ["lora-seed1"]}, "two"),
    ],
)
def test_groups_of_unknown_or_repeated_adapters_are_refused(found, groups, said):
    with pytest.raises(AuracError, match=said):
        pooled(found[1], groups)


def test_the_figure_has_the_mean_and_the_seeds_thin_in_its_hue(found):
    from matplotlib.figure import Figure

    curves = pooled(found[1], GROUPS).curves
    with styled():
        ax = plots.rank_accuracy(Figure().subplots(), curves, seeds=True)
    lines = {line.get_gid(): line for line in ax.get_lines()}
    for at in range(2):
        mean, seeds = lines[f"curve-{at}"], lines[f"curve-{at}-seeds"]
        assert seeds.get_color() == mean.get_color()
        assert seeds.get_linewidth() < mean.get_linewidth() / 2
        assert np.isnan(seeds.get_ydata()).sum() == 3  # the gaps between three seeds


def test_the_command_groups_and_keeps_the_single_checkpoints(found, tmp_path):
    folder, _, _ = found
    said = [f"{name}={','.join(members)}" for name, members in GROUPS.items()]
    options = [word for text in said for word in ("--group", text)]
    done = CliRunner().invoke(cli, ["report", str(folder), "--out", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "report.md").read_text()
    assert "nested has the largest AURAC" in text
    assert "over documents and seeds" in text
    assert "| lora-seed2 |" in text
    table = (tmp_path / "table.csv").read_text()
    assert ',lora,prefix,rule,default,"exact_match,strict-match",3,' in table
    assert ',lora-seed2,prefix,rule,default,"exact_match,strict-match",1,2,' in table
    assert {p.name for p in (tmp_path / "cards").iterdir()} == {
        f"{name}.md" for members in GROUPS.values() for name in members
    }


def test_a_pooled_report_is_the_same_bytes_again(found, tmp_path):
    folder, _, _ = found
    first = write_report(folder, out=tmp_path / "a", groups=GROUPS)
    second = write_report(folder, out=tmp_path / "b", groups=GROUPS)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
