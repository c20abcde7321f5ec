"""On the zoo: perplexities, samples and chats are lm-eval's with PEFT.

All ranks of all three adapters were equal, too; they take 10 minutes on one core.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from harness_doubles import simple_evaluate, stay_offline

import aurac
from aurac.records.run import read_run

ZOO = Path(__file__).parents[2] / "adapters_zoo" / "word_problems"
METHODS = ("lora",)
RANKS = (0, 1, 16)
EXAMPLES = 2

WIKITEXT = """
include: {stock}
task: wikitext
dataset_path: json
dataset_name: null
training_split: null
validation_split: null
dataset_kwargs: {{data_files: {{test: {folder}/test.jsonl}}}}
"""
SAMPLED = """
include: {stock}
task: sampled
generation_kwargs: {{until: ["Question:"], max_gen_toks: 24, do_sample: true, temperature: 0.8}}
"""
CHAT = {"apply_chat_template": True, "num_fewshot": 1, "system_instruction": "You count well."}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def base():
    from aurac.models.base import load_base

    return load_base("smollm2-135m-instruct-q4_1", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Task files; pages in wikitext's columns, since hubs are out of reach."""
    import lm_eval.tasks

    from aurac.tasks import include_path, load_split

    folder = tmp_path_factory.mktemp("tasks")
    said = [row["question"] for row in load_split("aurac_word_problems", "test")]
    pages = [f" = Page {i} = \n\n {' '.join(said[8 * i : 8 * i + 8])} \n" for i in range(EXAMPLES)]
    rows = "".join(json.dumps({"page": page}) + "\n" for page in pages)
    (folder / "test.jsonl").write_text(rows)
    stock = Path(lm_eval.tasks.__file__).parent / "wikitext" / "wikitext.yaml"
    (folder / "wikitext.yaml").write_text(WIKITEXT.format(stock=stock, folder=folder))
    bundled = include_path() / "aurac_word_problems.yaml"
    (folder / "sampled.yaml").write_text(SAMPLED.format(stock=bundled))
    (folder / "chat.yaml").write_text(f"include: {bundled}\ntask: chat\n")
    return folder


@pytest.fixture(scope="module")
def runs(tasks, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    words = {"limit": EXAMPLES, "ranks": RANKS[1:], "dtype": "float32", "device": "cpu"}
    checkpoints = [ZOO / method for method in METHODS]
    data = {"wikitext": tasks}
    plain = ["wikitext", tasks / "sampled.yaml"]
    return {
        "plain": aurac.compare(checkpoints, plain, out=out / "plain", data=data, **words),
        "chat": aurac.compare(checkpoints, [tasks / "chat.yaml"], out=out / "c", **words, **CHAT),
    }


def reference(base, tasks, task, method, rank, tmp_path, **options):
    """lm-eval's results with PEFT on the cut that aurac writes to a folder."""
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel

    model = copy.deepcopy(base.model)
    if rank:
        cut = aurac.truncate(aurac.load_adapter(ZOO / method), rank)
        folder = aurac.save_adapter(cut, tmp_path / f"{method}{rank}")
        model = PeftModel.from_pretrained(model, folder)
    lm = HFLM(pretrained=model.eval(), tokenizer=base.tokenizer, batch_size=1)
    return simple_evaluate(tasks / f"{task}.yaml", lm, limit=EXAMPLES, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("task", "run"), [("wikitext", "plain"), ("sampled", "plain"), ("chat", "chat")]
)
def test_a_rank_equals_lm_eval_with_peft(
    task, run, method, base, tasks, runs, tmp_path, monkeypatch
):
    stay_offline(monkeypatch, tmp_path / "hf")
    done = read_run(runs[run].folder)
    [curve] = [c for c in done.curves if (c.task, c.adapter) == (task, method)]
    assert curve.ranks == RANKS[1:]
    texts = set()
    for rank in RANKS:
        options = CHAT if task == "chat" else {}
        theirs = reference(base, tasks, task, method, rank, tmp_path, **options)
        if task == "wikitext":
            ours = curve.baseline if rank == 0 else curve.accuracy[curve.ranks.index(rank)]
            expected = theirs["results"][task]["word_perplexity,none"]
            np.testing.assert_allclose(ours, expected, rtol=1e-4)
            texts.add(round(ours, 2))
            continue
        cut = (method, curve.basis, curve.rescale) if rank else (None, None, None)
        ours = done.samples(task, *cut, rank)
        rows = sorted(theirs["samples"][task], key=lambda row: row["doc_id"])
        answers = [row["resps"][0][0] for row in rows if row["filter"] == rows[0]["filter"]]
        assert ours.response.tolist() == answers, rank
        texts.update(answers)
    assert len(texts) >= len(RANKS)
