"""What an adapter costs to serve: the loop is greedy decoding, the rows are per rank."""

from __future__ import annotations

import json

import pytest
import torch
from adapters import random_adapter, save_with_peft, tiny_llama, token_ids
from click.testing import CliRunner

from aurac.adapters import attach, prepare
from aurac.cli import cli
from aurac.engine import serving
from aurac.errors import UsageError


@pytest.fixture
def live():
    model = tiny_llama()
    with attach(model, prepare(random_adapter(model, rank=4))) as attached:
        yield attached


def test_every_rank_and_the_base_are_timed(live):
    ticks = []
    rows = serving.serving_costs(
        live,
        [1, 4],
        prompt_tokens=6,
        new_tokens=2,
        batch=3,
        repeats=2,
        progress=lambda: ticks.append(1),
    )
    assert [row.rank for row in rows] == [0, 1, 4]
    assert len(ticks) == 9  # three rounds, of which the first is not counted
    for row in rows:
        assert row.prefill_tokens_per_second == pytest.approx(18 / row.prefill_seconds)
        assert row.decode_tokens_per_second == pytest.approx(3 / row.decode_seconds)


def test_the_times_are_medians_of_the_rounds_that_count(live, monkeypatch):
    # round 1 is not counted; the base then takes 1, 5, 2 s, rank 2 takes 3, 4, 8 s
    times = iter([(90, 90), (90, 90), (1, 10), (3, 30), (5, 50), (4, 40), (2, 20), (8, 80)])
    monkeypatch.setattr(serving, "_once", lambda *_: next(times))
    base, two = serving.serving_costs(live, [2], prompt_tokens=4, repeats=3)
    assert (base.prefill_seconds, base.decode_seconds) == (2, 20)
    assert (two.prefill_seconds, two.decode_seconds) == (4, 40)


def test_the_loop_decodes_as_generate_does(live):
    ids = token_ids(shape=(2, 5))
    seen = []
    live.set_rank(4)
    hook = live.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    serving._once(live.model, ids, 3)
    hook.remove()
    wanted = live.model.generate(
        ids, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(torch.cat(seen, dim=1), wanted)


@pytest.mark.parametrize("name", ["prompt_tokens", "new_tokens", "batch", "repeats"])
def test_numbers_below_one_are_refused(live, name):
    with pytest.raises(UsageError, match="at least 1"):
        serving.serving_costs(live, [1], **{name: 0})


def test_the_command(tiny_base_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    save_with_peft(base, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    words = [
        "cost",
        str(tmp_path / "adapter"),
        "--base",
        str(tiny_base_folder),
        "--dtype",
        "float32",
    ]
    words += ["--device", "cpu", "--prompt-tokens", "4", "--new-tokens", "2", "--repeats", "1"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "base or merged" in done.stdout
    done = CliRunner().invoke(cli, [*words, "--json"])
    rows = json.loads(done.stdout)["ranks"]
    assert [row["rank"] for row in rows] == [0, 1, 2, 4]
    assert rows[0]["bytes"] == 0 < rows[1]["bytes"] < rows[3]["bytes"]
