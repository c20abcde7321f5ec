"""Kinds of adapters × bases × cuts, against PEFT and a dense float64 model.

PEFT writes each checkpoint. At full rank the live model gives PEFT's own logits, bit for bit; an
export gives the live model's; and every cut is that of an oracle which reads the raw files and
shares no code with aurac. Kinds, ranks, alphas and patterns are drawn together.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.adapters import edit
from support.peft_rows import EXPERTS, KINDS, LM, drawn, loaded_by_peft, out, tiny_mixtral, written
from torch import nn

from aurac.adapters import attach, check_fits, load_adapter, prepare, save_adapter
from aurac.adapters.truncate import factors_of
from aurac.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about what it is asked for here


class Oracle:
    """The dense model of a cut, from the raw files alone."""

    def __init__(self, folder, nested):
        self.config = json.loads((folder / "adapter_config.json").read_text())
        raw = load_file(folder / "adapter_model.safetensors")
        self.raw = {k.removeprefix("base_model.model."): t.double() for k, t in raw.items()}
        self.nested = nested

    def at(self, base, r, basis, rescale):
        base = base.double()
        if hasattr(base, "set_experts_implementation"):
            base.set_experts_implementation("eager")  # the grouped kernel knows no fp64
        self._replace(base)
        if (rows := base.get_input_embeddings() if hasattr(base, "config") else None) is not None:
            # Only the lookup is adapted: PEFT leaves a tied output matrix as it is.
            rows.weight = nn.Parameter(rows.weight.data.clone())
        for key, A in self.raw.items():
            if match := re.fullmatch(r"(.+)\.lora_(embedding_)?A(\.weight)?", key):
                B = self.raw[key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
                self._add(base, match[1], A, B, (r, basis, rescale))
        return out(base).float()

    def _of(self, name):
        """The r and the alpha of a module or parameter by the patterns."""
        found = []
        for pattern, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
            keys = [k for k in self.config[pattern] or {} if re.match(rf"(.*\.)?({k})$", name)]
            found.append(self.config[pattern][keys[0]] if keys else self.config[default])
        return found

    def _add(self, base, name, A, B, cut):
        place = name.replace(".base_layer", "")
        module, targets = base.get_submodule(place), self.config["target_parameters"] or ()
        for leaf, parameter in module.named_parameters(recurse=False):
            E = parameter.shape[0] if parameter.ndim == 3 else 1
            R, alpha = self._of(f"{place}.{leaf}")
            fits = parameter.shape[-2:] == (B.shape[0], A.shape[1]) and A.shape[0] == E * R
            if fits and any(f".{place}.{leaf}".endswith(f".{target}") for target in targets):
                for e in range(E):  # A lies expert by expert, B has the experts fastest
                    a, b = A[e * R : (e + 1) * R], B[:, [k * E + e for k in range(R)]]
                    target = parameter.data[e] if parameter.ndim == 3 else parameter.data
                    target += self._delta(a, b, alpha, cut)
                return
        R, alpha = self._of(name)
        assert A.shape[0] == R
        delta, linear = self._delta(A, B, alpha, cut), isinstance(module, nn.Linear)
        module.weight.data += delta if linear else delta.T
        if (magnitude := self.raw.get(f"{name}.lora_magnitude_vector")) is not None:
            rows = module.weight.data if linear else module.weight.data.T
            rows *= (magnitude.flatten() / rows.norm(dim=1))[:, None]

    def _delta(self, A, B, alpha, cut):
        """The update of one matrix."""
        (r, basis, rescale), R = cut, len(A)
        r = min(r, R)

        def s(at):
            return alpha / (math.sqrt(at) if self.config["use_rslora"] else at)

        p = [s(R)] * R
        if self.nested:
            p = [sum(s(min(t, R)) for t in self.nested if t >= i + 1) for i in range(R)]
        whole = B @ torch.diag(torch.tensor(p, dtype=torch.float64)) @ A
        if basis == "svd":
            U, sigma, V = torch.linalg.svd(whole, full_matrices=False)
            return U[:, :r] @ torch.diag(sigma[:r]) @ V[:r]
        if rescale != "trained":
            p = [s(r) if rescale == "rule" else s(R)] * R
        return B[:, :r] @ torch.diag(torch.tensor(p[:r], dtype=torch.float64)) @ A[:r]

    def _replace(self, base):
        """What stands beside the factors, put in by hand."""
        saved, tokens = self.config["modules_to_save"] or (), self.config["trainable_token_indices"]
        for key, value in self.raw.items():
            path, _, leaf = key.rpartition(".")
            if ".lora_" in key:
                continue
            if leaf == "trainable_tokens_delta":
                rows = tokens if isinstance(tokens, list) else tokens["embed_tokens"]
                base.get_submodule(path.removesuffix(".token_adapter")).weight.data[rows] = value
            elif any(path.endswith(name) for name in saved):
                setattr(base.get_submodule(path), leaf, nn.Parameter(value))
            else:
                getattr(base.get_submodule(path.replace(".base_layer", "")), leaf).data = value


@pytest.fixture
def base_is(monkeypatch):
    """What makes a model the one that an adapter's config names."""
    place = "aurac.adapters.formats.peft.base_skeleton"
    return lambda model: monkeypatch.setattr(place, lambda _: model)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_pefts_and_the_dense_model(kind, seed, tmp_path, base_is):
    build, config, draw = drawn(kind, seed)
    folder = written(build, config, tmp_path / "theirs")
    base = build()
    base_is(build())
    try:
        live_model = loaded_by_peft(build(), folder)
    except RuntimeError:  # keys that overlap, and PEFT stores them in another order
        with pytest.raises(CheckpointError):
            attach(base, prepare(load_adapter(folder))).__enter__()
        return
    theirs, plain, structure = out(live_model), out(base), str(base)
    adapter = load_adapter(folder)
    if "experts" not in kind and "embeddings" not in kind:  # beside which a file has the base's
        assert load_adapter(live_model).sha256 == adapter.sha256
    with attach(base, prepare(adapter)):
        assert torch.equal(out(base), theirs)
    R, nested = adapter.rank, ()
    if seed == 1:
        nested = sorted({1, min(2, R), R})
        adapter = load_adapter(folder, method="matryoshka", nested_ranks=nested)
        if draw.random() < 0.5:
            with_p = factors_of(adapter, with_p=True)
            adapter = replace(adapter, modules=with_p, folded=True)
    oracle = Oracle(folder, nested)
    cuts = [("prefix", "rule"), ("prefix", "keep"), ("svd", "keep")]
    for basis, rescale in [*cuts, ("prefix", "trained")] if nested else cuts:
        prepared, r = prepare(adapter, basis, rescale), draw.randint(1, max(R - 1, 1))
        with attach(base, prepared) as live:
            for rank in (r, R):
                live.set_rank(rank)
                dense = oracle.at(build(), rank, basis, rescale)
                torch.testing.assert_close(out(base), dense, rtol=1e-4, atol=5e-5)
                assert not torch.allclose(out(base), plain, atol=1e-4)
            live.set_rank(r)
            export = save_adapter(prepared.at(r), tmp_path / f"{basis} {rescale}")
            assert torch.equal(out(base), out(loaded_by_peft(build(), export))), config
            again, cut = load_adapter(export), prepared.at(r)
            assert again.derived == cut.derived
            # Alphas of single modules go through PEFT's field and may change in their last bit.
            assert cut.alpha is None or again.sha256 == cut.sha256
            live.set_rank(0)
            assert torch.equal(out(base), plain)
    assert torch.equal(out(base), plain)
    assert str(base) == structure


HALF = ["linear", "use_dora", "embeddings, tied", "experts", "bias all"]


@pytest.mark.parametrize("kind", HALF)
def test_a_16_bit_base_computes_as_peft_does(kind, tmp_path, base_is):
    build, config, _ = drawn(kind, 0)
    folder = written(build, config, tmp_path / "theirs")
    base_is(build())
    base, prepared = build().to(torch.bfloat16), prepare(load_adapter(folder))
    with attach(base, prepared) as live:
        for r in (1, 2, prepared.rank):
            live.set_rank(r)
            export = save_adapter(prepared.at(r), tmp_path / f"r{r}")
            theirs = out(loaded_by_peft(build().to(torch.bfloat16), export))
            assert torch.equal(out(base), theirs)
    assert torch.equal(theirs, out(loaded_by_peft(build().to(torch.bfloat16), folder)))


def made(folder, targets, **config):
    """An adapter of experts, of rank 4, that PEFT writes."""
    fields = {"r": 4, "target_modules": ["q_proj"], "target_parameters": targets, **LM}
    return written(tiny_mixtral, {**fields, **config}, folder)


def test_without_the_base_only_what_the_config_settles_is_read(tmp_path):
    """The order in which a module holds its parameters is the base's to say."""
    pattern = {"alpha_pattern": {"down_proj": 40}}
    alone = load_adapter(made(tmp_path / "alone", ["experts.down_proj"], **pattern))
    assert alone.modules["model.layers.0.mlp.experts"].alpha == 40
    both = load_adapter(made(tmp_path / "both", EXPERTS))  # one alpha and one rank for all
    assert both.modules["model.layers.0.mlp.experts.base_layer"].blocks == 3
    for name, targets, fields in (("a", EXPERTS, pattern), ("b", ["gate_up_proj"], {})):
        with pytest.raises(CheckpointError, match=r"only the base says which"):
            load_adapter(made(tmp_path / name, targets, **fields))


@pytest.mark.parametrize(
    ("trained", "said", "pairs"),
    [
        (EXPERTS, ["experts.down_proj"], 2),
        (["experts.down_proj"], ["gate_up_proj", "down_proj"], 1),
    ],
)
def test_factors_that_no_parameter_explains_are_refused(trained, said, pairs, tmp_path, base_is):
    folder = made(tmp_path / "x", trained)
    edit(folder / "adapter_config.json", target_parameters=said)
    base_is(tiny_mixtral())
    with pytest.raises(CheckpointError, match=f"{pairs} pairs of factors for the parameters"):
        load_adapter(folder)


def test_a_parameter_that_the_base_lacks_or_has_in_another_shape_is_refused(tmp_path):
    adapter, base = load_adapter(made(tmp_path / "x", ["experts.down_proj"])), tiny_mixtral()
    experts = base.model.layers[0].mlp.experts
    experts.down_proj = nn.Parameter(torch.zeros(3, 32, 20))
    with pytest.raises(CheckpointError, match=r"another base.*experts.down_proj"):
        check_fits(adapter, base)
    del experts.down_proj
    with pytest.raises(CheckpointError, match=r"experts.down_proj.* has nothing"):
        check_fits(adapter, base)


def test_the_width_is_the_parameters_of_one_rank_in_all_modules(tmp_path):
    """Of experts each one counts, and modules of lower rank count as all others."""
    full = load_adapter(made(tmp_path / "experts", EXPERTS))
    short = load_adapter(made(tmp_path / "short", EXPERTS, rank_pattern={"q_proj": 2}))
    assert {f.rank for f in short.modules.values()} == {2, 4}
    assert short.width == full.width == full.parameters(1) == short.parameters(1)
    # In each of 2 layers q_proj has 2 components of 32 + 32 numbers fewer.
    assert full.parameters(4) - short.parameters(4) == 2 * 2 * (32 + 32)
