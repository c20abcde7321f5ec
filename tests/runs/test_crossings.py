"""Where features meet: packed and grown, several prompts in one folder, commands gone wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.harness_doubles import text_rows, write_text_task
from support.runs_doubles import Task
from support.small_runs import TASK, run_small

from aurac.adapters import Adapter, Factors, save_adapter
from aurac.errors import CellError, RunFolderError
from aurac.notebook import load_run
from aurac.records.folder import RunFolder
from aurac.records.run import read_run
from aurac.runs import compute, fit, ray
from aurac.runs.inputs import load
from aurac.runs.plan import plan
from aurac.runs.settings import Settings

WORDS = "aurac_word_problems"


def test_a_run_that_was_ended_before_its_first_cell_takes_other_settings(
    adapters, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(fit, "best_factor", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_small(adapters["dylora"], tmp_path, ranks="4", rescale="fit", basis="prefix")
    run = run_small(adapters["dylora"], tmp_path, ranks="4", max_length=64)
    assert read_run(tmp_path).manifest.settings["max_length"] == 64
    with pytest.raises(RunFolderError, match="max_length was 64, is 32"):
        run_small(adapters["dylora"], run.folder, ranks="4", max_length=32)


def raises(error):
    def act(*_):
        raise error

    return act


def test_each_task_has_its_own_prompts_and_one_set_of_them(adapters, tmp_path):
    run_small(adapters["dylora"], tmp_path, ranks="4", limit=3)
    more = {"ranks": "4", "limit": 3, "num_fewshot": 1}
    run_small(adapters["dylora"], tmp_path, (WORDS,), gen_kwargs="max_gen_toks=4", **more)
    shots = {task.name: task.num_fewshot for task in read_run(tmp_path).tasks}
    assert shots == {TASK: 0, WORDS: 1}
    with pytest.raises(RunFolderError, match=f"of task {TASK} num_fewshot was 0, is 1"):
        run_small(adapters["dylora"], tmp_path, **more)
    with pytest.raises(RunFolderError, match=f"of task {WORDS} gen_kwargs was"):
        run_small(adapters["dylora"], tmp_path, (WORDS,), gen_kwargs="max_gen_toks=8", **more)


def test_a_task_with_other_filters_needs_a_folder_of_its_own(adapters, tmp_path):
    options = {"ranks": "4", "limit": 2}
    run_small(adapters["dylora"], tmp_path / "run", [write_text_task(tmp_path)], **options)
    changed = [write_text_task(tmp_path, take="(.+)")]
    words = "of task tiny_text was scored with other filters or metrics"
    with pytest.raises(RunFolderError, match=rf"{words}\): give a new folder with --out"):
        run_small(adapters["dylora"], tmp_path / "run", changed, **options)


@pytest.mark.parametrize("more", [{"temperature": 0.5}, {"test": text_rows(3, 50)}])
def test_a_task_whose_data_or_prompts_changed_has_other_examples(adapters, tmp_path, more):
    """Nothing of the first adapter is lost, and the two have no example in common."""
    options = {"ranks": "2,4", "limit": 2}
    run_small(adapters["dylora"], tmp_path / "run", [write_text_task(tmp_path)], **options)
    changed = [write_text_task(tmp_path, **more)]
    run_small(adapters["lora"], tmp_path / "run", changed, **options)
    both = load_run(tmp_path / "run")
    assert {curve.adapter: curve.n_docs for curve in both.curves} == {"dylora": 2, "lora": 2}
    assert [row.outside for row in both.analysis.rows] == [None, "0 of 2 examples"]
    assert both.pairs.empty


def test_of_commands_with_other_numbers_of_examples_most_rows_times_examples_are_compared(
    adapters, tmp_path
):
    """2 rows × 3 examples are more than 1 × 4; 2 × 2 are not."""
    more = run_small(adapters["dylora"], tmp_path, ranks="2,4", limit=4)
    run_small(adapters["lora"], tmp_path, ranks="2,4", limit=1)
    both = load_run(tmp_path)
    assert dict(zip(both.scores.adapter, both.scores.examples, strict=True)) == {
        "dylora": 4, "lora": 1,
    }  # fmt: skip
    run_small(adapters["lora"], tmp_path, ranks="2,4", limit=3)
    both = load_run(tmp_path)
    assert both.scores.examples.tolist() == [3, 3]
    own = both.points[(both.points["adapter"] == "dylora") & (both.points["rank"] == 4)]
    assert own["accuracy"].item() == more.curves[0].outcomes[-1][:3].mean()
    assert len(both.pairs) == 1


def test_a_name_renames_on_the_screen_of_its_command_alone(adapters, tmp_path):
    """The names are swapped: `b` is the first command's `a`."""
    first, second = adapters["dylora"], adapters["lora"]
    run_small([f"a={first}", f"b={second}"], tmp_path, ranks="2,4", limit=3)
    again = run_small([f"b={first}", f"a={second}"], tmp_path, ranks="2,4", limit=3, reference="a")
    assert [(adapter.name, adapter.method) for adapter in again.adapters] == [
        ("b", "dylora"), ("a", "lora"),
    ]  # fmt: skip
    kept = load_run(tmp_path)
    assert [(adapter.name, adapter.method) for adapter in kept.adapters] == [
        ("a", "dylora"), ("b", "lora"),
    ]  # fmt: skip
    assert kept.question.reference == "b"


@pytest.mark.usefixtures("plain_figures", "reports")
def test_a_report_that_was_interrupted_is_written_again(adapters, tmp_path, monkeypatch):
    options = {"ranks": "2,4", "limit": 3}
    run_small(adapters["dylora"], tmp_path, **options)
    with monkeypatch.context() as patch:
        patch.setattr("aurac.show.report.html_page", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_small(adapters["dylora"], tmp_path, **options | {"limit": 4})
    run_small(adapters["dylora"], tmp_path, **options | {"limit": 4})
    assert "4 examples" in (tmp_path / "report.html").read_text()
    assert "4 examples" in (tmp_path / "report.md").read_text()


def test_a_smaller_run_after_an_interrupted_larger_one_is_read(adapters, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("aurac.runs.compare._compute", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_small(adapters["dylora"], tmp_path, ranks="4", limit=4)
    assert not load_run(tmp_path).curves
    run_small(adapters["dylora"], tmp_path, ranks="4", limit=2)
    assert [curve.n_docs for curve in load_run(tmp_path).curves] == [2]


def test_a_reference_that_failed_everywhere_is_said(adapters, tmp_path, monkeypatch, caplog):
    real = compute.blocks

    def blocks(cell, *rest):
        if cell.row and cell.row.adapter == "lora":
            raise CellError("it overflows")
        return real(cell, *rest)

    monkeypatch.setattr(compute, "blocks", blocks)
    both = [adapters["dylora"], adapters["lora"]]
    run = run_small(both, tmp_path, ranks="4", limit=2, reference="lora")
    assert [curve.adapter for curve in run.curves] == ["dylora"]
    assert "lora has no result to compare with" in caplog.text


def keys(tmp_path, adapters, **options):
    inputs = load(Settings.of(adapters, TASK, limit=2, dtype="float32", device="cpu", **options))
    return {(cell.label, cell.key) for cell in inputs.cells()}


def test_rows_that_another_adapter_adds_to_the_base_are_in_the_identity_of_all_cells(
    tiny_base_folder, adapters, tmp_path
):
    import torch

    rows = torch.randn(70, 32)
    factors = Factors(torch.randn(4, 32), torch.randn(32, 4), alpha=1.0, rule="sqrt")
    wide = Adapter(
        name="wide",
        modules={"model.layers.0.self_attn.q_proj": factors},
        base=str(tiny_base_folder),
        extras={"model.embed_tokens.weight": rows, "lm_head.weight": rows},
        peft_config={"modules_to_save": ["embed_tokens", "lm_head"]},
    )
    folder = save_adapter(wide, tmp_path / "wide")
    alone = keys(tmp_path, adapters["dylora"])
    beside = keys(tmp_path, [adapters["dylora"], folder])
    assert alone.isdisjoint(beside)


def test_a_process_that_ends_takes_nothing_from_one_that_writes(adapters, tmp_path):
    run = run_small(adapters["dylora"], tmp_path / "run", ranks="4")
    folder = RunFolder(run.folder)
    before = (run.folder / "locks" / "run.lock").stat().st_ino
    held = folder.take("k")
    run_small(adapters["dylora"], tmp_path / "run", ranks="4")
    assert (run.folder / "locks" / "run.lock").stat().st_ino == before
    assert folder.take("k") is None
    held.release()


def test_a_worker_without_its_accelerator_ends_and_fails_no_cell(monkeypatch):
    ended = []
    monkeypatch.setattr(ray.os, "_exit", lambda code: ended.append(code) or raises(SystemExit)())
    monkeypatch.setattr(ray, "blocks", raises(RuntimeError("CUDA error: unspecified")))
    [task] = tasks = [Task("t")]
    [cell] = plan({}, tasks, "s")
    inputs = SimpleNamespace(backend=None, leaves=[task], cuts={}, digest="s", tokens={})
    monkeypatch.setattr(ray, "_served", lambda *_: (inputs, {}))
    with pytest.raises(SystemExit):
        list(ray.answer((b"", ""), cell.key, (None, 0, 0, None), [[0]]))
    assert ended == [1]


def written(folder, adapter, tokens):
    """The block of an adapter's answers of at most so many tokens."""
    options = {"ranks": "4", "gen_kwargs": f"max_gen_toks={tokens}"}
    run = run_small(adapter, folder, (WORDS,), **options)
    assert run.task(WORDS).token_limit == tokens
    [block] = run.store.read(run.cuts[0].cells[WORDS][4]).blocks
    return block


def test_answers_that_reach_the_token_limit_are_counted(adapters, tmp_path):
    """An answer that goes on with a larger limit was cut off; one that was not is the same."""
    for name in adapters:
        short = written(tmp_path / f"{name}-3", adapters[name], 3)
        long = written(tmp_path / f"{name}-40", adapters[name], 40)
        longer = [a != b for a, b in zip(short.responses, long.responses, strict=True)]
        assert all(cut for cut, more in zip(short.unfinished, longer, strict=True) if more)
        assert any(longer)
