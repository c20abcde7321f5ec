"""A run opened in Python: tables, pictures, recommended ranks."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from report_runs import RunMaker, ramp, zoo_run

import aurac
from aurac.cli import cli
from aurac.errors import AuracError, CurveError, RunFolderError, TaskError, UsageError
from aurac.records.results_file import CurveRecord, FailedCell, Results
from aurac.study import load_study

mpl.use("agg")
KEPT = Path(__file__).parents[2] / "reports" / "word_problems"


@pytest.fixture(scope="module")
def run():
    return aurac.load_run(str(KEPT))


def test_scores_have_a_row_for_each_truncation(run):
    """Of log2 the weights are 1/8, 1/4, 1/4, 1/4, 1/8: .65 / 8 + 1.11 / 4 = .35875 for lora.

    That is by prefix; by SVD .82 / 8 + 1.46 / 4 = .4675.
    """
    scores = run.scores.set_index(["adapter", "default"])
    assert len(scores) == 5
    assert scores.loc["lora", False].aurac == pytest.approx(0.35875)
    lora = scores.loc["lora", True]
    assert lora.aurac == pytest.approx(0.4675)
    assert lora.low < lora.aurac < lora.high
    assert (lora.n_docs, lora.seeds, lora.baseline, lora.reason) == (100, 1, 0.0, None)
    assert scores.loc["matryoshka", False].aurac == pytest.approx(0.125)


def test_a_task_copied_out_of_its_study_says_so(tmp_path):
    task = KEPT.parent / "study/results/mawps"
    assert "study" not in repr(aurac.load_run(task)).replace(str(task), "")
    shutil.copytree(task, tmp_path / "copy", ignore=shutil.ignore_patterns("figures"))
    run = aurac.load_run(tmp_path / "copy")
    said = (
        "; one task of the study nested-adapters (later tests: its README.md), p values adjusted "
    )
    assert said + "for this task alone)" in repr(run)
    assert run.analysis.caveats[-1].note.startswith("nested-adapters")


def test_points_are_the_accuracies_and_can_be_scored(run):
    points = run.points
    assert len(points) == 5 * 5
    lora = points[(points.adapter == "lora") & (points.basis == "prefix")]
    assert lora.accuracy.tolist() == [0.18, 0.28, 0.38, 0.45, 0.47]
    assert lora.bytes.tolist() == [610560 * r for r in (1, 2, 4, 8, 16)]
    score = aurac.score(lora)
    weights = [1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8]
    assert score.value == pytest.approx(0.35875)
    assert score.log2.low == pytest.approx(sum(lora.low * weights))
    assert score.log2.high == pytest.approx(sum(lora.high * weights))


def test_pairs_are_those_of_the_command_line(run):
    pairs = run.pairs.set_index(["a", "b"])
    assert pairs.loc["lora", "matryoshka"].difference == pytest.approx(0.39125 - 0.4675)
    assert pairs.loc["lora", "dylora"].difference == pytest.approx(0.25125 - 0.4675)
    assert (pairs.p_holm >= pairs.p).all()
    stored = pd.read_csv(KEPT / "pairs.csv")  # of adapters, and of truncations of one
    assert run.pairs.difference.tolist() == pytest.approx(stored.difference.tolist())
    assert run.pairs.tests.tolist() == stored.family_tests.tolist() == [5] * 5
    assert run.pairs.interval.tolist() == stored.interval.tolist()
    last = run.pairs.iloc[4]
    assert (last.a, last.a_truncation) == ("matryoshka", "prefix · trained")
    assert (last.b, last.b_truncation) == ("matryoshka", "prefix · rule")
    assert last.direction == "matryoshka (without P) − matryoshka (with P)"


def test_samples_hold_every_answer(run):
    samples = run.samples
    assert len(samples) == 5 * 6 * 100  # five curves, five ranks and the base
    means = samples.groupby(["adapter", "rescale", "rank"]).score.mean()
    assert means["lora", "rule", 8] == pytest.approx(0.45)
    assert means["lora", "rule", 0] == 0.0
    svd = aurac.score(samples.query("adapter == 'lora' and basis == 'svd'"))
    assert (svd.value, svd.n_docs) == (pytest.approx(0.4675), 100)
    keys = ["adapter", "task", "metric", "truncation", "basis", "rescale"]
    assert len(run.scores.merge(run.points, on=keys)) == 25
    assert set(samples.truncation) == set(run.scores.truncation)
    first = samples.iloc[0]
    assert first.question.startswith("Question: ")
    assert "####" in first.target
    assert isinstance(first.response, str)


def test_samples_of_a_group_name_their_task(tmp_path):
    strata = ["easy"] * 8 + ["hard"] * 12
    folder = zoo_run(tmp_path, n=20, ranks=(1, 2), strata=strata).write()
    samples = aurac.load_run(folder).samples
    documents = samples[(samples.adapter == "lora") & (samples["rank"] == 1)].doc_id.tolist()
    assert documents == [f"0:{i}" for i in range(8)] + [f"1:{i}" for i in range(8, 20)]


def test_recommended_ranks_depend_on_the_margin(run):
    strict, wide = run.smallest_ranks(margin=0.001), run.smallest_ranks(margin=0.1)
    assert strict[strict.adapter == "lora"]["rank"].isna().tolist() == [True, True]
    row = wide[wide.adapter == "lora"].iloc[0]
    assert (row["rank"], row.saved) == (4, 0.75)  # by SVD
    assert "Use rank 4: " in row.sentence
    every = run.configurations(margin=0.1)
    (chosen,) = every[every.chosen].to_dict("records")
    assert (chosen["adapter"], chosen["rank"]) == ("matryoshka", 16)
    assert every.needed.dropna().gt(0).all()
    assert not run.configurations().chosen.any()
    with pytest.raises(aurac.errors.AuracError, match="margin"):
        run.recommend(margin=0.0)


def test_one_adapter_is_recommended_as_the_terminal_does(run):
    asked = {"margin": 0.3, "adapter": "matryoshka"}
    chosen = run.recommend(**asked)
    assert {*chosen.adapter} == {"matryoshka"} != {*run.recommend(margin=0.3).adapter}
    rows = run.configurations(**asked)
    assert {*rows.adapter} == {"matryoshka"}
    assert rows[rows.chosen]["rank"].tolist() == chosen["rank"].tolist()
    assert run.recommend(**asked, min_accuracy=0.9)["rank"].isna().all()
    with pytest.raises(aurac.errors.CurveError, match="adapter 'lira'; expected one of lora"):
        run.configurations(adapter="lira")
    with pytest.raises(aurac.errors.UsageError, match="adapter=3; expected a text"):
        run.recommend(adapter=3)


def test_what_analyse_is_given_leads_to_what_it_takes(run):
    from aurac.readers import read_curves

    analyse = aurac.analysis.analyse
    for given, said in (
        (run.samples, "give run.curves, or select one basis"),
        (str(run.folder), "a str; expected curves or a DataFrame; give aurac.readers.read_curves"),
        (read_curves(run.folder), "a Curves; expected curves or a DataFrame; give its .curves"),
    ):
        with pytest.raises(aurac.errors.AuracError, match=re.escape(said)):
            analyse(given)
    with pytest.raises(
        TypeError, match=r"no option margin; set it in settings: aurac\.analysis\.Options"
    ):
        analyse(run.curves, margin=0.1)
    with pytest.raises(AttributeError, match=r"did you mean aurac\.analysis\.Options"):
        _ = aurac.Options
    with pytest.raises(aurac.errors.UsageError, match=r"^a Table is no path; expected the path of"):
        aurac.plan(0.05, pilot=run.samples)


def test_a_plan_shows_its_documents_in_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = aurac.plan(0.1, sd=0.3, seeds=[1, 3])
    assert "documents" in repr(shown)
    assert all(str(number) in repr(shown) for number in shown.documents)


def test_a_picture_of_seeds_has_a_curve_for_each_recipe():
    run = aurac.load_run(KEPT.parent / "study/results/mawps")
    ax = run.plot(labels={"lora": "LoRA"})
    drawn = [text.get_text() for text in ax.get_legend().get_texts()]
    areas = {f"{100 * area:.1f}" for area in run.scores.aurac}
    assert {text.rpartition(" ")[2] for text in drawn if "base" not in text} == areas
    assert len(drawn) == len(run.scores) + 1
    assert sum(text.startswith("LoRA (") for text in drawn) == 2


def test_an_adapter_and_a_folder_in_the_wrong_order_are_told(tmp_path):
    with pytest.raises(aurac.errors.UsageError, match="is no path; expected the path of a folder"):
        aurac.save_adapter(tmp_path / "x", None)
    with pytest.raises(
        aurac.errors.UsageError, match=r"base_model='smollm'; .*; a name is given as base="
    ):
        aurac.load_adapter(tmp_path, base_model="smollm")


def test_the_smallest_ranks_are_of_curves_as_the_terminal_names_them(run):
    said = run.smallest_ranks(margin=0.15).sentence
    assert [text.split(" on ")[0] for text in said[:2]] == ["lora (SVD)", "dylora"]
    assert not any(" · " in text.split(" on ")[0] for text in said)


@pytest.mark.parametrize("given", [None, 3, ["o.csv"]])
@pytest.mark.parametrize("read", [aurac.load_run, aurac.readers.read_curves, load_study])
def test_only_a_path_is_read(given, read):
    with pytest.raises(UsageError, match=f"{re.escape(repr(given))} is no path; expected the path"):
        read(given)


def test_of_two_names_that_of_the_unknown_one_is_suggested():
    with pytest.raises(aurac.errors.CurveError) as caught:
        aurac.score(KEPT, adapter="lora", task="gsm8k")
    assert "dylora" not in (caught.value.fix or "")
    with pytest.raises(aurac.errors.CurveError, match="did you mean dylora"):
        aurac.score(KEPT, adapter="dylra")


def test_the_intervals_of_ranks_are_at_95_percent_alone(run):
    lora = run.points.query("adapter == 'lora' and basis == 'svd'")
    score = aurac.score(lora, level=0.9)
    assert score.log2.low is None
    assert score.notes == ("no interval: those of the ranks are at 95 %, not at level=0.9",)
    assert "90 % interval" not in score._repr_html_()


def test_a_picture_has_the_curves_their_bands_and_a_legend(run):
    from matplotlib import pyplot as plt

    _, given = plt.subplots()
    ax = run.plot(ax=given)
    assert ax is given
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_legend().get_title().get_text() == "AURAC log2 (%)"
    adapters = [name.split()[0] for name in names]
    assert adapters == ["lora", "lora", "dylora", "matryoshka", "matryoshka", "base"]
    assert ax.lines[0].get_ydata() == pytest.approx([32, 45, 52, 49, 50])
    assert ax.lines[1].get_ydata() == pytest.approx([18, 28, 38, 45, 47])
    assert len(ax.collections) == 3  # a band for each default curve
    assert run.plot(axis="linear").get_xscale() == "linear"
    plt.close("all")
    with pytest.raises(UsageError, match="expected one of aurac_word_problems"):
        run.plot("gsm8k")


def test_without_sizes_there_is_no_picture_over_them(tmp_path):
    maker = RunMaker(tmp_path, n=60)
    maker.add("plain", ramp(0.2, 0.7, 5))
    folder = maker.write()
    content = json.loads((folder / "results.json").read_text())
    content["curves"][0]["parameters"] = [None] * 5
    (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"no curve on .* over parameters\. plain .* rank 1"):
        aurac.load_run(folder).plot(axis="parameters")


def test_a_report_can_be_written_elsewhere(run, tmp_path):
    files = run.report(str(tmp_path / "again"), labels={"lora": "Low rank"})
    assert (tmp_path / "again" / "report.html") in files
    assert "Low rank" in (tmp_path / "again" / "report.md").read_text()
    with pytest.raises(UsageError, match=r"labels=.*; expected a mapping"):
        run.report(tmp_path / "new", labels=["Low rank"])


def test_its_groups_make_recipes_of_training_seeds():
    mawps = aurac.load_run(KEPT.parent / "study/results/mawps")
    asked = aurac.analysis.Options(primary="lora,matryoshka")
    rows = aurac.analysis.analyse(mawps.curves, asked, groups=mawps.results.groups).scores
    assert {row.adapter for row in rows} == set(mawps.results.groups)


def test_it_says_what_it_is_in_a_line(run):
    assert repr(run) == f"Run({str(KEPT)!r}: 3 adapters on aurac_word_problems)"
    assert run.cells == 5 * 5 + 1  # three adapters, two of them truncated twice, and the base


def test_results_json_opens_the_run_and_no_results_are_refused(run, tmp_path):
    assert aurac.load_run(KEPT / "results.json").results == run.results
    with pytest.raises(RunFolderError, match=r"holds no results\.json"):
        aurac.load_run(tmp_path)
    with pytest.raises(RunFolderError, match=r"nowhere does not exist; expected a run folder"):
        aurac.load_run(tmp_path / "nowhere")
    with pytest.raises(
        RunFolderError, match=r"run `aurac\.compare\(…, out=FOLDER\)` first"
    ) as said:
        aurac.load_run(tmp_path / "nowhere")
    assert "run `aurac compare … --out FOLDER` first" in said.value.text
    with pytest.raises(RunFolderError, match=r"; `aurac\.score\(FILE\)` reads tables"):
        aurac.load_run(KEPT / "pairs.csv")
    with pytest.raises(TaskError, match="`aurac tasks` in a shell lists"):
        aurac.compare(KEPT.parents[1] / "adapters_zoo/word_problems/lora", "./my_task.yaml")
    with pytest.raises(RunFolderError, match=r"give a run below it: .*study/results/mawps"):
        aurac.load_run(KEPT.parent / "study")
    assert len(run.serving) == 0
    assert {"adapter", "rank", "prompt_seconds", "token_high"} <= set(run.serving.columns)


def test_nothing_heavy_is_loaded():
    code = (
        "import sys, aurac; aurac.load_run(sys.argv[1]).scores; "
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(KEPT)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_path_with_several_curves_asks_which_is_meant(run):
    score = aurac.score(KEPT, adapter="lora")
    assert (score.value, score.n_docs) == (pytest.approx(0.4675), 100)
    assert score.log2.low == pytest.approx(run.results.curves[0].score.log2.low)
    assert aurac.score(run, adapter="lora").to_dict() == score.to_dict()
    areas = run.scores.set_index("label").aurac.to_dict()
    assert "lora (prefix)" in areas
    assert {name: aurac.score(run, adapter=name).value for name in areas} == pytest.approx(areas)
    with pytest.raises(aurac.errors.AuracError, match=r"3 curves of any adapter.*load_run"):
        aurac.score(str(KEPT))
    with pytest.raises(aurac.errors.AuracError, match="0 curves of nobody"):
        aurac.score(str(KEPT), adapter="nobody")


def test_a_plan_is_a_table():
    rows = aurac.plan(0.1, flip_rate=0.2)
    assert rows.seeds.tolist() == [1]
    assert 100 < rows.documents[0] < 300
    with pytest.raises(UsageError, match="one of pilot="):
        aurac.plan(0.1)
    with pytest.raises(UsageError, match="rank without a pilot"):
        aurac.plan(0.1, flip_rate=0.2, rank=4)


def test_what_to_ship_is_what_the_command_says(run):
    """Decided over all configurations: lora at rank 2 is within .15 of its own best rank alone."""
    said = CliRunner().invoke(cli, ["recommend", str(KEPT), "--margin", "0.15", "--json"])
    (ship,) = json.loads(said.stdout)["ship"]
    (row,) = run.recommend(margin=0.15).to_dict("records")
    assert (row["adapter"], row["rank"], row["truncation"]) == ("lora", 4, "svd · keep")
    assert all(row[name] == ship[name] for name in ("adapter", "rank", "accuracy", "sentence"))
    assert run.smallest_ranks(margin=0.15)["rank"][0] == 2
    none = run.recommend()
    assert none["rank"].isna().all()
    assert none.sentence[0].startswith("No margin was given")


def test_each_pair_says_which_way_it_subtracts(run):
    """The report's file, the record and the frame have one sign."""
    row = run.pairs.iloc[1]
    assert row.direction == "matryoshka (with P) − lora (SVD)"
    assert row.a_truncation == "svd · keep"
    assert row.b_truncation == "prefix · trained"
    assert row.verdict.startswith("lora (SVD) is better")
    assert row.p <= row.p_holm
    assert row.detectable == pytest.approx(0.0759, abs=1e-4)
    stored = pd.read_csv(KEPT / "pairs.csv")
    (same,) = stored[
        (stored.first_adapter == row.b)
        & (stored.second_adapter == row.a)
        & (stored.first_rescale == "trained")
    ].to_dict("records")
    assert same["difference"] == pytest.approx(row.difference)
    record = json.loads((KEPT / "analysis.json").read_text())["pairs"][1]
    assert (record["a"], record["b"], record["value"]) == (row.a, row.b, row.difference)


def test_a_curve_has_one_name_in_frames_and_in_what_is_shown(run):
    shown = {
        "lora (SVD)",
        "lora (prefix)",
        "dylora",
        "matryoshka (with P)",
        "matryoshka (without P)",
    }
    assert set(run.scores.label) == set(run.points.label) == shown
    html = run._repr_html_()
    assert all(f"<bdi>{name}" in html and f"{name}: " in html for name in shown)
    assert "svd · keep" not in html


def test_scores_name_basis_and_rescale(run):
    table = run.scores.set_index("default")
    assert table.loc[True].basis.tolist() == ["svd", "prefix", "prefix"]
    assert table.loc[True].rescale.tolist() == ["keep", "rule", "trained"]


def test_a_run_is_scored_by_its_own_table(run):
    for source in (run, run.points, run.points.query("adapter == 'lora'")):
        with pytest.raises(aurac.errors.CurveError, match=r"run\.scores"):
            aurac.score(source)


@pytest.mark.parametrize(
    "ask",
    [
        lambda run: run.recommend(margin="2%"),
        lambda run: run.smallest_ranks(margin="2%"),
        lambda run: aurac.non_inferior(*run.curves[:2], margin="2%"),
        lambda _: aurac.plan("2%", flip_rate=0.1),
    ],
)
def test_a_margin_in_percent_is_told_its_fraction(run, ask):
    with pytest.raises(UsageError, match=r"margin='2%'.*give 0\.02"):
        ask(run)


def test_options_are_refused_by_name_and_listed_in_the_signature():
    with pytest.raises(aurac.errors.OptionError, match="no option fliprate; expected flip_rate"):
        aurac.plan(0.1, fliprate=0.2)
    with pytest.raises(TypeError, match="no option limits; expected limit"):
        aurac.compare("adapter", "task", limits=2)
    assert inspect.signature(aurac.compare).parameters["num_fewshot"].default is None
    with pytest.raises(aurac.errors.OptionError, match=r"option steps; .*load_recipe\("):
        aurac.train("word_problems/lora", "somewhere", steps=3)


def test_what_is_typed_in_a_shell_is_said_in_words_of_python(run):
    lora = KEPT.parents[1] / "adapters_zoo/word_problems/lora"
    for said, ask in (
        ("with `aurac tasks WORD` in a shell$", lambda: aurac.compare(lora, "zzzz")),
        (r"\(`aurac\.compare`: or auto\)$", lambda: aurac.compare(lora, "zzzz", ranks="few")),
        (r"`aurac\.compare\('.*/lora', 'TASK'\)`$", lambda: aurac.plan(0.1, pilot=lora)),
        (
            "metric='NAME,FILTER' or 'TASK=NAME,FILTER'$",
            lambda: aurac.readers.read_curves(KEPT, "f1"),
        ),
        ("a run folder .or its Run.", lambda: aurac.plan(0.1, pilot=run.curves[0])),
        ("^between='foo'; exp", lambda: aurac.plan(0.1, pilot=run, between=["foo", "lora"])),
        ("^scaling='foo'; exp", lambda: aurac.load_adapter(lora, scaling="foo")),
    ):
        with pytest.raises(AuracError, match=said):
            ask()


def test_wrong_kinds_of_values_are_told_what_is_expected(run):
    with pytest.raises(UsageError, match=r"labels='LoRA'; expected a mapping"):
        run.plot(labels="LoRA")
    for ax in (3, [run.plot()]):
        with pytest.raises(UsageError, match=r"ax=.*; expected one Axes of matplotlib"):
            run.plot(ax=ax)
    with pytest.raises(
        UsageError, match=r"settings=\{'axis': 'log2'\}; expected .*analysis\.Options"
    ):
        aurac.analysis.analyse(run.curves, {"axis": "log2"})
    with pytest.raises(
        CurveError, match=r"a Run; expected curves or a DataFrame; give its \.curves"
    ):
        aurac.analysis.analyse(run)
    with pytest.raises(
        CurveError, match=r"a Curve as scores; expected \(n,\).*aurac\.non_inferior"
    ):
        aurac.analysis.margin_test(*run.curves[:2], margin=0.1)
    for ask in (aurac.non_inferior, aurac.equivalent):
        assert ask(*run.curves[:2], 0.1, paired_seeds=np.bool_(True)).n_docs == 100
        with pytest.raises(UsageError, match="paired_seeds='yes'; expected True or False or None"):
            ask(*run.curves[:2], 0.1, paired_seeds="yes")
    with pytest.raises(UsageError, match=r"paired_seeds='yes'; expected True or False$"):
        aurac.plan(0.1, flip_rate=0.1, paired_seeds="yes")
    with pytest.raises(aurac.errors.OptionError, match="read_curves has no option sep; expected"):
        aurac.readers.read_curves("o.csv", sep=";")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("analyze", r"did you mean aurac\.analysis\?$"),
        ("notebok", "'notebok'$"),
        ("study", "import aurac.study$"),
    ],
)
def test_packages_are_found_and_private_names_are_not_offered(name, near):
    code = f"import aurac\ntry: aurac.{name}\nexcept AttributeError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(near, done.stdout.strip())


def test_what_is_no_checkpoint_is_told_what_compares_it(run):
    with pytest.raises(UsageError, match=r"a Run as a checkpoint; .*run\.pairs"):
        aurac.compare(run, "gsm8k")
    with pytest.raises(UsageError, match=r"a Curve as a checkpoint; .*paired_curves\(a, b\)"):
        aurac.compare(run.curves, "gsm8k")


@pytest.mark.parametrize("owner", [aurac, aurac.analysis, aurac.Run])
def test_every_public_function_names_the_options_that_it_has(owner):
    listed = getattr(owner, "__all__", None) or [name for name in vars(owner) if name[0] != "_"]
    functions = [f for name in listed if inspect.isfunction(f := getattr(owner, name))]
    assert len(functions) > 4
    for function in functions:
        parameters = inspect.signature(function).parameters
        assert inspect.Parameter.VAR_KEYWORD not in {each.kind for each in parameters.values()}
        with pytest.raises(aurac.errors.OptionError, match=r"surely_not; expected (?!.*\bself\b)"):
            function(surely_not=1)


def test_curves_and_scores_can_be_pickled_and_copied(run):
    curve = run.curves[0]
    again = pickle.loads(pickle.dumps(curve))
    assert aurac.score(again) == aurac.score(curve)
    assert again.missing == curve.missing == {}
    assert pickle.loads(pickle.dumps(aurac.score)) is aurac.score
    assert copy.deepcopy(run).scores.equals(run.scores)


def test_failures_name_options_as_keywords():
    cell = FailedCell(task="t", rank=2, reason="17 tokens; give --max-length 32")
    curve = CurveRecord(
        adapter="a", task="t", metric="acc", ranks=[2], accuracy=[None], missing={2: cell.reason}
    )
    run = aurac.Run(KEPT, Results(schema=1, curves=[curve], failures=[cell]))
    assert run.failures[0].reason == run.points.reason[0] == "17 tokens; give max_length=32"


def test_what_is_public_shows_in_a_line(run):
    first, second = run.curves[:2]
    test = aurac.non_inferior(first, second, margin=0.02)
    assert isinstance(test, aurac.MarginTest)
    assert test.passed
    assert bool(test)
    shown = [
        run,
        run.results,
        run.analysis,
        first,
        test,
        aurac.score(first),
        aurac.score(first).log2,
    ]
    shown += [*run.analysis.scores, *run.analysis.pairs, *run.analysis.best, *run.analysis.choices]
    for each in shown:
        assert len(repr(each)) < 300
        assert "\n" not in repr(each)
    assert "lora − dylora" in repr(test)
    assert "] (90 %), " in repr(test)  # both one-sided 95 % bounds
    assert repr(test).endswith("passed, 100 documents)")


@pytest.mark.parametrize("name", ["pairs", "scores", "points", "samples"])
def test_frames_show_all_of_their_columns(run, name):
    frame = getattr(run, name)
    for shown in (repr(frame), frame._repr_html_(), repr(frame.head(2))):
        assert all(column in shown for column in frame.columns)


def test_sentences_are_shown_whole(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for frame in (run.recommend(0.1), run.smallest_ranks(0.1)):
        for shown in (repr(frame), frame._repr_html_()):
            assert all(text in " ".join(shown.split()) for text in frame.sentence)
    assert max(map(len, repr(run.recommend(0.1)).splitlines())) <= 80


def test_the_margin_that_a_frame_shows_passes(run):
    """LoRA at rank 4 by SVD takes more than .1413: .1414 is shown."""
    every = run.configurations()
    row = every[(every.truncation == "svd · keep") & (every["rank"] == 4)]
    assert 0.1413 < row.needed.item() < 0.14135  # what a row holds is not rounded
    shown = "0.1414"
    for frame in (row, row[["needed"]], run.recommend(float(shown))):
        assert shown in repr(frame)
        assert shown in frame._repr_html_()
    assert run.recommend(float(shown))["rank"].item() == 4
    assert run.recommend(0.1413)["rank"].item() != 4
    assert "25.0000" in repr(every.describe())  # rows


def test_a_margin_needs_no_name_and_a_wrong_name_is_told_the_nearest(run):
    assert run.recommend(0.15).equals(run.recommend(margin=0.15))
    with pytest.raises(TypeError, match="recommend has no option delta; expected margin"):
        run.recommend(delta=0.15)
    for wrong, words in (
        ("model_args", "expected base or dtype$"),
        ("max_new_tokens", "expected gen_kwargs$"),
        ("dry_run", "`aurac compare --dry-run` has it$"),
        ("resume", "the same call goes on$"),
        ("report", "expected some of checkpoints, .*, …$"),
    ):
        with pytest.raises(TypeError, match=f"compare has no option {wrong}; {words}"):
            aurac.compare("a", "gsm8k", **{wrong: 1})
    with pytest.raises(UsageError, match=r"margin=15; .*give 0\.15"):
        run.recommend(15)
    with pytest.raises(AttributeError, match="'pair'; did you mean pairs"):
        _ = run.pair
    assert not hasattr(run, "pair")
    with pytest.raises(AttributeError, match=r"'scores'; did you mean aurac\.score"):
        _ = aurac.scores


def test_names_choose_among_what_has_names():
    """A name is not passed over in silence."""
    found = aurac.load_run(KEPT)
    lora = aurac.score(found, adapter="lora")
    assert aurac.score(found.curves[0], adapter="lora", task="aurac_word_problems") == lora
    svd = found.points[found.points["basis"] == "svd"]
    assert aurac.score(svd, adapter="lora").value == pytest.approx(lora.value)
    for source, wanted, words in (
        (found.curves[0], {"adapter": "matryoshka"}, "expected one of lora"),
        (found.curves[0], {"task": "gsm8k"}, "expected one of aurac_word_problems"),
        ({1: 0.1, 2: 0.2}, {"adapter": "x"}, "a table with names"),
        (svd, {"adapter": "nobody"}, "expected one of lora"),
        (found, {"adapter": "lora (fit)"}, r"lora \(prefix\) on aurac_word_problems"),
        (found, {"adapter": 3}, "adapter=3; expected a text"),
        (KEPT.parent / "study/results/mawps", {"adapter": "lora"}, "lora is 5 training seeds"),
        (found, {"level": None}, "level=None; expected a number"),
    ):
        with pytest.raises(AuracError, match=words):
            aurac.score(source, **wanted)


def test_a_run_is_a_pilot_and_groups_are_read_as_the_command_reads_them(run, tmp_path):
    assert len(aurac.plan(0.1, pilot=run)) == len(aurac.plan(0.1, pilot=KEPT)) > 0
    with pytest.raises(UsageError, match=r"groups=.*; expected a mapping"):
        run.report(tmp_path / "new", groups=["lora", "dylora"])
    with pytest.raises(UsageError, match=r"alpha=95; expected [^;]*such as 0\.05$"):
        run.recommend(0.1, alpha=95)
    with pytest.raises(AuracError, match=r"support='common' takes those they share$"):
        aurac.non_inferior(run.curves[0].at([1, 2]), run.curves[1], margin=0.1)
    with pytest.raises(UsageError, match="between='lora'; expected two adapters"):
        aurac.plan(0.05, pilot=run, between="lora")
    with pytest.raises(UsageError, match="sd= with flip_rate="):
        aurac.plan(0.05, sd=0.3, flip_rate=0.1)
