"""Answers of a server, of lm-eval's HFLM, of vLLM in this process, and of a model with ``peft=``.

The server is the tests' own: a random model with PEFT adapters behind OpenAI's completions, which
can misbehave in the ways that servers do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import pytest
from click.testing import CliRunner
from harness_doubles import make_model, make_tokenizer
from lm_eval.models.huggingface import HFLM
from support.adapters import load_with_peft
from support.completions import RANKS, compared, over_http
from tokenizers.processors import TemplateProcessing

from aurac.cli import cli
from aurac.errors import UsageError

pytest.importorskip("tenacity", reason="lm-eval's client needs aurac[servers]")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("alone")]


@pytest.fixture(scope="module")
def engine(place, alone, tmp_path_factory):
    return compared(place, tmp_path_factory.mktemp("engine") / "run")[1]


def same_answers(found, engine):
    assert found.keys() == engine.keys()
    for key, frame in engine.items():
        assert found[key].score.tolist() == frame.score.tolist(), key
        if key[0] == "tiny_text":
            assert found[key].response.tolist() == frame.response.tolist()


@pytest.mark.parametrize("concurrent", [1, 8])
def test_a_server_gives_what_the_engine_gives(place, server, engine, tmp_path, concurrent):
    _, found = compared(place, tmp_path / "run", **over_http(server, num_concurrent=concurrent))
    same_answers(found, engine)
    assert len(set(server.asked)) == 1 + len(RANKS)
    assert not server.adapters  # unloaded at the end
    told = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert told["backend"] == "local-completions, double 1.0"
    assert (told["served_model"], told["device_kind"]) == ("BASE", "server")
    names = {path.name for path in (tmp_path / "run" / "served").iterdir()}
    assert {*names, "BASE"} == set(server.asked)
    asked = len(server.asked)
    compared(place, tmp_path / "run", **over_http(server))
    assert len(server.asked) == asked  # nothing was missing


@pytest.mark.parametrize("begin", ["", "<s>"])
def test_a_chat_begins_on_a_server_as_in_the_engine(place, server, tmp_path, begin):
    """Of a tokenizer that adds BOS, whether the template has one of its own or not."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    tokenizer.chat_template = f"{begin}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    how = {"tokenizer": str(tmp_path / "tokenizer"), "apply_chat_template": True}
    _, engine = compared(place, tmp_path / "engine", **how)
    _, found = compared(place, tmp_path / "run", **how, **over_http(server))
    same_answers(found, engine)


def test_a_notebook_has_an_event_loop_of_its_own(place, server, engine, tmp_path):
    async def cell():
        return compared(place, tmp_path / "run", **over_http(server, num_concurrent=4))[1]

    same_answers(asyncio.run(cell()), engine)


@pytest.mark.parametrize("model", ["hflm", "huggingface"])
def test_other_models_of_lm_eval_give_it_too(place, engine, tmp_path, model):
    _, found = compared(place, tmp_path / "run", model=model)
    same_answers(found, engine)
    backend = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["backend"]
    assert backend.startswith(f"{model}, lm-eval 0.")


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

    def _ask(self, kind, requests):
        self.seen.add(self.lora_request)
        model = make_model(1)
        if self.lora_request:
            model = load_with_peft(model, self.lora_request.lora_path)
        lm = HFLM(pretrained=model, tokenizer=make_tokenizer(), softmax_dtype="float32")
        return getattr(lm, kind)(requests, disable_tqdm=True)

    def loglikelihood(self, requests):
        return self._ask("loglikelihood", requests)

    def generate_until(self, requests):
        return self._ask("generate_until", requests)


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
    monkeypatch.setattr("aurac.backends.lm_eval_models.VllmBackend.version", "vllm 0")
    monkeypatch.setattr("aurac.runs.check.ProcessPoolExecutor", Pool)
    engines.clear()
    Pool.ended.clear()
    _, found = compared(place, tmp_path / "run", model="vllm", model_args="max_loras=5")
    same_answers(found, engine)
    [one] = engines
    assert Pool.ended == [0]  # what it is checked by has given its memory back
    told = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 5}
    assert told.items() <= one.arguments.items()
    requests = one.seen - {None}
    assert None in one.seen
    assert len(requests) == len({request.lora_int_id for request in requests}) == len(RANKS)


def test_backends_do_not_mix_in_a_folder(place, server, tmp_path):
    compared(place, tmp_path / "run", tasks=["tiny_text"])
    with pytest.raises(Exception, match="backend was 'aurac"):
        compared(place, tmp_path / "run", tasks=["tiny_text"], **over_http(server))


def test_a_server_that_loads_nothing_is_told_how_to_start(place, server, tmp_path):
    server.loads = False
    with pytest.raises(UsageError, match="--max-lora-rank 8 --lora-modules aurac-r") as caught:
        compared(place, tmp_path / "run", tasks=["tiny_text"], **over_http(server))
    modules = str(caught.value).split("--lora-modules ")[1].split()
    server.adapters = dict(module.split("=") for module in modules)
    stored, _ = compared(place, tmp_path / "run", tasks=["tiny_text"], **over_http(server))
    assert not stored.failures


def test_no_prompt_log_probabilities_are_found_before_the_first_cell(place, server, tmp_path):
    server.echoes = False
    with pytest.raises(UsageError, match="no log-probabilities of the prompt"):
        compared(place, tmp_path / "run", tasks=["tiny_choice"], **over_http(server))
    assert not list((tmp_path / "run").glob("cells/*"))
    stored, _ = compared(place, tmp_path / "text", tasks=["tiny_text"], **over_http(server))
    assert not stored.failures


def test_faults_that_pass_are_retried(place, server, engine, tmp_path):
    server.faults = [500, "drop", None, 429, "slow", "drop", "unload"] * 2
    how = over_http(server, num_concurrent=4, max_retries=15, timeout=2)
    _, found = compared(place, tmp_path / "run", **how)
    same_answers(found, engine)
    assert not server.faults


def test_a_server_that_dies_costs_no_answered_block_and_the_command_goes_on(
    place, server, engine, tmp_path, monkeypatch
):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_EXAMPLES", {"server": 2, "cpu": 2})
    from aurac.runs import compute

    kept, add = [], compute.Work.add

    def dying(self, cell, block):
        add(self, cell, block)
        kept.append(block)
        if len(kept) == 4:
            server.always = 500

    monkeypatch.setattr(compute.Work, "add", dying)
    how = over_http(server, max_retries=2)
    stored, _ = compared(place, tmp_path / "run", tasks=["tiny_text"], **how)
    assert stored.failures
    assert "500" in stored.failures[0].reason
    assert len(kept) == 4
    server.always, server.adapters = None, {}  # started anew
    _, found = compared(place, tmp_path / "run", tasks=["tiny_text"], **how)
    assert len(kept) == 4 * 3  # three blocks in each of four cells: none twice
    same_answers(found, {key: frame for key, frame in engine.items() if key[0] == "tiny_text"})


def test_what_cannot_answer_is_refused(place, tmp_path):
    for model, says in (("gguf", "takes no adapter"), ("none-such", "cannot be used here")):
        with pytest.raises(UsageError, match=says):
            compared(place, tmp_path / "run", model=model)
    with pytest.raises(UsageError, match="base_url"):
        compared(place, tmp_path / "run", model="local-completions")
    with pytest.raises(UsageError, match="needs vLLM in this environment"):
        compared(place, tmp_path / "run", model="vllm")


@pytest.mark.server
@pytest.mark.skipif("AURAC_SERVER" not in os.environ, reason="set AURAC_SERVER to vLLM's URL")
def test_a_real_server_computes_the_zoo():
    """VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, the packaged base in bfloat16, --max-lora-rank 16."""
    zoo = Path(__file__).parents[2] / "adapters_zoo" / "word_problems"
    for adapter in ("lora", "dylora", "matryoshka"):
        words = ["check-server", os.environ["AURAC_SERVER"], str(zoo / adapter)]
        how = {"catch_exceptions": False, "standalone_mode": False}
        done = CliRunner().invoke(cli, [*words, "--ranks", "1,4,16"], **how)
        assert done.return_value == 0, done.output
