"""A finished run in Python: frames, answers, questions, pictures."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from support.made_runs import make_run

import aurac
from aurac.analysis import Question
from aurac.errors import AuracError, CurveError, RunFolderError, UsageError
from aurac.notebook import load_run

KEPT = Path(__file__).parents[2] / "reports/word_problems"


@pytest.fixture(scope="module")
def run():
    return load_run(KEPT)


def test_a_notebook_shows_the_verdict_the_figure_and_the_tables(run):
    """The same numbers as the screen, and an SVG that can be read."""
    page = run._repr_html_()
    (image,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert ET.fromstring(base64.b64decode(image)).tag.endswith("svg")
    cells = [cell.strip() for cell in re.findall(r"<td[^>]*>([^<]*)</td>", page)]
    assert "46.9 [37.5, 56.3]" in cells  # the README's
    assert {"lora", "dylora", "matryoshka"} <= {*cells}
    assert "lora is better than dylora (25.8 points [14.0, 36.4])" in page


def test_another_question_is_asked_of_the_same_run(run):
    asked = run.recommend(margin=0.02)
    assert list(asked["margin"].unique()) == [0.02]
    assert (asked["rank"] <= asked["reference"]).all()
    assert len(run.recommended) == 0
    assert run.ask(margin=0.02).recommend().equals(asked)
    with pytest.raises(UsageError, match="margin"):
        run.recommend()
    against = run.ask(reference="dylora").pairs
    assert len(against) == 2
    assert ((against["a"] == "dylora") | (against["b"] == "dylora")).all()
    assert len(run.pairs) == 3
    both = run.ask(margin=0.1).ask(reference="lora").ask(level=0.9)
    assert both.question == Question(margin=0.1, reference="lora", level=0.9)
    assert both.ask(margin=None).question.margin is None
    taken = run.ask(limit=np.int64(9), ranks=np.array([1, 2]), margin=np.float64(0.1)).question
    assert taken == Question(limit=9, ranks=(1, 2), margin=0.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"margins": 0.1}, r"no 'margins'; it has margin, reference, level"),
        ({"margin": "much"}, r"margin takes .*, not 'much'"),
        ({"limit": 0}, r"limit takes .* 1, not 0"),
        ({"ranks": "1,2"}, r"ranks takes .*, not '1,2'"),
        ({"pairs": [("lora",)]}, r"pairs takes .*, not \[\('lora',\)\]"),
        ({"groups": {"g": ["loora"]}}, r"group g names loora; there are lora, dylora, matryoshka"),
        ({"tasks": ["t"]}, r"no task 't'; it has aurac_word_problems"),
        ({"metrics": {"t": "acc,none"}}, r"no task 't'; there are aurac_word_problems"),
        (
            {"metrics": {"aurac_word_problems": "acc,none"}},
            r"aurac_word_problems has no one metric 'acc,none', but 'exact_match,",
        ),
        ({"clusters": {"t": "kind"}}, r"no task 't'; it has aurac_word_problems"),
        (
            {"clusters": {"aurac_word_problems": "kind"}},
            r"aurac_word_problems has no field 'kind'; it has ",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(run, wrong, said):
    with pytest.raises(AuracError, match=said):
        run.ask(**wrong)


def test_pairs_are_asked_for_by_names_and_a_wrong_name_is_said_at_once(run):
    [pair] = run.ask(pairs=[("lora", "dylora")]).records("pairs")
    assert {pair["a"], pair["b"]} == {"lora", "dylora"}
    assert pair["comparisons"] == 1
    keys = {row.name: row.key for row in run.analysis.rows}
    study = run.ask(primary=((keys["lora"], keys["dylora"]),), family=6)
    assert study.ask(pairs=[("lora", "dylora")]).records("pairs") == [pair]  # not what it declared
    asked = study.question.but(pairs=study.question.primary, primary=())
    assert {*aurac.analyse(run, asked).pairs.comparisons} == {6}
    assert len(run.ask(pairs=[("lora", "dylora")]).ask(reference="lora").pairs) == 2
    for wrong in ({"reference": "loora"}, {"pairs": [("lora", "loora")]}):
        with pytest.raises(UsageError, match=r"no loora .* there are lora, dylora, matryoshka"):
            run.ask(**wrong)
    with pytest.raises(UsageError, match="no loora"):
        aurac.analyse(run.curves, Question(pairs=(("loora", "lora"),)))


def test_a_run_and_its_curves_are_analysed_and_scored(run):
    assert aurac.analyse(run).scores.equals(run.scores)
    assert aurac.analyse(KEPT).scores.equals(run.scores)
    assert aurac.analyse(run, Question(margin=0.15)).recommended.equals(run.recommend(0.15))
    frame = run.curves.frame  # of each adapter 5 ranks and the base
    assert len(frame) == 3 * 6 * 100
    again = aurac.analyse(frame)
    numbers = ["adapter", "aurac", "low", "high", "aurac_linear", "base", "examples"]
    assert again.scores[numbers].equals(run.scores[numbers])
    means = frame[frame.adapter == "lora"].groupby("rank")["score"].mean()
    points = run.points[run.points.adapter == "lora"].set_index("rank").accuracy
    assert means.to_dict() == pytest.approx(points.to_dict())
    lora = frame[(frame.adapter == "lora") & (frame["rank"] > 0)]
    assert str(aurac.score(lora)) == "46.9 % [37.5, 56.3]"  # the README's
    with pytest.raises(CurveError, match=r"several curves \(lora, svd, seed 42 on"):
        aurac.score(run)


def test_the_folder_of_a_report_is_its_run_under_its_question(run, tmp_path):
    asked = run.ask(margin=0.15, reference="lora")
    asked.report(tmp_path / "report", labels={"lora": "LoRA"})
    report = tmp_path / "report"
    for place in (report / "report.html", report, str(report)):
        assert aurac.analyse(place).recommended.equals(asked.recommended)
    assert [c.label for c in aurac.read_curves(place)] == [c.label for c in run.curves]
    assert "LoRA" in (tmp_path / "report/report.md").read_text()
    again = load_run(tmp_path / "report")
    assert again.folder.resolve() == KEPT.resolve()
    assert (again.question.margin, again.question.reference) == (0.15, "lora")
    assert again.recommended.equals(asked.recommended)
    assert load_run(KEPT).question == Question()


def test_samples_are_the_answers_behind_the_accuracies(run):
    answers = run.samples()
    assert len(answers) == (1 + 3 * 5) * 100
    means = answers.groupby(["adapter", "rank"])["score"].mean()
    points = run.points.set_index(["adapter", "rank"])["accuracy"]
    for where, mean in means.items():
        assert points[where] == pytest.approx(mean)
    base = run.samples(rank=0)
    assert len(base) == 100
    assert run.samples(adapter="lora", rank=0).equals(base)
    assert base["adapter"].isna().all()
    assert {*base["read"]} == {"[invalid]"}  # the base writes no "#### "
    few = run.samples("aurac_word_problems", "lora", 4)
    assert list(few.columns) == [
        "task", "recipe", "adapter", "seed", "basis", "rescale", "cut", "rank", "example", "score",
        "response", "read", "question", "target",
    ]  # fmt: skip
    right = few[few["score"] == 1.0]  # the task's filter reads the number after "#### "
    assert list(right["read"]) == [text.rpartition("#### ")[2] for text in right["target"]]
    few = run.samples(adapter="lora")
    areas = run.scores.set_index("adapter").aurac
    assert aurac.score(few).value == pytest.approx(areas["lora"])
    assert few["rank"].min() == 1  # without the base's rows
    for unknown in ({"adapter": "nobody"}, {"rank": 3}, {"task": "other"}):
        with pytest.raises(UsageError, match="has no answers of"):
            run.samples(**unknown)
    with pytest.raises(UsageError, match="no curve of LoRA"):
        run.plot(adapters=["lora", "LoRA"])
    with pytest.raises(UsageError, match=r"no curve on nope; there are curves on aurac_word_pro"):
        run.plot(task="nope")


def test_rows_of_examples_name_their_recipe_and_seed_as_rows_of_scores_do(run):
    grouped = run.ask(groups={"both": ("lora", "dylora")})
    assert {*grouped.scores.adapter} == {"both", "matryoshka"}
    for frame in (grouped.samples(), grouped.curves.frame):
        named = frame[frame["rank"] > 0][["adapter", "recipe", "seed"]].drop_duplicates()
        assert {*named.itertuples(index=False, name=None)} == {
            ("lora", "both", 42), ("dylora", "both", 42), ("matryoshka", "matryoshka", 42),
        }  # fmt: skip
    few = grouped.samples(adapter="both", rank=4)
    assert {*few.adapter} == {"lora", "dylora"}


def test_answers_are_those_there_where_the_base_has_none(tmp_path):
    folder = make_run(tmp_path, {"a": {1: [0, 1], 2: [1, 1]}})
    manifest = json.loads((folder / "run.json").read_text())
    (folder / f"cells/{manifest['base'].popitem()[1]}.jsonl").unlink()
    assert list(load_run(folder).samples()["rank"]) == [1, 1, 2, 2]


def test_axes_of_the_readers_own_stay_usable(run):
    from matplotlib.figure import Figure

    own = run.plot()
    legends = [own.get_legend(), *own.figure.legends]
    texts = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    assert {"lora", "matryoshka", "dylora"} <= {text.split()[0] for text in texts}
    left, right = Figure(figsize=(9, 4)).subplots(1, 2)
    assert run.plot(ax=left, adapters=["lora", "dylora"], labels={"lora": "LoRA"}) is left
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert [name.split()[0] for name in names] == ["LoRA", "dylora", "base"]
    assert not left.figure.legends
    assert run.plot(ax=right, legend=False).get_legend() is None


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no run folder"):
        load_run(tmp_path)
    with pytest.raises(RunFolderError, match=r"in it are smollm2, smollm2/run, smollm2/search"):
        load_run(KEPT.parent / "small_ranks")


@pytest.mark.parametrize("name", ["run.json", "analysis.json"])
@pytest.mark.parametrize("damage", ["cut", "bytes", "margin", "missing"])
def test_a_damaged_file_is_said(tmp_path, run, name, damage):
    """Every one is a `RunFolderError`, which names the file."""
    folder = make_run(tmp_path / "run", {"a": {1: [0, 1], 2: [1, 1]}})
    load_run(folder).report(tmp_path / "report")
    path = (folder if name == "run.json" else tmp_path / "report") / name
    content = path.read_bytes()
    changed = {
        "cut": content[: len(content) // 2],
        "bytes": b"\xff\xfe" + content,
        "margin": json.dumps(json.loads(content) | {"question": {"margin": 7.0}}).encode(),
        "missing": b"{}",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(RunFolderError, match=re.escape(str(path))):
        load_run(path.parent)
