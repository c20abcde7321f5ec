"""Settings are read and checked where they enter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aurac.errors import UsageError
from aurac.runs.settings import Settings


def of(**words):
    return Settings.of("a", "t", **words)


def test_texts_are_read_as_python_has_them():
    typed = Settings.of(
        ["a", "b"],
        "t",
        limit="20",
        metric=["acc", "u=exact_match,none"],
        data="/x",
        groups={"g": ("a", "b")},
        cluster={"t": "passage"},
        ranks="1,4,2",
        basis="prefix,svd",
        batch_size="auto:4",
        gen_kwargs="temperature=0.5,until=['Q:']",
        base="x/y",
        dtype="float32",
        trust_remote_code="True",
        device_map='{"": "cpu"}',
        margin="0.02",
    )
    given = Settings.of(
        ("a", "b"),
        ["t"],
        limit=20,
        metric={"*": "acc", "u": "exact_match,none"},
        data={"t": "/x"},
        groups={"g": ["a", "b"]},
        cluster={"t": "passage"},
        ranks=[4, 1, 2],
        basis=["prefix", "svd"],
        batch_size=None,
        gen_kwargs={"temperature": 0.5, "until": ["Q:"]},
        base="x/y",
        dtype="float32",
        trust_remote_code=True,
        device_map={"": "cpu"},
        margin=0.02,
    )
    assert typed == given
    assert (given.ranks, given.groups) == ((1, 2, 4), {"g": ("a", "b")})


def test_a_folder_alone_is_the_data_of_the_first_task():
    assert of(data="/x").data == {"t": "/x"}
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


def test_paths_ranges_and_arrays_are_what_they_hold(tmp_path):
    given = Settings.of(
        [tmp_path / "a"], "t", ranks=range(1, 3), out=tmp_path, margin=np.float64(0.5)
    )
    assert (given.checkpoints, given.out) == ((str(tmp_path / "a"),), str(tmp_path))
    assert (given.ranks, given.margin) == ((1, 2), 0.5)
    assert Settings.of("a", "t", ranks=np.array([4, 2])).ranks == (2, 4)
