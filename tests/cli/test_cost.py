"""`aurac cost` and what becomes of its measurement: a file of the run, and a gate."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from hostile_files import run_aurac
from report_runs import served, zoo_run
from score_tables import run
from small_runs import SMALL, TASK, random_adapter

import aurac
from aurac.errors import RunFolderError
from aurac.records.results_file import Results
from aurac.records.serving import SERVING_FILE, read_serving

pytestmark = pytest.mark.usefixtures("plain_figures")

QUICK = ("--device", "cpu", "--dtype", "float32", "--prompt-tokens", "4", "--new-tokens", "2")
GATE = ("--margin", "0.5", "--max-latency-ms")


@pytest.fixture(scope="module")
def compared(tiny_base_folder, tmp_path_factory):
    """A run of a plain adapter and a family, and where they lie."""
    root = tmp_path_factory.mktemp("cost")
    random_adapter(tiny_base_folder, root / "mine", rank=4)
    for rank in (1, 2):
        random_adapter(tiny_base_folder, root / f"r{rank}", rank=rank, seed=rank)
    family = f"each={root}/r{{1,2}}"
    aurac.compare([root / "mine", family], [TASK], out=root / "run", ranks="1,2", **SMALL)
    return root, family


def test_a_measurement_is_kept_with_its_conditions(compared):
    root, family = compared
    code, out, err = run_aurac(
        "cost", root / "mine", family, "--save", root / "run", "--repeats", "6", *QUICK
    )
    assert code == 0, err
    assert "base or merged" in out
    assert "token − that at rank 2" in out
    assert re.search(r"^measuring: 50 %, .* steps/s, \d+ s left$", err, re.MULTILINE)
    record = read_serving(root / "run", Results.read(root / "run"))
    assert [one.name for one in record.adapters] == ["mine", "each"]
    for one in record.adapters:
        assert [cost.rank for cost in one.ranks] == [1, 2]  # those of the run, not of the adapter
        assert one.ranks[0].bytes * 2 == one.ranks[1].bytes
    for cost in (record.merged, *record.adapters[0].ranks, *record.adapters[1].ranks):
        assert len(cost.prefill.rounds) == len(cost.decode.rounds) == 6
        assert 0 < min(cost.decode.rounds) == cost.decode.low <= cost.decode.median
    assert (record.batch, record.prompt_tokens, record.new_tokens) == (1, 4, 2)
    assert (record.dtype, record.device) == ("float32", "cpu")
    assert record.machine["threads"] >= 1
    assert record.versions["torch"]
    assert aurac.load_run(root / "run").serving.shape == (5, 10)


def test_json_is_what_is_kept(compared):
    root, _ = compared
    code, out, err = run_aurac(
        "cost", root / "mine", "--ranks", "2", "--repeats", "1", "--json", *QUICK
    )
    assert code == 0, err
    content = json.loads(out)
    assert (content["schema"], content["repeats"]) == (1, 1)
    assert [rank["rank"] for rank in content["adapters"][0]["ranks"]] == [2]
    assert content["merged"]["decode"]["low"] is None


def test_an_adapter_of_the_hub_is_named_by_repository_revision_and_folder(
    tiny_base_folder, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    root = tmp_path / "hub" / "models--owner--name"
    (root / "refs").mkdir(parents=True)
    for name, commit, rank in (("main", "a" * 40, 4), ("v1", "b" * 40, 2)):
        (root / "refs" / name).write_text(commit)
        random_adapter(tiny_base_folder, root / "snapshots" / commit / "sub", rank=rank)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, err = run_aurac("cost", "owner/name@v1:sub", "--repeats", "1", "--json", *QUICK)
    assert code == 0, err
    [adapter] = json.loads(out)["adapters"]
    assert [cost["rank"] for cost in adapter["ranks"]] == [1, 2]
    assert adapter["name"] == "sub"
    for name in ("owner/name@v2:sub", "owner/name@v1:other", "owner/other"):
        code, _, err = run_aurac("cost", name, *QUICK)
        assert (code, err.count("\n")) == (2, 1)
        assert name.partition("@")[0] in err


def test_another_base_or_adapter_is_refused(compared, tiny_base_folder, tmp_path):
    root, _ = compared
    other = random_adapter(tiny_base_folder, tmp_path / "other", rank=2, seed=9)
    code, _, err = run_aurac("cost", other, "--save", root / "run", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(r"adapter other \(\w{12}\) was not evaluated in .*run.*mine \(", err)
    base = shutil.copytree(tiny_base_folder, tmp_path / "base")
    (base / "model.safetensors").write_bytes(_other_weights(base))
    code, _, err = run_aurac("cost", root / "mine", "--base", base, "--save", root / "run", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(r"the base measured \(\w{12}\) is not that of .*run", err)
    code, _, err = run_aurac("cost", root / "mine", "--save", tmp_path, *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no results.json" in err


def test_a_prompt_longer_than_the_context_is_refused(compared):
    root, _ = compared
    code, _, err = run_aurac("cost", root / "mine", *QUICK, "--prompt-tokens", "255")
    assert (code, err.count("\n")) == (2, 1)
    assert "--prompt-tokens 255 and --new-tokens 2; expected at most 256 together" in err


def _other_weights(folder):
    from safetensors.torch import load_file, save

    tensors = load_file(folder / "model.safetensors")
    return save({name: tensor * 1.01 for name, tensor in tensors.items()}, {"format": "pt"})


@pytest.mark.parametrize("changed", ["sha256", "base_sha256", "name", "schema"])
def test_a_file_of_another_run_is_refused_by_all_readers(changed, tmp_path):
    folder = served(zoo_run(tmp_path, n=60).write())
    path = folder / SERVING_FILE
    content = json.loads(path.read_text())
    where = content["adapters"][0] if changed in ("sha256", "name") else content
    where[changed] = 2 if changed == "schema" else "e" * 64
    path.write_text(json.dumps(content))
    for command in (("report", folder), ("recommend", folder, *GATE, "99")):
        code, _, err = run_aurac(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert "delete it, or measure again" in err
    with pytest.raises(RunFolderError):
        _ = aurac.load_run(folder).serving


def test_recommend_says_what_the_rank_costs(tmp_path):
    folder = served(zoo_run(tmp_path, n=60).write())
    lines = run("recommend", folder, "--margin", "0.5").splitlines()
    rank = int(re.search(r"at rank (\d+)", lines[0])[1])
    assert f"rank {rank} takes {10 + rank / 4:.1f} [" in lines[1]
    assert "(difference: " in lines[1] or rank == 16
    assert "Merged, any rank takes 9.00 [" in lines[1]
    assert f"({1000 / (10 + rank / 4):.1f} tokens/s)" in lines[1]  # as `aurac cost` prints it
    (ship,) = json.loads(run("recommend", folder, "--margin", "0.5", "--json"))["ship"]
    token = ship["serving"]["unmerged"]["token"]
    assert token["low"] < token["median"] < token["high"]
    assert token["median"] == pytest.approx(0.010 + rank / 4000)
    assert ship["serving"]["merged"]["token"]["median"] == pytest.approx(0.009)


def test_a_latency_is_a_gate(tmp_path):
    """At a margin of 0.5 the ranks are small; the upper ends of the intervals decide."""
    folder = served(zoo_run(tmp_path, n=60).write())
    result = json.loads(run("recommend", folder, "--margin", "0.5", "--json"))["recommended"]
    own = [row["rank"] for row in result if "·" not in row["adapter"]]
    most = 10 + max(own) / 4
    assert "takes at most 99 ms a generated token" in run("recommend", folder, *GATE, "99")
    failed = run("recommend", folder, *GATE, most, code=4)  # the median is there, its end is not
    assert failed.startswith(
        f"Gate not passed: not shown to take at most {most:g} ms a generated token (within 50 "
        "points of the best rank; default truncations): "
    )
    assert " ms at rank " in failed.splitlines()[0]
    chosen = json.loads(run("recommend", folder, "--margin", "0.5", "--json"))["ship"][0]["rank"]
    assert chosen < max(own)
    alone = "The recommended configuration passes (--adapter dylora tests it alone):"
    assert alone in failed.splitlines()
    assert "Without the gate:" in run("recommend", folder, *GATE, "1", code=4).splitlines()
    none = run("recommend", folder, "--margin", "0.0001", *GATE[2:], "99", code=4)
    assert "(no rank is recommended, so none is timed)" in none.splitlines()[0]
    mixed = run("recommend", folder, *GATE, "1", "--require-rank", "16", code=4)
    assert mixed.startswith(
        "Gate not passed: not shown to take at most 1 ms a generated token (within 50 points of "
        "the best rank; default truncations): "
    )
    both = [*GATE, "99", "--require-rank", "16"]
    assert json.loads(run("recommend", folder, *both, "--json"))["shown"] is True
    assert json.loads(run("recommend", folder, *GATE, "1", "--json", code=4))["shown"] is False


def test_a_latency_that_was_not_measured(tmp_path):
    folder = zoo_run(tmp_path, n=60).write()
    (row,) = json.loads(run("recommend", folder, *GATE[:2], "--adapter", "lora", "--json"))["ship"]
    code, _, err = run_aurac("recommend", folder, *GATE, "99", "--adapter", "lora")
    assert f"run `aurac cost adapters/lora --ranks {row['rank']} --save {folder}` first" in err
    for options, words in [
        (None, "no latency of .* at rank .* was measured"),
        ({"ranks": (16,)}, "no latency of .* at rank .* was measured"),
        ({"repeats": 5}, "5 repeats give no interval"),
    ]:
        if options:
            served(folder, **options)
        code, _, err = run_aurac("recommend", folder, *GATE, "99")
        assert (code, err.count("\n")) == (2, 1)
        assert re.search(words, err)
        assert (
            "`aurac cost adapters/matryoshka adapters/dylora adapters/lora" in err
        )  # what can be typed
        assert f"--save {folder}`" in err
        assert options or err.count(" at rank ") == 3  # every adapter that lacks it
        assert ("expected at least 6 repeats" in err) == ("repeats" in words)
    text = run("recommend", folder, "--margin", "0.5")
    assert "too few repeats" in text
