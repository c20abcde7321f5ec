"""Broken logits fail a cell instead of counting as wrong answers."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_models import tiny, tokenizer

from aurac.engine.counts import watched
from aurac.engine.generate import generate
from aurac.engine.loglikelihood import loglikelihoods
from aurac.engine.tokens import GenerationRequest
from aurac.errors import CellError


def with_bias(values: dict[int, float]) -> object:
    """A model that adds these to its logits."""
    model = copy.deepcopy(tiny("llama"))
    old = model.get_output_embeddings()
    head = torch.nn.Linear(old.in_features, old.out_features, bias=True)
    with torch.no_grad():
        head.weight.copy_(old.weight)
        head.bias.zero_()
        for token, value in values.items():
            head.bias[token] = value
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinity_is_refused(value: float) -> None:
    model = with_bias({7: value})
    with watched(model) as watch, pytest.raises(CellError, match="no finite number"):
        generate(model, tokenizer(), [GenerationRequest("fox", (), 3)])
    assert watch.passes == 0  # the first one ended it
    with pytest.raises(CellError):
        watch.check()


def test_a_row_without_any_token_is_refused() -> None:
    model = with_bias(dict.fromkeys(range(300), float("-inf")))
    with watched(model), pytest.raises(CellError):
        loglikelihoods(model, tokenizer(), [("fox", " dog")])


def test_tokens_that_are_ruled_out_are_no_fault() -> None:
    model = with_bias({299: float("-inf")})
    with watched(model) as watch:
        generate(model, tokenizer(), [GenerationRequest("fox", (), 3)])
    watch.check()
    assert watch.passes >= 3
