"""The seam: a backend gives an lm-eval model for each cut, equal to ``HFLM`` with PEFT."""

from __future__ import annotations

from copy import deepcopy
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adapters import load_with_peft, random_adapter
from engine_models import tiny, tokenizer
from harness_doubles import (
    NEXT_WORD_YAML,
    simple_evaluate,
    stay_offline,
    text_rows,
    write_choice_task,
    write_task,
    write_text_task,
)
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForSeq2SeqLM, T5Config

from aurac.adapters import save_adapter, truncate
from aurac.adapters.cut import Cut
from aurac.backends.engine import EngineBackend
from aurac.engine.lm import EngineLM


@pytest.mark.filterwarnings("ignore")
def test_simple_evaluate_gives_what_hflm_gives_with_peft(tmp_path, monkeypatch):
    """On a task of each kind of request; two have a beginning that all prompts share."""
    stay_offline(monkeypatch, tmp_path / "hf")
    fields = {"kind": "loglikelihood_rolling", "metric": "word_perplexity"}
    rolling = write_task(tmp_path, "rolling", NEXT_WORD_YAML, [], text_rows(8), **fields)
    choice, text = write_choice_task(tmp_path), write_text_task(tmp_path)
    for path in (choice, text):
        path.write_text(f"{path.read_text()}description: '{HEADER}'\n")
    model, tk = deepcopy(tiny("llama")), tokenizer()
    adapter = random_adapter(model, rank=4)
    backend = EngineBackend(SimpleNamespace(model=model, tokenizer=tk))
    for task, rank in product((choice, text, rolling), (4, 2, None)):
        cut, theirs = None, deepcopy(tiny("llama"))
        if rank:
            cut = Cut(adapter, rank, "prefix", "rule")
            exported = truncate(adapter, rank, basis="prefix")
            theirs = load_with_peft(theirs, save_adapter(exported, tmp_path / "cut", force=True))
        with backend.lm(cut) as lm:
            mine = simple_evaluate(task, lm)["samples"][task.stem]
        hflm = HFLM(pretrained=theirs, tokenizer=tk, batch_size=4)
        expected = simple_evaluate(task, hflm)["samples"][task.stem]
        assert len(mine) == len(expected) > 7
        for own, row in zip(*(sorted(x, key=place_of) for x in (mine, expected)), strict=True):
            assert own["arguments"] == row["arguments"]
            if task is text:
                assert own["resps"] == row["resps"]
                continue
            a, b = (np.ravel(np.array(r["resps"], dtype=float)) for r in (own, row))
            np.testing.assert_allclose(a, b, atol=2e-4)
            assert own.get("acc") == row.get("acc")


HEADER = "the quick brown fox jumps over a lazy dog . " * 6  # that the engine computes once


def place_of(row):
    return row["filter"], row["doc_id"]


def test_the_newest_cut_stays_attached_and_the_base_comes_back_untouched():
    model = deepcopy(tiny("llama"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapters = [random_adapter(model, rank=4, seed=seed) for seed in (0, 1)]
    asked = [Instance("loglikelihood", {}, (HEADER + word, " the dog"), 0) for word in "abcdefghij"]
    cuts = [Cut(a, r, "svd", "keep") for a in adapters for r in (4, 1)]
    cuts += [Cut(adapters[0], 2, "svd", "fit", factor) for factor in (0.5, 2.0)]
    alone = []  # of a backend that answers for this cut alone
    for cut in (None, *cuts):
        base = SimpleNamespace(model=deepcopy(model), tokenizer=tokenizer())
        with EngineBackend(base) as backend, backend.lm(cut) as lm:
            alone.append(lm.loglikelihood(asked))
            assert len(lm._header) > 0
    with EngineBackend(SimpleNamespace(model=model, tokenizer=tokenizer())) as backend:
        places = [*enumerate([None, *cuts])]
        for place, cut in (*places, *reversed(places)):
            with backend.lm(cut) as lm:
                assert lm.loglikelihood(asked) == alone[place], place
        with backend.lm(cuts[0]):
            assert set(dict(model.named_parameters())) != set(before)
    assert len({str(answer) for answer in alone}) == len(cuts) + 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert set(before) == set(model.state_dict())


def test_a_sequence_to_sequence_model_is_answered_by_hflm():
    config = T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    asked = [Instance("loglikelihood", {}, ("fox jumps", " the"), 0)]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer(), backend="seq2seq").loglikelihood(asked)
    assert EngineLM(model, tokenizer()).loglikelihood(asked) == theirs
