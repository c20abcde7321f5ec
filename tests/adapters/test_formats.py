"""A format of another kind, made known by its class alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from support.adapters import logits, tiny_llama
from typing_extensions import override

from aurac.adapters import Adapter, Factors, Nesting, attach, load_adapter, prepare, save_adapter
from aurac.adapters import formats as registry
from aurac.adapters.formats.sidecar import Format, save_sidecar
from aurac.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from aurac.adapters.formats.sidecar import Source

Q = "model.layers.0.self_attn.q_proj"


class Toy(Format):
    """A JSON file of factors."""

    suffixes = (".toy",)

    @override
    def read(self, source: Source) -> Adapter:
        pairs = json.loads(source.path.read_text())
        modules = {
            name: Factors(torch.tensor(A), torch.tensor(B), 2.0, "none")
            for name, (A, B) in pairs.items()
        }
        return Adapter(source.path.stem, modules, source=source.path, format="toy")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    path = tmp_path / "x.toy"
    A, B = torch.randn(4, 32), torch.randn(32, 4)
    path.write_text(json.dumps({Q: (A.tolist(), B.tolist())}))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_adapter(path)
    monkeypatch.setattr(registry, "FORMATS", [*registry.FORMATS, Toy()])
    return path, A, B


def test_a_format_is_its_class_and_a_place_in_the_list(toy, tmp_path):
    path, A, B = toy
    adapter = load_adapter(path)
    assert (adapter.name, adapter.format, adapter.rank) == ("x", "toy", 4)
    assert torch.equal(adapter.modules[Q].A, A)
    assert torch.equal(adapter.modules[Q].B, B)
    assert load_adapter(tmp_path).sha256 == adapter.sha256  # the one file in its folder
    base = tiny_llama()
    with attach(base, prepare(adapter)) as live:
        live.set_rank(2)
        cut = logits(base)
    exported = load_adapter(save_adapter(prepare(adapter).at(2), tmp_path / "r2"))
    with attach(base, prepare(exported)):
        assert torch.equal(logits(base), cut)


def test_its_side_car_and_what_the_user_states_need_nothing_of_it(toy):
    path, _, _ = toy
    save_sidecar(load_adapter(path, method="matryoshka", nested_ranks=[2, 4], base="b"))
    again = load_adapter(path)
    assert (again.nesting, again.base) == (Nesting("matryoshka", (2, 4)), "b")
    with pytest.raises(UsageError, match="names its own tensors"):
        load_adapter(path, keys={"A": "{module}.a", "B": "{module}.b"})
