"""The files of a report: their content, the escaping of hostile text, the same bytes each time."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser

import msgspec
import pytest
from shown import curve, golden, one, perplexity, stored, three

from aurac.analysis import Question, analyse
from aurac.errors import UsageError
from aurac.show.report import is_written, write_report

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
        for kind, ends in (("accuracy", (".svg", ".png", ".pdf")),
                           ("differences", (".svg", ".png", ".pdf")))
        for end in ends
    }  # fmt: skip
    frames = {f"{name}.csv" for name in FRAMES}
    texts = {"report.md", "report.html", "analysis.json", "table.tex"}
    assert names == figures | frames | texts


def test_a_report_without_one_of_its_files_is_not_whole(tmp_path):
    found = three(margin=0.1)
    files, run = written(tmp_path, found), stored(found, tmp_path)
    assert is_written(found, tmp_path, run)
    for path in files.values():
        kept = path.read_bytes()
        path.unlink()
        assert not is_written(found, tmp_path, run), path
        path.write_bytes(kept)


def hostile_names():
    """Two adapters, one with a rank that failed, whose names LaTeX and Markdown would take."""
    torn = replace(curve("[9cm] b").at([1, 2, 8, 16]), missing={4: "out of memory"})
    return analyse([curve("a_1 & $x$"), torn])


def two_tasks():
    """A title, a label and declared comparisons; the first task is a group."""
    ids = tuple(f"maths_{i % 2 + 1}:{i}" for i in range(200))
    found = three(tasks=("maths", "../reading"), doc_ids=ids)
    keys = {row.name: row.key for row in found.rows}
    pairs = ((keys["matryoshka"], keys["lora"]),)
    labels = {"lora": "LoRA"}
    return asked(found, title="Which <method> is better?", labels=labels, primary=pairs, family=3)


WHOLE = {
    "one": lambda: one(0.1, width=1000),
    "hostile": hostile_names,
    "two_tasks": two_tasks,
    "perplexity": lambda: analyse([perplexity()]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_report(name, tmp_path):
    run = stored(found := WHOLE[name](), text="a|b `x`", failures=["memory"] * (name == "hostile"))
    members = ("maths_1", "maths_2") if name == "two_tasks" else ()
    run.tasks = (msgspec.structs.replace(run.tasks[0], members=members), *run.tasks[1:])
    write_report(run, found, tmp_path)
    for file in ("report.md", "table.tex"):
        text = text_of(tmp_path, file)
        assert text == golden(f"{name}.{file}", text)


def test_the_same_inputs_give_the_same_bytes(tmp_path, monkeypatch, plain_figures):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", plain_figures)
    first, second = (
        {name: path.read_bytes() for name, path in written(tmp_path / at, three()).items()}
        for at in ("a", "b")
    )
    assert first == second


def test_examples_are_counted_from_1_with_their_reference_and_what_would_be_written(tmp_path):
    own = replace(curve(n=4), metric="whole_completion,none")
    found = analyse([own, replace(own, adapter="other", outcomes=1 - own.outcomes)])
    write_report(stored(found), found, tmp_path)
    for text in (text_of(tmp_path), text_of(tmp_path, "report.html").split('"static"')[1]):
        shown = text.split("Example 1<" if "<pre>" in text else "Example 1\n")[1]
        assert shown.index("Tom has 0 apples") < shown.index("Reference") < shown.index("right")
        assert "greedy decoding writes the reference" in shown
        assert re.search("greedy decoding writes:\\nThe answer is (lora|other) 0", shown)


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
    assert fenced.count("</details>") == 1


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
