"""Runs whose answers come from a server, from lm-eval's HFLM, or from a model with ``peft=``.

The server is the tests' own: a random model with PEFT adapters behind OpenAI's completions, which
can misbehave in the ways that servers do.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner
from harness_doubles import (
    make_model,
    make_tokenizer,
    stay_offline,
    write_choice_task,
    write_text_task,
)
from lm_eval.models.huggingface import HFLM
from support.adapters import load_with_peft, save_with_peft

from aurac.adapters import load_adapter, save_adapter, truncate
from aurac.backends.check import NotComputedError, parts
from aurac.backends.server import ServerError
from aurac.cli import cli
from aurac.errors import UsageError
from aurac.runs.compare import run
from aurac.runs.settings import Settings

pytest.importorskip("tenacity", reason="lm-eval's client needs aurac[servers]")
pytestmark = pytest.mark.filterwarnings("ignore")

RANKS, KEY = (1, 2, 4), "sk-this-is-secret"


class Completions(BaseHTTPRequestHandler):
    """vLLM's part of the API, one prompt after the other, greedily."""

    def log_message(self, *_):
        pass

    def reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        names = {"BASE": None, **dict.fromkeys(self.server.adapters, "BASE")}
        data = [{"id": n, "parent": p, "owned_by": "double"} for n, p in names.items()]
        known = {"/v1/models": {"data": data}, "/version": {"version": "1.0"}}
        self.reply(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter":
            if not self.server.loads:
                return self.reply(404, {"detail": "Not Found"})
            self.server.adapters[asked["lora_name"]] = asked["lora_path"]
            return self.reply(200, {})
        with self.server.lock:
            return self.complete(asked)

    def complete(self, asked):
        server = self.server
        server.asked.append(asked["model"])
        server.keys.add(self.headers["Authorization"])
        fault = server.faults.pop(0) if server.faults else server.always
        if fault == "500":
            return self.reply(500, {"error": "no memory"})
        if fault == "drop":
            return self.connection.close()
        if fault == "slow":
            time.sleep(3)
        model, prompts = server.model(asked["model"]), asked["prompt"]
        prompts = [prompts] if isinstance(prompts[0], int) else prompts
        answer = (echo if server.echoes else one_token) if asked.get("echo") else continue_
        with torch.no_grad():
            choices = [
                {"index": i, **answer(model, server.tokenizer, list(ids), asked)}
                for i, ids in enumerate(prompts)
            ]
        return self.reply(200, {"choices": choices})


def echo(model, tokenizer, ids, asked):
    """The prompt's own log-probabilities, and the one token that was asked for beyond it."""
    logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    ids = [*ids, int(logits[-1].argmax())]
    own = [None, *(float(logits[i, token]) for i, token in enumerate(ids[1:]))]
    best = [None, *({"top": float(logits[i].max())} for i in range(len(ids) - 1))]
    return {"text": "", "logprobs": {"token_logprobs": own, "top_logprobs": best}}


def one_token(model, tokenizer, ids, asked):
    """As servers do that know no log-probabilities of the prompt: those of the new token alone."""
    whole = echo(model, tokenizer, ids, asked)["logprobs"]
    return {"text": "", "logprobs": {name: values[-1:] for name, values in whole.items()}}


def continue_(model, tokenizer, ids, asked):
    """Greedy text up to a stop string or the number of tokens."""
    new: list[int] = []
    while len(new) < asked["max_tokens"]:
        token = int(model(torch.tensor([[*ids, *new]])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        new.append(token)
        text = tokenizer.decode(new, skip_special_tokens=True)
        ends = [text.find(stop) for stop in asked.get("stop") or () if stop and stop in text]
        if ends:
            return {"text": text[: min(ends)]}
    return {"text": tokenizer.decode(new, skip_special_tokens=True)}


class Server(ThreadingHTTPServer):
    """The state that tests change."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Completions)
        self.tokenizer, self.lock = make_tokenizer(), threading.Lock()
        self.adapters, self.asked, self.keys, self.faults = {}, [], set(), []
        self.always, self.loads, self.echoes, self.scale, self.models = None, True, True, 1.0, {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1/completions"

    def model(self, name):
        """The base, or with an adapter at `scale` times its scale (0: ignored)."""
        if (name, self.scale) not in self.models:
            model = make_model(1)
            if name != "BASE" and self.scale:
                model = load_with_peft(model, self.adapters[name])
                for module in model.modules():
                    for key in module.scaling if hasattr(module, "lora_A") else ():
                        module.scaling[key] *= self.scale
            self.models[name, self.scale] = model
        return self.models[name, self.scale]


@pytest.fixture
def server():
    found = Server()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    make_model(1).save_pretrained(root / "BASE")
    make_tokenizer().save_pretrained(root / "BASE")
    save_with_peft(
        make_model(1), root / "peft", seed=4, r=4, target_modules=["q_proj", "v_proj"],
        use_rslora=True,
    )  # fmt: skip
    save_adapter(load_adapter(root / "peft", method="lora", base=str(root / "BASE")), root / "mine")
    path = write_choice_task(root / "tasks")
    mcc = "  - metric: mcc\n    aggregation: matthews_corrcoef\n    higher_is_better: true\n"
    path.write_text(path.read_text().replace(mcc, ""))
    write_text_task(root / "tasks")
    return root


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path_factory):
    stay_offline(monkeypatch, tmp_path_factory.mktemp("hf"))
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "machine")
    monkeypatch.setattr("aurac.runs.compare.write_report", lambda _result: None)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def compared(place, out, model="hf", tasks=("tiny_choice", "tiny_text"), command=None, **words):
    """A run, and its accuracies and answers by task and rank."""
    files = [str(place / "tasks" / f"{task}.yaml") for task in tasks]
    given = {"limit": 5, "dtype": "float32", "device": "cpu", "ranks": RANKS, "model": model}
    settings = Settings.of(place / "mine", files, out=out, **given, **words)
    stored = run(settings, command=command).stored
    return stored, {
        (task.name, rank): stored.samples(task.name, "mine", "svd", "keep", rank)
        for task in stored.tasks
        for rank in (0, *RANKS)
        if not stored.failures
    }


@pytest.fixture(scope="module")
def engine(place, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        patch.setattr("aurac.runs.compare.write_report", lambda _result: None)
        return compared(place, tmp_path_factory.mktemp("engine") / "run")[1]


def same_answers(found, engine):
    assert found.keys() == engine.keys()
    for key, frame in engine.items():
        assert found[key].score.tolist() == frame.score.tolist(), key
        if key[0] == "tiny_text":
            assert found[key].response.tolist() == frame.response.tolist()


def over_http(server, **more):
    return {"model": "local-completions", "model_args": {"base_url": server.url, **more}}


@pytest.mark.parametrize("concurrent", [1, 8])
def test_a_server_gives_what_the_engine_gives(place, server, engine, tmp_path, concurrent):
    _, found = compared(place, tmp_path / "run", **over_http(server, num_concurrent=concurrent))
    same_answers(found, engine)
    assert set(server.asked) == {"BASE", *server.adapters}
    assert len(server.adapters) == len(RANKS)
    told = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert told["backend"] == "local-completions, double 1.0"
    assert (told["served_model"], told["device_kind"]) == ("BASE", "server")
    names = {path.name for path in (tmp_path / "run" / "served").iterdir()}
    assert names == set(server.adapters)
    asked = len(server.asked)
    compared(place, tmp_path / "run", **over_http(server))
    assert len(server.asked) == asked  # nothing was missing


@pytest.mark.parametrize("model", ["hflm", "huggingface"])
def test_other_models_of_lm_eval_give_it_too(place, engine, tmp_path, model):
    more = {"model_args": "dtype=float32"} if model == "huggingface" else {}
    _, found = compared(place, tmp_path / "run", model=model, **more)
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
        self.seen, self.sizes = set(), []
        engines.append(self)

    def _ask(self, kind, requests):
        self.seen.add(self.lora_request)
        self.sizes.append(self.batch_size)
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


def test_vllm_in_process_is_one_engine_with_a_request_for_each_cut(
    place, engine, tmp_path, monkeypatch
):
    for name in ("vllm", "vllm.lora", "vllm.lora.request"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(LoRARequest=LoRARequest))
    monkeypatch.setattr(
        "aurac.backends.lm_eval_models.model_class", lambda name: {"vllm": InProcess}[name]
    )
    monkeypatch.setattr("aurac.backends.lm_eval_models.VllmBackend.version", "vllm 0")
    engines.clear()
    _, found = compared(place, tmp_path / "run", model="vllm", model_args="max_loras=5")
    same_answers(found, engine)
    [one] = engines
    told = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 5}
    assert told.items() <= one.arguments.items()
    requests = one.seen - {None}
    assert None in one.seen
    assert len(requests) == len({request.lora_int_id for request in requests}) == len(RANKS)
    assert one.sizes[:4] == [1, 1, 1, "auto"]  # checked one prompt at a time


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


@pytest.mark.parametrize(("scale", "says"), [
    (0.0, "it answers as the base does: it does not compute the adapter"),
    (0.5, "alpha/r and should be alpha/√r|half of what it should be"),
])  # fmt: skip
@pytest.mark.parametrize("echoes", [True, False])
def test_an_adapter_that_is_not_computed_ends_the_run(place, server, tmp_path, scale, says, echoes):
    server.scale, server.echoes = scale, echoes
    if not echoes and scale:
        pytest.skip("texts do not tell the scale surely")
    with pytest.raises(NotComputedError, match=says) as caught:
        compared(place, tmp_path / "run", tasks=["tiny_text"], **over_http(server))
    assert caught.value.exit_code == 4
    assert not list((tmp_path / "run").glob("cells/*"))


def test_faults_that_pass_are_retried(place, server, engine, tmp_path):
    server.faults = ["500", "drop", None, "500", "slow", "drop"] * 2
    how = over_http(server, num_concurrent=4, max_retries=13, timeout=2)
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
            server.always = "500"

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


def test_no_server(place, tmp_path):
    gone = Server()
    gone.server_close()
    with pytest.raises(ServerError, match="does not answer") as caught:
        compared(place, tmp_path / "run", **over_http(gone))
    assert caught.value.exit_code == 3


def test_keys_reach_the_server_and_no_file(place, server, tmp_path, caplog):
    args = f"base_url={server.url},auth_token=hf_also_secret"
    _stored, _ = compared(
        place, tmp_path / "run", tasks=["tiny_text"], model="local-completions",
        model_args=args, command=f"aurac compare mine --model-args {args}",
    )  # fmt: skip
    assert server.keys == {f"Bearer {KEY}"}
    for path in tmp_path.rglob("*"):
        text = path.read_bytes() if path.is_file() else b""
        for secret in (KEY, "hf_also_secret"):
            assert secret.encode() not in text, path
    assert not any(KEY in record.getMessage() for record in caplog.records)


def test_what_takes_no_adapter_or_does_not_exist_is_refused(place, tmp_path):
    for model, says in (("gguf", "takes no adapter"), ("none-such", "lm-eval has no model")):
        with pytest.raises(UsageError, match=says):
            compared(place, tmp_path / "run", model=model)
    with pytest.raises(UsageError, match="base_url"):
        compared(place, tmp_path / "run", model="local-completions")
    with pytest.raises(UsageError, match="--ray"):
        compared(place, tmp_path / "run", model="hflm", ray="local")


def checked(place, server, *more):
    words = ["check-server", server.url, str(place / "mine"), "--ranks", "1,2,4", *more]
    return CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)


def test_check_server(place, server, monkeypatch, tmp_path):
    monkeypatch.setenv("AURAC_CACHE", str(tmp_path))
    done = checked(place, server, "--dtype", "float32", "--json")
    assert done.return_value == 0, done.output
    told = json.loads(done.stdout)
    assert [row["rank"] for row in told["ranks"]] == [0, 1, 2, 4]
    assert all(row["right"] for row in told["ranks"])
    server.scale = 0.0
    done = checked(place, server, "--dtype", "float32")
    assert done.return_value == 4, done.stdout
    assert done.stdout.count("does not compute the adapter") == 3, done.stdout
    server.scale, server.adapters = 1.0, {}
    whole, first = place / "mine", tmp_path / "r1"
    save_adapter(truncate(load_adapter(whole), 1), first)
    monkeypatch.setattr(Server, "model", lambda self, name: _at_rank_1(self, name, first))
    done = checked(place, server, "--dtype", "float32")
    assert done.stdout.count("it computes rank 1") == 2


def _at_rank_1(server, name, first):
    model = make_model(1)
    return model if name == "BASE" else load_with_peft(model, first)


def test_parts_are_those_of_the_text():
    text = " ".join(f"w{i}" for i in range(40))
    pairs = parts(text)
    assert len(pairs) == 3
    assert "".join([pairs[0][0], *(part for _, part in pairs)]) == text
    assert all(text.startswith(head + part) for head, part in pairs)


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
