"""Where features meet: packed and grown, several prompts in one folder, commands gone wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.harness_doubles import text_rows, write_text_task
from support.runs_doubles import Task
from support.small_runs import TASK, run_small

from aurac.adapters import Adapter, Factors, save_adapter
from aurac.errors import CellError, CheckpointError, RunFolderError
from aurac.notebook import load_run
from aurac.records.lines import examples_sha256
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


def test_a_task_with_other_filters_needs_a_folder_of_its_own(adapters, tmp_path):
    options = {"ranks": "4", "limit": 2}
    run_small(adapters["dylora"], tmp_path / "run", [write_text_task(tmp_path)], **options)
    changed = [write_text_task(tmp_path, take="(.+)")]
    words = "of task tiny_text was scored with other filters or metrics"
    with pytest.raises(RunFolderError, match=rf"{words}\): give a new folder with --out"):
        run_small(adapters["dylora"], tmp_path / "run", changed, **options)


@pytest.mark.parametrize("workers", [{}, {"ray": "127.0.0.1:1"}])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": [*text_rows(1), *text_rows(1, 9), *text_rows(9, 2)]}, "example 2"),
        ({"test": text_rows(3, 9)}, "examples 1, 2 and 3"),
        ({"temperature": 0.5}, "examples 1, 2 and 3"),  # prompts, in which the settings stand
    ],
)
def test_examples_that_changed_are_refused_by_name(
    adapters, tmp_path, monkeypatch, change, said, workers
):
    """Before anything is computed or written, and before a cluster is looked for."""
    options = {"ranks": "2,4", "limit": 3}
    run_small(adapters["dylora"], tmp_path / "run", [write_text_task(tmp_path)], **options)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    changed, options = [write_text_task(tmp_path, **change)], options | workers
    monkeypatch.setattr(fit, "best_factor", lambda *_: pytest.fail("a factor was looked for"))
    for more in ({"limit": 3}, {"limit": 5, "basis": "prefix", "rescale": "fit"}):
        words = f"^{said} of tiny_text changed: give a new folder with --out"
        with pytest.raises(RunFolderError, match=words):
            run_small(adapters["lora"], tmp_path / "run", changed, **options | more)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}


def test_a_later_command_extends_the_examples_of_a_task_or_reads_their_beginning(
    adapters, tmp_path
):
    """The screen is on the examples of its command, the folder on all; a share is a number."""
    run_small(adapters["dylora"], tmp_path, ranks="2,4", limit=4)
    look = run_small(adapters["lora"], tmp_path, ranks="2,4", limit=0.002)  # of 1,000
    assert [curve.n_docs for curve in look.curves] == [2]
    more = run_small(adapters["lora"], tmp_path, ranks="2,4", limit=6)
    both = load_run(tmp_path)
    assert both.scores.adapter.tolist() == ["lora", "dylora"]
    assert both.scores.reason.tolist() == [None, "it was asked 4 of 6 examples"]
    own = both.points[(both.points["adapter"] == "lora") & (both.points["rank"] == 4)]
    assert own["accuracy"].item() == more.curves[0].outcomes[-1].mean()
    assert len(both.ask(limit=4).pairs) == len(both.ask(limit=2).pairs) == 1


def test_a_name_renames_on_the_screen_of_its_command_alone(adapters, tmp_path):
    """A name that the folder has given to another adapter is refused."""
    first, second = adapters["dylora"], adapters["lora"]
    run_small([f"a={first}", f"b={second}"], tmp_path, ranks="2,4", limit=3)
    with pytest.raises(CheckpointError, match="another adapter called b"):
        run_small([f"b={first}", f"a={second}"], tmp_path, ranks="2,4", limit=3)
    again = run_small([f"c={first}", f"d={second}"], tmp_path, ranks="2,4", limit=3, reference="d")
    kept = load_run(tmp_path)
    assert (again.question.reference, kept.question.reference) == ("d", "b")
    for run, names in ((again, "cd"), (kept, "ab")):
        methods = [(adapter.name, adapter.method) for adapter in run.adapters]
        assert methods == [*zip(names, ("dylora", "lora"), strict=True)]


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


def test_what_an_interrupted_command_asked_is_said_to_be_missing(adapters, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("aurac.runs.compare._compute", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_small(adapters["dylora"], tmp_path, ranks="4", limit=4)
    fewer = run_small(adapters["dylora"], tmp_path, ranks="4", limit=2)
    assert [curve.ranks for curve in fewer.curves] == [(4,)]
    [curve] = load_run(tmp_path).curves
    assert (curve.ranks, curve.missing) == ((), {4: "2 of 4 examples: repeat the command"})
    run_small(adapters["dylora"], tmp_path, ranks="4", limit=4)
    assert [curve.ranks for curve in load_run(tmp_path).curves] == [(4,)]


def test_a_reference_that_failed_everywhere_is_said(adapters, tmp_path, monkeypatch, caplog):
    real = compute.blocks

    def blocks(cell, *rest):
        if cell.curve_key and cell.curve_key.adapter == "lora":
            raise CellError("it overflows")
        return real(cell, *rest)

    monkeypatch.setattr(compute, "blocks", blocks)
    both = [adapters["dylora"], adapters["lora"]]
    run = run_small(both, tmp_path, ranks="4", limit=2, reference="lora")
    assert {curve.adapter: curve.ranks for curve in run.curves} == {"dylora": (4,), "lora": ()}
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


def test_a_worker_ends_without_its_accelerator_and_computes_no_other_examples(monkeypatch):
    task, ended = Task("t"), []
    [cell] = plan({}, [task], "s")
    inputs = {"leaves": [task], "cuts": {}, "digest": "s", "tokens": {}, "identity": {}}
    monkeypatch.setattr(ray, "_served", lambda *_: (SimpleNamespace(**inputs, backend=None), {}))
    monkeypatch.setattr(ray.os, "_exit", lambda code: ended.append(code) or raises(SystemExit)())
    monkeypatch.setattr(ray, "blocks", raises(RuntimeError("CUDA error: unspecified")))

    def answer(keys):
        where = None, 0, 0, examples_sha256(keys), None
        return list(ray.answer((b"", ""), cell.key, where, [[0]]))

    with pytest.raises(ray.ClusterError, match=r"every node needs the same .*data"):
        answer(task.keys[:4])
    with pytest.raises(SystemExit):
        answer(task.keys)
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
    short, long = (written(tmp_path / f"{n}", adapters["dylora"], n) for n in (3, 40))
    longer = [a != b for a, b in zip(short.responses, long.responses, strict=True)]
    assert all(cut for cut, more in zip(short.unfinished, longer, strict=True) if more)
    assert any(longer)
