"""The study's page, made again from what is stored, and what a changed one would say."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from aurac.curves import numbers
from scripts.small_ranks import page as made_by
from scripts.small_ranks.base import FRESH, OLD, TASKS, WAYS, Stored
from scripts.small_ranks.claims import DECLARED, Asked, Claim, answers, fresh_seeds, verdict
from scripts.small_ranks.page import SAID

STUDY = Path(__file__).parents[2] / "reports/small_ranks"
ROOT = STUDY.parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that the maker writes."""
    folder = tmp_path_factory.mktemp("page")
    made_by.main(folder)
    return folder


def texts(folder):
    """The page, its appendix and its tables, by their names."""
    paths = [folder / "README.md", folder / "appendix.md", *sorted(folder.glob("tables/*.csv"))]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def assert_same_table(stored, again):
    """Its text is the same, its numbers differ by one of the last digit at most.

    A dot product ends in another last bit where the processor has other vector units, which
    rounds a mean such as 42.71875 up on one machine and down on another.
    """
    number = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])")
    assert number.sub("#", stored) == number.sub("#", again)
    values = [[float(x) for x in number.findall(text)] for text in (stored, again)]
    np.testing.assert_allclose(*values, rtol=0, atol=1.01e-4)


def test_the_page_is_what_its_maker_makes_of_the_stored_outcomes(made):
    stored, again = texts(STUDY), texts(made)
    assert stored.keys() == again.keys()
    for name, text in stored.items():
        if name.endswith(".csv"):
            assert_same_table(text, again[name])
        else:
            assert text == again[name]
    stored, again = (matplotlib.image.imread(x / "figures/accuracy.png") for x in (STUDY, made))
    assert stored.shape == again.shape
    assert np.abs(stored - again).mean() < 0.01  # fonts are drawn a little apart elsewhere


def rows_of(name):
    with (STUDY / f"tables/{name}.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def row_of(kind, a, b, tasks="both", ranks="1 to 8"):
    """The row of a difference; None where it is not there."""
    asked = {"kind": kind, "a": a, "b": b, "tasks": tasks, "ranks": ranks}
    return next((r for r in rows_of("differences") if asked.items() <= r.items()), None)


def tables_of(text):
    """Every table of a page, a dictionary for each row."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        lines = [[cell.strip() for cell in x.split("|")[1:-1]] for x in block.splitlines()]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def check_interval(text, row):
    """A difference in the text of a page: rounded, its ends away from the claim."""
    value, low, high = (float(x) for x in re.findall(r"-?\d+\.\d", text.replace("−", "-")))
    assert value == pytest.approx(float(row["points"]), abs=0.051)
    assert -0.001 <= float(row["points low"]) - low <= 0.101
    assert -0.001 <= high - float(row["points high"]) <= 0.101


NUMBER = r"(−?\d+\.\d \\\[[^\]]*\])"
LORA, NESTED = "LoRA (SVD)", "MatryoshkaLoRA (SVD)"
LORA_FITTED, NESTED_FITTED = (f"{x} (SVD, fitted scale)" for x in ("LoRA", "MatryoshkaLoRA"))
EACH = "LoRA at each rank (none)"
WORDS = {text: word for word, text in SAID.items()}
POINTS = ("points", "points low", "points high")
PAPER = (
    "MatryoshkaLoRA at its prefixes' rate (prefix without P)",
    "DyLoRA with eight draws (prefix)",
)


def check_page(text):
    """Every number and verdict of the page against its row of the tables."""
    head = " ".join(text.partition("\n\nPoints")[0].split())
    _, cut, nested, alone = head.split(" - ")
    way = LORA if "train plain LoRA" in cut else NESTED
    check_default(cut, way)
    for number, rank in re.findall(NUMBER + r" at (\d)", cut):
        check_interval(number, row_of("loss", way, way, ranks=rank))
    own, fitted = row_of("first", NESTED, LORA), row_of("first", NESTED_FITTED, LORA_FITTED)
    said, *ends, pays = re.search(
        rf"likewise, (.*)\*\* .*: {NUMBER} .*, {NUMBER} .*This (.*?) the gain of 2", nested
    ).groups()
    assert WORDS[said] == (row_of("test", NESTED, LORA) or own)["a is"]
    for end, row in zip(ends, (own, fitted), strict=True):
        check_interval(end, row)
    open_ones = any(float(row["points high"]) >= 2 for row in (own, fitted))
    assert pays == ("does not exclude" if open_ones else "excludes")
    at_ranks, at_one = alone.split("At rank 1 ")
    for said, ranks in re.findall(
        r"(is [a-z ]*?) at rank (\d \(.*?\)(?:(?:, | and )\d \(.*?\))*)", at_ranks
    ):
        for rank, number in re.findall(r"(\d) \(" + NUMBER, ranks):
            row = row_of("rank", EACH, way, "word problems", rank)
            check_interval(number, row)
            assert WORDS[said] == row["a is"]
            assert (f"rank {rank}, train" in alone) == (row["a is"] == "better")
    found = re.findall(rf"(is [a-z ]*?) than (\S*)'s [^(]*\({NUMBER}", at_one)
    assert len(found) == 2
    for said, method, number in found:
        row = row_of("rank", EACH, f"{method} (SVD, fitted scale)", "word problems", "1")
        check_interval(number, row)
        assert WORDS[said] == row["a is"]
    check_counts(text)
    scaled = row_of(
        "explored", NESTED_FITTED, "LoRA at scale 1 (SVD, fitted scale)", "word problems"
    )
    check_interval(re.search(rf"scale 1 [^|]*? is {NUMBER}", " ".join(text.split()))[1], scaled)
    declared, by_rank, paper = tables_of(text)
    check_declared(declared)
    check_by_rank(by_rank)
    check_paper(paper, "both" if "on both tasks, with" in text else "word problems")


def check_default(cut, way):
    """What is said of the other ways at the ranks of the default."""
    ranks = re.search(r"For rank (.*), by default", cut)[1].replace(" or ", ", ").split(", ")
    wanted = {}
    for row in rows_of("differences"):
        asked = row["kind"] == "rank" and row["b"] == way and row["ranks"] in ranks
        if asked and row["a is"] == "better":
            wanted.setdefault((row["a"], row["ranks"]), {})[row["tasks"]] = row
    wanted = {
        key: row
        for key, found in wanted.items()
        for row in [found.get("both") or found.get("word problems")]
        if row and (row["tasks"] == "both" or not row_of("rank", key[0], way, ranks=key[1]))
    }
    said = re.search(r"compared with it there, (?:only )?(.*?) is shown to be better", cut)[1]
    found = re.findall(rf"(\w[\w ]* \([^)]*\)) at rank (\d) \({NUMBER}\)", said)
    assert {x[:2] for x in found} == wanted.keys()
    assert (said == "nothing") == (not wanted)
    for *key, number in found:
        check_interval(number, wanted[tuple(key)])
    worse = [x for x in rows_of("differences") if x["kind"] == "rank" and x["b"] == way]
    assert not [x for x in worse if x["ranks"] in ranks and x["a is"] == "worse"]
    rank, number, word = re.search(
        rf"training at rank (\d) gained {NUMBER}: ([a-z ]*)", cut
    ).groups()
    known = {r: row_of("rank", EACH, way, "word problems", r) for r in ranks}
    assert rank == max(ranks, key=lambda r: float(known[r]["points"]))
    check_interval(number, known[rank])
    assert {"undecided": "not shown"}.get(word, word) == known[rank]["a is"]


def check_counts(text):
    """How many comparisons, adapters and seeds there are."""
    rows = rows_of("differences")
    by_rank = re.search(r"not for all (\d+) \[such\]", text)[1]
    assert int(by_rank) == sum(row["kind"] == "rank" for row in rows)
    run = re.search(r"planned pairs on one axis \((\d+) were run\)", text)[1]
    assert int(run) == len({(row["a"], row["b"]) for row in rows if row["kind"] == "explored"})
    done = [int(row["adapters"].split()[0]) for row in rows_of("there") if "fresh" in row["method"]]
    if found := re.search(r"test (\d+) of (\d+) trainings are done", text):
        assert [*map(int, found.groups())] == [sum(done), len(done) * len(FRESH)]
    text_row, number = row_of("first", NESTED, LORA), re.search(rf"LoRA, own: {NUMBER}", text)[1]
    check_interval(number, {x: text_row[x.replace("points", "by text")] for x in POINTS})
    paper = row_of("explored", *PAPER) or row_of("explored", *PAPER, "word problems")
    seeds, said = re.search(
        r"first row, (\d+) seeds\) it (.*?) here", text.replace("\n", " ")
    ).groups()
    assert (seeds, WORDS[said]) == (paper["seeds"], paper["a is"])


def check_declared(table):
    sides = {
        "LoRA, own": (NESTED, LORA),
        "LoRA, fitted": (NESTED_FITTED, LORA_FITTED),
        "DyLoRA": (NESTED_FITTED, "DyLoRA (prefix)"),
    }
    kinds = {"55–62": "test", "47–54": "old seeds", "47–62": "estimate"}
    for row in table:
        kind = "first" if row["family"] == "6" else kinds[row["seeds"]]
        known = row_of(kind, *sides[row["against"]])
        if known is None:
            assert row["MatryoshkaLoRA is"] == "not there yet"
            continue
        check_interval(row[r"points \[95 %\]"], known)
        low, high = (float(x) for x in re.findall(r"-?\d+\.\d", row["bootstrap"].replace("−", "-")))
        assert -0.001 <= float(known["bootstrap low"]) - low <= 0.101
        assert -0.001 <= high - float(known["bootstrap high"]) <= 0.101
        if "&" in row["p"]:
            assert float(known["p"]) < 0.001 or float(known["p"]) > 0.99
        else:
            assert float(row["p"]) == pytest.approx(float(known["p"]), abs=0.0051)
        assert row["MatryoshkaLoRA is"] == known["a is"]


def check_by_rank(table):
    names = {"LoRA by SVD": "LoRA", "MatryoshkaLoRA by SVD": "MatryoshkaLoRA"}
    others = {
        "LoRA trained at the rank": "LoRA at each rank",
        "LoRA at the rank, rate searched": "LoRA at a rank, rate searched",
    }
    known = {
        (row["tasks"], row["method"], row["cut"], row["ranks"]): row
        for row in rows_of("accuracies")
    }
    pairs = {
        ("both", "own"): (NESTED, LORA),
        ("both", "fitted"): (NESTED_FITTED, LORA_FITTED),
        ("word problems", "own"): (EACH, LORA),
    }
    for row in table:
        tasks, scale, text = row.pop("tasks"), row.pop("scale"), row.pop("")
        seeds = row.pop("seeds")
        cut = "none" if text in others else {"own": "SVD", "fitted": "SVD, fitted scale"}[scale]
        for rank, cell in row.items():
            if text == "difference" and cell:
                found = row_of("rank", *pairs[tasks, scale], tasks, rank)
                check_interval(cell, found)
                assert seeds == found["seeds"]
            elif cell:
                method = names.get(text) or others[text]
                found = known[tasks, method, cut, rank]
                assert float(cell) == pytest.approx(float(found["value"]), abs=0.051)
                assert seeds == found["seeds"]


def check_paper(table, tasks):
    nested, other = "MatryoshkaLoRA at its prefixes' rate", "DyLoRA with eight draws"
    pairs = {
        "without P": (f"{nested} (prefix without P)", f"{other} (prefix)"),
        "with P": (f"{nested} (prefix with P)", f"{other} (prefix)"),
        "fitted scale, both": (
            "MatryoshkaLoRA (prefix, fitted scale)",
            f"{other} (prefix, fitted scale)",
        ),
    }
    for row in table:
        name, rate = row.pop("MatryoshkaLoRA").removesuffix(")").split(" (rate ")
        pair = pairs[name]
        method = pair[0].split(" (")[0]
        chosen = {r["chosen"] for r in rows_of("trials") if r["method"] == method}
        assert chosen == {f"0{rate}"}
        for ranks, cell in row.items():
            known = row_of("explored", *pair, tasks, ranks.removesuffix(", log2"))
            number, word = cell.rsplit("\\] ", 1)
            check_interval(number, known)
            assert word == known["a is"]


def check_appendix(text):
    """The factors, rates and tokens of the appendix against the tables."""
    factors, trials = (
        tables_of(text.partition(f"## {x}")[2])[0] for x in ("Factors", "The search")
    )
    assert factors == rows_of("factors")
    names, known = ("tasks", "method", "cut", "chosen"), {}
    for row in rows_of("trials"):
        of = known.setdefault(tuple(row[name].replace("*", r"\*") for name in names), {})
        of[row["rate"]] = numbers.percent(float(row["AURAC"]) / 100)
    assert known == {tuple(row.pop(name) for name in names): row for row in trials}
    counts = re.search(r"on MAWPS, of 8: (.*?)\.", text)[1].replace(",", "").split(" and ")
    assert {*counts} == {r["tokens"] for r in rows_of("trainings") if r["seed"] == "47"}


CHECKS = {"README.md": check_page, "appendix.md": check_appendix}


@pytest.mark.parametrize("name", CHECKS)
def test_each_number_and_verdict_is_that_of_its_row(name):
    CHECKS[name](texts(STUDY)[name])


OTHER = {"better": "worse", "worse": "better", "not shown": "better"}
MUTATIONS = {
    "a lower end": ("README.md", r"\\\[−?\d+\.\d", r"\\[−99.9"),
    "an upper end": ("README.md", r"−?\d+\.\d\\\]", r"99.9\\]"),
    "two numbers swapped": ("README.md", r"(\d+\.\d)( +\| +)(\d+\.\d)( +\|)", r"\3\2\1\4"),
    "another row's number": (
        "README.md",
        r"(LoRA by SVD \| +\d+ \| +)(\S+)(.*?SVD \| +\d+ \| +)(\S+)",
        r"\1\4\3\4",
    ),
    "does not exclude": ("README.md", "does not exclude", "excludes"),
    "another number in the prose": (
        "README.md",
        r"(than LoRA: )(.*?)( with own scale,\s+)(.*?)( with a\s+fitted)",
        r"\1\4\3\2\5",
    ),
    "better for worse": (
        "README.md",
        r"\] (better|worse|not shown)",
        lambda found: f"] {OTHER[found[1]]}",
    ),
    "is better": ("README.md", r"is not shown to be better|is worse", "is better"),
    "a count": ("README.md", r"\d+ of 32 trainings", "31 of 32 trainings"),
    "undecided": ("README.md", "undecided", "better"),
    "another rate": ("README.md", r"with P \(rate \.008", "with P (rate .004"),
    "p": ("README.md", r"\|( &lt;)? \.\d+ \|", "| .999 |"),
    "a factor": ("appendix.md", r"(## Factors.*?\| +)\d+\.\d+( \|)", r"\g<1>99.9\2"),
    "a rate": ("appendix.md", r"(## The search.*?LoRA \| +SVD \| +)0\.008", r"\g<1>0.004"),
    "a token count": ("appendix.md", r"(on MAWPS, of 8: )\d", r"\g<1>9"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_page_is_found(name, made):
    file, pattern, instead = MUTATIONS[name]
    stored = texts(STUDY)
    changed = re.sub(pattern, instead, stored[file], count=1, flags=re.DOTALL)
    assert changed != stored[file], "there was nothing to change"
    assert changed != texts(made)[file]
    with pytest.raises(AssertionError):
        CHECKS[file](changed)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "not shown"), (0, 1, "not shown")],
)
def test_a_verdict_is_what_the_interval_shows(low, high, word):
    assert verdict(Claim(0.0, low, high, 1.0, (), (), (low, high))) == word
    assert word in SAID


def test_no_number_with_an_interval_and_no_verdict_is_written_by_hand():
    folder = Path(made_by.__file__).parent
    page, appendix = ((folder / name).read_text("utf-8") for name in ("readme.md", "appendix.md"))
    assert not re.search(r"(?<!\d)\d{1,2}\.\d(?!\d)|\bbetter\b|\bworse\b|not shown", page)
    assert not re.search(r"\d\.\d+ \[|\bbetter\b|\bworse\b|not shown", appendix)


def test_the_page_is_short():
    text = (STUDY / "README.md").read_text("utf-8")
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    named = re.findall(r"[A-Za-z]\S*", " ".join(set(text.splitlines()) - set(prose)))
    assert len(" ".join(prose).split()) + len(named) <= 800  # a table's numbers are no words
    assert text.count("|:--") == 3  # tables
    assert text.count("![") == 1


def test_documents_have_the_numbers_of_the_tables():
    """The accuracies without P, with it and otherwise, which a page explains."""
    asked = {"tasks": "both", "ranks": "1 to 8"}
    rows = [row for row in rows_of("accuracies") if asked.items() <= row.items()]
    known = {
        (row["method"], row["cut"]): numbers.percent(float(row["value"]) / 100) for row in rows
    }
    nested, at_prefix = "MatryoshkaLoRA", "MatryoshkaLoRA at its prefixes' rate"
    wanted = [
        *((at_prefix, "prefix without P"), (at_prefix, "prefix with P")),
        *((nested, "prefix with P"), (nested, "prefix, fitted scale"), (nested, "SVD")),
    ]
    text = (ROOT / "docs/explain/truncation.md").read_text("utf-8").partition("small_ranks")[2]
    said = re.findall(r"(\d+\.\d) %", text.partition("\n`aurac")[0])
    assert said == [known[each] for each in wanted]


SAID_ELSEWHERE = [  # what docs/comparison.md and the README say, in the words of the tables
    (("estimate", NESTED, LORA), "not shown"),
    (("first", NESTED_FITTED, "DyLoRA (prefix)"), "better"),
    (
        ("explored", "MatryoshkaLoRA (prefix, fitted scale)", "LoRA (prefix, fitted scale)"),
        "better",
    ),
    (("explored", "MatryoshkaLoRA (prefix, fitted scale)", "DyLoRA (prefix)"), "better"),
    (("rank", NESTED_FITTED, LORA, "both", "2"), "better"),
    *((("rank", NESTED_FITTED, LORA, "both", rank), "not shown") for rank in ("4", "8")),
    *((("rank", EACH, LORA, "word problems", rank), "not shown") for rank in ("2", "4", "8")),
    (("rank", EACH, LORA, "word problems", "1"), "better"),
    (("rank", EACH, LORA_FITTED, "word problems", "1"), "better"),
    (("rank", EACH, NESTED_FITTED, "word problems", "1"), "not shown"),
]


@pytest.mark.parametrize(("asked", "word"), SAID_ELSEWHERE)
def test_the_advice_elsewhere_is_what_the_tables_show(asked, word):
    assert row_of(*asked)["a is"] == word


def test_the_test_counts_once_every_fresh_seed_is_whole():
    random, stored = np.random.default_rng(0), Stored()
    for task in TASKS:
        stored.units[task] = np.arange(20)
        for name in DECLARED:
            for seed in (*OLD, *FRESH):
                scores = {r: random.integers(2, size=(3, 20)).astype(float) for r in (1, 2, 4, 8)}
                stored.scores[task, WAYS[name]][seed] = scores
    test, estimate = (Asked(kind, *DECLARED) for kind in ("test", "estimate"))
    found = answers(stored)
    assert found[test].seeds == (*FRESH,)
    assert found[estimate].seeds == (*OLD, *FRESH)
    del stored.scores["mawps", WAYS["lora"]][FRESH[3]][8]
    assert fresh_seeds(stored) == [seed for seed in FRESH if seed != FRESH[3]]
    found = answers(stored)
    assert test not in found
    assert found[estimate].seeds == (*OLD,)
