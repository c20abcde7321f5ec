"""What an adapter on a live model refuses, and the base that it leaves behind.

Its numbers are in test_matrix.py.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from support.adapters import logits, random_adapter, tiny_gpt2, tiny_llama

from aurac.adapters import attach, check_fits, prepare
from aurac.errors import CheckpointError, RankError, UsageError


def test_removal_leaves_the_base_as_it_was():
    base = tiny_llama()
    adapter = random_adapter(base, 8)
    base.lm_head.requires_grad_(False)
    twin = copy.deepcopy(base)
    weights = list(base.parameters())
    before = [p.requires_grad for p in weights]
    assert set(before) == {True, False}
    with attach(base, prepare(adapter)) as live:
        assert live.model is base
        assert type(base) is type(twin)
        assert not any(p.requires_grad for p in weights)  # as PEFT has it
        live.set_rank(0)
        assert torch.equal(logits(base), logits(twin))
        assert [p.requires_grad for p in weights] == before
        live.set_rank(4)
        assert not torch.equal(logits(base), logits(twin))
        assert not any(p.requires_grad for p in weights)
        with pytest.raises(RankError, match="has the ranks 1 to 8"):
            live.set_rank(9)
        assert live.rank == 4
    with pytest.raises(UsageError, match="removed"):
        live.set_rank(1)
    base.train()
    with pytest.raises(ZeroDivisionError), attach(base, prepare(adapter)):
        _ = 1 / 0
    assert all(m.training for m in base.modules())
    assert str(base) == str(twin)
    assert set(vars(base)) == set(vars(twin))
    assert [p.requires_grad for p in base.parameters()] == before
    assert list(base.state_dict()) == list(twin.state_dict())
    for name, tensor in twin.state_dict().items():
        assert torch.equal(base.state_dict()[name], tensor)
    assert torch.equal(logits(base.eval()), logits(twin))


def test_an_adapter_of_another_base():
    base = tiny_llama()
    adapter = random_adapter(base, 8)
    with pytest.raises(
        CheckpointError,
        match=r"'random' .* 32 in and 32 out for model\.layers\.0.* where base .*has nothing",
    ):
        check_fits(adapter, tiny_gpt2())
    wrong = {n: replace(f, A=f.A[:, :-1]) for n, f in adapter.modules.items()}
    with pytest.raises(CheckpointError, match=r"31 in and 32 out .* has \(32, 32\)"):
        check_fits(replace(adapter, modules=wrong), base)
    with (
        attach(base, prepare(adapter)),
        pytest.raises(UsageError, match="carries an adapter already"),
    ):
        check_fits(adapter, base)
    check_fits(adapter, base)
