"""`compare` end to end on a tiny random Llama: cells, curves, resuming, growing, refusing."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from harness_doubles import write_jsonl
from support.small_runs import SMALL, TASK, assert_clean, cell_files, random_adapter, run_small

import aurac
from aurac.adapters import load_adapter, save_adapter, truncate
from aurac.cli.results import answered
from aurac.errors import CheckpointError, RankError, RunFolderError, TaskError, UsageError
from aurac.records.run import read_run
from aurac.runs.compare import dry_run
from aurac.runs.inputs import load
from aurac.runs.settings import Settings
from aurac.tasks.evaltask import EvalTask


@pytest.fixture(scope="module")
def run(adapters, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aurac.notebook.Run.report", lambda _run: None)
        return run_small(list(adapters.values()), tmp_path_factory.mktemp("runs") / "run")


def test_a_run_holds_a_curve_for_each_adapter_and_the_base_once(run):
    ways = [(c.adapter, c.basis, c.rescale, c.ranks, c.n_docs) for c in run.curves]
    assert ways == [
        ("lora", "svd", "keep", (1, 2, 4), 5),
        ("dylora", "prefix", "rule", (1, 2, 4), 5),
        ("matryoshka", "prefix", "trained", (1, 2, 4), 5),
    ]
    assert len(cell_files(run.folder)) == 1 + 3 * 3
    assert {c.baseline for c in run.curves} == {run.curves[0].base_scores.mean()}
    adapter = load_adapter(run.adapters[0].path)
    assert run.adapters[0].sizes == {rank: adapter.bytes(rank) for rank in (1, 2, 4)}
    assert_clean(run.folder)


def test_what_grew_is_what_a_fresh_run_holds(adapters, tmp_path):
    """Examples, ranks, cuts and adapters; the call returns what it was asked for."""
    out = tmp_path / "run"
    run_small(adapters["dylora"], out, ranks="4", limit=3)
    run_small(adapters["dylora"], out, ranks="1,4", limit=5)
    words = {**SMALL, "ranks": "1", "basis": ("svd", "prefix"), "margin": 0.5}
    more = aurac.compare(adapters["lora"], TASK, out=out, **words)
    assert (more.folder, more.question.margin) == (out, 0.5)
    assert set(more.scores.adapter) == {"lora"}
    held = read_run(out)
    assert [(c.adapter, c.basis, c.ranks, c.n_docs) for c in held.curves] == [
        ("dylora", "prefix", (1, 4), 5),
        ("lora", "svd", (1, 4), 5),
        ("lora", "prefix", (1, 4), 5),
    ]
    fresh = run_small(adapters["dylora"], tmp_path / "fresh", ranks="1,4")
    assert held.curves[0].outcomes.tolist() == fresh.curves[0].outcomes.tolist()


def test_other_weights_under_a_name_get_another_name(tiny_base_folder, tmp_path, caplog):
    folder = random_adapter(tiny_base_folder, tmp_path / "mine", seed=1)
    run_small(folder, tmp_path / "run", ranks="4")
    random_adapter(tiny_base_folder, tmp_path / "mine", seed=2)
    run = run_small(folder, tmp_path / "run", ranks="4")
    assert [adapter.name for adapter in run.adapters] == [f"{tmp_path.name}/mine"]
    assert "the run has another adapter called mine" in caplog.text
    with pytest.raises(CheckpointError, match="has another adapter called mine"):
        run_small(f"mine={folder}", tmp_path / "run", ranks="4")


def test_what_cannot_be_used_leaves_no_folder(adapters, tiny_base_folder, tmp_path):
    lora, out = adapters["lora"], tmp_path / "no"
    copy = random_adapter(tiny_base_folder, tmp_path / "copy", name="x", seed=7)
    for error, message, given, options in [
        (CheckpointError, "are the same adapter", [lora, lora], {}),
        (CheckpointError, "folder or file", [tmp_path / "nothing"], {}),
        (RankError, "9 is none", [lora], {"ranks": "9"}),
        (TaskError, "nothing_like_it", [lora], {"tasks": ("nothing_like_it",)}),
        (UsageError, "group g names x", [lora], {"groups": {"g": ["lora", "x"]}}),
        (UsageError, "needs basis prefix", [copy], {"basis": "svd", "rescale": "trained"}),
    ]:
        with pytest.raises(error, match=message):
            run_small(given, out, **options)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files"):
        run_small(lora, tmp_path / "full")


def test_too_few_examples_for_a_margin_are_said_first(adapters, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(EvalTask, "ask", lambda *_: pytest.fail("asked before"))
    with pytest.raises(pytest.fail.Exception):
        run_small(adapters["dylora"], tmp_path / "run", ranks="4", margin=0.02)
    few = (
        "5 examples are too few for a margin of 2 points: even a rank that loses nothing needs 215."
    )
    assert f"{TASK}: {few}" in caplog.text


def test_examples_of_ones_own_have_two_scores_from_one_pass(adapters, tmp_path):
    rows = [{"prompt": f"Question {n}", "completion": f" {n}"} for n in range(3)]
    task = write_jsonl(tmp_path / "held.out.jsonl", rows)
    given = {"ranks": "1", "metric": "whole_completion"}
    [whole] = run_small(adapters["lora"], tmp_path / "run", task, **given).curves
    assert (whole.task, whole.metric) == ("held.out", "whole_completion,none")
    cells = cell_files(tmp_path / "run")
    again = run_small(adapters["lora"], tmp_path / "run", task, ranks="1", metric="token_accuracy")
    assert cell_files(tmp_path / "run") == cells  # nothing is computed
    assert again.curves[0].metric == "token_accuracy,none"
    assert again.curves[0].nats == whole.nats
    [stored] = aurac.load_run(tmp_path / "run").curves
    assert stored.metric == "token_accuracy,none"  # of the last command
    for found in (
        aurac.load_run(tmp_path / "run").ask(metrics="whole_completion").curves,
        aurac.read_curves(tmp_path / "run", metric="held.out=whole_completion"),
        answered(tmp_path / "run", metric=("whole_completion",), margin=0.1).curves,
    ):
        assert found[0].metric == whole.metric
        assert np.array_equal(found[0].outcomes, whole.outcomes)
    assert set(whole.nats) == {0, 1, 4}
    [same] = run_small(adapters["lora"], tmp_path / "hflm", task, ranks="1", model="hflm").curves
    assert np.array_equal(same.outcomes, whole.outcomes)
    assert same.nats == {}


CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
NEVER = "used no chat template, as far as its folder tells; the prompts are chats all the same"
PERHAPS = "messages go through the chat template; if the adapter was trained without it, give"
HAS_ONE = "the folder has a chat template; if the adapter was trained with it, give --apply-chat"


@pytest.mark.parametrize(
    ("folder", "prompts", "said"),
    [
        ("nothing", "a task", None),
        ("template", "a task", HAS_ONE),
        ("template", "chats of a task", None),
        ("template", "texts", None),
        ("template", "messages", PERHAPS),
        ("nothing", "messages", PERHAPS),
        ("plain tokenizer", "messages", NEVER),
        ("plain recipe", "messages", NEVER),
        ("plain recipe", "chats of a task", NEVER),
        ("recipe of chats", "messages", PERHAPS),
        ("recipe of chats", "a task", HAS_ONE),
    ],
)
def test_prompts_that_the_training_may_not_have_had_are_said(
    adapters, tiny_base_folder, tmp_path, caplog, folder, prompts, said
):
    mine, base = tmp_path / "mine", shutil.copytree(tiny_base_folder, tmp_path / "base")
    (base / "chat_template.jinja").write_text(CHAT)
    recipes = {"plain recipe": "Q: {q}", "recipe of chats": "user: {q}<eos>"}
    recipe = {"prompt": recipes[folder]} if folder in recipes else None
    save_adapter(replace(load_adapter(adapters["lora"]), recipe=recipe), mine)
    if folder == "template":
        (mine / "chat_template.jinja").write_text(CHAT)
    if folder == "plain tokenizer":
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_base_folder / file, mine)
    words = {"ranks": "4", "base": str(base), "apply_chat_template": prompts == "chats of a task"}
    if folder == "plain tokenizer":
        words["tokenizer"] = "base"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = {"messages": {"messages": talk}, "texts": {"prompt": "a", "completion": "b"}}
    task = write_jsonl(tmp_path / "own.jsonl", [rows[prompts]]) if prompts in rows else TASK
    load(Settings.of([mine], task, **SMALL, **words))
    assert [text for text in (NEVER, PERHAPS, HAS_ONE) if text in caplog.text] == [said][
        : bool(said)
    ]


def test_the_default_folder_is_by_tasks_prompts_and_settings(adapters):
    def folder(*names, **more):
        words = {"dtype": "float32", "device": "cpu", **more}
        return dry_run(Settings.of([adapters[name] for name in names], TASK, **words))[0]

    same = folder("lora", "dylora", limit=3)
    assert same == folder("dylora", limit=4, ranks="1")
    assert len({same, folder("lora", num_fewshot=1), folder("lora", dtype="bfloat16")}) == 3


def test_a_folder_goes_on_with_its_own_dtype(adapters, tmp_path):
    words = {"out": tmp_path / "run", "limit": 2, "device": "cpu", "ranks": "1"}
    assert load(Settings.of(adapters["lora"], TASK, **words)).base.dtype == "float32"
    run_small(adapters["lora"], dtype="bfloat16", **words)
    later = Settings.of(adapters["dylora"], TASK, **words)
    assert load(later).base.dtype == "bfloat16"
    with pytest.raises(RunFolderError, match="dtype was 'bfloat16', is 'float32'"):
        run_small(adapters["lora"], dtype="float32", **words)


def test_rank_r_of_a_family_is_the_adapter_trained_at_r(adapters, tmp_path):
    adapter = load_adapter(adapters["dylora"])
    for rank in (1, 4):
        aurac.save_adapter(truncate(adapter, rank), tmp_path / "lora" / f"r{rank}")
    run = run_small([f"per rank={tmp_path}/lora/r{{1,4}}"], tmp_path / "family")
    [curve] = run.curves
    assert (curve.adapter, curve.ranks) == ("per rank", (1, 4))
    assert run.adapters[0].format == "family"
    whole = run_small(adapters["dylora"], tmp_path / "whole", ranks="1,4")
    assert curve.outcomes.tolist() == whole.curves[0].outcomes.tolist()
    folder = run_small([tmp_path / "lora"], tmp_path / "again")
    assert folder.curves[0].outcomes.tolist() == curve.outcomes.tolist()


def test_a_batch_systems_signal_interrupts_a_script(adapters, tmp_path, monkeypatch):
    """Its own handler is there again afterwards; in another thread nothing can be handled."""

    def terminated(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("aurac.runs.compare.compute", terminated)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_small(adapters["lora"], tmp_path / "run", ranks="4")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    with ThreadPoolExecutor() as pool:
        monkeypatch.undo()
        pool.submit(run_small, adapters["lora"], tmp_path / "run", ranks="4").result()


def test_names_that_clash_are_told_apart_and_kept(tiny_base_folder, tmp_path):
    places = [tmp_path / name / "same" for name in "ab"]
    both = [random_adapter(tiny_base_folder, at, seed=seed) for seed, at in enumerate(places)]
    run = run_small(both, tmp_path / "run", ranks="4", limit=2)
    names = [adapter.name for adapter in run.adapters]
    assert len({*names}) == 2
    again = run_small(both[::-1], tmp_path / "run", ranks="4", limit=2)
    assert [adapter.name for adapter in again.adapters] == names[::-1]
