"""Settings are read and checked where they enter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aurac.errors import UsageError
from aurac.runs.settings import Settings


def of(**words):
    return Settings.of("a", "t", **words)


@pytest.mark.parametrize(
    ("name", "typed", "given"),
    [
        ("limit", "20", 20),
        ("margin", "0.5", np.float64(0.5)),
        ("metric", ["acc", "u=exact_match,none"], {"*": "acc", "u": "exact_match,none"}),
        ("data", "/x", {"t": "/x"}),
        ("ranks", "1,4,2", [4, 1, 2]),
        ("ranks", "1,2", range(1, 3)),
        ("ranks", "2,4", np.array([4, 2])),
        ("basis", "prefix,svd", ["prefix", "svd"]),
        ("gen_kwargs", "temperature=0.5,until=['Q:']", {"temperature": 0.5, "until": ["Q:"]}),
        ("trust_remote_code", "True", True),
        ("device_map", '{"": "cpu"}', {"": "cpu"}),
        ("out", "/y", Path("/y")),
    ],
)
def test_texts_are_read_as_python_has_them(name, typed, given):
    assert of(**{name: typed}) == of(**{name: given}) != of()


def test_values_are_kept_as_one_type():
    given = of(ranks="1,4,2", groups={"g": ["a"]}, batch_size="auto:4")
    assert (given.ranks, given.groups, given.batch_size) == ((1, 2, 4), {"g": ("a",)}, None)


def test_a_folder_with_an_equals_sign_is_the_data_of_the_first_task():
    assert of(data="lang=en").data == {"t": "lang=en"}


def test_a_path_with_a_comma_is_one_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my,file.jsonl").write_text("")
    for tasks in (Path("my,file.jsonl"), "my,file.jsonl", ["my,file.jsonl"]):
        assert Settings.of("a", tasks).tasks == ("my,file.jsonl",)
    assert Settings.of("a", "t,my,file.jsonl").tasks == ("t", "my", "file.jsonl")
    assert Settings.of("a", Path("x,y.yaml")).tasks == ("x,y.yaml",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"limit": -1}, "limit takes .* not -1"),
        ({"limit": 1.5}, "limit takes .* not 1.5"),
        ({"limit": float("inf")}, "limit takes .* not inf"),
        ({"ranks": "1,x"}, "ranks takes .* not '1,x'"),
        ({"ranks": [0]}, "ranks takes .* not"),
        ({"basis": "energy"}, "basis takes prefix or svd, not 'energy'"),
        ({"rescale": "twice"}, "rescale takes .* not 'twice'"),
        ({"margin": 5}, "margin takes .* 5 points are 0.05, not 5"),
        ({"batch_size": 0}, "batch_size takes .* not 0"),
        ({"fewshot": "none"}, "fewshot takes stock or fixed"),
        ({"groups": "a"}, "groups takes .* not 'a'"),
        ({"device_map": "{"}, "--device-map '{' is no JSON object"),
        ({"workers": 2}, "no option 'workers'"),
        ({"basis": "auto"}, "basis takes prefix or svd, not 'auto'"),
        ({"model_args": "peft=x"}, "the model hf takes no --model-args, such as peft"),
        ({"model_args": "pretrained=x/y,dtype=half"}, "dtype goes by --dtype, not by --model-args"),
        ({"model": "vllm", "model_args": "pretrained=x/y"}, "pretrained goes by --base, not by"),
        ({"model": "vllm", "model_args": {"tokenizer": "x"}}, "tokenizer goes by --tokenizer"),
        ({"model": "vllm", "rescale": "fit"}, "rescale fit needs the model hf, and not"),
        ({"model": "hflm", "ray": "local"}, "--ray computes with the engine, and not with"),
        ({"model": "hflm", "model_args": "max_gen_toks=8"}, "goes by --gen-kwargs max_gen_toks"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(UsageError, match=message):
        of(**words)


def test_arguments_of_another_model_are_its_own():
    words = of(model="vllm", model_args=["max_num_seqs=8", "enforce=True"])
    assert words.model_args == {"max_num_seqs": 8, "enforce": True}


def test_nothing_to_compare_is_refused():
    for checkpoints, tasks in (((), "t"), ("a", "")):
        with pytest.raises(UsageError, match="at least one checkpoint and one task"):
            Settings.of(checkpoints, tasks)
