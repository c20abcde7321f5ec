"""What a model writes instead of a reference: the first wrong ones of a user's own examples."""

from __future__ import annotations

import logging

from harness_doubles import write_jsonl
from support.adapters import load_with_peft
from support.small_runs import run_small
from transformers import AutoModelForCausalLM, AutoTokenizer

from aurac.engine.lm import EngineLM
from aurac.records.run import read_run

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


ROWS = [
    {"prompt": f"{WORDS[n % 10]} {WORDS[n // 10]}", "completion": " two two two"} for n in range(25)
]


def plainly(model, prompt, most):
    """What transformers generates, and whether it ended."""
    tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    how = {"max_new_tokens": most, "do_sample": False, "pad_token_id": 1, "eos_token_id": 1}
    new = model.generate(ids, **how)[0, ids.shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), new[-1] == 1


def samples(folder, rank):
    run = read_run(folder)
    [curve] = run.curves
    return run.answers("own", curve.adapter, curve.basis, curve.rescale, rank)


def test_the_first_wrong_examples_have_the_text_that_plain_peft_generates(
    adapters, tiny_base_folder, tmp_path
):
    task, out = write_jsonl(tmp_path / "own.jsonl", ROWS), tmp_path / "run"
    run_small(adapters["lora"], out, task, ranks="1", limit=0)
    base = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    for rank in (0, 4):
        found = samples(out, rank)
        model = load_with_peft(base, adapters["lora"]) if rank else base
        assert set(found.score) == {0}
        most = 20 if rank else 5
        for place in range(most):
            text, ended = plainly(model, ROWS[place]["prompt"], 8)  # twice 3 tokens and the end
            assert found.response[place] == text + "<eos>" * bool(ended)
        assert found.response[most:].isna().all()


def test_texts_are_generated_once_and_what_failed_is_tried_again(
    adapters, tmp_path, monkeypatch, caplog
):
    task, out = write_jsonl(tmp_path / "own.jsonl", ROWS[:5]), tmp_path / "run"
    generate, asked = EngineLM.generate_until, []

    def fails(self, requests):
        raise RuntimeError("no memory is left")

    monkeypatch.setattr(EngineLM, "generate_until", fails)
    caplog.set_level(logging.WARNING)
    run = run_small(adapters["lora"], out, task, ranks="4")
    assert (run.curves[0].ranks, run.failures) == ((4,), ())
    assert "could not be generated: RuntimeError: no memory is left" in caplog.text
    assert read_run(out).unwritten == ["RuntimeError: no memory is left"]

    def counted(self, requests):
        asked.append(len(requests))
        return generate(self, requests)

    monkeypatch.setattr(EngineLM, "generate_until", counted)
    run_small(adapters["lora"], out, task, ranks="4")
    assert len(asked) == 2
    assert read_run(out).unwritten == []
    assert samples(out, 4).response.notna().all()
    run_small(adapters["lora"], out, task, ranks="4")
    assert len(asked) == 2
