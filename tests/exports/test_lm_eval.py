"""lm-eval's own files: read where lm-eval wrote them, written as lm-eval would, read back."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from harness_doubles import (
    make_model,
    make_tokenizer,
    stay_offline,
    text_rows,
    write_choice_task,
    write_text_task,
)
from support.adapters import save_with_peft

from aurac.cli import cli
from aurac.errors import AuracError, DataError
from aurac.readers import read_curves

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("plain_figures")]

GROUP_YAML = """
group: tiny_group
task: [tiny_choice, other_choice]
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
  - metric: acc_norm
    weight_by_size: true
metadata:
  version: 1
"""
LIMIT = 6
# What lm-eval bootstraps or aurac does not average; a group's second one has other documents.
UNEQUAL = ("mcc_stderr,none",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base on disk, two tasks with a group and one that generates, two adapters of rank 2."""
    root = tmp_path_factory.mktemp("place")
    model, tokenizer = make_model(1), make_tokenizer()
    model.save_pretrained(root / "base-1")
    tokenizer.save_pretrained(root / "base-1")
    tasks = root / "tasks"
    write_choice_task(tasks)
    write_choice_task(tasks, "other_choice", offset=40)
    write_text_task(tasks, test=text_rows(8))
    (tasks / "tiny_group.yaml").write_text(GROUP_YAML)
    for seed, name in enumerate(("first", "second")):
        save_with_peft(make_model(1), root / name, seed=seed, r=2, target_modules=["q_proj"])
    return root


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        # lm-eval asks pip for everything that is installed: seconds, and of no interest here.
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "machine")
        yield


def lm_eval_writes(place, out, model="base-1", tasks=("tiny_group", "tiny_text")):
    """What `lm_eval --model hf --log_samples --output_path OUT` does, by lm-eval's own code."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(out))
    results = lm_eval.simple_evaluate(
        "hf",
        model_args={"pretrained": str(place / model), "dtype": "float32"},
        tasks=list(tasks),
        task_manager=TaskManager(include_defaults=False, include_path=str(place / "tasks")),
        evaluation_tracker=tracker,
        batch_size=2,
        device="cpu",
        limit=LIMIT,
        log_samples=True,
        bootstrap_iters=2,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])


@pytest.fixture(scope="module")
def real(place, tmp_path_factory):
    """Logs of the base at rank 0, and of two other random models as if they were ranks 1 and 2."""
    out = tmp_path_factory.mktemp("real")
    for seed in (2, 3):
        make_model(seed).save_pretrained(place / f"model-{seed}")
        make_tokenizer().save_pretrained(place / f"model-{seed}")
    for rank, model in enumerate(("base-1", "model-2", "model-3")):
        lm_eval_writes(place, out / f"rank_{rank}", model)
    return out


def call(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    tasks = ",".join(str(place / "tasks" / f"{name}.yaml") for name in ("tiny_group", "tiny_text"))
    call(
        "compare", place / "first", place / "second", "--tasks", tasks, "--limit", LIMIT,
        "--base", place / "base-1", "--dtype", "float32", "--device", "cpu", "--out", out,
        "--basis", "prefix,svd", "--method", "lora",
        "--metric", "tiny_text=exact_match,first-letter",
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def exported(run):
    out = run.parent / "exported"
    text = call("export", run, "--format", "lm-eval", "--out", out)
    # The base, and two adapters under two truncations at ranks 1 and 2.
    assert text.startswith("9 results and their samples")
    return out


def results_file(folder):
    (path,) = folder.rglob("results_*.json")
    return json.loads(path.read_text())


def samples_of(folder, task):
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- reading what lm-eval wrote -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("tiny_choice", "acc,none"),
        ("tiny_choice", "acc_norm,none"),
        ("other_choice", "acc,none"),
        ("tiny_text", "exact_match,strict-match"),
        ("tiny_text", "exact_match,first-letter"),
        ("tiny_group", "acc,none"),
    ],
)
def test_real_logs_give_lm_evals_own_numbers(real, tmp_path, task, metric):
    kept = [task] if task != "tiny_group" else ["tiny_choice", "other_choice"]
    for file in real.rglob("*.json*"):  # a metric of one task is not asked of the others
        if file.name.startswith("results_") or any(f"_{t}_2" in file.name for t in kept):
            target = tmp_path / file.relative_to(real)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    found = {c.task: c for c in read_curves(tmp_path, metric).curves}
    assert set(found) == {task, *(kept if task == "tiny_group" else ())}
    curve = found[task]
    assert curve.ranks == (1, 2)
    theirs = [results_file(real / f"rank_{r}")["results"][task][metric] for r in (0, 1, 2)]
    assert curve.baseline == pytest.approx(theirs[0], abs=1e-12)
    assert curve.accuracy == pytest.approx(theirs[1:], abs=1e-12)
    if task == "tiny_group":
        assert curve.n_docs == 2 * LIMIT
        assert curve.strata == (kept[0],) * LIMIT + (kept[1],) * LIMIT


def test_a_group_is_a_curve_with_its_tasks_as_strata(real):
    content = json.loads(call("score", real, "--json", "--details"))
    assert [row["task"] for row in content["scores"]] == [
        "other_choice", "tiny_choice", "tiny_text", "tiny_group",
    ]  # fmt: skip
    assert {row["adapter"] for row in content["scores"]} == {real.name}
    assert "2 fixed strata" in content["scores"][-1]["method"] or (
        content["scores"][-1]["method"].startswith(("rule", "Clopper"))
    )


def test_the_models_own_folder_does_not_name_the_rank(real, tmp_path):
    """`Mistral-7B-v0.1` ends in a number, and is where lm-eval puts the files of every rank."""
    for rank in (1, 2):
        (source,) = (real / f"rank_{rank}").iterdir()
        target = tmp_path / f"lora-{4 * rank}" / "org__Mistral-7B-v0.1"
        shutil.copytree(source, target)
        (path,) = target.glob("results_*.json")
        content = json.loads(path.read_text()) | {"model_name_sanitized": target.name}
        path.write_text(json.dumps(content))
    curves = read_curves(tmp_path).curves
    assert {c.adapter for c in curves} == {"lora"}
    assert {c.ranks for c in curves} == {(4, 8)}


# --- writing as lm-eval does ----------------------------------------------------------------------


def shape(value):
    """Keys and types, all the way down; a list is what its first element is."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_samples_are_those_of_lm_eval(real, exported):
    """Both evaluated the base: the same rows, but for the last digits of log-likelihoods."""
    for task, filters in (("tiny_choice", 1), ("other_choice", 1), ("tiny_text", 2)):
        theirs = samples_of(real / "rank_0", task)
        ours = samples_of(exported / "base" / "rank_0", task)
        assert len(theirs) == len(ours) == filters * LIMIT
        for their, our in zip(theirs, ours, strict=True):
            assert list(our)[:11] == list(their)[:11]
            assert set(our) == set(their)
            assert shape(our) == shape(their)
            assert set(our["metrics"]) == set(their["metrics"])
            numbers = {"resps", "filtered_resps"} if task != "tiny_text" else set()
            for key in set(their) - numbers - {"metrics"}:
                assert our[key] == their[key], key
            for key in numbers:
                flat = np.array(our[key], dtype=str).reshape(-1, 2)
                want = np.array(their[key], dtype=str).reshape(-1, 2)
                assert flat[:, 1].tolist() == want[:, 1].tolist()
                np.testing.assert_allclose(
                    flat[:, 0].astype(float), want[:, 0].astype(float), atol=2e-4
                )


def test_results_have_the_keys_and_types_of_lm_eval(real, exported):
    theirs, ours = results_file(real / "rank_0"), results_file(exported / "base" / "rank_0")
    assert set(ours) == set(theirs)
    assert list(ours["results"]) == list(theirs["results"])
    assert ours["results"] == {
        task: {
            key: pytest.approx(value, abs=1e-12) if isinstance(value, float) else value
            for key, value in row.items()
        }
        | {key: "N/A" for key in UNEQUAL if key in row}
        for task, row in theirs["results"].items()
    }
    for key in ("group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples",
                "task_hashes", "tokenizer_pad_token", "tokenizer_eos_token", "max_length",
                "tokenizer_bos_token", "eot_token_id", "transformers_version", "lm_eval_version",
                "model_source", "model_name", "chat_template",
                "system_instruction", "fewshot_as_multiturn"):  # fmt: skip
        assert ours[key] == theirs[key], key
    for task, config in theirs["configs"].items():
        del config["metadata"]["config_source"]  # a path of this machine
        for split, file in config["dataset_kwargs"]["data_files"].items():
            config["dataset_kwargs"]["data_files"][split] = file.rsplit("/", 1)[-1]
        assert ours["configs"][task] == config
    assert set(ours["config"]) == set(theirs["config"])
    for key in ("model", "model_num_parameters", "model_dtype", "device", "limit", "fewshot_seed"):
        assert ours["config"][key] == theirs["config"][key]
    (file,) = (exported / "base").rglob("results_*.json")
    assert file.parent.name == ours["model_name_sanitized"] == Path(theirs["model_name"]).name


def test_lm_evals_own_tools_read_an_export(exported):
    import datasets
    from lm_eval.utils import (
        get_file_task_name,
        get_latest_filename,
        get_results_filenames,
        get_sample_results_filenames,
        make_table,
    )

    folder = exported / "first" / "rank_2"
    table = make_table(results_file(folder))
    assert "tiny_choice" in table
    assert "acc" in table
    assert "tiny_group" in make_table(results_file(folder), "groups")
    names = [str(path) for path in folder.rglob("*.json*")]
    assert len(get_results_filenames(names)) == 1
    found = get_sample_results_filenames(names)
    short = [name.rsplit("/", 1)[-1] for name in found]
    assert {get_file_task_name(name) for name in short} == {
        "tiny_choice", "other_choice", "tiny_text",
    }  # fmt: skip
    assert get_latest_filename(short) in short
    for name in found:  # what the hub's viewer does with a samples file
        loaded = datasets.load_dataset("json", data_files=name, split="train")
        assert len(loaded) in (LIMIT, 2 * LIMIT)


# --- and back -------------------------------------------------------------------------------------


def test_an_export_has_the_curves_of_its_run(run, exported):
    """A variant is an adapter of its own, and the metric of one task has to be named."""

    def name(curve):
        default = curve.role in ("default", None)
        return curve.adapter if default else f"{curve.adapter}@{curve.basis}-{curve.rescale}"

    before, after = (
        {(c.task, name(c)): (c.ranks, c.accuracy, c.baseline, c.strata) for c in curves}
        for curves in (
            read_curves(run).curves,
            read_curves(exported, {"tiny_text": "exact_match,first-letter"}).curves,
        )
    )
    assert after == before


def test_a_curve_that_failed_everywhere_is_left_out_and_said(run, tmp_path, caplog):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    results = json.loads((copy / "results.json").read_text())
    for curve in results["curves"]:
        if (curve["adapter"], curve["task"]) == ("second", "tiny_text"):
            curve["accuracy"] = [None, None]
            curve["missing"] = {"1": "out of memory", "2": "out of memory"}
            curve["cells"] = {}
    (copy / "results.json").write_text(json.dumps(results))
    kept = {(c.adapter, c.task) for c in read_curves(copy).curves}
    assert ("second", "tiny_text") not in kept
    assert ("second", "tiny_choice") in kept
    assert "has no accuracy at any rank (out of memory) and is left out" in caplog.text


def test_a_seed_that_failed_everywhere_leaves_its_recipe_to_the_others(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    results = json.loads((copy / "results.json").read_text())
    results["groups"] = {"recipe": ["first", "second"]}
    for curve in results["curves"]:
        if curve["adapter"] == "second":
            curve |= {"accuracy": [None, None], "cells": {}}
    (copy / "results.json").write_text(json.dumps(results))
    found = read_curves(copy)
    assert found.groups == {"recipe": ["first"]}
    names = {row["adapter"] for row in json.loads(call("score", copy, "--json"))["scores"]}
    assert names == {"recipe", "recipe · svd · keep"}


def test_hostile_names_stay_in_the_folder(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    text = (copy / "results.json").read_text()
    (copy / "results.json").write_text(text.replace('"first"', '"../../first"'))
    call("export", copy, "--out", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "..__..__first" in names
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def damaged(run, tmp_path, change):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    change(copy)
    done = CliRunner().invoke(cli, ["export", str(copy), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, AuracError), done.output
    assert not (tmp_path / "out").exists()
    return str(done.exception)


def without_requests(copy):
    results = json.loads((copy / "results.json").read_text())
    for task in results["tasks"]:
        del task["requests"]
    (copy / "results.json").write_text(json.dumps(results))


def cut_requests(copy):
    (path, *_) = sorted((copy / "requests").iterdir())
    path.write_bytes(path.read_bytes()[:100])


def other_requests(copy):
    for path in sorted((copy / "requests").iterdir()):
        lines = gzip.decompress(path.read_bytes()).splitlines()
        path.write_bytes(gzip.compress(b"\n".join(lines[:-1])))


def lost_cells(copy):
    for path in (copy / "cells").iterdir():
        path.write_text("{}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_requests, "for a stored report with a new --out, and export that run"),
        (lambda copy: shutil.rmtree(copy / "requests"), "did not keep the prompts"),
        (cut_requests, "cannot be read"),
        (other_requests, "other documents than its task"),
        (lost_cells, "is missing or damaged; give the command of the run again"),
        (lambda copy: (copy / "results.json").unlink(), "holds no results.json"),
    ],
)
def test_runs_that_cannot_be_exported_say_why(run, tmp_path, change, words):
    assert words in damaged(run, tmp_path, change)


def test_an_export_overwrites_nothing(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    done = CliRunner().invoke(cli, ["export", str(run), "--out", str(tmp_path / "out")])
    assert "holds files" in str(done.exception)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_two_bases_are_one_too_many(real, tmp_path):
    shutil.copytree(real, tmp_path / "a")
    shutil.copytree(real / "rank_0", tmp_path / "b" / "rank_0")
    shutil.copytree(real / "rank_0", tmp_path / "c" / "rank_0")
    with pytest.raises(DataError, match="b, c have rank 0 only"):
        read_curves(tmp_path)
