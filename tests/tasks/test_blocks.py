"""A task evaluated block by block gives what it gives as a whole, and computes its header once."""

from __future__ import annotations

import numpy as np
import pytest
from harness_doubles import write_choice_task, write_text_task
from support.tasks import build_tasks, evaluate

from aurac.engine import EngineOptions


def built(write, folder, tokenizer, **options):
    (task,) = build_tasks([str(write(folder))], tokenizer=tokenizer, **options)
    return task


@pytest.mark.parametrize("write", [write_choice_task, write_text_task])
@pytest.mark.parametrize("shots", [0, 3])
def test_blocks_of_any_size_give_the_whole(tmp_path, tokenizer, models, write, shots):
    task = built(write, tmp_path, tokenizer, num_fewshot=shots)
    whole = evaluate(task, models[0], tokenizer, EngineOptions())
    evaluation = task.evaluation(models[0], tokenizer, EngineOptions())
    places = list(range(task.n_docs))
    for block in (places[5:], places[3:5], places[:3][::-1]):  # in any order
        outcome = evaluation.block(block)
        for key, scores in outcome.metrics.items():
            assert scores.tolist() == whole.metrics[key][block].tolist()
        for place, response in zip(block, outcome.responses, strict=True):
            if isinstance(response, str):
                assert response == whole.responses[place]
            else:
                np.testing.assert_allclose(response, whole.responses[place], atol=2e-4)


@pytest.mark.parametrize("write", [write_choice_task, write_text_task])
def test_a_fixed_header_is_computed_once_for_a_state_of_the_model(
    tmp_path, tokenizer, models, write
):
    task = built(write, tmp_path, tokenizer, num_fewshot=6, fewshot="fixed")
    whole = evaluate(task, models[0], tokenizer, EngineOptions()).engine
    evaluation = task.evaluation(models[0], tokenizer, EngineOptions())
    parts = [evaluation.block(range(k, k + 2)).engine for k in range(0, task.n_docs - 1, 2)]
    again = task.evaluation(models[0], tokenizer, EngineOptions()).block([0, 1]).engine
    header = parts[0].computed_tokens - parts[1].computed_tokens
    assert header > 60  # the examples are in the first block alone
    assert again.computed_tokens == parts[0].computed_tokens  # another state: once more
    total = sum(part.computed_tokens for part in parts)
    assert total <= 1.1 * whole.computed_tokens
    assert sum(part.distinct_tokens for part in parts) <= total
