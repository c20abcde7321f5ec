"""The files of a report: their content, the escaping of hostile text, the same bytes each time."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser

import msgspec
import pytest
from shown import curve, one, perplexity, stored, three, word_problems

from aurac.analysis import Question, analyse
from aurac.errors import UsageError
from aurac.show.report import write_report
from aurac.show.screen import screen

pytestmark = pytest.mark.usefixtures("plain_figures")
FRAMES = ("scores", "points", "pairs", "rank_pairs", "recommended")
HOSTILE = "<script>alert(1)</script> [x](javascript:1) \x1b[31m | \u202eabc `` $x$ </details>"


class Parsed(HTMLParser):
    """Every tag and attribute of a page, and the text of tags that must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def written(folder, analysis, **more):
    paths = write_report(stored(analysis, folder, **more), analysis, folder)
    assert all(path.is_file() for path in paths)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def asked(analysis, **changes):
    """The same analysis under another question."""
    return replace(analysis, question=analysis.question.but(**changes))


def text_of(folder, name="report.md"):
    return (folder / name).read_text(encoding="utf-8")


def test_the_files(tmp_path):
    names = set(written(tmp_path, three(margin=0.1)))
    figures = {
        f"figures/rank-{kind}-maths{end}"
        for kind, ends in (("accuracy", (".svg", ".png", ".pdf", "-linear.svg", "-linear.png")),
                           ("differences", (".svg", ".png", ".pdf")))
        for end in ends
    }  # fmt: skip
    frames = {f"{name}.csv" for name in FRAMES}
    texts = {"report.md", "report.html", "analysis.json", "table.tex"}
    assert names == figures | frames | texts


def test_the_same_inputs_give_the_same_bytes(tmp_path, monkeypatch, plain_figures):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", plain_figures)
    first, second = (
        {name: path.read_bytes() for name, path in written(tmp_path / at, three()).items()}
        for at in ("a", "b")
    )
    assert first == second


def test_markdown_and_html_say_the_same_and_how_to_do_it_again(tmp_path):
    run = word_problems()
    write_report(run, analyse(run.curves, Question(margin=0.15)), tmp_path)
    text, page = text_of(tmp_path), text_of(tmp_path, "report.html")
    numbers = re.findall(r"[−\d.]+ \\\[[−\d., ]+\\\]", text)
    assert len(numbers) > 20
    for number in numbers:
        assert number.replace("\\", "") in page
    for said in ("Ship lora at rank 2", "aurac compare adapters", run.adapters[0].sha256[:16]):
        assert said in text
        assert said in page


def test_examples_are_counted_from_1_with_their_reference_and_what_would_be_written(tmp_path):
    own = replace(curve(n=4), metric="whole_completion,none")
    found = analyse([own, replace(own, adapter="other", outcomes=1 - own.outcomes)])
    write_report(stored(found), found, tmp_path)
    for text in (text_of(tmp_path), text_of(tmp_path, "report.html").split('"static"')[1]):
        shown = text.split("Example 1<" if "<pre>" in text else "Example 1\n")[1]
        assert shown.index("Tom has 0 apples") < shown.index("Reference") < shown.index("right")
        assert "greedy decoding writes the reference" in shown
        assert re.search("greedy decoding writes:\\nThe answer is (lora|other) 0", shown)


def test_the_question_of_an_experiment_stands_at_the_top(tmp_path):
    found = asked(three(), title="Which <method> is better?")
    write_report(stored(found), found, tmp_path)
    assert text_of(tmp_path).startswith("# Which &lt;method&gt; is better?\n")
    header = text_of(tmp_path, "report.html").split("</header>")[0]
    assert "<h1>Which &lt;method&gt; is better?</h1>" in header


@pytest.mark.parametrize("tasks", [("maths",), ("maths", "reading")])
@pytest.mark.parametrize("listed", [2, 3])
def test_differences_that_are_the_primary_ones_stand_once(tmp_path, tasks, listed):
    found = three(tasks=tasks)
    pairs = [*dict.fromkeys(zip(found.pairs.a, found.pairs.b, strict=True))][:listed]
    keys = {row.name: row.key for row in found.rows}
    primary = tuple((keys[a], keys[b]) for a, b in pairs)
    found = asked(found, primary=primary, family=listed)
    write_report(stored(found), found, tmp_path)
    first = text_of(tmp_path).split("\n## ")[0]
    assert first.count("Primary comparisons: Differences of AURAC") == 1
    assert first.count("Differences of AURAC") == (2 if listed == 2 else 1)


def test_one_adapter_has_neither_pairs_nor_areas_first(tmp_path):
    assert not any("differences" in name for name in written(tmp_path, one(margin=0.1)))
    first = text_of(tmp_path).split("## Details")[0]
    assert "Ship rank" in first
    assert "AURAC" not in first


@pytest.mark.parametrize("where", ["adapter", "answers"])
def test_hostile_text_stays_text(tmp_path, where):
    if where == "adapter":
        curves = [curve("plain"), curve(HOSTILE, n=200)]
        found, text = analyse(curves, Question(margin=0.2)), "plain"
    else:
        found, text = three(), HOSTILE
    written(tmp_path, found, text=text, failures=[HOSTILE])
    page, markdown = text_of(tmp_path, "report.html"), text_of(tmp_path)
    tags = Parsed(page)
    scripts = page.count("<script")
    assert scripts == 2  # the browser's data and the page's own
    assert tags.tags.count("script") == 2
    assert not [value for name, value in tags.attributes if name.startswith("on")]
    assert not [v for n, v in tags.attributes if n == "href" and v and v.startswith("javascript")]
    assert "\x1b" not in page + markdown
    assert "\u202e" not in page + markdown
    fenced = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", markdown)
    assert "<script" not in fenced
    assert not re.search(r"(?<!\\)\]\(javascript", fenced)
    assert fenced.count("</details>") == 2


def test_the_page_loads_nothing(tmp_path):
    written(tmp_path, three())
    parsed = Parsed(text_of(tmp_path, "report.html"))
    sources = [value for name, value in parsed.attributes if name in {"src", "href"}]
    assert all(s.startswith("data:") or not re.match(r"\w+:|//|/", s) for s in sources)
    assert "link" not in parsed.tags or ("rel", "icon") in parsed.attributes


def test_csv_text_is_no_formula(tmp_path):
    written(tmp_path, analyse([curve("=cmd()"), curve("b")]))
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        assert {row["adapter"] for row in csv.DictReader(file)} == {"'=cmd()", "b"}


def test_the_latex_table(tmp_path):
    written(tmp_path, analyse([curve("a_1 & $x$"), curve("[9cm] b")], Question()))
    text = text_of(tmp_path, "table.tex")
    assert r"a\_1 \& \$x\$" in text
    assert "{}[9cm] b" in text
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert "base smollm2" in captions[0]
    assert r"Cuts: [9cm] b and a\_1 \& \$x\$: svd." in captions[0]
    assert "Differences of AURAC" in captions[1]


def test_labels_rename_an_adapter_and_its_cuts(tmp_path):
    cuts = [curve(), curve(basis="prefix", rescale="rule"), curve("b")]
    found = analyse(cuts, Question(reference="lora"))
    labelled = asked(found, labels={"lora": "LoRA"})
    write_report(stored(found), labelled, tmp_path)
    text = text_of(tmp_path)
    assert "| LoRA " in text
    assert "| LoRA (prefix)" in text
    assert "No difference from LoRA is significant" in text
    with pytest.raises(UsageError, match="no adapter of the run is called loar"):
        write_report(stored(found), asked(found, labels={"loar": "LoRA"}), tmp_path)
    with pytest.raises(UsageError, match="same label"):
        write_report(stored(found), asked(found, labels={"lora": "b"}), tmp_path)


def test_several_tasks_begin_with_the_mean(tmp_path):
    written(tmp_path, three(tasks=("maths", "../reading")))
    text = text_of(tmp_path)
    assert text.index("mean AURAC") < text.index("## maths") < text.index("## ../reading")
    assert (tmp_path / "figures" / "rank-accuracy-reading.svg").exists()


def test_tasks_of_a_group_are_folded(tmp_path):
    ids = tuple(f"maths_{i % 2 + 1}:{i}" for i in range(200))
    found = analyse([curve(name, doc_ids=ids) for name in ("lora", "dylora")])
    run = stored(found)
    run.tasks = (msgspec.structs.replace(run.tasks[0], members=("maths_1", "maths_2")),)
    write_report(run, asked(found, labels={"lora": "LoRA"}), tmp_path)
    text = text_of(tmp_path)
    assert "<summary>Each of 2 tasks of maths</summary>" in text
    assert re.search(r"\| task +\| +dylora \| +LoRA \|", text)


def test_failed_cells_are_listed_and_their_answers_are_missing(tmp_path):
    whole = replace(curve(), base_scores=None)
    found = analyse([replace(whole.at([1, 2, 8, 16]), missing={4: "out of memory"})])
    written(tmp_path, found, failures=["out of memory"])
    assert re.search(r"\| lora +\| +4 \| maths +\| out of memory", text_of(tmp_path))
    assert '"ranks": [1, 2, 8, 16]' in text_of(tmp_path, "report.html")


def test_a_run_of_perplexities_alone(tmp_path):
    written(tmp_path, found := analyse([perplexity()]))
    assert text_of(tmp_path).startswith("# lora on wikitext")
    assert "AURAC" not in text_of(tmp_path).split("## How")[0]
    assert "--margin" not in screen(found)
