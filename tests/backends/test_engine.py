"""The seam: a backend gives an lm-eval model for each cut, equal to ``HFLM`` with PEFT."""

from __future__ import annotations

import json
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adapters import load_with_peft, random_adapter
from engine_models import tiny, tokenizer

from aurac.adapters import save_adapter, truncate
from aurac.adapters.cut import Cut
from aurac.backends.engine import EngineBackend

TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "words": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["the"], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "surprise": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
""",
}


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """``lm_eval.simple_evaluate`` on a task of each kind of request."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    rows = [
        {"question": f"Question: what is {i} quick {i * 7} Answer:", "gold": i % 2,
         "choices": [f" fox {i}", " a lazy dog"]}
        for i in range(12)
    ]  # fmt: skip
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        where = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"task: {name}\n{where}test_split: test\n{text}")
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path))

    def evaluate(lm):
        results = lm_eval.simple_evaluate(
            lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, log_samples=True
        )
        return results["samples"]

    return evaluate


@pytest.mark.filterwarnings("ignore")
def test_simple_evaluate_gives_what_hflm_gives_with_peft(tmp_path, evaluated):
    from lm_eval.models.huggingface import HFLM

    model, tk = deepcopy(tiny("llama")), tokenizer()
    adapter = random_adapter(model, rank=4)
    backend = EngineBackend(SimpleNamespace(model=model, tokenizer=tk))
    for rank in (4, 2, None):
        folder = tmp_path / f"rank{rank}"
        if rank is None:
            cut, theirs = None, deepcopy(tiny("llama"))
        else:
            cut = Cut(adapter, rank, "prefix", "rule")
            exported = save_adapter(truncate(adapter, rank, basis="prefix"), folder)
            theirs = load_with_peft(deepcopy(tiny("llama")), exported)
        with backend.lm(cut) as lm:
            mine = evaluated(lm)
        expected = evaluated(HFLM(pretrained=theirs, tokenizer=tk, batch_size=4))
        for task, rows in expected.items():
            ours = {row["doc_id"]: row for row in mine[task]}
            for row in rows:
                own = ours[row["doc_id"]]
                assert own["arguments"] == row["arguments"]
                if task == "words":
                    assert own["resps"] == row["resps"]
                    continue
                a, b = (np.ravel(np.array(r["resps"], dtype=float)) for r in (own, row))
                np.testing.assert_allclose(a, b, atol=2e-4)
                if task == "choices":
                    assert own["acc"] == row["acc"]


def test_the_newest_cut_stays_attached_and_the_base_comes_back_untouched():
    from lm_eval.api.instance import Instance

    model = deepcopy(tiny("llama"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapters = [random_adapter(model, rank=4, seed=seed) for seed in (0, 1)]
    asked = [Instance("loglikelihood", {}, ("fox jumps over", f" the {w}"), 0) for w in "ab"]
    cuts = [Cut(a, r, "svd", "keep") for a in adapters for r in (4, 1)]
    cuts += [Cut(adapters[0], 2, "svd", "fit", factor) for factor in (0.5, 2.0)]
    answers = {}
    with EngineBackend(SimpleNamespace(model=model, tokenizer=tokenizer())) as backend:
        for turn in range(2):
            for place, cut in enumerate([None, *cuts]):
                with backend.lm(cut) as lm:
                    answer = lm.loglikelihood(asked)
                assert answers.setdefault(place, answer) == answer, turn
        with backend.lm(cuts[0]):
            assert set(dict(model.named_parameters())) != set(before)
    assert len({str(answer) for answer in answers.values()}) == len(cuts) + 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert set(before) == set(model.state_dict())


def test_a_sequence_to_sequence_model_is_answered_by_hflm():
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForSeq2SeqLM, T5Config

    from aurac.engine.lm import EngineLM

    config = T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    asked = [Instance("loglikelihood", {}, ("fox jumps", " the"), 0)]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer(), backend="seq2seq").loglikelihood(asked)
    assert EngineLM(model, tokenizer()).loglikelihood(asked) == theirs
