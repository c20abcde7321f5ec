"""Basis ``energy``: parameters spent where the singular values are largest over all modules."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import convert_to_lora
from safetensors.torch import load_file
from support.adapters import load_with_peft, logits, random_adapter, tiny_llama
from support.hostile_files import run_aurac

from aurac.adapters import Nesting, attach, load_adapter, prepare, save_adapter, truncate
from aurac.adapters.export import save_truncations
from aurac.adapters.formats.storage import remove_weights
from aurac.errors import RankError, UsageError
from aurac.runs.plan import Variant

R = 6


def uneven(**fields):
    """Modules whose updates differ in size, so that their components compete."""
    adapter = random_adapter(tiny_llama(), R, **fields)
    sizes = torch.linspace(0.2, 3, len(adapter.modules))
    modules = {
        name: replace(f, B=f.B * size)
        for size, (name, f) in zip(sizes, adapter.modules.items(), strict=True)
    }
    return replace(adapter, modules=modules)


def values(adapter):
    """Singular values of each module's update as it acts, from the dense matrix in fp64."""
    dense = {}
    for name, f in adapter.modules.items():
        p = torch.from_numpy(adapter.rank_weights(name).copy())
        dense[name] = torch.linalg.svdvals((f.B.double() * p) @ f.A.double())[:R].tolist()
    return dense


def cost(f, r):
    return r * (f.A.shape[1] + f.B.shape[0])


@pytest.mark.parametrize(
    "nesting", [Nesting("lora", (R,)), Nesting("matryoshka", (1, 2, R))], ids=["lora", "matryoshka"]
)
def test_the_largest_singular_values_are_kept_within_the_budget(nesting):
    adapter = uneven(nesting=nesting)
    prepared, sigma = prepare(adapter, "energy"), values(adapter)
    for r in range(1, R + 1):
        ranks = prepared.module_ranks(r)
        budget = sum(cost(f, r) for f in adapter.modules.values())
        spent = sum(cost(f, ranks[name]) for name, f in adapter.modules.items())
        assert spent <= budget
        assert min(ranks.values()) >= 1
        left = budget - spent
        for one, f in adapter.modules.items():  # nothing larger was left out that would fit
            if ranks[one] < R:
                assert cost(f, 1) > left or r == R
                smaller = [
                    n for n, k in ranks.items()
                    if k > 1 and sigma[n][k - 1] < sigma[one][ranks[one]] * (1 - 1e-9)
                    and cost(adapter.modules[n], 1) >= cost(f, 1)
                ]  # fmt: skip
                assert not smaller
        assert prepared.at(r).parameters(prepared.at(r).rank) == spent
    assert set(prepared.module_ranks(1).values()) == {1}
    assert set(prepared.module_ranks(R).values()) == {R}
    assert len(set(prepared.module_ranks(3).values())) > 1


def test_a_live_model_an_export_and_a_streamed_file_agree(tmp_path):
    adapter = uneven()
    folder = save_adapter(adapter, tmp_path / "whole")
    base, prepared = tiny_llama(), prepare(adapter, "energy")
    with attach(base, prepared) as live:
        for r in (1, 3, 5):
            live.set_rank(r)
            export = save_adapter(prepared.at(r), tmp_path / f"r{r}")
            assert torch.equal(logits(base), logits(load_with_peft(tiny_llama(), export)))
    places = {r: tmp_path / f"streamed{r}" for r in (1, 3, 5)}
    save_truncations(load_adapter(folder, lazy=True), places, basis="energy")
    for r, place in places.items():
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (place / name).read_bytes() == (tmp_path / f"r{r}" / name).read_bytes()
    config = json.loads((places[3] / "adapter_config.json").read_text())
    assert config["rank_pattern"]
    again = load_adapter(places[3])
    assert (again.derived.basis, again.derived.rank) == ("energy", 3)


def test_the_command_line_writes_it(tmp_path):
    folder = save_adapter(uneven(), tmp_path / "whole")
    code, out, _ = run_aurac(
        "truncate", folder, "--rank", 3, "--basis", "energy", "--out", tmp_path / "x"
    )
    assert code == 0
    assert "rank 3, energy, rescale keep" in out
    with pytest.raises(UsageError, match="rescale rule with basis energy"):
        truncate(uneven(), 3, basis="energy", rescale="rule")
    with pytest.raises(RankError, match="rank 0 of adapter"):  # less than one for each module
        truncate(uneven(), 0, basis="energy")


@pytest.mark.parametrize("asked", [3, 0.7])
def test_svd_is_what_peft_converts_to(asked, tmp_path):
    """PEFT's ``convert_to_lora`` decomposes the dense update of each layer.

    With a threshold it keeps the fewest directions that hold this share of the squared values.
    """
    nesting = Nesting("lora", (R,))
    adapter = random_adapter(tiny_llama(), R, rule="rank", alpha=6.0, nesting=nesting)
    model = load_with_peft(tiny_llama(), save_adapter(adapter, tmp_path / "whole"))
    _, theirs = convert_to_lora(model, asked)
    prepared, sigma = prepare(adapter, "svd"), values(adapter)
    for name in adapter.modules:
        A, B = (theirs[f"base_model.model.{name}.lora_{s}.weight"] for s in "AB")
        kept = np.cumsum(np.square(sigma[name])) / np.square(sigma[name]).sum()
        r = asked if asked == 3 else 1 + int(np.argmax(kept >= asked))
        f = prepared.at(r).modules[name]
        torch.testing.assert_close(f.scale(r) * f.B @ f.A, B @ A, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_curve_says_what_is_spent(kind, tmp_path):
    """Parameters and bytes of each rank are those of the tensors in the exported file."""
    adapter = uneven()
    if kind == "dora":
        modules = {
            n: replace(f, magnitude=torch.ones(len(f.B))) for n, f in adapter.modules.items()
        }
        adapter = replace(adapter, modules=modules)
    folder = save_adapter(adapter, tmp_path / "whole")
    adapter = load_adapter(folder, lazy=True)
    for basis in ("svd", "energy"):
        ranks = (1, 2, 4, R)
        curve = Variant("mine", adapter, basis, "keep", "default", ranks)
        for r, amounts in zip(ranks, curve.amounts(), strict=True):
            export = save_adapter(truncate(adapter, r, basis=basis), tmp_path / f"{basis}{r}")
            tensors = load_file(export / "adapter_model.safetensors").values()
            assert amounts == (sum(t.numel() for t in tensors), sum(t.nbytes for t in tensors))
    assert curve.amounts()[1] < (adapter.parameters(2), adapter.bytes(2))  # some do not fit
    remove_weights(folder, adapter)
    gone = load_adapter(folder)
    assert replace(curve, adapter=gone, basis="svd").amounts()[0] == curve.amounts()[0]
    assert replace(curve, adapter=gone).amounts() == [(None, None)] * len(ranks)
