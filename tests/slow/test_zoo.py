"""The adapters that come with the sources."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
ZOO = REPOSITORY / "adapters_zoo" / "word_problems"
METHODS = ("lora", "dylora", "matryoshka")


@pytest.mark.parametrize("method", METHODS)
def test_zoo_adapters_are_plain_peft_of_about_10_megabytes(method):
    from peft import PeftModel

    from aurac.adapters import load_adapter
    from aurac.models.base import load_base

    adapter = load_adapter(ZOO / method)
    assert adapter.method == method
    assert adapter.rank == 16
    assert adapter.recipe is not None
    size = sum(p.stat().st_size for p in (ZOO / method).iterdir())
    assert size < 10.5e6
    assert (ZOO / method / "README.md").read_text().strip()
    loaded = load_base(adapter.base)
    assert loaded.sha256 == adapter.base_sha256
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        PeftModel.from_pretrained(loaded.model, ZOO / method)
