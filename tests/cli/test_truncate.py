"""`aurac truncate`: what it writes loads in plain PEFT, and nothing is written when it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from harness_doubles import make_tokenizer
from support.adapters import (
    load_with_peft,
    logits,
    random_adapter,
    tiny_gpt2,
    tiny_llama,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from aurac.adapters import Nesting, attach, load_adapter, prepare, save_adapter
from aurac.adapters import truncate as truncate_adapter
from aurac.adapters.export import merge
from aurac.cli import cli
from aurac.errors import AuracError, CheckpointError, RankError, RunFolderError, UsageError

NESTED = Nesting("matryoshka", (1, 2, 4))


@pytest.fixture
def folder(tmp_path):
    return save_adapter(random_adapter(tiny_llama(), 4, nesting=NESTED), tmp_path / "whole")


def run(*arguments):
    result = CliRunner().invoke(cli, ["truncate", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result


@pytest.mark.parametrize(
    "how", [(), ("--rescale", "rule"), ("--rescale", "keep"), ("--basis", "svd")]
)
def test_one_rank(folder, tmp_path, how):
    out = run(folder, "--rank", 2, *how, "--out", tmp_path / "cut").stdout
    assert "rank 2" in out
    assert "--max-lora-rank 8" in out
    options = dict(zip([h.removeprefix("--") for h in how[::2]], how[1::2], strict=True))
    base = tiny_llama()
    prepared = prepare(load_adapter(folder), options.get("basis", "prefix"), options.get("rescale"))
    with attach(base, prepared) as live:
        live.set_rank(2)
        expected = logits(base)
    assert torch.equal(logits(load_with_peft(tiny_llama(), tmp_path / "cut")), expected)


def test_several_ranks(folder, tmp_path):
    run(folder, "--ranks", "pow2", "--out", tmp_path / "all")
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["r1", "r2", "r4"]
    assert [load_adapter(tmp_path / "all" / f"r{r}").rank for r in (1, 2, 4)] == [1, 2, 4]


def test_nothing_is_written_when_one_place_is_taken(folder, tmp_path):
    run(folder, "--rank", 2, "--out", tmp_path / "all" / "r2")
    with pytest.raises(RunFolderError, match="r2 is already there"):
        run(folder, "--ranks", "pow2", "--out", tmp_path / "all")
    assert [p.name for p in (tmp_path / "all").iterdir()] == ["r2"]
    run(folder, "--ranks", "pow2", "--out", tmp_path / "all", "--force")
    assert len(list((tmp_path / "all").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--out", "x"), (UsageError, "no rank; expected --rank R")),
        (("--rank", "2"), (UsageError, "no place for the result; expected --out")),
        (("--rank", "2", "--ranks", "all", "--out", "x"), (UsageError, "--rank with --ranks")),
        (("--rank", "5", "--out", "x"), (RankError, "trained rank 4")),
        (("--rank", "0", "--out", "x"), (RankError, "trained rank 4")),
        (
            ("--rank", "2", "--basis", "svd", "--rescale", "rule", "--out", "x"),
            (UsageError, "keep, or fit"),
        ),
        (("--rank", "2", "--merge-into", "x"), (UsageError, "give --base")),
    ],
)
def test_requests_that_are_refused(folder, tmp_path, monkeypatch, arguments, refusal):
    error, message = refusal
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run(folder, *arguments)
    assert not (tmp_path / "x").exists()


def test_the_exit_code_is_2_with_one_line(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "aurac",
            "truncate",
            "missing/",
            "--rank",
            "1",
            "--out",
            str(tmp_path / "x"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "there is no folder or file" in done.stderr


@pytest.mark.parametrize(
    ("build", "names"), [(tiny_llama, None), (tiny_gpt2, ["c_attn", "c_proj"])]
)
def test_truncating_commutes_with_merging(build, names):
    base = build(torch.float64)
    adapter = random_adapter(base, 4, names=names, nesting=NESTED, dtype=torch.float64)
    for how in (("prefix", "trained"), ("svd", "keep")):
        prepared = prepare(adapter, *how)
        with attach(base, prepared) as live:
            live.set_rank(2)
            expected = logits(base)
        merged, cut = build(torch.float64), build(torch.float64)
        merge(merged, prepared, 2)
        merge(cut, prepare(prepared.at(2), "prefix", "keep"), 2)
        torch.testing.assert_close(logits(merged), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(logits(cut), expected, rtol=1e-10, atol=1e-10)


def base_folder(folder, dtype=torch.float32):
    """``tiny_llama`` in a type, with a tokenizer, on disk."""
    tiny_llama(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("asked", [None, "float32", "bfloat16", "float16"])
def test_a_merged_model_is_a_plain_model_of_the_bases_type(folder, tmp_path, stored, asked):
    small = base_folder(tmp_path / "base", getattr(torch, stored))
    how = () if asked is None else ("--dtype", asked)
    said = run(folder, "--rank", 2, "--base", small, *how, "--merge-into", tmp_path / "merged")
    assert said.stdout.endswith(f"rank 2 merged in, {asked or stored}\n")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").eval()
    assert {p.dtype for p in model.parameters()} == {getattr(torch, asked or stored)}
    adapter, base = truncate_adapter(load_adapter(folder), 2), tiny_llama(getattr(torch, stored))
    for name, f in adapter.modules.items():
        weight = base.get_submodule(name).weight.double() + f.scale(2) * f.B.double() @ f.A.double()
        expected = weight.to(getattr(torch, asked or stored))
        merged = model.get_submodule(name).weight
        if asked in (None, "float32"):  # the sum in fp64 is rounded once
            assert torch.equal(merged, expected)
        else:
            torch.testing.assert_close(merged, expected)


def test_a_merged_model_takes_the_place_of_a_model_alone_and_only_with_force(folder, tmp_path):
    small, out = base_folder(tmp_path / "base"), tmp_path / "merged"
    run(folder, "--rank", 2, "--base", small, "--merge-into", out)
    first = (out / "model.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="already there"):
        run(folder, "--rank", 1, "--base", small, "--merge-into", out)
    assert (out / "model.safetensors").read_bytes() == first
    run(folder, "--rank", 1, "--base", small, "--merge-into", out, "--force")
    assert (out / "model.safetensors").read_bytes() != first
    with pytest.raises(RunFolderError, match="is the base itself"):
        run(folder, "--rank", 1, "--base", small, "--merge-into", small, "--force")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"holds no config.json.*not replaced even with"):
        run(folder, "--rank", 1, "--base", small, "--merge-into", tmp_path / "mine", "--force")
    with pytest.raises(UsageError, match="--dtype with --out"):
        run(folder, "--rank", 1, "--dtype", "float16", "--out", tmp_path / "x")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["base", "merged", "mine", "whole"]  # nothing half-written


def test_a_merged_model_has_the_tokenizer_of_its_adapter(folder, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|mine|>"])
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(folder)
    small = base_folder(tmp_path / "base")
    run(folder, "--rank", 2, "--base", small, "--merge-into", tmp_path / "merged")
    written = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert (len(written), written.chat_template) == (len(tokenizer), "{{ messages }}")


def test_what_cannot_be_merged_is_refused():
    base = tiny_llama()
    adapter = random_adapter(base, 2, names=["q_proj"])
    shared = base.model.layers[0].self_attn.q_proj.weight
    base.model.layers[1].self_attn.q_proj.weight = shared
    with pytest.raises(CheckpointError, match="shares its weight"):
        merge(base, prepare(adapter), 1)
    with pytest.raises(AuracError):
        merge(tiny_gpt2(), prepare(adapter), 1)
