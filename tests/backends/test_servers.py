"""Answers of a server and of vLLM in this process beside the engine's.

The server is the tests' own: a random model with PEFT adapters behind OpenAI's completions, which
can misbehave in the ways that servers do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import pytest
from click.testing import CliRunner
from harness_doubles import make_model, make_tokenizer
from lm_eval.models.huggingface import HFLM
from support.adapters import load_with_peft
from support.completions import KEY, RANKS, compared, over_http, settings_of
from tokenizers.processors import TemplateProcessing

from aurac.backends.lm_eval_models import VllmBackend
from aurac.backends.server import ServerBackend
from aurac.cli import cli
from aurac.errors import AuracError, RunFolderError, UsageError
from aurac.runs.inputs import load
from aurac.runs.progress import Bar

pytest.importorskip("tenacity", reason="lm-eval's client needs aurac[servers]")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("alone")]


@pytest.fixture(scope="module")
def engine(place, alone, tmp_path_factory):
    """The folder of a run with the engine, and its answers."""
    folder = tmp_path_factory.mktemp("engine") / "run"
    return folder, compared(place, folder)[1]


def same_answers(found, expected):
    assert found.keys() == expected.keys()
    for key, frame in expected.items():
        assert found[key].score.tolist() == frame.score.tolist(), key
        if key[0] == "tiny_text":
            assert found[key].response.tolist() == frame.response.tolist()


def test_a_server_gives_what_the_engine_gives_although_it_fails_at_times(
    place, server, engine, tmp_path
):
    server.faults = [500, "drop", None, 429, "slow", "drop", "unload"]
    how = over_http(server, num_concurrent=8, max_retries=15, timeout=1)
    folder = tmp_path / "run"
    _, found = compared(place, folder, **how)
    same_answers(found, engine[1])
    assert not server.faults
    assert server.keys == {f"Bearer {KEY}"}
    assert not server.adapters  # unloaded at the end
    told = json.loads((folder / "run.json").read_text())["settings"]
    assert told["backend"] == "local-completions, double 1.0"
    assert (told["served_model"], told["device_kind"]) == ("BASE", "server")
    names = {path.name for path in (folder / ".served").iterdir()}
    assert {*names, "BASE"} == set(server.asked)
    assert len(names) == len(RANKS)


def test_a_server_that_dies_costs_no_answered_block_and_repeats_no_key(
    place, server, engine, tmp_path, monkeypatch, capsys, caplog
):
    """Its errors repeat the headers; the same command goes on when it is there again."""
    monkeypatch.setattr("aurac.runs.plan.BLOCK_EXAMPLES", {"server": 2, "cpu": 2})
    from aurac.runs import compute

    kept, add = [], compute.CellWork.add

    def dying(self, cell, block):
        add(self, cell, block)
        kept.append(block)
        if len(kept) == 4:
            server.always = 500

    monkeypatch.setattr(compute.CellWork, "add", dying)
    how = {"tasks": ["tiny_text"], **over_http(server, max_retries=2)}
    stored, _ = compared(place, tmp_path / "run", progress=Bar(), **how)
    assert '500 Internal Server Error: {"headers"' in stored.failures[0].reason
    assert len(kept) == 4
    shown = [*capsys.readouterr(), caplog.text]
    kept_there = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in shown)
    assert not any(KEY.encode() in text for text in kept_there)
    server.always, server.adapters = None, {}  # started anew
    _, found = compared(place, tmp_path / "run", **how)
    assert len(kept) == 4 * 3  # three blocks in each of four cells: none twice
    same_answers(found, {key: frame for key, frame in engine[1].items() if key[0] == "tiny_text"})


class LoRARequest(NamedTuple):
    """vLLM's."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class InProcess:
    """lm-eval's ``vllm``: one engine, which answers for the adapter of its LoRA request."""

    def __init__(self, **arguments):
        self.arguments, self.lora_request, self.batch_size = arguments, None, "auto"
        self.seen = set()
        engines.append(self)

    def __getattr__(self, kind):
        self.seen.add(self.lora_request)
        model = make_model(1)
        if self.lora_request:
            model = load_with_peft(model, self.lora_request.lora_path)
        lm = HFLM(pretrained=model, tokenizer=make_tokenizer(), softmax_dtype="float32")
        return partial(getattr(lm, kind), disable_tqdm=True)


engines: list[InProcess] = []


class Pool(ProcessPoolExecutor):
    """Says how many engines there are when its process has ended."""

    ended: ClassVar[list[int]] = []

    def __exit__(self, *error):
        super().__exit__(*error)
        self.ended.append(len(engines))


def test_vllm_in_process_is_one_engine_with_a_request_for_each_cut(
    place, engine, tmp_path, monkeypatch
):
    for name in ("vllm", "vllm.lora", "vllm.lora.request"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(LoRARequest=LoRARequest))
    theirs = "lm_eval.models.vllm_causallms"  # which vLLM is needed to import
    monkeypatch.setitem(sys.modules, theirs, SimpleNamespace(VLLM=InProcess))
    monkeypatch.setattr(VllmBackend, "version", "vllm 0")
    monkeypatch.setattr("aurac.runs.backend_check.ProcessPoolExecutor", Pool)
    engines.clear()
    Pool.ended.clear()
    _, found = compared(place, tmp_path / "run", model="vllm", model_args="max_loras=5")
    same_answers(found, engine[1])
    [one] = engines
    assert Pool.ended == [0]  # what it is checked by has given its memory back
    told = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 5}
    assert told.items() <= one.arguments.items()
    assert None in one.seen
    requests = one.seen - {None}
    assert len(requests) == len({request.lora_int_id for request in requests}) == len(RANKS)
    other = VllmBackend("vllm", {}, None, None)
    other.begin([SimpleNamespace(rank=rank) for rank in (4, 40, 8)], logprobs=False)
    assert other.arguments == {"max_lora_rank": 64}  # of vLLM's slots the first that has room


def opened(place, server, out, **arguments):
    """Three requests for texts, the server's backend, and the cuts by rank."""
    how = over_http(server, max_retries=1, **arguments)
    inputs = load(settings_of(place, out, tasks=["tiny_text"], **how))
    [by_rank] = inputs.cuts.values()
    return inputs.leaves[0].instances(range(3)), inputs.backend, by_rank


@pytest.mark.parametrize("begin", ["", "<s>"])
def test_a_chat_begins_on_a_server_as_in_the_engine(place, server, tmp_path, begin):
    """Of a tokenizer that adds BOS, whether the template has one of its own or not.

    In a notebook, which has an event loop of its own.
    """
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    tokenizer.chat_template = f"{begin}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    chat = {"tokenizer": str(tmp_path / "tokenizer"), "apply_chat_template": True}

    async def answers(how):
        inputs = load(settings_of(place, tmp_path / "run", **chat, **how))
        [by_rank], found = inputs.cuts.values(), []
        with inputs.backend as backend:
            for cut in (None, by_rank[1]):
                with backend.lm(cut) as lm:
                    choice, text = (task.instances(range(4)) for task in inputs.leaves)
                    found += [lm.loglikelihood(choice), lm.generate_until(text)]
        return found

    theirs, mine = (asyncio.run(answers(how)) for how in (over_http(server, num_concurrent=4), {}))
    for served, own in zip(theirs, mine, strict=True):
        if isinstance(own[0], str):
            assert served == own
        else:
            assert [row[0] for row in served] == pytest.approx([row[0] for row in own], abs=1e-4)
            assert [row[1] for row in served] == [row[1] for row in own]


@pytest.mark.parametrize(("twist", "code", "says"), [
    ({"always": 400}, 2, 'answers 400 Bad Request: {"headers"'),
    ({"always": 404}, 2, "answers 404 Not Found"),
    ({"always": 429}, 3, "answers 429 Too Many Requests"),
    ({"always": 500}, 3, "answers 500 Internal"),
    ({"always": "garbage"}, 3, "answers what is no JSON: <html>"),
    ({"most_choices": 0}, 3, "answers 0 of 1 prompts"),
    ({"always": "drop"}, 3, "Remote end closed"),
    ({"always": "slow"}, 3, "does not answer (Read timed out. (read timeout=1.0)"),
    ({"text": lambda choice: {**choice, "text": None}}, 4, "answers without a text"),
])  # fmt: skip
def test_an_answer_that_is_none_is_an_error_with_the_server_and_without_the_key(
    place, server, tmp_path, twist, code, says
):
    vars(server).update(twist)
    asked, backend, _ = opened(place, server, tmp_path, num_concurrent=4, timeout=1)
    with pytest.raises(AuracError) as caught, backend.lm(None) as lm:
        lm.generate_until(asked)
    assert caught.value.exit_code == code
    assert says in str(caught.value)
    assert f"127.0.0.1:{server.server_address[1]}" in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_server_that_loads_nothing_is_told_how_to_start(place, server, tmp_path):
    asked, backend, cuts = opened(place, server, tmp_path)
    server.loads = False
    with pytest.raises(UsageError, match="--max-lora-rank 8 --lora-modules aurac-r") as caught:
        backend.begin([*cuts.values()], logprobs=False)
    modules = str(caught.value).split("--lora-modules ")[1].split()
    server.adapters = dict(module.split("=") for module in modules)
    backend.begin([*cuts.values()], logprobs=False)
    with backend.lm(cuts[2]) as lm:
        assert len(lm.generate_until(asked)) == len(asked)
    server.loads, server.adapters = 400, {}
    with pytest.raises(UsageError, match="answers 400 Bad Request") as caught:
        backend.begin([*cuts.values()], logprobs=False)
    assert KEY not in str(caught.value)


def test_no_prompt_log_probabilities_are_found_before_the_first_cell(place, server, tmp_path):
    server.echoes = False
    _, backend, cuts = opened(place, server, tmp_path)
    backend.begin([*cuts.values()], logprobs=False)
    with pytest.raises(UsageError, match="no log-probabilities of the prompt"):
        backend.begin([*cuts.values()], logprobs=True)


def test_a_server_without_models_is_refused(place, server, tmp_path, monkeypatch):
    monkeypatch.setattr(ServerBackend, "models", lambda _: {})
    with pytest.raises(UsageError, match="serves no model"):
        compared(place, tmp_path / "run", **over_http(server))


def test_backends_do_not_mix_in_a_folder(place, server, engine):
    with pytest.raises(RunFolderError, match="backend was 'aurac"):
        compared(place, engine[0], **over_http(server))


@pytest.mark.parametrize(("model", "arguments", "says"), [
    ("gguf", {}, "takes no adapter"),
    ("none-such", {}, "cannot be used here"),
    ("local-completions", {}, "base_url"),
    ("local-completions", {"base_url": "http://me:secret@host/v1"}, "in ~/.netrc"),
    ("local-completions", {"base_url": "http://host/v1", "header": {"A": "secret"}}, "OPENAI_API"),
    ("huggingface", {"token": "secret"}, "give keys in the environment"),
    ("vllm", {}, "needs vLLM in this environment"),
])  # fmt: skip
def test_what_cannot_answer_or_would_keep_a_key_is_refused(place, tmp_path, model, arguments, says):
    with pytest.raises(UsageError, match=says) as caught:
        compared(place, tmp_path / "run", model=model, model_args=arguments)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.server
@pytest.mark.skipif("AURAC_SERVER" not in os.environ, reason="set AURAC_SERVER to vLLM's URL")
def test_a_real_server_computes_the_zoo(tmp_path):
    """VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, the packaged base in bfloat16, --max-lora-rank 16."""
    zoo = Path(__file__).parents[2] / "adapters_zoo" / "word_problems"
    words = ["compare", *(str(zoo / name) for name in ("lora", "dylora", "matryoshka"))]
    words += ["--tasks", "aurac_word_problems", "--ranks", "1,4,16", "--out", str(tmp_path / "run")]
    words += ["--model", "local-completions", "--check-only"]
    words += ["--model-args", f"base_url={os.environ['AURAC_SERVER']}"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    assert done.return_value == 0, done.output
