"""Every kind of verdict in every form: each sentence has the numbers of the tables beside it."""

from __future__ import annotations

import html
import json
import re

import pytest
from click.testing import CliRunner
from report_runs import RunMaker

from aurac.cli import cli
from aurac.curves.display import percent
from aurac.show import figures, write_report

TASK = "word_problems"


def clear(maker):
    maker.add("low", [0.2, 0.3], ranks=(1, 2)).add("high", [0.7, 0.8], ranks=(1, 2))


def close(maker):
    maker.add("one", [0.5, 0.52], ranks=(1, 2)).add("two", [0.52, 0.54], ranks=(1, 2))


def without_documents(maker):
    clear(maker)
    for curve in maker.curves:
        curve["cells"], curve["baseline_cell"] = {}, None


def two_seeds(maker):
    for seed in (1, 2):
        maker.add(f"one-{seed}", [0.5, 0.5], ranks=(1, 2), seed=seed)
        maker.add(f"two-{seed}", [0.5, 0.54], ranks=(1, 2), seed=seed)
    for name, adapter in maker.adapters.items():
        adapter["recipe"] = {"name": name[:3], "seed": adapter["seed"]}


def other_ranks(maker):
    maker.add("a", [0.5, 0.6], ranks=(1, 2)).add("b", [0.5, 0.6, 0.7], ranks=(1, 2, 4))


def alone(maker):
    maker.add("a", [0.3, 0.6, 0.6], ranks=(2, 4, 8))


def below_the_base(maker):
    maker.base[TASK] = maker.outcomes(TASK, [0.95])[0]
    clear(maker)


def a_candidate_beside(maker):
    clear(maker)
    maker.add("high too", [0.69, 0.8], ranks=(1, 2))


# Kind → run, margin, what the page says first, and what it says of shipping.
KINDS = {
    "significant": (clear, None, ") is significant.", "No margin was given"),
    "not significant": (close, 0.001, " is not significant.", "No configuration is shown to be"),
    "not significant over one": (a_candidate_beside, 0.3, " is not significant.", "Ship "),
    "not tested": (without_documents, None, "the difference cannot be tested.", "nothing can be"),
    "two seeds": (two_seeds, 0.02, " has no verdict, since two seeds", "at least"),
    "other ranks": (other_ranks, None, "none is named the best", "does not compare"),
    "one curve, shipped": (alone, 0.9, "a has an AURAC of ", "Ship a at rank 2"),
    "one curve, none": (alone, 0.0001, "a has an AURAC of ", "No configuration is shown to be"),
    "below the base": (below_the_base, 0.5, "no rank of it is shown to be above", "Ship nothing"),
}
AREA = re.compile(r"^(?P<row>\S.*?) has (?:the largest|an) AURAC (?:of |\()(?P<area>[\d.]+) %")
LEAD = re.compile(
    r"its lead over (?P<other>.+?) \((?P<gap>[−\d.]+) points(?:, (?P<low>\S+) to (?P<high>\S+))?\)"
)
SHIP = re.compile(r"Ship (?P<row>.+?) at rank (?P<rank>\d+)\b.*?accuracy (?P<accuracy>[\d.]+) %")


class Forms:
    """One run in every form."""

    def __init__(self, maker: RunMaker, margin: float | None) -> None:
        folder = maker.write()
        write_report(folder, margin=margin)
        markdown = (folder / "report.md").read_text()
        self.markdown = html.unescape(re.sub(r"\\(.)", r"\1", markdown))
        self.tables = list(_tables(self.markdown))
        page = (folder / "report.html").read_text()
        self.html = html.unescape(re.sub(r"<[^>]+>", "", page)).replace("\u00a0", " ")
        self.latex = (folder / "table.tex").read_text().replace("\\", "")
        self.cards = "".join(path.read_text() for path in (folder / "cards").glob("*.md"))
        options = [] if margin is None else ["--margin", str(margin)]
        self.score = CliRunner().invoke(cli, ["score", str(folder)])
        recommend = CliRunner().invoke(cli, ["recommend", str(folder), *options])
        self.terminal = f"{self.score.output}\n{recommend.output}"
        if self.score.exit_code == 0:
            score, ship = (
                json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
                for words in (["score", str(folder)], ["recommend", str(folder), *options])
            )
            self.json = score | {"ship": ship["ship"]}

    def verdict(self) -> str:
        """The first sentence, in bold below the title."""
        return next(line for line in self.markdown.splitlines() if line.startswith("**"))[2:-2]

    def cell(self, title: str, *row: str) -> str:
        """The text under a title, of the first row that begins with these cells."""
        for head, rows in self.tables:
            if title in head:
                for cells in rows:
                    if tuple(cells[: len(row)]) == row:
                        return cells[head.index(title)]
        raise AssertionError(f"no table has {title} of {row}")


def _tables(markdown):
    """Heads and rows of the tables of a Markdown page."""
    for block in re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE):
        lines = [
            [cell.strip(" *") for cell in line.split("|")[1:-1]] for line in block.splitlines()
        ]
        yield lines[0], lines[2:]


@pytest.fixture
def undrawn(monkeypatch):
    """No figure is drawn: this is about words and numbers."""
    for name in ("single", "grid", "column"):
        monkeypatch.setattr(figures, name, lambda *_, **__: None)
    for name in ("save", "save_for_paper"):
        monkeypatch.setattr(figures, name, lambda *_, **__: [])
    monkeypatch.setattr(figures, "inline_svg", lambda *_, **__: "<svg></svg>")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("undrawn")
def test_every_form_says_the_verdict_with_the_numbers_of_its_tables(kind, tmp_path):
    make, margin, said, shipped = KINDS[kind]
    maker = RunMaker(tmp_path / "run", n=120, seed=5)
    make(maker)
    forms = Forms(maker, margin)
    verdict = forms.verdict()
    assert said in verdict
    assert verdict in forms.html
    assert shipped in forms.markdown
    assert shipped in forms.html
    area = AREA.match(verdict)
    assert (area is None) == (kind == "other ranks")
    if area is None:  # the command says how they can be compared
        assert "--support common" in forms.score.output
        return
    check_area(forms, area["row"], area["area"])
    if lead := LEAD.search(verdict):
        check_lead(forms, area["row"], lead, significant="is significant" in verdict)
    else:
        assert not any(pair["p_holm"] for pair in forms.json["pairs"])
    check_ship(forms, maker, margin)


def check_area(forms: Forms, row: str, area: str) -> None:
    """Table, terminal, LaTeX, card and JSON have the area of the verdict."""
    assert forms.cell("AURAC [95 %]", row).partition(" ")[0] == area
    lines = [line for line in forms.terminal.splitlines() if re.match(rf"\s*{row}\s", line)]
    assert any(re.search(rf"(?<![\d.]){area}(?![\d.])", line) for line in lines)
    assert re.search(rf"^{row} & .*? & (?:textbf{{)?{area}}}?", forms.latex, re.MULTILINE)
    (known,) = [score for score in forms.json["scores"] if score["adapter"] == row]
    assert percent(known["log2"]["value"]) == area
    if f"# {row}\n" in forms.cards:
        assert f"interval: {area} " in forms.cards


def _turned(number: str | None) -> str | None:
    """The number with the other sign."""
    return number and (number[1:] if number.startswith("−") else f"−{number}")


def check_lead(forms: Forms, best: str, lead: re.Match[str], *, significant: bool) -> None:
    """The page's table, the terminal's and the JSON have the difference and the same reading."""
    row, ends = (best, lead["other"]), [lead[name] for name in ("gap", "low", "high")]
    if any(cells[:2] == [*row[::-1]] for _, rows in forms.tables for cells in rows):
        row, ends = row[::-1], [_turned(ends[at]) for at in (0, 2, 1)]
    shown = ends[0] if ends[1] is None else f"{ends[0]} [{ends[1]}, {ends[2]}]"
    assert forms.cell("difference [95 %]", *row).removesuffix(" †") == shown
    reading = forms.cell("result", *row)
    p = forms.cell("p (Holm)", *row)
    assert reading.startswith(f"{best} is better") == significant
    assert (p == "< .001" or float(p) <= 0.05) == significant
    (pair,) = (p for p in forms.json["pairs"] if {p["a"], p["b"]} == {best, lead["other"]})
    sign = 1 if pair["b"] == best else -1
    assert percent(sign * pair["difference"]) == lead["gap"]
    assert (pair["p_holm"] <= 0.05) == significant
    name = f"{best} − {lead['other']}"  # the terminal has the larger one first
    lines = [x for x in forms.terminal.splitlines() if x.startswith(f"{name}  ")]
    assert lines
    assert all(reading in line for line in lines)
    assert all(f" {lead['gap']} " in line for line in lines)


def check_ship(forms: Forms, maker: RunMaker, margin: float | None) -> None:
    """What is shipped has one rank and one accuracy everywhere; else no form names any."""
    (ship,) = forms.json["ship"]
    assert ship["sentence"] in forms.terminal
    found = SHIP.search(forms.markdown)
    if ship["rank"] is None:
        assert found is None
        assert (
            re.search(r"- Recommended: \*\*(none|needs a margin)\*\*", forms.markdown)
            or not forms.json["best"][0]["leader"]
        )
        return
    assert found["row"] == ship["adapter"]
    assert int(found["rank"]) == ship["rank"]
    assert percent(ship["accuracy"]) == found["accuracy"]
    assert found[0] in forms.html
    assert found[0] in ship["sentence"].replace(f" on {TASK}", "")
    assert forms.cell(f"r = {ship['rank']}", ship["adapter"]).rstrip(" ‡") == found["accuracy"]
    needed = forms.cell("margin needed", f"{ship['adapter']} at rank {ship['rank']}")
    assert float(needed) <= round(100 * margin, 1)
    if len(maker.adapters) == 1:
        assert f"Use rank {ship['rank']}: " in forms.cards
