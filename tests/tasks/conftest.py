"""What the tests of the tasks share: a tokenizer, two models, no network."""

from __future__ import annotations

import pytest
from harness_doubles import make_model, make_tokenizer, stay_offline


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def models():
    return [make_model(1), make_model(2)]


@pytest.fixture
def offline(tmp_path_factory, monkeypatch):
    """Asks nothing of a hub; lm-eval's own reading of documents has a cache of its own."""
    stay_offline(monkeypatch, tmp_path_factory.mktemp("hf"))
