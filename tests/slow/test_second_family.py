"""On Gemma-3-270M, whose layers see a window of the context: what aurac answers is lm-eval's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM
from support.adapters import random_adapter
from support.evaltasks import built
from support.second_family import gemma_folder

from aurac.adapters import attach, prepare
from aurac.engine.lm import EngineLM
from aurac.models.base import load_base

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_log_likelihoods_of_two_ranks_are_lm_evals():
    base = load_base(str(gemma_folder()), dtype="float32", device="cpu")
    adapter = random_adapter(base.model, 4, names=["q_proj", "down_proj"], alpha=0.1)
    task = built("aurac_word_problems_mc", base.tokenizer, num_fewshot=2, limit=6)
    requests = task.instances(range(6))
    engine = EngineLM(base.model, base.tokenizer)
    seen = []
    with attach(base.model, prepare(adapter)) as live:
        for rank in (0, 1, 4):
            live.set_rank(rank)
            engine.forget()
            hflm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1)
            theirs = hflm.loglikelihood(requests, disable_tqdm=True)
            mine = engine.loglikelihood(requests)
            values = np.array([value for value, _ in theirs])
            np.testing.assert_allclose([value for value, _ in mine], values, atol=2e-3)
            assert [greedy for _, greedy in mine] == [greedy for _, greedy in theirs]
            seen.append(values)
    assert min(np.abs(a - b).max() for a, b in pairwise(seen)) > 0.1
