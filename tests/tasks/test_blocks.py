"""A task evaluated block by block gives what it gives as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from harness_doubles import write_choice_task, write_text_task
from support.tasks import build_tasks, evaluate

from aurac.engine.lm import EngineLM


def built(write, folder, tokenizer, **options):
    (task,) = build_tasks([str(write(folder))], tokenizer=tokenizer, **options)
    return task


@pytest.mark.parametrize("write", [write_choice_task, write_text_task])
@pytest.mark.parametrize("shots", [0, 3])
def test_blocks_of_any_size_give_the_whole(tmp_path, tokenizer, models, write, shots):
    task = built(write, tmp_path, tokenizer, num_fewshot=shots)
    whole = evaluate(task, models[0], tokenizer)
    evaluation = task.evaluation(EngineLM(models[0], tokenizer))
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
