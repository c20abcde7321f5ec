"""On the packaged model: a cell equals ``lm_eval.simple_evaluate``, with lm-eval's own task files.

The reference reads the same local documents by another route: a YAML that includes the stock one
and points lm-eval's own JSON reader at them.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from harness_doubles import simple_evaluate, stay_offline
from support.evaltasks import built, evaluate, prompts

from aurac.engine.lm import EngineLM

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def base():
    from aurac.models.base import load_base

    return load_base("smollm2-135m-instruct-q4_1", dtype="float32", device="cpu")


def folder_of(task):
    folder = SHARED / task
    if not (folder / "test.jsonl").is_file():
        pytest.skip(f"the development data of {task} are not on this machine")
    return folder


def reference(task, folder, lm, tmp_path, monkeypatch, **options):
    import lm_eval.tasks

    stay_offline(monkeypatch, tmp_path / "hf")
    stock = next(Path(lm_eval.tasks.__file__).parent.glob(f"*/{task}.yaml"))
    path = tmp_path / "yaml" / f"{task}.yaml"
    path.parent.mkdir()
    path.write_text(
        f"include: {stock}\ntask: {task}\ndataset_path: json\ndataset_name: null\n"
        "validation_split: null\n"
        f"dataset_kwargs:\n  data_files:\n    train: {folder}/train.jsonl\n"
        f"    test: {folder}/test.jsonl\n"
    )
    return simple_evaluate(path, lm, **options)


@pytest.mark.parametrize(("task", "shots"), [("gsm8k", None), ("arc_easy", 25)])
def test_the_prompts_of_many_documents_equal_simple_evaluates(task, shots, tmp_path, monkeypatch):
    """With a model that answers nothing: this is about what is asked."""
    from lm_eval.models.dummy import DummyLM

    folder = folder_of(task)
    ours = built(task, num_fewshot=shots, limit=300, data={task: folder})
    results = reference(
        task, folder, DummyLM(), tmp_path, monkeypatch, num_fewshot=shots, limit=300
    )
    rows = results["samples"][task]
    rows = [row for row in rows if row["filter"] == rows[0]["filter"]]
    assert len(rows) == len(ours) == 300
    assert tuple(row["doc_hash"] for row in rows) == ours.doc_hashes
    assert prompts(ours) == [a for row in rows for a in row["arguments"]]


SINGLE_TURN = {"fewshot_as_multiturn": False, "system_instruction": "You solve problems."}


@pytest.mark.parametrize(
    ("task", "shots", "limit", "chat", "options"),
    [
        ("arc_easy", 3, 5, False, {}),
        ("arc_easy", 1, 5, True, {"system_instruction": "You know physics."}),
        ("gsm8k", 2, 1, False, {}),
        ("gsm8k", 1, 3, True, {**SINGLE_TURN, "gen_kwargs": {"max_gen_toks": 40, "until": ["."]}}),
    ],
)
def test_a_cell_equals_simple_evaluate(
    task, shots, limit, chat, options, base, tmp_path, monkeypatch
):
    from lm_eval.models.huggingface import HFLM

    folder = folder_of(task)
    options = {**options, "num_fewshot": shots, "limit": limit}
    ours = built(task, base.tokenizer, data={task: folder}, apply_chat_template=chat, **options)
    outcome = evaluate(ours, EngineLM(base.model, base.tokenizer))
    lm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1)
    results = reference(
        task, folder, lm, tmp_path, monkeypatch, apply_chat_template=chat, **options
    )
    samples: dict[str, list] = {}
    for row in results["samples"][task]:
        samples.setdefault(row["filter"], []).append(row)
    for name, rows in samples.items():
        assert [a for row in rows for a in row["arguments"]] == prompts(ours)
        assert tuple(str(row["doc_id"]) for row in rows) == ours.doc_ids
        assert tuple(row["doc_hash"] for row in rows) == ours.doc_hashes
        for metric in rows[0]["metrics"]:
            theirs = [float(row[metric]) for row in rows]
            assert outcome.metrics[f"{metric},{name}"] == theirs
    for kept, row in zip(outcome.responses, next(iter(samples.values())), strict=True):
        if ours.task.OUTPUT_TYPE == "multiple_choice":
            np.testing.assert_allclose(kept, [r[0][0] for r in row["resps"]], atol=1e-3)
        else:
            assert kept == row["resps"][0][0]


def test_picks_in_16_bit_differ_from_hflms_only_within_rounding():
    """Where another choice is picked, its own log-likelihood is within rounding of the best.

    99 of 100 log-probabilities of two passes over the same tokens, batched in another way, lay
    within .31 in bf16 on this base, and the largest sum of a choice .73 apart.
    """
    from lm_eval.models.huggingface import HFLM

    from aurac.models.base import load_base

    folder = folder_of("arc_easy")
    base = load_base("smollm2-135m-instruct-q4_1", dtype="bfloat16", device="cpu")
    task = built("arc_easy", base.tokenizer, num_fewshot=0, limit=30, data={"arc_easy": folder})
    requests = task.instances(range(30))
    hflm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=8)
    theirs = [value for value, _ in hflm.loglikelihood(requests, disable_tqdm=True)]
    mine = [value for value, _ in EngineLM(base.model, base.tokenizer).loglikelihood(requests)]
    gaps = []
    for _, members in groupby(range(len(requests)), lambda i: requests[i].doc_id):
        place = list(members)
        a, b = (np.asarray([side[i] for i in place]) for side in (mine, theirs))
        assert np.abs(a - b).max() < 0.05 * np.abs(b).max() + 0.6
        gaps.append(a.max() - a[b.argmax()])
    assert len(gaps) == 30
    assert max(gaps) <= 0.6
    assert sum(gap > 0 for gap in gaps) <= 3
