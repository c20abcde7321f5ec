"""What curves are called: the same in every figure and table, and what `--label` makes of it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from report_runs import RunMaker, many_curves, run_from, zoo_run

import aurac
from aurac.cli import cli
from aurac.curves.names import curve_names
from aurac.errors import UsageError
from aurac.show import appearance, write_report


def test_a_truncation_has_one_name_whatever_stands_beside_it():
    with_p, prefix, svd = ("m", "prefix · trained"), ("m", "prefix · rule"), ("m", "svd · keep")
    for others in ([], [prefix], [svd], [prefix, svd]):
        assert curve_names([with_p, *others])[with_p] == "m (with P)"
    assert curve_names([with_p, prefix, svd]) == {
        with_p: "m (with P)",
        prefix: "m (without P)",
        svd: "m (SVD)",
    }
    names = curve_names(
        [("m", f"{b} · {r}") for b in ("prefix", "svd") for r in ("rule", "keep", "fit")]
    )
    assert list(names.values()) == [
        *("m (prefix)", "m (prefix, scale kept)", "m (prefix, fitted)"),
        *("m (SVD, rule)", "m (SVD)", "m (SVD, fitted)"),
    ]
    lora = ("lora", "prefix · rule")
    assert curve_names([lora, ("unknown", "")], {"lora": "LoRA"}) == {lora: "LoRA"}


def test_labels_rename_adapters_and_curves_in_figures_and_tables_alone(tmp_path):
    folder = zoo_run(tmp_path / "run", n=20).write()
    command = ["report", str(folder), "--out", str(tmp_path / "out")]
    named = ["--label", "matryoshka=Matryoshka", "--label", "matryoshka (without P)=published"]
    done = CliRunner().invoke(cli, [*command, *named, "--label", "lora=LoRA"])
    assert done.exit_code == 0, done.output
    texts = [
        (tmp_path / "out" / name).read_text()
        for name in (
            "report.md",
            "report.html",
            "table.tex",
            "figures/rank-accuracy-word_problems.svg",
        )
    ]
    for text in texts:
        assert "Matryoshka (with P)" in text
        assert "published" in text
        assert "matryoshka (with" not in text
    assert "matryoshka" in (tmp_path / "out/table.csv").read_text()
    assert "Matryoshka" not in (tmp_path / "out/table.csv").read_text()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"matroshka": "M"}, "'matroshka', which is not shown; .* did you mean matryoshka"),
        ({"dylora": "lora"}, "'lora' as the label of dylora and of lora"),
        ({"matryoshka (with P)": "x", "matryoshka (without P)": "x"}, "'x' as the label of matr"),
    ],
)
def test_labels_that_name_no_curve_or_two_alike_are_refused(labels, message, tmp_path):
    folder = zoo_run(tmp_path, n=20).write()
    with pytest.raises(UsageError, match=message):
        write_report(folder, labels=labels)
    with pytest.raises(UsageError, match=message):
        aurac.load_run(folder).plot(labels=labels)
    assert not (folder / "report.md").exists()


@pytest.mark.parametrize("label", ["lora", "=LoRA", "lora="])
def test_a_label_without_a_name_or_a_text_is_refused(label, tmp_path):
    folder = zoo_run(tmp_path, n=20).write()
    done = CliRunner().invoke(cli, ["report", str(folder), "--label", label])
    assert isinstance(done.exception, UsageError)
    assert "expected --label NAME=TEXT" in str(done.exception)


def test_a_picture_in_a_notebook_has_the_labels(tmp_path):
    from matplotlib import pyplot as plt

    folder = zoo_run(tmp_path, n=20).write()
    ax = aurac.load_run(folder).plot(labels={"lora": "LoRA", "matryoshka": "Matryoshka"})
    names = [text.get_text().rpartition(" ")[0] for text in ax.get_legend().get_texts()]
    assert names == [
        "Matryoshka (with P)",
        "Matryoshka (without P)",
        "dylora",
        "LoRA",
        "base (rank",
    ]
    plt.close("all")


def test_short_names_keep_rates_and_long_ones_stay_apart(tmp_path):
    maker = RunMaker(tmp_path, n=20, cells=False)
    rates = [f"matryoshka-lr{rate}-seed42" for rate in (0.002, 0.004, 0.008)]
    long = [f"{'x' * 30}-lr{rate}-{'y' * 30}" for rate in (0.004, 0.014)]
    for name in (*rates, *long):
        maker.add(name, [0.1, 0.2], ranks=(1, 2))
    run = run_from(maker.results())
    names = appearance.short_names(run.curves)
    assert [names[rate] for rate in rates] == rates
    assert len(set(names.values())) == 5
    few = appearance.short_names(
        run_from(many_curves(tmp_path / "few", 2, cells=False).results()).curves
    )
    assert all(label == name for label, name in few.items())
