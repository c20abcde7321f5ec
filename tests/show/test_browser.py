"""The page in a real browser: no error, no overflow, no request, no accessibility violation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_runs import ramp, zoo_run

from aurac.show import write_report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
)
axe_package = pytest.importorskip(
    "axe_playwright_python",
    reason="axe-playwright-python is not installed: pip install -e '.[dev]'",
)

REAL = Path(__file__).parents[2] / "reports" / "word_problems" / "report.html"
AXE = Path(axe_package.__file__).parent / "axe.min.js"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"phone": (390, 844), "laptop": (1280, 900)}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


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
    """The zoo's report, and one with groups, seeds, a missing cell, SVD and hostile text."""
    folder = tmp_path_factory.mktemp("many")
    strata = [f"subject {i // 15} <b>&amp;" for i in range(60)]
    tasks = ("word_problems", "second_task_" + "x" * 60)
    maker = zoo_run(folder, tasks=tasks, n=60, strata=strata)
    maker.add("lora", ramp(0.1, 0.7, 5), basis="svd", rescale="keep", role="extra")
    maker.add("<script>alert(1)</script>" + "y" * 80, ramp(0.2, 0.5, 5), seed=2)
    maker.add("holes", ramp(0.2, 0.5, 5), missing={4: "out of memory"}, texts=["a" * 3000] * 60)
    maker.keep_questions().write()
    write_report(folder, margin=0.3)
    large = tmp_path_factory.mktemp("large")
    zoo_run(large, tasks=tuple(f"task_{i}" for i in range(6)), n=20).write()
    write_report(large)
    return {"zoo": REAL, "many": folder / "report.html", "large": large / "report.html"}


class Visit:
    """A page that was opened, with what it said and asked for."""

    def __init__(self, browser, path, *, size="laptop", js=True, scheme="light", media="screen"):
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            java_script_enabled=js,
            color_scheme=scheme,
        )
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.emulate_media(media=media, color_scheme=scheme)
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def overflow(self):
        """How far the page can be scrolled sideways, and what reaches over its edge."""
        return self.page.evaluate(
            """() => {
              const edge = document.documentElement.clientWidth;
              const over = [...document.querySelectorAll("body *")].filter((e) =>
                e.getBoundingClientRect().right > edge + 1 && !e.closest(".scroll")
                && !e.closest(".skip") && !e.closest("svg"));
              const names = over.map((e) => e.outerHTML.slice(0, 90));
              return [document.documentElement.scrollWidth - edge, names];
            }"""
        )

    def violations(self):
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("async () => (await axe.run()).violations")
        return [(v["id"], v["nodes"][0]["html"][:120], len(v["nodes"])) for v in found]


@pytest.mark.parametrize("js", [True, False], ids=["js", "nojs"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["zoo", "many", "large"])
def test_no_error_no_overflow_no_request(browser, pages, name, size, js):
    with Visit(browser, pages[name], size=size, js=js) as visit:
        assert visit.overflow() == [0, []]
        assert visit.errors == []
        assert visit.requests == [pages[name].as_uri()]
        shown = visit.page.locator("main section").all()
        assert all(section.is_visible() for section in shown)
        assert visit.page.locator("#theme").is_visible() is js


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["zoo", "many"])
def test_axe_finds_no_violation(browser, pages, name, scheme):
    for size in SIZES if name == "zoo" else ["phone"]:
        with Visit(browser, pages[name], size=size, scheme=scheme) as visit:
            for fold in visit.page.locator("details").all():
                fold.evaluate("fold => { fold.open = true; }")
            assert visit.violations() == []


@pytest.mark.parametrize("js", [True, False], ids=["js", "nojs"])
def test_print_shows_everything_on_paper(browser, pages, js):
    with Visit(browser, pages["zoo"], js=js, scheme="dark", media="print") as visit:
        paper = visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert paper in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
        assert not visit.page.locator("nav").is_visible()
        pdf = visit.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert 4 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 20
        visit.page.set_viewport_size({"width": 680, "height": 1000})  # A4 within its margins
        assert visit.overflow() == [0, []]


BOXES = """all => all.map(e => e.getBoundingClientRect())
  .map(b => [b.left, b.top, b.right, b.bottom])"""
TEXTS = """figure => [...figure.querySelectorAll("svg text")]
  .filter(t => t.getBoundingClientRect().width)
  .map(t => [parseFloat(getComputedStyle(t).fontSize), t.getScreenCTM()])
  .map(([size, place]) => size * Math.hypot(place.a, place.b))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_of_a_laptop_holds_verdict_tiles_and_chart(browser, pages, scheme):
    with Visit(browser, pages["zoo"], scheme=scheme) as visit:
        main = visit.page.locator("#verdict")
        shown = ".verdict, .tile, .plot svg"
        boxes = main.locator(shown).locator("visible=true").evaluate_all(BOXES)
        assert len(boxes) == 1 + 4 + 1
        assert all(0 <= left < right <= 1280 for left, _, right, _ in boxes)
        assert all(0 <= top < bottom <= 900 for _, top, _, bottom in boxes)
        *tiles, chart = boxes[1:]
        assert all(right < chart[0] for _, _, right, _ in tiles)  # beside each other
        lines = main.locator(".verdict p").first.evaluate(
            "p => p.getClientRects()[0].height / parseFloat(getComputedStyle(p).lineHeight)"
        )
        assert lines < 1.5  # what it holds for stands below it
        titles = main.locator(".tile h2").all_inner_texts()
        assert titles == ["Best AURAC", "Recommended", "Truncation and scale", "Scale at inference"]
        text = main.inner_text()
        assert "aurac report FOLDER --margin M names the smallest" in text
        command = main.locator(".tile code")
        font = "code => getComputedStyle(code).fontFamily"
        assert "monospace" in command.evaluate(font)
        assert "9.8 MB" not in text  # sizes are listed below


def test_a_telephone_has_the_best_aurac_above_the_chart(browser, pages):
    with Visit(browser, pages["zoo"], size="phone") as visit:
        shown = "#verdict .tile, #verdict .plot svg"
        boxes = visit.page.locator(shown).locator("visible=true").evaluate_all(BOXES)
        *tiles, chart = (top for _, top, _, _ in boxes)
        assert tiles[0] < chart < min(tiles[1:])


@pytest.mark.parametrize("name", ["zoo", "many"])
def test_a_telephone_shows_aurac_without_scrolling_and_text_that_can_be_read(browser, pages, name):
    with Visit(browser, pages[name], size="phone") as visit:
        table = visit.page.locator("#aurac table").first
        assert table.locator("th").nth(1).inner_text().startswith("AURAC")
        edge = table.locator("xpath=..").evaluate("e => e.getBoundingClientRect().right")
        cells = table.locator("tr > :nth-child(2)").evaluate_all(BOXES)
        assert all(right <= edge for _, _, right, _ in cells)
        for fold in visit.page.locator("details").all():
            fold.evaluate("fold => { fold.open = true; }")
        for figure in visit.page.locator("#verdict figure, #curves figure.picture").all():
            sizes = figure.evaluate(TEXTS)
            assert not sizes or min(sizes) >= 9.5, sizes


def test_the_documents_can_be_looked_through_by_keyboard(browser, pages):
    with Visit(browser, pages["zoo"]) as visit:
        part = visit.page.locator(".browser")
        count = part.locator(".count")
        assert count.inner_text() == "document 1 of 25"  # gained by lora (SVD) from rank 1 to 16
        assert not visit.page.locator(".static").is_visible()
        part.locator(".next").focus()
        visit.page.keyboard.press("ArrowRight")
        assert count.inner_text() == "document 2 of 25"
        visit.page.keyboard.press("ArrowLeft")
        part.locator(".kind").select_option("lost")
        assert count.inner_text() == "document 1 of 7"
        assert "Question" in part.locator(".example").inner_text()
        part.locator(".curve").select_option(label="dylora")
        part.locator(".from").select_option(label="base")
        part.locator(".to").select_option(label="1")
        part.locator(".kind").select_option("gained")
        assert count.inner_text() == "document 1 of 20"
        assert part.locator(".answer").count() == 2
        assert visit.errors == []
    with Visit(browser, pages["zoo"], js=False) as visit:
        assert not visit.page.locator(".browser").is_visible()
        assert visit.page.locator(".static").is_visible()


def test_tables_sort_by_mouse_and_keyboard(browser, pages):
    with Visit(browser, pages["zoo"]) as visit:
        table = visit.page.locator("#aurac table").first
        rows = "rows => rows.map(row => row.cells[1].dataset.value).map(Number)"

        def column():
            return table.locator("tbody tr").evaluate_all(rows)

        head = table.locator("th").nth(1)
        before = column()
        assert before == sorted(before, reverse=True)
        head.get_by_role("button").click()  # numbers start with the largest
        assert head.get_attribute("aria-sort") == "descending"
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert column() == sorted(before)
        name = table.locator("th").first
        name.get_by_role("button").click()
        names = table.locator("tbody th").all_inner_texts()
        assert names == sorted(names, key=str.casefold)
        assert head.get_attribute("aria-sort") is None
        assert visit.errors == []


def test_curves_can_be_switched_off_and_the_theme_changed(browser, pages):
    with Visit(browser, pages["zoo"]) as visit:
        box = visit.page.locator(".toggles input").first
        line = visit.page.locator(
            f"#rank-accuracy-aurac_word_problems-curve-{box.get_attribute('data-curve')}"
        )
        assert line.is_visible()
        box.uncheck()
        assert not line.is_visible()
        paper = "() => getComputedStyle(document.body).backgroundColor"
        before = visit.page.evaluate(paper)
        visit.page.locator("#theme").click()
        assert visit.page.evaluate(paper) != before
        assert visit.page.locator("svg title").nth(1).text_content().count("rank") == 1


def test_text_of_adapters_and_models_never_runs(browser, pages):
    with Visit(browser, pages["many"]) as visit:
        alerts = []
        visit.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
        visit.page.wait_for_timeout(100)
        assert alerts == []
        assert visit.page.locator("script:not([type])").count() == 1
        assert "<script>alert(1)</script>" in visit.page.locator("main").inner_text()


def test_the_runs_of_this_file_have_what_they_are_named_for(pages):
    text = pages["many"].read_text(encoding="utf-8")
    for section in ("groups", "bases", "smaller", "documents", "caveats"):
        assert f'<section id="{section}"' in text
