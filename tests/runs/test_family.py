"""Families: one adapter for each rank is one curve, paired with the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.hostile_files import run_aurac
from support.small_runs import dry_run

import aurac
from aurac.adapters import load_adapter, make_family, truncate
from aurac.errors import CheckpointError, RankError
from aurac.records.store import read_cell
from aurac.runs.settings import NamedCheckpoint
from aurac.training import make_recipe, train

if TYPE_CHECKING:
    from pathlib import Path

TASK = "aurac_word_problems_mc"
COMMON = {"limit": 5, "dtype": "float32", "device": "cpu"}
RANKS = (1, 2, 4)


@pytest.fixture(scope="module")
def trained(tiny_base_folder, tmp_path_factory) -> Path:
    """Folders ``lora/r1``, ``r2``, ``r4`` of a family, and ``ours``, a MatryoshkaLoRA adapter."""
    root = tmp_path_factory.mktemp("trained")
    rows = [
        {"question": f"how many {a} + {b}", "answer": f"{a}"} for a in range(9) for b in range(9)
    ]
    data = root / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rest = {"data": str(data), "steps": 20, "learning_rate": 0.1, "dtype": "float32"}
    common = {"rank": 4, "base": str(tiny_base_folder), **rest}
    train(make_recipe({"name": "tiny", "method": "matryoshka", **common}), root / "ours")
    recipe = root / "lora.yaml"
    recipe.write_text(json.dumps({"name": "tiny", "method": "lora", **common}))
    code, out, err = run_aurac(
        "train", recipe, "--family", "4,1,2", "--out", root / "lora", "--device", "cpu"
    )
    assert code == 0, err
    assert out.count("tokens/s") == 3
    assert out.splitlines()[-1] == f"next: aurac compare {root / 'lora'} --tasks TASK"
    return root


def pattern(root, words="1,2,4"):
    return f"lora per rank={root}/lora/r{{{words}}}"


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return aurac.compare([trained / "ours", pattern(trained)], [TASK], out=out, **COMMON)


def test_rank_r_of_the_curve_is_the_adapter_trained_at_r(run, trained, tmp_path):
    curve = next(c for c in run.results.curves if c.adapter == "lora per rank")
    assert curve.ranks == list(RANKS)
    assert (curve.method, curve.trained_rank, curve.basis, curve.rescale) == (
        "lora",
        4,
        "prefix",
        "rule",
    )
    assert curve.score is not None
    for r, accuracy, parameters in zip(RANKS, curve.accuracy, curve.parameters, strict=True):
        alone = aurac.compare(
            [trained / "lora" / f"r{r}"], [TASK], out=tmp_path / str(r), ranks=[r], **COMMON
        )
        (row,) = alone.results.curves
        member = load_adapter(trained / "lora" / f"r{r}")
        assert row.accuracy == [accuracy]
        assert parameters == member.parameters(r)
        cell = read_cell(run.folder / curve.cells[r])
        assert cell.identity == read_cell(alone.folder / row.cells[r]).identity
        assert cell.identity.adapter_sha256 == member.sha256
        assert (cell.identity.rank, cell.identity.rescale) == (r, "rule")


def test_it_is_one_curve_paired_with_the_others_and_says_what_it_cost(run):
    ours = next(c for c in run.results.curves if c.adapter == "ours" and c.default)
    assert ours.ranks == list(RANKS)
    code, out, _ = run_aurac("score", run.folder, "--json")
    assert code == 0
    assert any({"lora per rank", "ours"} <= set(p.values()) for p in _pairs(json.loads(out)))
    (record,) = (a for a in run.results.adapters if a.name == "lora per rank")
    assert record.format == "family"
    assert record.ranks_of_modules == [1, 2, 4]
    assert record.notes[0] == "one adapter trained for each rank: 1, 2, 4"
    assert "3 runs" in record.notes[1]
    assert "60 steps" in record.notes[1]
    assert "one adapter trained for each rank" in (run.folder / "report.md").read_text()


def _pairs(value):
    """The texts of each object in a JSON value."""
    if isinstance(value, dict):
        yield {k: v for k, v in value.items() if isinstance(v, str)}
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _pairs(item)


def test_the_same_command_computes_nothing_again(run, trained):
    plan = dry_run([trained / "ours", pattern(trained)], [TASK], out=run.folder, **COMMON)
    assert plan.to_dict()["done"] == plan.to_dict()["cells"]
    again = aurac.compare([trained / "ours", pattern(trained)], [TASK], out=run.folder, **COMMON)
    assert again.results.curves == run.results.curves


def test_a_folder_with_one_adapter_for_each_rank_is_a_family(trained, tmp_path):
    adapter = load_adapter(trained / "ours")
    for r in RANKS:
        aurac.save_adapter(truncate(adapter, r), tmp_path / "cut" / f"r{r}")
    plan = dry_run([tmp_path / "cut", trained / "ours"], [TASK], **COMMON)
    assert [line.ranks for line in plan.lines if line.curve.startswith("cut")] == [RANKS]


def test_a_family_is_trained_once(trained, tmp_path):
    recipe, folder = trained / "lora.yaml", trained / "lora"
    code, out, _ = run_aurac("train", recipe, "--family", "1,2,4", "--out", folder)
    assert (code, out) == (0, "")  # all are there
    assert {load_adapter(folder / f"r{r}").recipe["rank"] for r in RANKS} == set(RANKS)
    for ranks in ("1,1", "0,2", "x"):
        code, _, err = run_aurac("train", recipe, "--family", ranks, "--out", tmp_path / "no")
        assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "no").exists()


def test_truncate_gives_the_member(trained):
    members = [load_adapter(trained / "lora" / f"r{r}") for r in (4, 1, 2)]
    family = make_family("x", members)
    assert family.ranks == RANKS
    assert truncate(family, 2) is members[2]
    assert family.parameters(1) == members[1].parameters(1)
    assert family.sha256 != make_family("x", members[:2]).sha256
    with pytest.raises(RankError, match=r"rank 3 of family 'x'.*one of 1, 2, 4"):
        truncate(family, 3)


def test_families_that_are_refused(trained, tmp_path, tiny_base_folder):
    members = [load_adapter(trained / "lora" / f"r{r}") for r in RANKS]
    other = load_adapter(trained / "ours", base="another")
    with pytest.raises(CheckpointError, match="two adapters of rank 4"):
        make_family("x", [*members, other])
    with pytest.raises(CheckpointError, match=r"members of family 'x'.*different bases"):
        make_family("x", [members[0], other])
    for words, options, message in [
        ("1,2,8", (), "there is no folder or file"),
        ("1,2,4", ("--ranks", "1,3"), "rank 3 of family 'lora per rank'"),
    ]:
        code, _, err = run_aurac(
            "compare", pattern(trained, words), "--tasks", TASK, "--out", tmp_path / "no", *options
        )
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    for rank, member in zip((1, 2), (members[0], other), strict=True):
        aurac.save_adapter(truncate(member, rank), tmp_path / f"mixed{rank}")
    mixed = ("compare", f"x={tmp_path}/mixed{{1,2}}", "--tasks", TASK, "--out", tmp_path / "no")
    code, _, err = run_aurac(*mixed)
    assert (code, err.count("\n")) == (2, 1)
    assert "the members of family 'x' were trained on different bases" in err
    assert "give --base if these names mean the same model" in err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("text", "name", "paths"),
    [
        ("lora per rank=runs/lora_r{1,2}", "lora per rank", ("runs/lora_r1", "runs/lora_r2")),
        ("runs/lora_r{1, 16}", "lora_r", ("runs/lora_r1", "runs/lora_r16")),
        ("runs/{1,2}/adapter", "adapter", ("runs/1/adapter", "runs/2/adapter")),
        ("ours=runs/a", "ours", ("runs/a",)),
        ("owner/name@main:sub=1", None, ("owner/name@main:sub=1",)),
        ("runs/a", None, ("runs/a",)),
    ],
)
def test_names_of_checkpoints(text, name, paths):
    checkpoint = NamedCheckpoint.of(text)
    assert (checkpoint.name, checkpoint.paths) == (name, paths)
    assert NamedCheckpoint.of(checkpoint.absolute).paths == checkpoint.paths


def test_a_path_that_exists_is_a_path(tmp_path):
    (tmp_path / "a=b{1,2}").mkdir()
    assert NamedCheckpoint.of(tmp_path / "a=b{1,2}").paths == (str(tmp_path / "a=b{1,2}"),)
