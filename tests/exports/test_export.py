"""A run exported as lm-eval's files is what lm-eval writes of the same model, and is read back."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from harness_doubles import stay_offline, write_choice_task, write_text_task
from huggingface_hub import parse_eval_result_entries
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from msgspec import structs
from safetensors.numpy import load_file
from support.small_runs import random_adapter

from aurac.adapters import Nesting, load_adapter, save_adapter, truncate
from aurac.analysis import Question, analyse
from aurac.cli import cli
from aurac.curves.curve import Curve
from aurac.errors import AuracError
from aurac.exports import _export_folders, export
from aurac.exports.lm_eval_files import safe
from aurac.exports.model_card import card, hub_entries
from aurac.readers import read_curves
from aurac.records.run import read_run
from aurac.runs.compare import run as compare
from aurac.runs.settings import Settings
from aurac.show import screen

pytestmark = pytest.mark.filterwarnings("ignore")
GROUP = "group: tiny_group\ntask: [tiny_choice, other_choice]\n"
GROUP += "aggregate_metric_list:\n  - metric: acc\n  - metric: acc_norm\nmetadata:\n  version: 1\n"
LIMIT, RANKS = 6, (1, 2)
NAMES = ("tiny_group", "tiny_text")


@register_model("ruled")
class Ruled(LM):
    """Its answers follow from the request and the tensors of the adapter."""

    def __init__(self, pretrained=None, peft=None, **_):
        super().__init__()
        tensors = load_file(f"{peft}/adapter_model.safetensors") if peft else {}
        self.salt = {name: tensor.tolist() for name, tensor in sorted(tensors.items())}

    def number(self, request):
        told = repr((request.args, self.salt)).encode()
        return int(hashlib.sha256(told).hexdigest()[:2], 16)

    def loglikelihood(self, requests, disable_tqdm=False):
        return [(-float(self.number(r)), self.number(r) % 3 == 0) for r in requests]

    def generate_until(self, requests, disable_tqdm=False):
        return ["abcdefg"[self.number(r) % 7] * 2 + "\nmore" for r in requests]

    loglikelihood_rolling = None  # no task asks for it


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    write_choice_task(root)
    write_choice_task(root, "other_choice", offset=40)
    write_text_task(root)
    (root / "tiny_group.yaml").write_text(GROUP)
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "machine")
        yield root


@pytest.fixture(scope="module")
def adapter(place, tiny_base_folder):
    folder, plain = place / "first", Nesting("lora", (2,))
    random_adapter(tiny_base_folder, folder, name="first", rank=2, nesting=plain)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def run(place, adapter, tmp_path_factory):
    """A run folder of one adapter under two cuts."""
    words = {"out": tmp_path_factory.mktemp("runs") / "run", "model": "ruled", "limit": LIMIT}
    words |= {"basis": "svd,prefix", "include_path": place, "device": "cpu", "dtype": "float32"}
    command = f"aurac compare {adapter}"
    return compare(Settings.of(adapter, NAMES, **words), command=command, report=False).folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "out"
    assert len(export(run, out)) == 1 + 2 * len(RANKS)
    assert safe("../first") == "..__first"
    return out


@pytest.fixture(scope="module")
def real(place, adapter, tmp_path_factory):
    """What lm-eval writes of the base and of the default cut's ranks, by its own code."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    root, whole = tmp_path_factory.mktemp("real"), load_adapter(adapter)
    for rank in (0, *RANKS):
        cut = save_adapter(truncate(whole, rank), root / f"cut{rank}") if rank else None
        tracker = EvaluationTracker(output_path=str(root / f"rank_{rank}"))
        results = lm_eval.simple_evaluate(
            Ruled(peft=cut),
            tasks=list(NAMES),
            task_manager=TaskManager(include_defaults=False, include_path=str(place)),
            limit=LIMIT,
            bootstrap_iters=2,
        )
        samples = results.pop("samples")
        tracker.general_config_tracker.model_name_sanitized = "base"
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    return root


def results_file(folder):
    (path,) = folder.rglob("results_*.json")
    return json.loads(path.read_text())


def samples_of(folder, task):
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("rank", [0, *RANKS])
def test_samples_and_values_are_those_of_lm_eval(real, exported, rank):
    ours = exported / ("first" if rank else "base") / f"rank_{rank}"
    for task, filters in (("tiny_choice", 1), ("other_choice", 1), ("tiny_text", 2)):
        theirs = samples_of(real / f"rank_{rank}", task)
        assert len(theirs) == filters * LIMIT
        assert [list(row)[:11] for row in samples_of(ours, task)] == [list(r)[:11] for r in theirs]
        assert samples_of(ours, task) == theirs
    theirs, found = results_file(real / f"rank_{rank}"), results_file(ours)
    for task, row in theirs["results"].items():
        wanted = {key: "N/A" if "mcc_stderr" in key else value for key, value in row.items()}
        assert {key: found["results"][task].get(key) for key in row} == {
            key: pytest.approx(value, abs=1e-12) if isinstance(value, float) else value
            for key, value in wanted.items()
        }
    same = ("group_subtasks", "higher_is_better", "n-shot", "n-samples", "versions")
    for key in (*same, "lm_eval_version", "transformers_version", "system_instruction_sha"):
        assert found[key] == theirs[key], key


def test_lm_evals_own_tools_read_an_export(exported):
    from lm_eval.utils import get_file_task_name, get_sample_results_filenames, make_table

    folder = exported / "first" / "rank_2"
    assert "tiny_choice" in make_table(results_file(folder))
    assert "tiny_group" in make_table(results_file(folder), "groups")
    found = get_sample_results_filenames([str(path) for path in folder.rglob("*.json*")])
    assert len({get_file_task_name(name.rsplit("/", 1)[-1]) for name in found}) == 3


HUB = {"dataset_path": "openai/gsm8k"}
LOCAL = HUB | {"custom_dataset": "aurac.tasks.local_data:with_local_examples"}


def told_otherwise(folder, task, config, original):
    """Change what a run folder keeps of a task."""
    stem = f"documents/{task}"
    path = folder / f"{stem}.jsonl.gz"
    first, *rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    first |= {"config": first["config"] | config, "dataset_revision": "e53f048"}
    first |= {"original": original}
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, [first, *rows])).encode()))


def hub_results(folder):
    """What the hub's own parser reads of a repository: name of the file → entries."""
    return {
        path.name: parse_eval_result_entries(yaml.safe_load(path.read_text()))
        for path in (folder / ".eval_results").glob("*")
    }


def test_the_hub_reads_the_result_of_the_cut_that_is_shipped(run, real, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for member in ("tiny_choice", "other_choice"):
        told_otherwise(folder, member, HUB, original=LIMIT)
    export(folder, tmp_path / "out")
    [(name, [entry])] = hub_results(tmp_path / "out" / "first").items()
    theirs = results_file(real / "rank_2")["results"]["tiny_group"]["acc,none"]
    assert 0 < theirs < 1
    found = name, entry.dataset_id, entry.task_id, entry.dataset_revision
    assert found == ("tiny_group.yaml", "openai/gsm8k", "tiny_group", "e53f048")
    assert entry.value == pytest.approx(100 * theirs, abs=1e-4)
    assert entry.date == read_run(folder).provenance["started"]
    for words in ("rank 2", "svd", "acc,none", "2-shot", "split test"):
        assert words in entry.notes


@pytest.mark.parametrize(
    ("config", "original"),
    [(HUB, LIMIT + 1), (LOCAL, LIMIT), ({}, LIMIT), ({"dataset_path": "."}, LIMIT)],
    ids=["some examples", "local files in its place", "json", "a folder"],
)
def test_no_result_is_written_for_the_hub_of_other_examples(run, tmp_path, config, original):
    folder = shutil.copytree(run, tmp_path / "run")
    told_otherwise(folder, "tiny_text", config, original)
    export(folder, tmp_path / "out")
    assert hub_results(tmp_path / "out" / "first") == {}


def curve_of(scores, **cut):
    """A curve of 60 examples at ranks 1 and 2, of which the base answers none."""
    labels = {"task": "tiny_text", "metric": "exact_match,none", "adapter": "first"}
    return Curve.from_outcomes(
        (1, 2), scores, base_scores=[0.0] * 60, trained_rank=2, **labels, **cut
    )


@pytest.mark.parametrize(("margin", "value"), [(None, 100.0), (0.2, 95.0), (0.01, 100.0)])
def test_the_recommended_rank_is_shipped_and_else_the_trained_one(run, margin, value):
    """57 of 60 at rank 1, all at rank 2: rank 1 loses 5 points."""
    curve = curve_of([[1.0] * 57 + [0.0] * 3, [1.0] * 60], basis="svd", rescale="keep")
    told = {"tiny_text": {"config": HUB, "original": 60}}
    analysis = analyse([curve], Question(margin=margin))
    found = hub_entries(read_run(run), {"tiny_text": curve}, analysis, told)
    assert found["tiny_text"].value == pytest.approx(value)


@pytest.mark.parametrize("name", ["first", "base"])
def test_an_export_has_the_curves_of_its_run(run, name, tmp_path):
    manifest = shutil.copytree(run, tmp_path / "run") / "run.json"
    manifest.write_text(manifest.read_text().replace('"first"', f'"{name}"'))
    export(tmp_path / "run", tmp_path / "out")
    found = read_curves(tmp_path / "out", {"tiny_text": "exact_match,strict-match"})
    after = {(curve.adapter, curve.task): curve for curve in found}
    before = read_run(run).curves
    assert len(before) == 4
    for curve in before:
        same = after[name + ("" if curve.basis == "svd" else "@prefix-rule"), curve.task]
        assert (same.ranks, same.accuracy) == (curve.ranks, curve.accuracy)
        assert same.baseline == pytest.approx(curve.baseline)


def test_adapters_whose_names_are_one_as_files_have_folders_of_their_own(run):
    stored = read_run(run)
    names = ("a/b", "a__b", "base")
    stored.adapters = tuple(structs.replace(stored.adapters[0], name=name) for name in names)
    stored.cuts = [structs.replace(stored.cuts[0], adapter=name) for name in names]
    found = {
        each.folder: each.cut.adapter if each.cut else None for each in _export_folders(stored)
    }
    assert found == {"_base": None, "a__b": "a/b", "a__b_": "a__b", "base": "base"}


def test_a_card_says_the_scores_and_names_no_folder_of_this_machine(exported):
    text = (exported / "first" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["tags"]) == ("mit", ["lora", "aurac"])
    assert all(f"## {name}" in text for name in NAMES)
    assert "PEFT does not apply" not in text
    assert "aurac compare first`" in text
    assert "Ship" not in text


@pytest.mark.parametrize("folded", [False, True])
def test_a_card_says_whether_peft_computes_what_was_measured(run, folded):
    stored = read_run(run)
    info = structs.replace(stored.adapters[0], folded=folded)
    curve = curve_of(np.ones((2, 60)), rescale="trained")
    text = card(stored, info, {"tiny_text": curve}, analyse([curve]))
    assert ("PEFT does not apply the trained P" in text) == (not folded)


def test_a_card_says_what_to_ship_and_its_slot(run, tmp_path):
    words = ["export", str(run), "--out", str(tmp_path / "out"), "--margin", "0.9"]
    CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    text = " ".join((tmp_path / "out" / "first" / "README.md").read_text().split())
    assert "| vLLM rank |" in text
    shown = {curve.task: curve for curve in read_run(run).curves[::-1]}  # the default cut
    advice = screen(analyse(shown.values(), Question(margin=0.9)), width=10_000)
    said = [line for line in advice.splitlines() if line.startswith("Ship")]
    assert len(said) == len(NAMES)
    assert all(sentence in text for sentence in said)


def test_what_cannot_be_exported_changes_nothing(run, tmp_path):
    folder, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "out"
    stem = "documents/tiny_text"
    (folder / f"{stem}.jsonl.gz").write_bytes(b"no")
    for source, place, said in ((folder, out, "cannot be read"), (run, folder, "already there")):
        with pytest.raises(AuracError, match=said):
            export(source, place)
    assert not out.exists()


def test_an_export_says_the_factors_of_a_fitted_scale(tiny_base_folder, tmp_path):
    folder, task = random_adapter(tiny_base_folder, tmp_path / "mine", rank=2), "tiny_choice"
    write_choice_task(tmp_path / "tasks")
    words = {"include_path": tmp_path / "tasks", "device": "cpu", "limit": 2, "rescale": "fit"}
    settings = Settings.of(folder, task, out=tmp_path / "run", dtype="float32", **words)
    run = compare(settings, report=False).folder
    kept = {json.loads(path.read_text())["factor"] for path in (run / "fit").iterdir()}
    found = {}
    for path in export(run, tmp_path / "out"):
        how = json.loads(path.read_text())["config"]["model_args"]
        found |= {how["rank"]: how[f"factor_{task}"]} if "rank" in how else {}
    assert set(found.values()) == kept
    card = (tmp_path / "out" / "mine" / "README.md").read_text()
    listed = ", ".join(f"{found[rank]:.4g} at rank {rank}" for rank in (1, 2))
    assert f"Its scale is the trained one times {listed}." in card
