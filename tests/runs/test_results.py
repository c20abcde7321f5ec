"""What `results.json` has of an adapter."""

from __future__ import annotations

from msgspec import UNSET
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import truncate
from aurac.runs.plan import variants_of
from aurac.runs.results import _adapter


def test_a_cut_has_its_parent_and_any_other_adapter_nothing_of_it():
    adapter = random_adapter(tiny_llama(), 4)
    cut = truncate(adapter, 2, basis="svd")
    (variant,) = variants_of("cut", cut, (2,))
    record = _adapter("cut", variant)
    assert record.derived == cut.derived
    assert record.derived.from_sha256 == adapter.sha256
    whole, *_ = variants_of("whole", adapter, (4,))
    assert _adapter("whole", whole).derived is UNSET
    assert "derived" not in _adapter("whole", whole).to_dict()
