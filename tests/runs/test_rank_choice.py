"""`--ranks auto` on a tiny random Llama whose adapters have jagged curves, and what it refuses."""

from __future__ import annotations

import itertools
import json
import shutil
from math import log2
from types import SimpleNamespace

import numpy as np
import pytest
from hostile_files import run_aurac
from small_runs import TASK, dry_run, random_adapter

from aurac.curves.display import percent
from aurac.errors import RankError, UsageError
from aurac.records.results_file import Results
from aurac.records.store import read_cell
from aurac.runs import compare as module
from aurac.runs.compare import compare
from aurac.runs.interrupts import Interrupted
from aurac.runs.plan import parse_ranks
from aurac.runs.settings import TruncationOptions
from aurac.runs.status import read_status

COMMON = {"limit": 40, "dtype": "float32", "device": "cpu", "basis": ["prefix"]}
AUTO = {**COMMON, "ranks": "auto"}
SETTINGS = ["--limit=40", "--dtype=float32", "--device=cpu", "--basis=prefix"]
SEEDS = {"straight": 4, "jagged": 1}  # random factors whose curves add no rank, and several


@pytest.fixture(scope="module")
def adapters(tiny_base_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: random_adapter(tiny_base_folder, root / name, name=name, rank=16, seed=seed)
        for name, seed in SEEDS.items()
    }


@pytest.fixture(scope="module")
def run(adapters, tmp_path_factory):
    return compare([adapters["jagged"]], [TASK], out=tmp_path_factory.mktemp("r") / "run", **AUTO)


@pytest.fixture(scope="module")
def dense(adapters, tmp_path_factory):
    """Rank → (40,) outcomes of the jagged adapter at all sixteen ranks."""
    out = tmp_path_factory.mktemp("dense") / "run"
    done = compare([adapters["jagged"]], [TASK], out=out, ranks="all", **COMMON)
    (curve,) = done.results.curves
    cells = {rank: read_cell(done.folder / curve.cells[rank]) for rank in curve.ranks}
    return {rank: np.array(cell.metrics[curve.metric]) for rank, cell in cells.items()}


def by_hand(outcomes, margin):
    """The ranks that one curve asks for, from lines in the plane: the rule written down anew."""
    ranks = [1, 2, 4, 8, 16]

    def at(p, q, x):
        """The line through two ranks at x = log2 r, for every document."""
        share = (x - log2(p)) / (log2(q) - log2(p))
        return outcomes[p] + share * (outcomes[q] - outcomes[p])

    while True:
        more = set()
        for k, (low, high) in enumerate(itertools.pairwise(ranks)):
            if high - low < 2:
                continue
            x = (log2(low) + log2(high)) / 2
            ends = [ranks[k - 1 : k + 1], *([ranks[k + 1 : k + 3]] if k + 2 < len(ranks) else [])]
            bends = [at(p, q, x) - at(low, high, x) for p, q in ends]
            sizes = [abs(bend.mean()) for bend in bends]
            noise = [bend.std(ddof=1) / np.sqrt(bend.size) for bend in bends]
            departure = len(sizes) / sum(1 / size for size in sizes) if all(sizes) else 0.0
            # one standard error: the normal quantile of .84 is .9945
            if departure > margin and all(
                s > 0.99446 * n for s, n in zip(sizes, noise, strict=True)
            ):
                more.add(round((low * high) ** 0.5))
        if not more:
            return ranks
        ranks = sorted({*ranks, *more})


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_the_ranks_are_those_of_the_rule_applied_to_all_ranks(
    run, adapters, dense, tmp_path, margin
):
    if margin != 0.02:
        folder = shutil.copytree(run.folder, tmp_path / "run")
        run = compare([adapters["jagged"]], [TASK], out=folder, margin=margin, **AUTO)
    (curve,) = run.results.curves
    expected = by_hand(dense, margin)
    assert len(expected) > 5
    assert curve.ranks == expected
    record = run.results.rank_choice
    assert record.margin == margin
    assert [1, 2, 4, 8, 16, *record.added] == sorted(expected, key=lambda r: (r & (r - 1) > 0, r))
    unseen = [r for gap in record.gaps for r in range(gap.low + 1, gap.high)]
    assert sorted([*unseen, *expected]) == list(range(1, 17))
    assert all(gap.departure > margin for gap in record.gaps if gap.noise)
    assert all(gap.noise for gap in record.gaps if gap.departure > margin and gap.high < 16)


def test_results_have_both_areas_and_people_are_told(run, dense):
    (curve,) = run.results.curves
    coarse = np.array([1, 2, 2, 2, 1]) / 8 @ [dense[r].mean() for r in (1, 2, 4, 8, 16)]
    assert curve.score_pow2.value == pytest.approx(coarse)
    assert curve.score.log2.value != pytest.approx(coarse)
    first, second = run.results.rank_choice.sentences
    assert first.startswith("--ranks auto (margin 2 points) added ranks 6, ")
    assert "not evaluated: 3, 5, 7" in first
    assert (
        second == f"Over the powers of two alone AURAC is {percent(coarse)} % (jagged on {TASK})."
    )
    report = (run.folder / "report.md").read_text().replace("\\", "")
    assert first in report
    assert second in report
    assert Results.read(run.folder) == run.results


def test_a_run_at_chosen_ranks_alone_has_no_trace_of_it(adapters, tmp_path):
    done = compare([adapters["straight"]], [TASK], out=tmp_path / "pow2", **COMMON)
    assert "rank_choice" not in done.results.to_dict()
    assert "score_pow2" not in (done.folder / "results.json").read_text()
    assert b"further" not in (done.folder / "plan.jsonl").read_bytes()
    assert "auto" not in (done.folder / "report.md").read_text()


def test_an_interrupted_run_says_what_may_follow_and_chooses_the_same(
    run, adapters, tmp_path, monkeypatch
):
    checkpoints, out = [adapters["jagged"]], tmp_path / "run"
    compute, rounds = module.Sweep._compute, []

    def second_round_is_interrupted(self, wanted):
        rounds.append(len(wanted))
        if len(rounds) == 2:
            raise Interrupted
        compute(self, wanted)

    assert dry_run(checkpoints, [TASK], out=out, **AUTO).further == 11
    with monkeypatch.context() as patched:
        patched.setattr(module.Sweep, "_compute", second_round_is_interrupted)
        with pytest.raises(Interrupted):
            compare(checkpoints, [TASK], out=out, **AUTO)
    assert rounds[0] == 1 + 5
    middle = dry_run(checkpoints, [TASK], out=out, **AUTO)
    assert (middle.cells, middle.done) == (rounds[1], 6)
    assert middle.further == read_status(out).further == 11 - (rounds[1] - 6) > 0
    _, said, _ = run_aurac("compare", "--status", "--out", out)
    assert f"up to {middle.further} more cells may follow" in said
    again = compare(checkpoints, [TASK], out=out, **AUTO)
    assert again.results.rank_choice == run.results.rank_choice
    assert again.results.curves == run.results.curves
    after = dry_run(checkpoints, [TASK], out=out, **AUTO)
    assert (after.cells, after.done, after.further) == (again.cells, again.cells, 0)
    assert read_status(out).further == 0
    assert read_status(out).state == "done"


def test_cells_that_are_there_change_no_choice(run, adapters, tmp_path):
    """A folder of all sixteen ranks: the rule takes those that it asks for, in results beside."""
    out = tmp_path / "run"
    compare([adapters["jagged"]], [TASK], out=out, ranks="all", **COMMON)
    done = compare([adapters["jagged"]], [TASK], out=out, **AUTO)
    assert done.results.curves == run.results.curves
    assert "also holds rank" in done.besides


def test_what_one_curve_asks_for_all_adapters_get(run, adapters, tmp_path, monkeypatch):
    """At one standard error for each curve, as if each were alone."""
    monkeypatch.setattr("aurac.stats.gaps.LEVEL", 2 * 0.16)
    out = tmp_path / "run"
    both = AUTO | {"basis": ["prefix", "svd"]}
    done = compare(list(adapters.values()), [TASK], out=out, **both)
    assert done.results.rank_choice.limit == run.results.rank_choice.limit
    ranks = {tuple(curve.ranks) for curve in done.results.curves}
    assert len(done.results.curves) == 4
    assert ranks == {tuple(run.results.curves[0].ranks)}
    assert done.pairs["difference"].notna().all()


def test_an_adapter_of_a_lower_rank_gets_those_that_it_has(
    adapters, tiny_base_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("aurac.stats.gaps.LEVEL", 2 * 0.16)
    small = random_adapter(tiny_base_folder, tmp_path / "small", name="small", rank=8, seed=4)
    done = compare([adapters["jagged"], small], [TASK], out=tmp_path / "run", **AUTO)
    one, two = (curve.ranks for curve in done.results.curves)
    assert two == [rank for rank in one if rank <= 8] != [1, 2, 4, 8]


def test_a_failed_cell_leaves_its_curve_out(adapters, tmp_path, monkeypatch):
    from aurac.runs.evaluator import Evaluator

    blocks = Evaluator.blocks

    def fails(self, cell, *rest):
        if cell.rank == 4:
            raise ValueError("no")
        return blocks(self, cell, *rest)

    monkeypatch.setattr(Evaluator, "blocks", fails)
    done = compare([adapters["jagged"]], [TASK], out=tmp_path / "run", **AUTO)
    assert [failure.rank for failure in done.failures] == [4]
    assert done.results.rank_choice.added == []
    assert done.results.rank_choice.gaps == []


def test_the_command_line(run, adapters, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    words = ["compare", adapters["jagged"], "--tasks", TASK, *SETTINGS, "--out", folder]
    words += ["--ranks", "auto"]
    code, said, error = run_aurac(*words)
    assert code == 0, error
    for sentence in run.results.rank_choice.sentences:
        assert sentence in said
    _, said, _ = run_aurac(*words, "--margin", "0.3", "--dry-run")
    assert "0 of 6 cells to compute" in said
    assert "may add" not in said
    elsewhere = ["--out", tmp_path / "new", "--dry-run"]
    assert "up to 11 more cells" in run_aurac(*words, *elsewhere)[1]
    assert json.loads(run_aurac(*words, *elsewhere, "--json")[1])["further"] == 11


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "auto", "--until", "decided"], "--ranks auto with --until"),
        (["--ranks", "auto", "--until", "width=0.1"], "--ranks auto with --until"),
        (["--ranks", "auto", "--shard", "1/2"], "--shard with --ranks auto"),
        (["--ranks", "auto", "--margin", "0"], "--margin 0.0; expected a fraction between 0 and 1"),
        (
            ["--ranks", "auto", "--margin", "2"],
            "such as 0.02; give 0.02",
        ),
        (["--ranks", "auto", "--budget", "100"], "--budget without --until"),
        (["--margin", "0.02"], "to stop early, or --ranks auto; `aurac recommend RUN"),
        (["--ranks", "automatic"], "ranks 'automatic'"),
    ],
)
def test_what_does_not_go_with_it_is_refused(adapters, tmp_path, words, message):
    command = ["compare", *map(str, adapters.values()), "--tasks", TASK, *SETTINGS[1:]]
    code, _, error = run_aurac(*command, "--out", tmp_path / "run", *words)
    assert code == 2
    assert message in error
    assert not (tmp_path / "run").exists()


def test_ranks_are_not_chosen_where_nothing_is_evaluated_or_nothing_is_open(
    adapters, tiny_base_folder, tmp_path
):
    for rank in (1, 2):
        random_adapter(tiny_base_folder, tmp_path / f"r{rank}", name=f"r{rank}", rank=rank)
    family = f"family={tmp_path}/r{{1,2}}"
    with pytest.raises(UsageError, match="ranks='auto' with the family 'family'"):
        compare([family], [TASK], out=tmp_path / "run", **AUTO)
    with pytest.raises(RankError, match="ranks 'auto'"):
        parse_ranks("auto", SimpleNamespace(rank=16))
    with pytest.raises(UsageError, match=r"margin=0\.02 needs ranks='auto'"):
        TruncationOptions(ranks="all", margin=0.02)
    recommend = ["recommend", str(adapters["jagged"]), "--tasks", TASK, "--ranks", "auto"]
    code, _, error = run_aurac(*recommend, "--margin", "0.02", "--until", "decided")
    assert code == 2
    assert "--ranks auto with --until" in error
