"""The page in a real browser: no error, no overflow, no request, no accessibility violation."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shown import curve, stored, three, word_problems

from aurac.analysis import Question, analyse
from aurac.curves.curve import Curve
from aurac.show.report import write_report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
)
axe_package = pytest.importorskip(
    "axe_playwright_python",
    reason="axe-playwright-python is not installed: pip install -e '.[dev]'",
)

AXE = Path(axe_package.__file__).parent / "axe.min.js"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SIZES = {"phone": (390, 844), "laptop": (1280, 900)}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOSTILE = "<script>alert(1)</script>" + "y" * 80


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as found:
        own = Path(found.chromium.executable_path)
        path = next((p for name in NAMES if (p := shutil.which(name))), None)
        path = path or (str(own) if own.exists() else None)
        if path is None:
            pytest.skip("no Chromium on this machine (apt-get install chromium)")
        started = found.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A real run, a run with hostile names and missing cells, and one of six tasks."""
    made = {}
    run = word_problems()
    many = [curve(), curve(HOSTILE, basis="prefix", rescale="rule"), curve("short").at([1, 2])]
    many[2] = replace(many[2], missing={4: "out of memory"})
    hostile, large = analyse(many), three(tasks=[f"task_{i}_" + "x" * 40 for i in range(6)], n=20)
    for name, one, found in (
        ("real", run, analyse(run.curves, Question(margin=0.15))),
        ("hostile", stored(hostile, text=HOSTILE, failures=["out of memory"]), hostile),
        ("large", stored(large), large),
    ):
        folder = tmp_path_factory.mktemp(name)
        write_report(one, found, folder)
        made[name] = folder / "report.html"
    return made


@contextmanager
def visit(browser, path, *, size="laptop", js=True, scheme="light"):
    """A page that was opened, its errors and its requests."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, java_script_enabled=js, color_scheme=scheme
    )
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url[:200]))
    page.goto(path.as_uri())
    yield page, errors, requests
    context.close()


@pytest.mark.parametrize("js", [True, False], ids=["js", "nojs"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["real", "hostile", "large"])
def test_no_error_no_overflow_no_request(browser, pages, name, size, js):
    with visit(browser, pages[name], size=size, js=js) as (page, errors, requests):
        edge = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(edge) == 0
        assert errors == []
        assert [url for url in requests if not url.startswith("data:")] == [pages[name].as_uri()]
        for image in page.locator("img").all():
            assert image.evaluate("image => image.naturalWidth") > 0
        if name == "real":
            assert page.locator(".browser").is_visible() is js
            assert page.locator(".static").is_visible() is not js
            hints = page.get_by_text("The table scrolls sideways").all()
            assert any(hint.is_visible() for hint in hints) is (js and size == "phone")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["real", "hostile"])
def test_axe_finds_no_violation(browser, pages, name, scheme):
    with visit(browser, pages[name], size="phone", scheme=scheme) as (page, *_):
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("async () => (await axe.run()).violations")
        assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found] == []


def test_answers_are_browsed(browser, pages):
    run = word_problems()
    lora, matryoshka = (
        run.answers("aurac_word_problems", name, "svd", "keep", 16)["score"].to_numpy()
        for name in ("lora", "matryoshka")
    )
    with visit(browser, pages["real"]) as (page, *_):
        count = page.locator(".count")
        assert count.inner_text() == f"example 1 of {int((lora != matryoshka).sum())}"
        for kind, expected in (("onlyA", lora > matryoshka), ("wrong", lora + matryoshka == 0)):
            page.locator(".kind").select_option(kind)
            assert count.inner_text() == f"example 1 of {int(expected.sum())}"
        first = page.locator(".card h3").inner_text()
        page.locator(".next").click()
        assert page.locator(".card h3").inner_text() != first
        page.locator(".rankB").select_option(label="base")
        assert page.locator(".card strong").nth(1).inner_text() == "base"
        page.locator(".adapterB").select_option(label="dylora")
        assert page.locator(".card strong").nth(1).inner_text() == "dylora at rank 16"


def test_answers_that_never_differ_open_with_all_of_them(browser, tmp_path):
    found = analyse([curve(), curve("same")])
    write_report(stored(found), found, tmp_path)
    with visit(browser, tmp_path / "report.html") as (page, *_):
        count = page.locator(".count")
        assert count.inner_text() == f"example 1 of {found.scores['examples'][0]}"
        assert page.locator(".kind").input_value() == "all"
        page.locator(".kind").select_option("differ")
        assert count.inner_text() == "no such example: choose others above"


def test_a_fractional_score_is_a_number(browser, tmp_path):
    scores = np.array([[0.25, 0.5, 1.0, 0.0], [0.75, 0.5, 1.0, 0.0]])
    made = [
        Curve.from_outcomes((1, 2), own, adapter=name, task="own", doc_ids=tuple("0123"))
        for name, own in (("x", scores), ("y", scores * [1, 0.5, 1, 1]))
    ]
    found = analyse(made)
    write_report(stored(found), found, tmp_path)
    with visit(browser, tmp_path / "report.html") as (page, *_):
        assert page.locator(".count").inner_text() == "example 1 of 1"  # the second: .5 and .25
        said = page.locator(".card").inner_text()
        assert "score 0.50" in said
        assert "score 0.25" in said
        for kind, count in (("onlyA", 1), ("right", 1), ("wrong", 1)):
            page.locator(".kind").select_option(kind)
            assert page.locator(".count").inner_text() == f"example 1 of {count}"
        page.locator(".kind").select_option("right")
        assert page.locator(".card .right").first.inner_text() == "✓ right"
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "x at rank 2: score 0.50" in text


def test_print_unfolds_everything(browser, pages):
    with visit(browser, pages["real"]) as (page, *_):
        assert page.locator("details[open]").count() == 0
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.locator("details[open]").count() == page.locator("details").count() > 0
        assert page.locator(".static").first.is_visible()
        assert not page.locator(".browser").first.is_visible()
