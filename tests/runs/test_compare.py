"""`compare` end to end on a tiny random Llama: cells, curves, resuming, refusing, failing."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hostile_files import run_aurac
from huggingface_hub import ModelCard
from packing import pack
from support.small_runs import dry_run, events

import aurac
from aurac.cli import cli
from aurac.errors import (
    AuracError,
    CheckpointError,
    RankError,
    RunFolderError,
    TaskError,
    UsageError,
)
from aurac.readers import read_curves
from aurac.records.results_file import Results
from aurac.records.store import read_cell
from aurac.runs.compare import compare
from aurac.show import write_report
from aurac.tasks.task import Evaluation
from aurac.training import make_recipe, train

TASK = "aurac_word_problems_mc"
COMMON = {"limit": 5, "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def adapters(tiny_base_folder, tmp_path_factory) -> dict[str, Path]:
    """A LoRA and a MatryoshkaLoRA adapter of rank 4, trained far enough to differ from the base."""
    root = tmp_path_factory.mktemp("adapters")
    data = root / "train.jsonl"
    rows = [
        {"question": f"how many {a} + {b}", "answer": f"{a}"} for a in range(9) for b in range(9)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {}
    for method in ("lora", "matryoshka"):
        recipe = make_recipe(
            {
                "name": method,
                "method": method,
                "rank": 4,
                "base": str(tiny_base_folder),
                "data": str(data),
                "steps": 20,
                "learning_rate": 0.1,
                "dtype": "float32",
            }
        )
        made[method] = train(recipe, root / method).folder
    card = made["lora"] / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1))
    return made


@pytest.fixture(scope="module")
def run(adapters, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return compare(list(adapters.values()), [TASK], out=out, **COMMON)


def test_curves_of_a_run(run):
    curves = {c["id"]: c for c in run.results.to_dict()["curves"]}
    assert list(curves) == [
        "lora · svd · keep",
        "lora · prefix · rule",
        "matryoshka · prefix · trained",
        "matryoshka · prefix · rule",
    ]
    assert [c["role"] for c in curves.values()] == ["default", "published"] * 2
    for curve in curves.values():
        assert curve["ranks"] == [1, 2, 4]
        assert curve["n_docs"] == 5
        assert len(curve["accuracy"]) == 3
        assert curve["missing"] == {}
    assert len({c["baseline"] for c in curves.values()}) == 1
    assert len(list((run.folder / "cells").iterdir())) == 1 + 4 * 3


def test_a_curve_has_one_name_in_tables_in_python_and_in_logs(run):
    names = ["lora (SVD)", "lora (prefix)", "matryoshka (with P)", "matryoshka (without P)"]
    assert sorted(run.scores.label) == names
    assert sorted(curve.label for curve in run.curves) == [f"{name} on {TASK}" for name in names]
    assert repr(run.curves[0]).startswith(f"Curve(lora (SVD) on {TASK}: {{1: ")
    cells = {f"{name} at rank {rank} on {TASK}" for name in names for rank in (1, 2, 4)}
    for event in ("begin", "cell"):
        assert {line["cell"] for line in events(run.folder, event)} == {*cells, f"base on {TASK}"}


def test_cards_have_the_licence_wherever_the_report_is_made(run, tmp_path, monkeypatch):
    records = run.results.to_dict()["adapters"]
    assert [record.get("licence") for record in records] == ["mit", None]
    monkeypatch.chdir(tmp_path)
    write_report(run.folder, out=tmp_path / "report")
    for name in ("lora", "lora-rank-2", "matryoshka"):
        data = ModelCard((tmp_path / f"report/cards/{name}.md").read_text()).data
        assert data.license == (None if name == "matryoshka" else "mit")


def test_the_score_is_that_of_the_cells_by_hand(run):
    """log2 AURAC on 1, 2, 4 has the weights 1/4, 1/2, 1/4; linear 1/6, 1/2, 1/3."""
    for curve in run.results.to_dict()["curves"]:
        columns = [
            read_cell(run.folder / curve["cells"][str(r)]).metrics[curve["metric"]]
            for r in curve["ranks"]
        ]
        one, two, four = (float(np.mean(column)) for column in columns)
        assert curve["accuracy"] == pytest.approx([one, two, four])
        assert curve["score"]["log2"]["value"] == pytest.approx(one / 4 + two / 2 + four / 4)
        assert curve["score"]["linear"]["value"] == pytest.approx(one / 6 + two / 2 + four / 3)
        assert curve["score"]["mean"] == pytest.approx((one + two + four) / 3)
        areas = np.array([0.25, 0.5, 0.25]) @ np.array(columns)
        se = np.std(areas, ddof=1) / np.sqrt(5)
        if se > 0:
            assert curve["score"]["log2"]["se"] == pytest.approx(se)
        assert aurac.score(curve).value == pytest.approx(curve["score"]["log2"]["value"])


def test_the_file_is_the_result_and_holds_no_nan(run):
    text = (run.folder / "results.json").read_text()
    assert Results.read(run.folder) == run.results
    assert text == json.dumps(run.results.to_dict(), indent=1, ensure_ascii=False) + "\n"
    assert "NaN" not in text
    assert "Infinity" not in text
    for name in ("report.md", "report.html", "table.csv", "table.tex"):
        assert (run.folder / name).stat().st_size > 0


def test_an_export_and_a_report_are_for_whom_the_umask_lets(run, tmp_path, group_writes):
    from aurac.exports import export_lm_eval

    export_lm_eval(run.folder, tmp_path / "exported")
    write_report(run.folder, out=tmp_path / "report")
    for name in ("exported", "report"):
        assert group_writes(tmp_path / name) == {"drwxrwxr-x", "-rw-rw-r--"}


def test_provenance_says_what_ran(run, adapters):
    provenance = run.results.to_dict()["provenance"]
    assert provenance["dtype"] == "float32"
    assert {"torch", "transformers", "peft", "lm-eval", "python"} <= set(provenance["versions"])
    assert len(provenance["base"]["sha256"]) == 64
    rows = {a["name"]: a for a in run.results.to_dict()["adapters"]}
    assert rows["matryoshka"]["nested_ranks"] == [1, 2, 4]
    assert all(len(a["sha256"]) == 64 for a in rows.values())


def test_near_ties_and_tokens_are_the_cells_own(run):
    cells = [read_cell(path) for path in sorted((run.folder / "cells").iterdir())]
    for name in ("computed_tokens", "distinct_tokens", "passes", "flops"):
        total = sum(getattr(cell.engine, name) for cell in cells)
        assert getattr(run.results.engine, name) == total > 0
    assert run.results.engine.paths == ["packed"]
    for curve in run.results.to_dict()["curves"]:
        counted = [
            read_cell(run.folder / curve["cells"][str(r)]).engine.near_ties for r in curve["ranks"]
        ]
        assert curve["near_ties"] == counted


def test_what_one_cell_could_not_count_is_not_known_of_all():
    from aurac.records.cell import EngineCounts

    total = EngineCounts() + EngineCounts(passes=2, forward_seconds=2.0, flops=2.0, paths=["rows"])
    total += EngineCounts(passes=3, forward_seconds=None, paths=["packed", "rows"])
    total += EngineCounts(passes=1, forward_seconds=1.0, near_ties=None)
    assert (total.passes, total.forward_seconds, total.flops) == (6, None, 2.0)
    assert total.near_ties is None
    assert total.paths == ["packed", "rows"]


def test_the_same_command_computes_nothing_again(run, adapters, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a stored cell was evaluated again")

    monkeypatch.setattr(Evaluation, "block", forbidden)
    monkeypatch.setattr("aurac.runs.session.load_base", forbidden)
    again = compare(list(adapters.values()), [TASK], out=run.folder, **COMMON)
    assert again.results.to_dict()["curves"] == run.results.to_dict()["curves"]


def test_a_report_keeps_its_margin_until_there_are_other_results(adapters, tmp_path):
    settings = COMMON | {"ranks": "1,4", "basis": ["prefix"], "limit": 2}
    done = compare([adapters["lora"]], [TASK], out=tmp_path / "run", **settings)
    write_report(done.folder, margin=0.9, labels={"lora": "LoRA"})
    kept = {path: path.read_bytes() for path in done.folder.glob("*.*")}
    assert kept[done.folder / "report.md"].startswith(b"# LoRA on ")
    again = compare([adapters["lora"]], [TASK], out=done.folder, **settings)
    assert {path: path.read_bytes() for path in done.folder.glob("*.*")} == kept
    assert (again.results, again.files) == (Results.read(done.folder), done.files[:2])
    compare([adapters["lora"]], [TASK], out=done.folder, **(settings | {"limit": 3}))
    assert (done.folder / "report.md").read_text().startswith("# lora on ")


def test_a_lost_or_damaged_cell_is_computed_again_alike(run, adapters, tmp_path):
    before = {p.name: p.read_bytes() for p in (run.folder / "cells").iterdir()}
    names = sorted(before)
    (run.folder / "cells" / names[0]).unlink()
    (run.folder / "cells" / names[1]).write_bytes(before[names[1]][:50])
    again = compare(list(adapters.values()), [TASK], out=run.folder, **COMMON)
    assert again.results.to_dict()["curves"] == run.results.to_dict()["curves"]
    for name in names[:2]:
        new = read_cell(run.folder / "cells" / name)
        (tmp_path / name).write_bytes(before[name])
        old = read_cell(tmp_path / name)
        for field in ("identity", "documents", "metrics", "responses", "logged", "aggregates"):
            assert getattr(old, field) == getattr(new, field)


BLOCKS_OF_TWO = {"cpu": 2}


@pytest.fixture
def computed(monkeypatch):
    """Blocks of two documents; the places that are computed, in order."""
    places = []
    block = Evaluation.block

    def noted(self, documents, progress=None):
        places.append(list(documents))
        return block(self, documents, progress)

    monkeypatch.setattr("aurac.runs.plan.BLOCK_DOCUMENTS", BLOCKS_OF_TWO)
    monkeypatch.setattr(Evaluation, "block", noted)
    return places


def without_cost(cell):
    """What a cell says but for its seconds."""
    from msgspec.structs import replace as changed

    return (cell.identity, cell.documents, cell.metrics, cell.responses, cell.logged,
            changed(cell.engine, forward_seconds=None))  # fmt: skip


def test_a_larger_limit_computes_the_missing_documents_alone(adapters, tmp_path, computed):
    """Two, then six of each of three cells; the blocks are those of a run that asked for six."""
    lora = [adapters["lora"]]
    settings = COMMON | {"ranks": "1,4", "basis": ["prefix"]}
    small = compare(lora, [TASK], out=tmp_path / "run", **(settings | {"limit": 2}))
    assert computed == [[0, 1]] * 3
    computed.clear()
    grown = compare(lora, [TASK], out=tmp_path / "run", **(settings | {"limit": 6}))
    assert (grown.folder, grown.besides) == (tmp_path / "run", "")
    assert computed == [[2, 3], [4, 5]] * 3
    at_once = compare(lora, [TASK], out=tmp_path / "once", **(settings | {"limit": 6}))
    assert grown.results.to_dict()["curves"] == at_once.results.to_dict()["curves"]
    assert grown.results.to_dict()["tasks"] == at_once.results.to_dict()["tasks"]
    for path in (tmp_path / "run" / "cells").iterdir():
        cells = [
            read_cell(folder / "cells" / path.name) for folder in (grown.folder, at_once.folder)
        ]
        assert without_cost(cells[0]) == without_cost(cells[1])
    computed.clear()
    before = (tmp_path / "run" / "results.json").read_bytes()
    for limit, wanted in ((2, small), (3, None)):
        less = compare(lora, [TASK], out=tmp_path / "run", **(settings | {"limit": limit}))
        assert less.folder.parent == tmp_path / "run" / "subsets"
        assert f"also holds 6 documents of {TASK}" in less.besides
        assert less.results.to_dict()["tasks"][0]["n_docs"] == limit
        [curve] = less.results.to_dict()["curves"]
        assert curve["n_docs"] == limit
        if wanted:
            assert less.results.to_dict()["curves"] == wanted.results.to_dict()["curves"]
        else:  # half of a block: which of its near ties are these documents' is not known
            assert curve["near_ties"] == [None, None]
            alone = compare(lora, [TASK], out=tmp_path / "alone", **(settings | {"limit": limit}))
            names = ("accuracy", "accuracy_low", "accuracy_high", "score", "baseline")
            same = alone.results.to_dict()["curves"][0]
            assert [curve[n] for n in names] == [same[n] for n in names]
            assert computed == [[0, 1], [2]] * 3
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    from aurac.records.reader import read_run

    assert read_run(less.folder)[0][0].outcomes.shape == (2, 3)


def test_a_packed_run_goes_on_as_one_in_files(adapters, tmp_path, computed):
    settings = COMMON | {"ranks": "1,4", "basis": ["prefix"], "limit": 4}
    lora, out = [adapters["lora"]], tmp_path / "run"
    before = compare(lora, [TASK], out=out, **settings).results.to_dict()["curves"]
    archives = [pack(out / name) for name in ("cells", "documents")]
    computed.clear()
    again = compare(lora, [TASK], out=out, **settings)
    assert again.results.to_dict()["curves"] == before
    less = compare(lora, [TASK], out=out, **(settings | {"limit": 2}))
    assert not (out / "cells").exists()
    whole, part = (read_curves(folder).curves[0].outcomes for folder in (out, less.folder))
    assert (whole[:, :2] == part).all()
    assert computed == []
    more = compare(lora, [TASK], out=out, **(settings | {"limit": 6}))
    assert computed == [[4, 5]] * 3
    for archive in archives:
        archive.unlink()
    assert (read_curves(more.folder).curves[0].outcomes[:, :4] == whole).all()


def test_limits_that_are_no_multiples_of_a_block_give_the_same_scores(adapters, tmp_path, computed):
    lora = [adapters["lora"]]
    settings = COMMON | {"ranks": "1,4", "basis": ["prefix"]}
    for limit in (3, 5, 1, 4):
        compare(lora, [TASK], out=tmp_path / "run", **(settings | {"limit": limit}))
    assert computed == [[0, 1], [2]] * 3 + [[3], [4]] * 3
    whole = compare(lora, [TASK], out=tmp_path / "run", **(settings | {"limit": 5}))
    once = compare(lora, [TASK], out=tmp_path / "once", **(settings | {"limit": 5}))
    for name in ("accuracy", "score", "baseline", "n_docs"):
        assert getattr(whole.results.curves[0], name) == getattr(once.results.curves[0], name)


def test_a_flipped_byte_in_any_line_costs_its_block(adapters, tmp_path, computed):
    lora, settings = [adapters["lora"]], COMMON | {"ranks": "1"}
    done = compare(lora, [TASK], out=tmp_path / "run", **settings)
    path = tmp_path / "run" / done.results.to_dict()["curves"][0]["cells"]["1"]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    wanted = {0: [[0, 1], [2, 3], [4]], 1: [[0, 1]], 2: [[2, 3]], 3: [[4]]}
    for line, places in wanted.items():
        flipped = bytearray(lines[line])
        flipped[70] ^= 4
        path.write_bytes(b"".join([*lines[:line], bytes(flipped), *lines[line + 1 :]]))
        computed.clear()
        again = compare(lora, [TASK], out=tmp_path / "run", **settings)
        assert computed == places
        assert again.results.to_dict()["curves"] == done.results.to_dict()["curves"]


def test_a_cell_of_a_newer_aurac_is_refused(adapters, tmp_path):
    import hashlib

    lora, settings = [adapters["lora"]], COMMON | {"ranks": "1"}
    done = compare(lora, [TASK], out=tmp_path / "run", **settings)
    path = tmp_path / "run" / done.results.to_dict()["curves"][0]["cells"]["1"]
    content = '{"schema":3}'
    digest = hashlib.sha256(content.encode()).hexdigest()
    path.write_text(f'{{"kind":"cell","content":{content},"sha256":"{digest}","documents":5}}\n')
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=r"schema 3, written by a newer aurac.*update aurac"):
        compare(lora, [TASK], out=tmp_path / "run", **settings)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["run.json", "results.json"])
def test_a_run_of_a_newer_aurac_is_refused_and_left_alone(adapters, tmp_path, name):
    lora, out = [adapters["lora"]], tmp_path / "run"
    compare(lora, [TASK], out=out, **COMMON | {"ranks": "1"})
    path = out / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for ranks in ("1", "1,4"):
        with pytest.raises(RunFolderError, match=r"schema 2, written by a newer aurac.*update"):
            compare(lora, [TASK], out=out, **COMMON | {"ranks": ranks})
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_an_adapter_may_be_added_but_nothing_changed(adapters, tmp_path):
    out = tmp_path / "run"
    compare([adapters["lora"]], [TASK], out=out, ranks="1,4", **COMMON)
    cells = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    compare(list(adapters.values()), [TASK], out=out, ranks="1,2,4", **COMMON)
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    assert cells.items() <= kept.items()
    before = (out / "results.json").read_bytes()
    with pytest.raises(RunFolderError, match=r"holds another run.*seed was 1234, is 4"):
        compare(list(adapters.values()), [TASK], out=out, seed=4, **COMMON)
    assert (out / "results.json").read_bytes() == before


def test_a_shorter_longest_input_is_another_run(run, adapters, tmp_path):
    """What was cut from the front of a prompt can change its answer, so no cell serves both."""
    with pytest.raises(RunFolderError, match="max_length was not given, is 24"):
        compare(list(adapters.values()), [TASK], out=run.folder, max_length=24, **COMMON)
    short = compare([adapters["lora"]], [TASK], out=tmp_path / "short", max_length=24, **COMMON)
    assert {read_cell(p).identity.max_length for p in (short.folder / "cells").iterdir()} == {24}
    assert short.results.tasks[0].max_length == short.results.provenance.settings.max_length == 24
    likelihoods = [
        read_cell(each.folder / curve.cells[4]).responses
        for each in (run, short)
        for curve in each.results.curves
        if (curve.adapter, curve.basis) == ("lora", "svd")
    ]
    assert len({str(each) for each in likelihoods}) == 2


def test_fewer_adapters_and_ranks_than_the_folder_holds_are_shown(
    run, adapters, tmp_path, monkeypatch
):
    """Nothing is computed, the whole keeps its results, and the subset is a run of its own."""
    from aurac.records.reader import read_run

    out = Path(shutil.copytree(run.folder, tmp_path / "run"))
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    monkeypatch.setattr(Evaluation, "block", None)
    one = compare([adapters["matryoshka"]], [TASK], out=out, **COMMON)
    assert one.folder.parent == out / "subsets"
    whole = f"; {out / 'results.json'} and the report beside it stay as they are"
    assert one.besides == f"{out} also holds adapter lora{whole}"
    expected = [c for c in run.results.to_dict()["curves"] if c["adapter"] == "matryoshka"]
    assert one.results.to_dict()["curves"] == expected
    assert Results.read(one.folder) == one.results
    assert [c.adapter for c in read_run(one.folder)[0]] == ["matryoshka"] * 2
    assert (one.folder / "report.html").is_file()
    ends = compare(list(adapters.values()), [TASK], out=out, ranks="1,4", **COMMON)
    assert ends.besides == f"{out} also holds rank 2 of 4 curves{whole}"
    assert ends.folder != one.folder
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    again = compare(list(adapters.values()), [TASK], out=out, **COMMON)
    assert (again.folder, again.besides) == (out, "")
    assert again.results.to_dict()["curves"] == run.results.to_dict()["curves"]


def test_an_adapter_keeps_the_name_that_its_run_folder_gave_it(adapters, tmp_path, monkeypatch):
    """Two folders of one name: which of them is asked for, and in what order, changes nothing."""
    from aurac.runs.session import load_adapters
    from aurac.runs.settings import Settings

    first, second = (
        shutil.copytree(adapters[name], tmp_path / seed / "adapter")
        for name, seed in (("lora", "one"), ("matryoshka", "two"))
    )
    both = load_adapters([first, second], Settings())
    assert list(both) == ["adapter", "two/adapter"]
    names = {adapter.sha256: name for name, adapter in both.items()}
    assert list(load_adapters([second], Settings(), names)) == ["two/adapter"]
    assert list(load_adapters([second, first], Settings(), names)) == ["two/adapter", "adapter"]
    only = {both["adapter"].sha256: "adapter"}
    assert list(load_adapters([second, first], Settings(), only)) == ["two/adapter", "adapter"]


def without_base_hash(adapter, folder):
    shutil.copytree(adapter, folder)
    record = json.loads((folder / "aurac.json").read_text())
    (folder / "aurac.json").write_text(json.dumps(record | {"base_sha256": None}))
    return folder, record["base"]


def test_a_base_that_cannot_be_used_is_one_line_and_leaves_no_folder(adapters, tmp_path):
    from safetensors.torch import load_file, save_file

    adapter, source = without_base_hash(adapters["lora"], tmp_path / "adapter")
    base = shutil.copytree(source, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "run"
    words = ["compare", adapter, "--tasks", TASK, "--base", base, "--out", out]
    command = [sys.executable, "-m", "aurac", *map(str, words)]  # a process: no line of a library
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "NaN or infinite (1 of the" in line
    assert "in lm_head.weight" in line
    assert not out.exists()


def test_ray_that_is_missing_is_noticed_before_anything_is_read_or_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as an import of what is not installed
    monkeypatch.setattr("aurac.runs.compare.open_request", None)
    for call in (compare, dry_run):
        with pytest.raises(UsageError, match=r"Ray, which is not.*pip install 'aurac\[ray\]'"):
            call([tmp_path / "none"], [TASK], out=tmp_path / "run", executor="ray", **COMMON)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(adapters, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files"):
        compare([adapters["lora"]], [TASK], out=tmp_path, **COMMON)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_cell_that_fails_is_recorded_and_the_rest_kept(adapters, tmp_path, monkeypatch):
    block = Evaluation.block
    calls = iter(range(100))

    def sometimes(self, *args, **kwargs):
        if next(calls) == 3:  # after rank 4, the base and rank 1
            raise RuntimeError("shapes do not match\nlong story")
        return block(self, *args, **kwargs)

    monkeypatch.setattr(Evaluation, "block", sometimes)
    common = COMMON | {"basis": ["prefix"]}
    done = compare([adapters["lora"]], [TASK], out=tmp_path / "run", **common)
    [failure] = done.failures
    assert (failure.rank, failure.reason) == (2, "RuntimeError: shapes do not match")
    [curve] = done.results.to_dict()["curves"]
    assert curve["accuracy"][1] is None
    assert curve["missing"] == {"2": "RuntimeError: shapes do not match"}
    assert curve["score"] is None
    assert "never imputed" in curve["score_reason"]
    monkeypatch.setattr(Evaluation, "block", block)
    again = compare([adapters["lora"]], [TASK], out=tmp_path / "run", **common)
    assert again.failures == done.failures
    line = ["compare", str(adapters["lora"]), "--tasks", TASK, "--out", str(tmp_path / "run")]
    line += ["--limit", "5", "--dtype", "float32", "--device", "cpu", "--basis", "prefix"]
    told = CliRunner().invoke(cli, line, standalone_mode=False)
    assert told.return_value == 3
    assert "failed: lora at rank 2 on" in told.stderr
    whole = compare([adapters["lora"]], [TASK], out=tmp_path / "run", retry_failed=True, **common)
    assert whole.failures == []
    assert whole.results.to_dict()["curves"][0]["score"] is not None


def test_a_run_of_the_prefix_alone_goes_on_with_svd(adapters, tmp_path, computed):
    """What a folder holds is kept: the two SVD cells are computed, the prefix is as published."""
    common = COMMON | {"limit": 2, "ranks": "1,4", "out": tmp_path / "run"}
    before = compare([adapters["lora"]], [TASK], basis=["prefix"], **common)
    assert len(computed) == 3
    after = compare([adapters["lora"]], [TASK], **common)
    assert len(computed) == 3 + 2
    [alone], [by_svd, prefix] = before.results.curves, after.results.curves
    assert (by_svd.role, prefix.role, alone.role) == ("default", "published", "default")
    assert (prefix.accuracy, prefix.cells) == (alone.accuracy, alone.cells)
    # At r = R the SVD of the update is the update: the same answers.
    assert by_svd.accuracy[1] == prefix.accuracy[1]
    assert "lora (SVD)" in (tmp_path / "run/report.md").read_text()


def test_an_adapter_that_overflows_fails_alone(adapters, tmp_path):
    """B × 1e20, evaluated first: its cells fail, and the others keep the packed passes."""
    from aurac.adapters import load_adapter, save_adapter

    adapter = load_adapter(adapters["lora"])
    huge = {name: replace(f, B=f.B * 1e20) for name, f in adapter.modules.items()}
    save_adapter(replace(adapter, modules=huge, name="huge"), tmp_path / "huge")
    given = [tmp_path / "huge", adapters["lora"]]
    done = compare(given, [TASK], out=tmp_path / "run", **COMMON)
    assert {(f.adapter, f.rank) for f in done.failures} == {("huge", r) for r in (1, 2, 4)}
    assert all("look for overflow in the adapter" in f.reason for f in done.failures)
    assert done.results.engine.paths == ["packed"]


def test_several_bases_and_rescales_in_one_run(adapters, tmp_path):
    done = compare(
        [adapters["matryoshka"]],
        [TASK],
        out=tmp_path / "run",
        basis=("prefix", "svd"),
        rescale=("trained", "keep", "fit"),
        ranks="4",
        **COMMON,
    )
    curves = {(c["basis"], c["rescale"]): c for c in done.results.to_dict()["curves"]}
    assert set(curves) == {
        ("prefix", "trained"),
        ("prefix", "keep"),
        ("prefix", "fit"),
        ("svd", "keep"),
        ("svd", "fit"),
        ("prefix", "rule"),
    }

    # At r = R the SVD of the trained update is that update: same answers as `trained`.
    def outcomes(key):
        return read_cell(done.folder / curves[key]["cells"]["4"]).metrics

    assert outcomes(("svd", "keep")) == outcomes(("prefix", "trained"))
    assert curves[("prefix", "fit")]["fit_factors"].keys() == {"4"}


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"ranks": "8"}, RankError, "rank 8 of adapter 'lora'"),
        ({"ranks": "one"}, RankError, "ranks 'one'"),
        ({"basis": ["pca"]}, UsageError, "basis 'pca'"),
        ({"rescale": ["trained"], "basis": ["svd"]}, UsageError, "keep or fit"),
        ({"tasks": ["aurac_word_problem"]}, TaskError, "aurac_word_problems"),
        ({"metric": {"": "f1,none"}}, TaskError, "acc,none"),
        ({"checkpoints": ["nowhere/at/all/x"]}, CheckpointError, "nowhere"),
        ({"checkpoints": []}, UsageError, "nothing to compare"),
        ({"tasks": 3}, UsageError, "tasks=3; expected names of tasks"),
        ({"out": 3}, UsageError, "out=3; expected a path"),
        ({"ranks": []}, UsageError, "no ranks"),
        ({"limit": {TASK: 2}}, UsageError, "limit=.*; expected a number of documents"),
        ({"include_path": "nope"}, TaskError, "include_path='nope' is no folder"),
        ({"truncations": {"lroa": {"basis": "svd"}}}, UsageError, "'lroa'; .*did you mean lora"),
        ({"truncations": {"at/lora": {}}}, UsageError, "'at/lora'; expected one of lora; did"),
    ],
)
def test_bad_requests_say_what_was_given(adapters, tmp_path, change, kind, said):
    given = {"checkpoints": [adapters["lora"]], "tasks": [TASK], "out": tmp_path / "run"} | COMMON
    with pytest.raises(kind, match=said):
        compare(**(given | change))
    assert not (tmp_path / "run").exists()


def test_the_same_adapter_twice(adapters, tmp_path):
    with pytest.raises(CheckpointError, match="are the same adapter"):
        compare([adapters["lora"]] * 2, [TASK], out=tmp_path / "run", **COMMON)


def test_an_adapter_for_another_base(adapters, tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    source = Path(json.loads((adapters["lora"] / "aurac.json").read_text())["base"])
    config = LlamaConfig.from_pretrained(source)
    config.hidden_size, config.intermediate_size = 16, 24
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "other" / name).write_bytes((source / name).read_bytes())
    with pytest.raises(CheckpointError):
        compare(
            [adapters["lora"]], [TASK], base=str(tmp_path / "other"), out=tmp_path / "r", **COMMON
        )


@pytest.mark.parametrize(
    "args",
    [
        ["compare", "nowhere", "--tasks", TASK],
        ["compare", "{file}", "--tasks", TASK],
        ["compare", "{lora}", "--tasks", "aurac_word_problem"],
        ["compare", "{lora}", "--tasks", TASK, "--ranks", "1,99"],
        ["compare", "{lora}", "--tasks", TASK, "--data", f"{TASK}=nowhere"],
        ["compare", "{lora}", "--tasks", TASK, "--out", "{file}"],
        ["train", "no/such/recipe", "--out", "x"],
        ["base", "./no-such-base"],
    ],
    ids=lambda args: " ".join(args[:6]),
)
def test_bad_input_is_one_line_and_exit_2(args, adapters, tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("no adapter")
    places = {"{file}": str(file), "{lora}": str(adapters["lora"])}
    code, _, said = run_aurac(*[places.get(arg, arg) for arg in args])
    assert code == 2, said
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    assert lines[0].startswith("aurac: error: ")
    assert "Traceback" not in said
    assert file.read_text() == "no adapter"


def test_errors_are_one_line():
    error = AuracError("a\nb", expected="c", fix="d")
    assert str(error) == "a b; expected c; d"


def test_an_error_names_options_as_keywords_and_as_they_are_typed():
    error = AuracError("--margin -0.1", expected="--dtype float32", fix="give --repeats 3")
    assert str(error) == "margin=-0.1; expected dtype='float32'; give repeats=3"
    assert error.text == "--margin -0.1; expected --dtype float32; give --repeats 3"
    sent = pickle.loads(pickle.dumps(error))  # by a worker process
    assert (str(sent), sent.text) == (str(error), error.text)
    assert str(AuracError("--margin 0.5")) == "margin=0.5"
    for number in ("nan", "inf", "-inf", "-1e-09", "1e+16"):
        assert str(AuracError(f"--margin {number} is none")) == f"margin={number} is none"


def test_another_split_is_another_set_of_documents(adapters, tmp_path):
    """A learning rate is settings on `validation`; the test documents stay unseen."""
    from aurac.tasks import load_split

    done = compare(
        [adapters["lora"]], [TASK], out=tmp_path / "r", ranks="4", split="validation", **COMMON
    )
    read = json.loads((done.folder / done.results.to_dict()["tasks"][0]["documents"]).read_text())
    wanted = [f"Question: {d['question']}\nAnswer:" for d in load_split(TASK, "validation")[:5]]
    assert read["questions"] == wanted
