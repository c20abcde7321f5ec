"""The written report: structure, determinism, escaping, size, and no torch."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from report_runs import RunMaker, many_curves, run_from, stored_scores, zoo_run

from aurac.curves.display import percent
from aurac.errors import RunFolderError
from aurac.records.results_file import Results
from aurac.show import write_report

SCRIPT = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "input", "img", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.ids, self.text, self.urls = [], [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.urls += [v for k, v in attrs if k in {"src", "href", "xlink:href", "data", "action"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    zoo_run(folder, n=120).keep_questions().write()
    return folder, write_report(folder)


def read(folder, name):
    return (folder / name).read_text(encoding="utf-8")


def test_files(zoo):
    folder, written = zoo
    names = {str(path.relative_to(folder)) for path in written}
    assert all(path.is_file() for path in written)
    assert {"report.md", "report.html", "table.csv", "points.csv", "table.tex"} <= names
    for kind in ("svg", "png"):
        assert f"figures/rank-accuracy-word_problems.{kind}" in names
    for width in ("column", "wide"):
        assert f"figures/paper/rank-accuracy-word_problems-{width}.pdf" in names
    assert {"cards/lora.md", "pairs.csv", "losses.parquet", "changes.csv"} <= names
    assert names == {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.parts[-2] not in {"cells", "documents"}
    } - {"results.json"}


def test_the_same_run_gives_the_same_bytes(zoo, tmp_path):
    folder, written = zoo
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in written}
    again = write_report(folder)
    assert again == written
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in again} == before
    elsewhere = write_report(folder, out=tmp_path / "copy")
    assert [p.read_bytes() for p in elsewhere] == [p.read_bytes() for p in written]


def test_another_process_gives_the_same_bytes_without_torch(zoo, tmp_path):
    folder, written = zoo
    code = (
        "import sys; from pathlib import Path; from aurac.show import write_report;"
        f"write_report(Path({str(folder)!r}), out=Path({str(tmp_path)!r}));"
        "heavy = {'torch', 'transformers', 'lm_eval', 'peft'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for path in written:
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_sections_come_in_the_order_of_a_readers_questions(zoo):
    folder, _ = zoo
    order = [
        "verdict",
        "answer",
        "curves",
        "aurac",
        "paired",
        "smaller",
        "cost",
        "documents",
        "caveats",
        "words",
        "method",
    ]
    page = Page(read(folder, "report.html"))
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == order
    heads = re.findall(r"^## (.+)$", read(folder, "report.md"), re.MULTILINE)
    assert heads[0] == "The answer in words"
    assert heads[-1] == "Method, settings, hashes, versions"
    assert len(heads) == len(order) - 1  # the verdict stands above the first heading


def test_the_page_stands_alone(zoo):
    folder, _ = zoo
    text = read(folder, "report.html")
    page = Page(text)
    assert len(text.encode()) < 2_000_000
    assert len(page.ids) == len(set(page.ids))
    assert all(url.startswith("#") or url == "data:," for url in page.urls)
    targets = {url[1:] for url in page.urls if url.startswith("#")}
    assert targets <= set(page.ids)
    html = next(attrs for tag, attrs in page.tags if tag == "html")
    assert html["lang"] == "en"
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) == 4 * 2  # wide, and narrow for telephones
    for attrs in pictures:
        assert attrs["role"] == "img"
        assert set(attrs["aria-labelledby"].split()) <= set(page.ids)
    scrolled = [attrs for tag, attrs in page.tags if attrs.get("class") == "scroll"]
    assert len(scrolled) == sum(tag == "table" for tag, _ in page.tags)
    assert all(attrs["tabindex"] == "0" for attrs in scrolled)


def test_the_policy_names_the_script_that_is_there(zoo):
    import base64

    folder, _ = zoo
    text = read(folder, "report.html")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in (
        text.replace("&#39;", "'")
    )


def test_numbers_of_the_tables_are_those_of_the_results(zoo):
    folder, _ = zoo
    curves = json.loads(read(folder, "results.json"))["curves"]
    rows = list(csv.DictReader(read(folder, "table.csv").splitlines()))
    assert len(rows) == len(curves)
    best = max(c["score"]["log2"]["value"] for c in curves)
    assert float(rows[0]["aurac_log2"]) == best
    points = list(csv.DictReader(read(folder, "points.csv").splitlines()))
    known = {
        (c["adapter"], c["rescale"], str(r)): a
        for c in curves
        for r, a in zip(c["ranks"], c["accuracy"], strict=True)
    }
    found = {
        (p["adapter"], p["rescale"], p["rank"]): float(p["accuracy"])
        for p in points
        if p["rank"] != "0"
    }
    assert found == known
    weights = [
        float(p["weight_log2"]) for p in points if p["adapter"] == "lora" and p["weight_log2"]
    ]
    assert weights == pytest.approx([0.125, 0.25, 0.25, 0.25, 0.125])
    assert percent(best) in read(folder, "report.md")
    assert f"\\textbf{{{percent(best)}}}" in read(folder, "table.tex")


def test_markdown_tables_are_rectangular(zoo):
    folder, _ = zoo
    for block in read(folder, "report.md").split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_markdown_pictures_exist(zoo):
    folder, _ = zoo
    files = re.findall(r"\]\((figures/[^)]+)\)", read(folder, "report.md"))
    assert len(files) == 4
    assert all((folder / name).is_file() for name in files)


def test_examples_show_question_reference_and_answers(zoo):
    folder, _ = zoo
    page = "".join(Page(read(folder, "report.html")).text)
    assert "Gained with the rank" in page
    assert re.search(r"Ann has \d+ pens and buys \d+ more", page)
    assert "Working at rank 16" in page


@pytest.mark.usefixtures("plain_figure")
def test_gained_and_lost_are_counted_from_the_cells(tmp_path):
    maker = RunMaker(tmp_path, n=40).add("a", [0.3, 0.6], ranks=(1, 2))
    maker.write()
    cells = maker.curves[0]["cells"]
    scores = {r: stored_scores(tmp_path, p) for r, p in cells.items()}
    gained = sum(b > a for a, b in zip(scores["1"], scores["2"], strict=True))
    lost = sum(b < a for a, b in zip(scores["1"], scores["2"], strict=True))
    write_report(tmp_path)
    assert f"| a | 1 → 2 | {gained} | {lost} |" in read(tmp_path, "report.md")


@pytest.mark.usefixtures("plain_figure")
def test_a_report_without_the_stored_documents_says_so_where_it_is_made(tmp_path, caplog):
    maker = RunMaker(tmp_path, n=40).add("a", [0.3, 0.6], ranks=(1, 2))
    maker.write()
    write_report(tmp_path)
    assert not caplog.messages
    for file in tmp_path.glob("cells/*"):
        file.unlink()
    write_report(tmp_path)
    (said,) = caplog.messages
    assert said.startswith("a: the stored documents are missing, damaged, or do not average to ")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    names = [
        SCRIPT,
        "=cmd|' /C calc'!A0",
        "a|b`c`[x](javascript:alert(1))",
        "\x1b[31mred",
        "$x$ \\input{x} 50%",
        "../../up",
    ]
    maker = RunMaker(folder, n=40)
    for at, name in enumerate(names):
        said = [f"{SCRIPT}</pre></details>```\n\x1b]0;title\x07"] * 40
        maker.add(
            name,
            [0.2 + at / 20, 0.5],
            ranks=(1, 2),
            task='<img src="x" onerror="alert(1)">',
            texts=said,
        )
    maker.failures.append(
        {"adapter": SCRIPT, "task": "\x1b[2J", "rank": 1, "reason": f"{SCRIPT}\x1b]0;t\x07"}
    )
    maker.keep_questions(hostile=f"\n```\n{SCRIPT}\x1b[31m</pre>|a|b|\n## head").write()
    return folder, write_report(folder)


def test_hostile_text_stays_text(hostile):
    folder, _ = hostile
    text = read(folder, "report.html")
    page = Page(text)
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert [attrs.get("type") for attrs in scripts] == ["application/json", None]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert SCRIPT in "".join(page.text)
    names = [path.name for path in folder.iterdir() if path.suffix in {".csv", ".md", ".tex"}]
    cards = [f"cards/{path.name}" for path in (folder / "cards").iterdir()]
    for name in ("report.html", *names, *cards):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", read(folder, name)), name
    assert "\\input{x}" not in read(folder, "table.tex")
    rows = list(csv.reader(read(folder, "table.csv").splitlines()))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]


@pytest.mark.usefixtures("plain_figure")
def test_a_hostile_terminal_table_and_command_print_no_control_characters(hostile, tmp_path):
    from click.testing import CliRunner
    from rich.console import Console

    from aurac.cli import cli
    from aurac.show import terminal_table

    folder, _ = hostile
    console = Console(width=200, record=True, file=io.StringIO(), color_system=None)
    console.print(terminal_table(Results.read(folder), width=200))
    done = CliRunner().invoke(cli, ["report", str(folder), "--out", str(tmp_path / "again")])
    for text in (console.export_text(), done.output):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_hostile_markdown_has_no_html_of_its_own(hostile):
    folder, _ = hostile
    text = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", read(folder, "report.md"))
    assert set(re.findall(r"<[^>]*>", text)) <= {
        "<details>",
        "<summary>",
        "</summary>",
        "</details>",
        "<br>",
    }
    assert "](javascript:" not in text.replace("\\](", "")


def test_figures_stay_in_the_run(hostile):
    folder, written = hostile
    assert all(path.resolve().is_relative_to(folder.resolve()) for path in written)


@pytest.mark.usefixtures("plain_figure")
def test_a_damaged_cell_is_said_and_not_used(tmp_path):
    maker = many_curves(tmp_path, 2, ranks=(1, 2), n=30)
    maker.write()
    path = tmp_path / maker.curves[0]["cells"]["2"]
    path.write_text(path.read_text().replace("1.0", "0.0", 3))
    write_report(tmp_path)
    text = read(tmp_path, "report.md")
    assert "adapter-00: the stored documents are missing, damaged" in text
    assert "Paired differences" not in text


@pytest.mark.usefixtures("plain_figure")
def test_missing_cells_are_shown_with_their_reason(tmp_path):
    maker = RunMaker(tmp_path, n=30)
    maker.add("a", [0.1, 0.2, 0.3], ranks=(1, 2, 4), missing={2: "out of memory"})
    maker.curves[0].update(score=None, score_reason="rank 2 is missing")
    maker.failures.append({"adapter": "b", "task": "word_problems", "rank": 4, "reason": "no file"})
    maker.write()
    write_report(tmp_path)
    text = read(tmp_path, "report.md")
    assert "No adapter has an AURAC (rank 2 is missing)" in text
    assert "a on word\\_problems, rank 2: missing (out of memory)" in text
    assert "b on word\\_problems, rank 4: failed (no file)" in text
    rows = list(csv.DictReader(read(tmp_path, "points.csv").splitlines()))
    assert [(row["accuracy"], row["missing"]) for row in rows if row["rank"] == "2"] == [
        ("", "out of memory")
    ]


def test_a_run_without_a_curve_or_cells_still_makes_a_report(tmp_path):
    RunMaker(tmp_path / "empty").write()
    write_report(tmp_path / "empty")
    assert "no curve" in read(tmp_path / "empty", "report.md")
    many_curves(tmp_path / "bare", 2, cells=False).write()
    write_report(tmp_path / "bare")
    assert "the difference cannot be tested" in read(tmp_path / "bare", "report.md")


def test_many_tasks_are_summarised(tmp_path):
    tasks = tuple(f"task_{i}" for i in range(6))
    zoo_run(tmp_path, tasks=tasks, n=20, ranks=(1, 2)).write()
    write_report(tmp_path)
    page = Page(read(tmp_path, "report.html"))
    assert "overview-title" in page.ids
    assert (tmp_path / "figures/rank-accuracy-task_5.png").is_file()
    assert sum(tag == "details" for tag, _ in page.tags) >= 7
    assert len(list(csv.reader(read(tmp_path, "table.csv").splitlines()))) == 1 + 4 * 6


def test_a_page_that_would_be_too_large_leaves_its_folds_out(zoo, monkeypatch, tmp_path):
    from aurac.show import render

    folder, _ = zoo
    whole = len(read(folder, "report.html"))
    monkeypatch.setattr(render, "LIMIT", whole - 1)
    write_report(folder, out=tmp_path)
    text = read(tmp_path, "report.html")
    assert len(text) < whole - 1
    assert "left out of this page for its size" in text
    assert "<details" not in text


def test_a_folder_that_cannot_be_written(zoo, tmp_path):
    folder, _ = zoo
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file' is a file; expected a folder"):
        write_report(folder, out=tmp_path / "file")
    with pytest.raises(RunFolderError, match=r"cannot be written .*; give another folder"):
        write_report(folder, out=tmp_path / "file" / "inner")


def test_a_report_goes_into_no_other_run(zoo, tmp_path):
    folder, _ = zoo
    other = RunMaker(tmp_path / "other", n=20).add("a", [0.2, 0.6], ranks=(1, 2)).write()
    with pytest.raises(RunFolderError, match=r"holds another run; .*; give another folder"):
        write_report(folder, out=other)
    assert not (other / "report.md").exists()


@pytest.mark.parametrize("name", ["report.md", "report.html", "analysis.json", "figures/own.txt"])
def test_a_report_goes_into_no_folder_of_other_files(zoo, tmp_path, name):
    folder, _ = zoo
    (mine := tmp_path / name).parent.mkdir(exist_ok=True)
    mine.write_text("my own")
    with pytest.raises(RunFolderError, match=r"holds other files; .*; give another folder"):
        write_report(folder, out=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "my own"


def test_a_report_may_be_written_again_and_into_an_empty_folder(zoo, tmp_path):
    folder, _ = zoo
    for _ in range(2):
        assert write_report(folder, out=tmp_path)
    (tmp_path / "notes.txt").write_text("beside it")
    assert write_report(folder, out=tmp_path)


@pytest.mark.usefixtures("plain_figure")
def test_a_groups_cells_are_pooled_as_strata(tmp_path):
    from aurac.records.run import seeds_of

    maker = RunMaker(tmp_path, n=30).add("a", [0.3, 0.6], ranks=(1, 2))
    row = maker.curves[0]
    base = row["cells"].pop("0")
    row["cells"] = {rank: [path, path] for rank, path in row["cells"].items()}
    row["baseline_cell"] = [base, base]
    (curve,) = seeds_of(run_from(maker.results(), tmp_path).curves[0])
    assert curve.n_docs == 60
    assert set(curve.strata) == {"0", "1"}
    assert list(curve.accuracy) == pytest.approx(row["accuracy"])
    maker.write()
    write_report(tmp_path)
    assert "base → 1" in read(tmp_path, "report.md")
