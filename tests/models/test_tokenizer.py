"""The tokenizer beside an adapter: found, used for every prompt, and its rows as PEFT has them."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from harness_doubles import make_model, make_tokenizer, write_choice_task
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from aurac.adapters import attach, load_adapter, prepare, save_adapter, truncate
from aurac.errors import CheckpointError, UsageError
from aurac.models.base import load_base
from aurac.models.tokenizer import choose_tokenizer
from aurac.runs.inputs import load
from aurac.runs.settings import Settings

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make_model(1).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def own_tokenizer():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def chatml(base_folder, tmp_path_factory):
    """An adapter with two added tokens, whose embeddings were trained, and ChatML."""
    folder = tmp_path_factory.mktemp("chatml")
    tokenizer = own_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        modules_to_save=["embed_tokens", "lm_head"],
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_()
    tuned.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_adapter(base_folder, folder, **more):
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **more)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def session(adapters, base_folder, tmp_path, **options):
    task = tmp_path / "tiny_choice.yaml"
    if not task.exists():
        write_choice_task(tmp_path)
    words = {"base": str(base_folder), "dtype": "float32", "device": "cpu", "num_fewshot": 0}
    return load(Settings.of(list(map(str, adapters)), [str(task)], **words, **options))


def loaded(opened):
    """The base in memory with the tokenizer that was chosen."""
    words = {"dtype": "float32", "device": "cpu"}
    return opened.tokenizer.adopted_by(load_base(opened.base.name, **words))


def test_prompts_and_rows_are_the_adapters_own_as_in_peft(
    chatml, base_folder, tmp_path, isolated_cache, caplog
):
    """The oracle is PEFT's own way of loading a model with the tokenizer beside the adapter."""
    with caplog.at_level(logging.WARNING, "aurac"):
        opened = session([chatml], base_folder, tmp_path, apply_chat_template=True)
    assert f"the tokenizer of adapter {chatml.name}" in caplog.text
    prompt = opened.tasks[0].instances([0])[0].args[0]
    assert prompt.startswith("<|im_start|>user\n")
    base = loaded(opened)
    tokens = base.tokenizer(prompt, return_tensors="pt").input_ids
    assert int(tokens.max()) == 259  # an added token is one token
    theirs = AutoPeftModelForCausalLM.from_pretrained(chatml, device_map=None).eval()
    (adapter,) = opened.adapters.values()
    with torch.no_grad(), attach(base.model, prepare(adapter, "prefix", "keep")) as live:
        live.set_rank(4)
        ours = base.model(tokens).logits
        torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    assert opened.tokens == {"tokenizer": opened.tokenizer.sha256, "embedding_rows": 260}


def test_the_new_rows_are_the_same_each_time(chatml, base_folder):
    rows = []
    for _ in range(2):
        base = load_base(str(base_folder), dtype="float32", device="cpu")
        chosen = choose_tokenizer(None, base, {"a": chatml}, {}, chat_template=False)
        rows.append(chosen.adopted_by(base).model.get_input_embeddings().weight[-2:])
    assert torch.equal(*rows)


def test_a_tokenizer_that_is_the_bases_changes_nothing(base_folder, tmp_path, isolated_cache):
    adapter = plain_adapter(base_folder, tmp_path / "plain")
    for nowhere in ("adapter", "nowhere"):
        with pytest.raises(UsageError, match="finds no folder"):
            session([adapter], base_folder, tmp_path, tokenizer=nowhere)
    make_tokenizer().save_pretrained(adapter)  # as trainers save it with every checkpoint
    opened = session([adapter], base_folder, tmp_path)
    assert opened.tokenizer.tokenizer is None
    assert opened.tokens == {}


def test_another_template_matters_only_where_prompts_go_through_it(
    base_folder, tmp_path, isolated_cache
):
    one = plain_adapter(base_folder, tmp_path / "one")
    (one / "chat_template.jinja").write_text(CHATML)  # the template alone
    other = plain_adapter(base_folder, tmp_path / "other", init_lora_weights=False)
    assert session([one, other], base_folder, tmp_path).tokenizer.tokenizer is None
    with pytest.raises(UsageError, match=r"adapter one: its, adapter other: the base’s"):
        session([one, other], base_folder, tmp_path, apply_chat_template=True)
    for wanted in ("adapter", str(one)):
        opened = session(
            [one, other], base_folder, tmp_path, apply_chat_template=True, tokenizer=wanted
        )
        assert "<|im_start|>" in opened.tasks[0].instances([0])[0].args[0]


def test_a_broken_tokenizer_is_named_with_the_way_out(
    chatml, base_folder, tmp_path, isolated_cache
):
    broken = shutil.copytree(chatml, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer of adapter broken.*--tokenizer base"):
        session([broken], base_folder, tmp_path)
    opened = session([broken], base_folder, tmp_path, tokenizer="base")
    assert opened.tokenizer.tokenizer is None
    assert opened.tokenizer.rows == 260  # its embeddings are its own


@pytest.mark.parametrize("rank", [2, 4])
def test_an_export_has_the_tokenizer_that_its_adapter_had(rank, chatml, tmp_path):
    """PEFT's AutoPeftModel resizes the embeddings by the tokenizer that it finds in the folder."""
    source = tmp_path / "source"
    shutil.copytree(chatml, source)
    for name, text in (
        ("additional_chat_templates/tools.jinja", "{{ messages }}"),
        ("tokenization_mine.py", "raise SystemExit"),
        ("training_args.bin", "a pickle"),
    ):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    export = tmp_path / "export"
    save_adapter(truncate(load_adapter(source), rank, basis="prefix"), export)
    kept = {p.relative_to(export).as_posix() for p in export.rglob("*") if p.is_file()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} < kept
    assert not kept & {"tokenization_mine.py", "training_args.bin"}
    for name in ("tokenizer.json", "chat_template.jinja", "additional_chat_templates/tools.jinja"):
        assert (export / name).read_bytes() == (source / name).read_bytes()
    ids = torch.tensor([[3, 7, len(own_tokenizer()) - 1]])
    theirs = AutoPeftModelForCausalLM.from_pretrained(source).eval()
    with torch.no_grad():
        for layer in theirs.modules():  # the first components of PEFT's own layers
            if hasattr(layer, "lora_A"):
                a, b = layer.lora_A["default"], layer.lora_B["default"]
                a.weight.data, b.weight.data = a.weight[:rank], b.weight[:, :rank].contiguous()
                layer.scaling["default"] *= 4 / rank
        ours = AutoPeftModelForCausalLM.from_pretrained(export).eval()
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
