"""A run exported as lm-eval's files is what lm-eval writes of the same model, and is read back."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner
from harness_doubles import stay_offline, write_choice_task, write_text_task
from support.evaltasks import built, evaluate

from aurac.cli import cli
from aurac.errors import AuracError
from aurac.exports import export
from aurac.readers import read_curves
from aurac.records.cells import CellStore
from aurac.records.lines import Aggregates, Block, CellIdentity, DocumentKey
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest
from aurac.records.run import read_run
from aurac.runs.manifest import task_info
from aurac.tasks.evaltask import EvalTask

pytestmark = pytest.mark.filterwarnings("ignore")
GROUP = "group: tiny_group\ntask: [tiny_choice, other_choice]\n"
GROUP += "aggregate_metric_list:\n  - metric: acc\n  - metric: acc_norm\nmetadata:\n  version: 1\n"
LIMIT, RANKS = 6, (1, 2)
NAMES = ("tiny_group", "tiny_text")


def model(salt):
    """An LM of lm-eval's class whose answers follow from the request and a number."""
    from lm_eval.api.model import LM

    class Ruled(LM):
        def loglikelihood(self, requests):
            return [(-float(number(r, salt)), number(r, salt) % 3 == 0) for r in requests]

        def loglikelihood_rolling(self, requests):
            return [-float(number(r, salt)) for r in requests]

        def generate_until(self, requests):
            return ["abcdefg"[number(r, salt) % 7] * 2 + "\nmore" for r in requests]

    return Ruled()


def number(request, salt):
    return int(hashlib.sha256(repr((request.args, salt)).encode()).hexdigest()[:2], 16)


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
def run(place, tmp_path_factory):
    """A run folder of one adapter under two cuts: the model of a cell is that of its salt."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tasks = built(list(NAMES), include_path=place, limit=LIMIT)
    store, leaves = CellStore(folder), [task for task in tasks if isinstance(task, EvalTask)]

    def cells(salt, **way):
        keys = {}
        for task in leaves:
            identity = CellIdentity(settings="s", task=task.name, **way)
            outcome = evaluate(task, model(salt))
            store.append(identity, Block(documents=documents(task), **vars(outcome)))
            values = task.aggregates(outcome.metrics)
            store.append(identity, Aggregates(examples=LIMIT, values=values))
            keys[task.name] = identity.key
        return keys

    base, cuts = cells(0), []
    ways = ("svd", "keep"), ("prefix", "rule")
    for at, (basis, rescale) in enumerate(ways):
        way = {"basis": basis, "rescale": rescale}
        made = {rank: cells(10 * at + rank, adapter="a", rank=rank, **way) for rank in RANKS}
        by_task = {t.name: {rank: made[rank][t.name] for rank in RANKS} for t in leaves}
        sizes = {task.name: LIMIT for task in leaves}
        cuts.append(CutInfo(adapter="../first", examples=sizes, cells=by_task, **way))
    for task in leaves:
        write_kept(folder, task)
    Manifest(
        settings={"gen_kwargs": None, "seed": 1234},
        provenance={
            "base": "models/base-1",
            "base_sha256": "ab",
            "dtype": "float32",
            "device": "cpu",
            "command": "aurac compare /home/me/first",
            "started": "2026-01-02T03:04:05+00:00",
            "finished": "2026-01-02T03:05:05+00:00",
            "versions": {"aurac": "1", "lm-eval": "2", "transformers": "3"},
        },
        adapters=[
            AdapterInfo(
                name="../first",
                path="first",
                method="lora",
                trained_rank=2,
                sizes={1: 2_000_000, 2: 4_000_000},
                licence="mit",
                sha256="cd",
            )
        ],
        tasks=[info(task) for task in tasks],
        asked=list(NAMES),
        cuts=cuts,
        base=base,
    ).write(folder)
    return folder


def documents(task):
    return [DocumentKey(*k) for k in zip(task.doc_ids, task.doc_hashes, task.prompt_hashes,
                                         strict=True)]  # fmt: skip


def info(task):
    files = {task.name: (f"documents/{task.name}.json", f"documents/{task.name}.jsonl.gz")}
    return task_info(task, {}, files)


def write_kept(folder, task):
    import gzip

    (folder / "documents").mkdir(parents=True, exist_ok=True)
    keys = [[key.id, key.content, key.prompt] for key in documents(task)]
    questions = {"questions": [None] * len(keys), "targets": [None] * len(keys)}
    path = folder / "documents" / f"{task.name}.json"
    path.write_text(json.dumps({"keys": keys, **questions}))
    lines = [json.dumps(row) for row in (task.record(), *task.rows())]
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "out"
    assert len(export(run, out)) == 1 + 2 * len(RANKS)
    return out


@pytest.fixture(scope="module")
def real(place, tmp_path_factory):
    """What lm-eval writes of the base and of the default cut's ranks, by its own code."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    root = tmp_path_factory.mktemp("real")
    for rank in (0, *RANKS):
        tracker = EvaluationTracker(output_path=str(root / f"rank_{rank}"))
        results = lm_eval.simple_evaluate(
            model(rank),
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
    ours = exported / ("..__first" if rank else "base") / f"rank_{rank}"
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
    for key in ("group_subtasks", "n-shot", "n-samples", "versions"):
        assert found[key] == theirs[key], key


def test_lm_evals_own_tools_read_an_export(exported):
    from lm_eval.utils import get_file_task_name, get_sample_results_filenames, make_table

    folder = exported / "..__first" / "rank_2"
    table = make_table(results_file(folder))
    assert "tiny_choice" in table
    assert "tiny_group" in make_table(results_file(folder), "groups")
    found = get_sample_results_filenames([str(path) for path in folder.rglob("*.json*")])
    names = {get_file_task_name(name.rsplit("/", 1)[-1]) for name in found}
    assert names == {"tiny_choice", "other_choice", "tiny_text"}


def test_an_export_has_the_curves_of_its_run(run, exported):
    after = {
        (c.adapter, c.task): c
        for c in read_curves(exported, {"tiny_text": "exact_match,strict-match"})
    }
    before = read_run(run).curves
    assert len(before) == 4
    for curve in before:
        same = after["..__first" + ("" if curve.basis == "svd" else "@prefix-rule"), curve.task]
        assert (same.ranks, same.accuracy) == (curve.ranks, curve.accuracy)
        assert same.baseline == pytest.approx(curve.baseline)


def test_a_card_says_the_scores_and_names_no_folder_of_this_machine(exported):
    import yaml

    text = (exported / "..__first" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["tags"]) == ("mit", ["lora", "aurac"])
    found = [row["dataset"]["name"] for row in front["model-index"][0]["results"]]
    assert sorted(found) == sorted(NAMES)
    assert "| 2 | " in text
    assert "| 4.00 |" in text
    assert "PEFT does not apply" not in text
    assert "aurac compare first`" in text


def damaged_requests(folder):
    (folder / "documents" / "tiny_text.jsonl.gz").write_bytes(b"no")


def other_requests(folder):
    wrong, right = (folder / "documents" / f"{n}.jsonl.gz" for n in ("other_choice", "tiny_choice"))
    wrong.write_bytes(right.read_bytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [(damaged_requests, "cannot be read"), (other_requests, "are of other examples")],
)
def test_runs_that_cannot_be_exported_say_why(run, tmp_path, change, words):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    change(tmp_path / "run")
    with pytest.raises(AuracError, match=words):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_overwrites_nothing(run, tmp_path):
    (tmp_path / "mine").write_text("kept")
    done = CliRunner().invoke(cli, ["export", str(run), "--out", str(tmp_path)])
    assert "already there" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
