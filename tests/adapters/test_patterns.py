"""Ranks and alphas by pattern: a generated matrix of adapters, each held against PEFT's own logits.

PEFT matches ``rank_pattern`` and ``alpha_pattern`` against the name of a module, or of a parameter
where ``target_parameters`` name it. Kinds of modules and spellings of keys are drawn together, so
that no combination is left to a hand-picked row.
"""

from __future__ import annotations

import random
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.adapters import edit, randomise, tiny_gpt2, tiny_llama
from support.peft_rows import EXPERTS, LM, loaded_by_peft, out, tiny_mixtral
from torch import nn

from aurac.adapters import attach, check_fits, load_adapter, prepare, save_adapter
from aurac.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about what it is asked for here


class Nested(nn.Module):
    """The name of one module is the end of another's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(64, 16)
        self.head = nn.Linear(16, 16)
        self.block = nn.ModuleDict({"head": nn.Linear(16, 16), "tail": nn.Linear(16, 16)})

    def forward(self, input_ids):
        x = torch.tanh(self.head(self.embed(input_ids)))
        x = torch.tanh(self.block["head"](x))
        return type("Out", (), {"logits": self.block["tail"](x)})


def kind_of(build, targets, *parameters, **fields):
    """A model and the fields of its LoraConfig."""
    named = {"target_parameters": [*parameters]} if parameters else {}
    return build, {"target_modules": targets, **named, **fields}


KINDS = {
    "linear": kind_of(tiny_llama, ["q_proj", "v_proj", "down_proj"]),
    "linear by regex": kind_of(tiny_llama, r"model\.layers\.\d\.mlp\.(up|down)_proj"),
    "some layers": kind_of(
        tiny_llama, ["q_proj", "down_proj"], layers_to_transform=[1], layers_pattern="layers"
    ),
    "excluded": kind_of(tiny_llama, "all-linear", exclude_modules=r".*layers\.0\.mlp\..*"),
    "dora": kind_of(tiny_llama, ["q_proj", "down_proj"], use_dora=True),
    "embedding": kind_of(tiny_llama, ["embed_tokens", "q_proj"]),
    "saved": kind_of(tiny_llama, ["q_proj", "v_proj"], modules_to_save=["norm"]),
    "conv1d": kind_of(tiny_gpt2, ["c_attn", "c_fc"], fan_in_fan_out=True),
    "bias": kind_of(tiny_gpt2, ["c_attn"], fan_in_fan_out=True, bias="lora_only"),
    "names that end in names": kind_of(Nested, ["head", "tail"]),
    "a name that ends another": kind_of(Nested, r"head|block\.tail"),
    "parameters, dense": kind_of(tiny_llama, [], "self_attn.q_proj.weight", "mlp.down_proj.weight"),
    "parameters, short": kind_of(tiny_llama, ["v_proj"], "q_proj.weight"),
    "parameters, conv1d": kind_of(tiny_gpt2, [], "attn.c_attn.weight", "wte.weight"),
    "experts": kind_of(tiny_mixtral, ["q_proj"], *EXPERTS),
    "one of the experts": kind_of(tiny_mixtral, [], "experts.down_proj"),
    "experts, short": kind_of(tiny_mixtral, ["v_proj"], "gate_up_proj", "down_proj"),
    "router": kind_of(tiny_mixtral, ["k_proj"], "gate.weight", EXPERTS[1]),
    "experts, some layers": kind_of(
        *(tiny_mixtral, ["q_proj"], *(f"model.layers.0.{name}" for name in EXPERTS)),
        layers_to_transform=[1],
    ),
    # PEFT turns these names of transformers 4 into parameters, with a pattern of its own
    "experts, older names": kind_of(tiny_mixtral, ["w1", "w2", "w3", "q_proj"]),
}


def spelled(draw, name):
    """A key for ``name``, in one of the ways in which people write it."""
    parts = name.split(".")
    ways = [
        name,
        re.escape(name),
        ".".join(parts[-2:]),
        parts[-1],
        rf".*\.{parts[-1]}",
        re.sub(r"\d+", r"\\d+", name),
        f"({parts[-1]}|nothing)",
        ".".join(parts[:-1]),  # of a parameter the module, which PEFT does not match
    ]
    return draw.choice([way for way in ways if way])


def drawn(kind, seed):
    """A config of this kind with drawn ranks, alphas and patterns."""
    build, fields = KINDS[kind]
    draw = random.Random(f"{kind} {seed}")
    base = build()
    names = [n for n, _ in base.named_modules()] + [n for n, _ in base.named_parameters()]
    targets = [*fields.get("target_parameters", ()), "gate_up_proj", "q_proj", "head", "tail"]
    if isinstance(fields["target_modules"], list):
        targets += fields["target_modules"]
    named = [n for n in names if any(f".{n}".endswith(f".{target}") for target in targets)]
    which = draw.choice(["alpha", "rank", "both", "both"]) if seed else "none"
    config = {
        "r": draw.choice([2, 3, 4]),
        "lora_alpha": draw.choice([1, 3, 6]),
        "use_rslora": draw.random() < 0.5,
        **fields,
        **(LM if build is not Nested else {}),
    }
    keys = lambda: {spelled(draw, draw.choice(named)) for _ in range(draw.choice([1, 2, 3]))}  # noqa: E731
    if which in ("alpha", "both"):
        config["alpha_pattern"] = {key: draw.choice([0.5, 2, 10, 40]) for key in sorted(keys())}
    if which in ("rank", "both"):
        config["rank_pattern"] = {key: draw.choice([1, 2, 5]) for key in sorted(keys())}
    return build, config, draw


def written(build, config, folder):
    model = randomise(get_peft_model(build(), LoraConfig(**config)))
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name or (name.endswith("bias") and parameter.requires_grad):
            parameter.data += 0.1
    model.save_pretrained(folder)


@pytest.fixture
def base_is(monkeypatch):
    """What makes a model the one that an adapter's config names."""
    place = "aurac.adapters.formats.peft.base_skeleton"
    return lambda model: monkeypatch.setattr(place, lambda _: model)


def of_peft(base, folder):
    return out(loaded_by_peft(base, folder))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_peft(kind, seed, tmp_path, base_is):
    build, config, draw = drawn(kind, seed)
    written(build, config, tmp_path / "theirs")
    base = build()
    base_is(build())
    try:
        theirs = of_peft(build(), tmp_path / "theirs")
    except RuntimeError:  # keys that overlap, and PEFT stores them in another order
        with pytest.raises(CheckpointError):
            attach(base, prepare(load_adapter(tmp_path / "theirs"))).__enter__()
        return
    with attach(base, prepare(load_adapter(tmp_path / "theirs"), rescale="rule")):
        assert torch.equal(out(base), theirs), config
    R = load_adapter(tmp_path / "theirs").rank
    nested = {"method": "matryoshka", "nested_ranks": sorted({1, R})} if draw.random() < 0.5 else {}
    adapter = load_adapter(tmp_path / "theirs", **nested)
    for basis in ("prefix", "svd"):
        prepared = prepare(adapter, basis)
        with attach(base, prepared) as live:
            for r in sorted({1, draw.randint(1, R)}):
                place = save_adapter(prepared.at(r), tmp_path / f"{basis}{r}")
                live.set_rank(r)
                assert torch.equal(out(base), of_peft(build(), place)), (basis, r, config)
                again = load_adapter(place)
                assert again.sha256 == prepared.at(r).sha256


def made(folder, targets, build=tiny_mixtral, modules=("q_proj",), **config):
    """An adapter of rank 4 that PEFT writes."""
    fields = {"r": 4, "target_modules": list(modules), "target_parameters": targets, **LM}
    written(build, {**fields, **config}, folder)
    return folder


def test_without_the_base_only_what_the_config_settles_is_read(tmp_path):
    """The order in which a module holds its parameters is the base's to say."""
    pattern = {"alpha_pattern": {"down_proj": 40}}
    alone = load_adapter(made(tmp_path / "alone", ["experts.down_proj"], **pattern))
    assert alone.modules["model.layers.0.mlp.experts"].alpha == 40
    both = load_adapter(made(tmp_path / "both", EXPERTS))  # one alpha and one rank for all
    assert both.modules["model.layers.0.mlp.experts.base_layer"].blocks == 3
    for name, targets, fields in (
        ("patterns", EXPERTS, pattern),
        ("short", ["gate_up_proj"], {}),
    ):
        with pytest.raises(CheckpointError, match=r"only the base says which"):
            load_adapter(made(tmp_path / name, targets, **fields))


def test_factors_that_no_parameter_explains_are_refused(tmp_path, base_is):
    folder = made(tmp_path / "x", EXPERTS)
    edit(folder / "adapter_config.json", target_parameters=["experts.down_proj"])
    with pytest.raises(CheckpointError, match=r"2 pairs of factors for the parameters .*experts"):
        load_adapter(folder)
    one = made(tmp_path / "one", ["experts.down_proj"])
    edit(one / "adapter_config.json", target_parameters=EXPERTS)
    edit(one / "adapter_config.json", target_parameters=["gate_up_proj", "down_proj"])
    base_is(tiny_mixtral())
    with pytest.raises(CheckpointError, match=r"1 pairs of factors for the parameters .*experts"):
        load_adapter(one)


def test_a_parameter_that_the_base_lacks_or_has_in_another_shape_is_refused(tmp_path):
    adapter = load_adapter(made(tmp_path / "x", ["experts.down_proj"]))
    base = tiny_mixtral()
    for layer in base.model.layers:
        layer.mlp.experts.down_proj = nn.Parameter(torch.zeros(3, 32, 20))
    with pytest.raises(CheckpointError, match=r"another base.*experts.down_proj"):
        check_fits(adapter, base)
    del base.model.layers[0].mlp.experts.down_proj
    with pytest.raises(CheckpointError, match=r"experts.down_proj.* has nothing"):
        check_fits(adapter, base)


def test_the_width_is_the_parameters_of_one_rank_in_all_modules(tmp_path):
    """Of experts each one counts, and modules of lower rank count as all others."""
    whole = load_adapter(made(tmp_path / "experts", EXPERTS))
    assert whole.width == whole.parameters(1)
    short = load_adapter(made(tmp_path / "short", EXPERTS, rank_pattern={"q_proj": 2}))
    assert {f.rank for f in short.modules.values()} == {2, 4}
    assert "modules have ranks 2, 4" in short.notes[0]
    assert short.width == whole.width == short.parameters(1)
    # In each of 2 layers q_proj has 2 components of 32 + 32 numbers fewer.
    assert whole.parameters(4) - short.parameters(4) == 2 * 2 * (32 + 32)
