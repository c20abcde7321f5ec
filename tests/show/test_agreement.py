"""Whatever is said of a run, in whichever place, names the same leader, candidates and shipment."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from report_runs import RunMaker

from aurac.analysis.combine import pooled
from aurac.cli import cli
from aurac.errors import CurveError
from aurac.notebook import load_run
from aurac.records.decisions import BEFORE, Declaration
from aurac.records.results_file import Results
from aurac.records.run import stored_run
from aurac.show import sentences
from aurac.show.build import Builder
from aurac.show.caveats import caveats
from aurac.show.findings import Findings, significant
from aurac.show.model_card import card
from aurac.show.pairs import difference_table
from aurac.show.tiles import tiles
from aurac.show.write import choice_rows, write_report

pytestmark = pytest.mark.usefixtures("plain_figures")

WORD_PROBLEMS = Path(__file__).parents[2] / "reports/word_problems"

RANKS = (1, 2, 4)
LOW, MIDDLE, HIGH = [0.2, 0.3, 0.4], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]


def several(maker):
    maker.add("a", MIDDLE, ranks=RANKS).add("b", HIGH, ranks=RANKS).add("c", MIDDLE, ranks=RANKS)


def truncations(maker):
    maker.add("dylora", MIDDLE, ranks=RANKS).add("lora", LOW, ranks=RANKS)
    maker.add("lora", HIGH, ranks=RANKS, basis="svd", role="extra")


def published(maker):
    maker.add("matryoshka", MIDDLE, ranks=RANKS, method="matryoshka", rescale="trained")
    maker.add("matryoshka", HIGH, ranks=RANKS, method="matryoshka", role="published")
    maker.add("lora", LOW, ranks=RANKS)


def family(maker):
    maker.add("per rank", HIGH, ranks=RANKS).add("lora", MIDDLE, ranks=RANKS)
    maker.adapters["per rank"]["format"] = "family"


def seeds(maker):
    for seed in (1, 2, 3):
        maker.add(f"a-seed{seed}", MIDDLE, ranks=RANKS, seed=seed, method="dylora")
        maker.add(f"b-seed{seed}", HIGH, ranks=RANKS, seed=seed)
        maker.add(f"b-seed{seed}", LOW, ranks=RANKS, seed=seed, basis="svd", role="extra")
    for name, adapter in maker.adapters.items():
        adapter["recipe"] = {"rank": 4, "name": name[0], "seed": adapter["seed"]}


def strata(maker):
    maker.strata = ["one"] * (maker.n // 2) + ["two"] * (maker.n - maker.n // 2)
    several(maker)


def two_tasks(maker):
    for task, (a, b) in {"t": (HIGH, MIDDLE), "u": (LOW, HIGH)}.items():
        maker.add("a", a, ranks=RANKS, task=task).add("b", b, ranks=RANKS, task=task)
        maker.add("b", HIGH, ranks=RANKS, task=task, basis="svd", role="extra")


def many_tasks(maker):
    for at in range(6):
        maker.add("a", MIDDLE, ranks=RANKS, task=f"t{at}")
        maker.add("b", LOW if at % 2 else HIGH, ranks=RANKS, task=f"t{at}")
        maker.add("b", HIGH, ranks=RANKS, task=f"t{at}", basis="svd", role="extra")


def nothing_above_the_base(maker):
    maker.base["word_problems"] = maker.outcomes("word_problems", [0.95])[0]
    several(maker)


KINDS = {
    "one adapter": lambda maker: maker.add("a", MIDDLE, ranks=RANKS),
    "one adapter, two truncations": lambda maker: maker.add("a", LOW, ranks=RANKS).add(
        "a", HIGH, ranks=RANKS, basis="svd", role="extra"
    ),
    "several adapters": several,
    "truncations": truncations,
    "published": published,
    "family": family,
    "seeds": seeds,
    "groups of documents": strata,
    "two tasks": two_tasks,
    "many tasks": many_tasks,
    "nothing above the base": nothing_above_the_base,
}


def label_of(run, task, name):
    """What the report's tables call the row that the analysis calls `name`."""
    rows = {curve.full_name: curve.label for curve in run.of_task(task)}
    rows |= {curve.adapter: curve.label for curve in run.of_task(task) if curve.is_default}
    return rows[name]


def check(folder: Path, out: Path) -> None:
    run = pooled(stored_run(Results.read(folder), folder))
    builder = Builder(run, out)
    findings = builder.findings
    done = CliRunner().invoke(cli, ["score", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    named = {row["task"]: row for row in content["best"]}
    scores = load_run(folder).scores
    shown = dict(zip(run.task_names, sentences.verdicts(findings), strict=False))
    for task in run.task_names:
        rows = {row.label: row.area for row in run.of_task(task) if row.log2}
        best = findings.best[task]
        assert best is not None
        largest = best.label  # of equal ones the same everywhere
        assert rows[largest] == pytest.approx(max(rows.values()), rel=1e-12)
        table = next(
            block
            for block in _blocks(builder.scores().blocks)
            if getattr(block, "name", "") == f"aurac-{builder.slugs[task]}"
        )
        bold = {row[0].text for row in table.rows if row[1].best}
        if not findings.many:
            assert re.sub(f"^{task}: ", "", shown[task]).startswith(largest)
            assert tiles(findings, task)[0].lines[0] == largest
        assert builder._leader(task)[1].text == largest
        candidates = scores[(scores.task == task) & scores.candidate]
        if len(rows) == 1:
            assert (task not in named, not bold, candidates.empty) == (True, True, True)
            continue
        row = named[task]
        assert label_of(run, task, row["leader"]) == largest
        assert {label_of(run, task, name) for name in row["candidates"]} == bold
        assert len(candidates) == len(bold)
        top = scores[scores.task == task].sort_values("aurac").iloc[-1]
        assert top.aurac == pytest.approx(rows[largest])
        assert bool(top.candidate)
        worse = {label_of(run, task, loser(pair)) for pair in _lost(content, task)}
        tested = (pair for pair in findings.tested if pair.task == task and significant(pair))
        worse |= {findings.label(task, pair.a if pair.verdict > 0 else pair.b) for pair in tested}
        assert not worse & bold
    if findings.many:
        (leaders,) = (line for line in sentences.verdicts(findings) if "largest AURAC" in line)
        for best in findings.best.values():
            assert best.label in leaders


def place(one) -> tuple | None:
    """Adapter, truncation and rank of a configuration, of a row of JSON or a table."""
    if one is None or (isinstance(one, dict) and one["rank"] is None):
        return None
    get = one.get if isinstance(one, dict) else lambda name: getattr(one, name)
    return get("adapter"), get("truncation"), get("rank")


def check_choice(folder: Path, out: Path, margin: float | None) -> None:
    """What to ship: command line, JSON, DataFrame, report and card name one configuration."""
    run = pooled(stored_run(Results.read(folder), folder))
    builder = Builder(run, out, margin)
    findings, words = builder.findings, ["recommend", str(folder)]
    words += [] if margin is None else ["--margin", str(margin)]
    done, told = (CliRunner().invoke(cli, [*words, *more]) for more in (["--json"], []))
    assert (done.exit_code, told.exit_code) == (0, 0), done.output
    content, frame = json.loads(done.stdout), load_run(folder).configurations(margin=margin)
    files = list(choice_rows(findings))
    for ship, row in zip(content["ship"], content["choices"], strict=True):
        task, choice = ship["task"], findings.choices[ship["task"]]
        one = choice.chosen
        assert ship["sentence"] in told.stdout
        assert place(ship) == place(row["chosen"]) == place(one)
        known = frame[(frame.task == task) & frame.chosen].to_dict("records")
        assert [place(found) for found in known] == ([place(one)] if one else [])
        marked = [found for found in files if found["task"] == task and found["chosen"] == "yes"]
        assert [place(found) for found in marked] == ([place(one)] if one else [])
        called = findings.called(one) if one else None
        assert (builder._leader(task)[3].text == called) == (one is not None)
        if not findings.many and findings.best[task]:
            tile = tiles(findings, task)[1]
            alone = str(one.rank) if one and choice.curves == 1 else called
            none = "none" if margin or choice.few_seeds else "needs a margin"
            if choice.best is None or choice.best.above_base is False:
                none = "none"
            assert tile.title.startswith("Recommended")
            assert tile.value == (alone or none)
            said = sentences.details(findings, task)[-1]
            assert (
                said.startswith(f"Ship {called}:")
                if one
                else "Ship " not in said[:5] or (said.startswith("Ship nothing"))
            )
        check_shown(choice, margin)
        if choice.curves == 1:
            agree_alone(run, builder, choice, content)


def check_shown(choice, margin):
    """The one named passes, no smaller one does, and it is above a base that is known."""
    one, every = choice.chosen, choice.configurations
    passing = [
        c for c in every if margin is not None and c.needed is not None and c.needed < margin
    ]
    assert one is (passing[0] if passing else None)
    assert one is None or one.above_base is not False
    assert [c.bytes for c in every] == sorted(c.bytes for c in every)
    if one is None and margin is not None and choice.needed is not None:
        assert choice.needed >= margin


def agree_alone(run, builder, choice, content):
    """With a single curve its row, the card and the loss table say the same."""
    one = choice.chosen
    rank = one.rank if one else None
    rows = [row for row in content["recommended"] if row["task"] == choice.task]
    assert [row["rank"] for row in rows] == ([rank] if choice.margin is not None else [])
    for row in builder.findings.tests.values():
        if row.task == choice.task:
            assert row.rank == rank
            assert rank is None or {t.rank: t.passed for t in row.tests}[rank]
    for adapter in run.adapters if len(run.adapters) == 1 else ():
        page = card(run, adapter, builder.findings.own)
        assert (f"Use rank {rank}: " in page) == (one is not None)


def _lost(content, task):
    every = (*content["pairs"], *content["variants"])
    return [
        p for p in every if p["task"] == task and p["p_holm"] is not None and p["p_holm"] <= 0.05
    ]


def loser(pair):
    name = pair["a"] if pair["difference"] > 0 else pair["b"]
    adapter, _, rest = name.partition(" · ")
    default = rest in {"prefix · rule", "prefix · trained"} and not (
        adapter == "matryoshka" and rest == "prefix · rule"
    )
    return adapter if default else name


def _blocks(blocks):
    for block in blocks:
        yield block
        yield from _blocks(getattr(block, "blocks", ()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_names_the_same_leader_and_candidates(kind, tmp_path):
    maker = RunMaker(tmp_path / "run", n=60, seed=3)
    KINDS[kind](maker)
    maker.write()
    check(maker.folder, tmp_path)
    for margin in (None, 0.01, 0.3):
        check_choice(maker.folder, tmp_path, margin)


TABLES = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from("tu"), st.floats(0.05, 0.95)),
    min_size=1, max_size=7, unique_by=lambda row: row[:3],
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(TABLES, st.none() | st.floats(0.01, 0.5))
def test_no_table_makes_two_places_differ(table, margin):
    with tempfile.TemporaryDirectory() as folder:
        maker = RunMaker(Path(folder) / "run", n=40, seed=1)
        known = set()
        for adapter, other, task, accuracy in table:
            extra = other and (adapter, task) in known
            how = {"basis": "svd", "role": "extra"} if extra else {}
            if (adapter, task) not in known or extra:
                maker.add(adapter, [accuracy] * 3, ranks=RANKS, task=task, **how)
            known.add((adapter, task))
        maker.write()
        check(maker.folder, Path(folder))
        check_choice(maker.folder, Path(folder), margin)


def test_a_stored_declaration_counts_and_another_one_is_dated_afterwards(tmp_path):
    maker = RunMaker(tmp_path / "run", n=60, seed=3)
    several(maker)
    folder = maker.write()
    stored = Declaration(pairs=[("a", "b")], declared=BEFORE)
    results = structs.replace(Results.read(folder), primary=stored)
    results.write(folder)
    text_of = CliRunner().invoke(cli, ["score", str(folder)]).output
    assert "Primary comparisons: a and b; declared before the run had outcomes." in text_of
    assert [pair.exploratory for pair in load_run(folder).analysis.pairs] == [False, True, True]
    findings = Findings(stored_run(results, folder))
    table = difference_table(findings, "word_problems", findings.tested, "pairs")
    assert {row[-1].text for row in table.rows} >= {
        "b is better, primary",
        "not significant, exploratory",
    }
    assert "over the same 60 documents." in table.caption
    assert "documents" not in [column.title for column in table.columns]
    fewer = [replace(findings.tested[0], n_docs=59), *findings.tested[1:]]
    table = difference_table(findings, "word_problems", fewer, "pairs")
    assert "over the same documents." in table.caption
    assert "documents" in [column.title for column in table.columns]
    assert stored.sentence in caveats(Findings(stored_run(results, folder)))
    other = CliRunner().invoke(cli, ["score", str(folder), "--primary", "a,c"]).output
    assert "Primary comparisons: a and c; declared after outcomes existed." in other


def test_a_report_labels_what_was_declared_for_it(tmp_path):
    maker = RunMaker(tmp_path / "run", n=40, seed=3)
    several(maker)
    folder = maker.write()
    command = ["report", str(folder), "--out", str(tmp_path / "out"), "--reference", "b"]
    assert CliRunner().invoke(cli, command).exit_code == 0
    page = (tmp_path / "out/report.md").read_text()
    assert "b and each other adapter; declared after outcomes existed." in page
    with (tmp_path / "out/pairs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    told = sorted((r["family"], r["family_tests"], r["reference"], r["axis"]) for r in rows)
    primary = ("primary", "2", "b", "log2")
    assert told == [("exploratory", "1", "", "log2"), primary, primary]
    for row in rows:
        assert (row["reference"] in (row["first_adapter"], row["second_adapter"])) == (
            row["family"] == "primary"
        )


def test_a_reference_may_be_declared_by_its_name_in_tables(tmp_path):
    command = ["report", str(WORD_PROBLEMS), "--reference"]
    for name in ("matryoshka (with P)", "matryoshka", "matryoshka · prefix · trained"):
        out = tmp_path / name
        assert CliRunner().invoke(cli, [*command, name, "--out", str(out)]).exit_code == 0
        with (out / "pairs.csv").open() as stream:
            rows = [row for row in csv.DictReader(stream) if row["family"] == "primary"]
        assert {row["reference"] for row in rows} == {"matryoshka"}
        assert {row["first_rescale"] for row in rows} == {"trained"}
    with pytest.raises(CurveError, match=r"one of matryoshka \(with P\), matryoshka \(without P\)"):
        write_report(WORD_PROBLEMS, out=tmp_path / "no", primary=[("matryoshka · prefix", "*")])
    assert not (tmp_path / "no").exists()
