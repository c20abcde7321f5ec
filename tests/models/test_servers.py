"""docs/servers.md, end to end: truncate, serve each rank, lm-eval's own client, read the logs."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
from support.adapters import load_with_peft, save_with_peft

import aurac
from aurac.cli import cli
from aurac.errors import DataError
from aurac.records.run import read_run

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("plain_figures")]

PAGE = Path(aurac.__file__).parents[1] / "docs" / "servers.md"
LIMIT = 5


class Completions(BaseHTTPRequestHandler):
    """`/v1/completions` as vLLM answers it, one prompt after the other, greedily."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, tokenizer = self.server.models[asked["model"]], self.server.tokenizer
        self.server.asked.add(asked["model"])
        prompts = asked["prompt"]
        if isinstance(prompts, str) or isinstance(prompts[0], int):
            prompts = [prompts]
        answer = (echo if self.server.echoes else one_token) if asked.get("echo") else continue_
        with self.server.lock, torch.no_grad():
            choices = [
                {"index": i, **answer(model, tokenizer, _ids(tokenizer, prompt), asked)}
                for i, prompt in enumerate(prompts)
            ]
        body = json.dumps({"model": asked["model"], "choices": choices}).encode()
        self.send_response(200 if self.path == "/v1/completions" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send_error(404)


def _ids(tokenizer, prompt):
    return tokenizer(prompt).input_ids if isinstance(prompt, str) else list(prompt)


def echo(model, tokenizer, ids, asked):
    """The prompt's own log-probabilities, and the one token that was asked for beyond it."""
    logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    ids = [*ids, int(logits[-1].argmax())]
    own = [None, *(float(logits[i, token]) for i, token in enumerate(ids[1:]))]
    best = [None, *({"top": float(logits[i].max())} for i in range(len(ids) - 1))]
    return {"text": tokenizer.decode(ids),
            "logprobs": {"token_logprobs": own, "top_logprobs": best}}  # fmt: skip


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
        text = tokenizer.decode(new)
        ends = [text.find(stop) for stop in asked.get("stop") or () if stop and stop in text]
        if ends:
            return {"text": text[: min(ends)]}
    return {"text": tokenizer.decode(new)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    make_model(1).save_pretrained(root / "BASE")
    make_tokenizer().save_pretrained(root / "BASE")
    save_with_peft(
        make_model(1), root / "my_adapter", seed=4, r=4, target_modules=["q_proj", "v_proj"]
    )
    path = write_choice_task(root / "tasks")
    mcc = "  - metric: mcc\n    aggregation: matthews_corrcoef\n    higher_is_better: true\n"
    path.write_text(path.read_text().replace(mcc, ""))  # lm-eval bootstraps it 100,000 times
    assert "mcc" not in path.read_text()
    write_text_task(root / "tasks")
    return root


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "machine")
        yield


def call(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def server(place):
    """The base and its ranks, each loaded by PEFT from what `aurac truncate` wrote."""
    for r in (1, 2, 4):
        call("truncate", place / "my_adapter", "--rank", r, "--out", place / "ranks" / f"r{r}",
             "--method", "lora", "--base", place / "BASE")  # fmt: skip
    found = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    found.tokenizer, found.lock, found.asked = make_tokenizer(), threading.Lock(), set()
    found.echoes = True
    found.models = {"BASE": make_model(1)}
    for rank in (1, 2, 4):
        found.models[f"r{rank}"] = load_with_peft(make_model(1), place / "ranks" / f"r{rank}")
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def lm_eval_commands():
    """The page's own two commands: of a rank, and of the base."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "lm_eval run" in block)
    joined = block.replace("\\\n", " ")
    return [line.split() for line in joined.splitlines() if "lm_eval run" in line]


def lm_eval(place, server, words, rank, logs="logs", tasks="tiny_choice,tiny_text"):
    """Run a command of the page in this process, by lm-eval's own command line."""
    pytest.importorskip("tenacity", reason="lm-eval's client needs lm-eval[api]")
    from lm_eval._cli import HarnessCLI

    port = server.server_address[1]
    there = {"localhost:8000": f"127.0.0.1:{port}", "tokenizer=BASE": f"tokenizer={place}/BASE",
             "$r": str(rank), "logs/": f"{place}/{logs}/"}  # fmt: skip
    given = []
    for word in words[1:]:
        for old, new in there.items():
            word = word.replace(old, new)  # noqa: PLW2901
        given.append(tasks if word == "gsm8k" else word)
    given += ["--include_path", str(place / "tasks"), "--limit", str(LIMIT)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lm_eval", *given])
        parser = HarnessCLI()
        parser.execute(parser.parse_args())


def test_the_pages_commands_give_the_numbers_of_compare(place, server):
    if not PAGE.is_file():
        pytest.skip("the documentation comes with the sources only")
    of_rank, of_base = lm_eval_commands()
    for rank in (1, 2, 4):
        lm_eval(place, server, of_rank, rank)
    lm_eval(place, server, of_base, 0)
    assert server.asked == {"BASE", "r1", "r2", "r4"}

    tasks = ",".join(str(place / "tasks" / f"{name}.yaml") for name in ("tiny_choice", "tiny_text"))
    call("truncate", place / "my_adapter", "--method", "lora", "--out", place / "whole")
    call("compare", place / "whole", "--tasks", tasks, "--base", place / "BASE", "--limit", LIMIT,
         "--dtype", "float32", "--device", "cpu", "--out", place / "run")  # fmt: skip
    run = read_run(place / "run")
    # `truncate` and `compare` cut a LoRA by SVD; its prefix beside it is not what is served.
    curves = [curve for curve in run.curves if curve.basis == "svd"]
    assert {curve.task for curve in curves} == {"tiny_choice", "tiny_text"}
    for curve in curves:
        for rank, outcomes in zip(curve.ranks, curve.outcomes, strict=True):
            rows = logged(place, rank, curve.task)
            metric = curve.metric.partition(",")[0]
            assert [row[metric] for row in rows] == list(outcomes)
            if curve.task == "tiny_text":  # what was generated, token by token
                ours = run.samples(curve.task, curve.adapter, "svd", "keep", rank)
                said = [row["resps"][0][0] for row in rows]
                assert [str(text) for text in ours["response"]] == said
                assert len(set(said)) > 1


def logged(place, rank, task):
    """lm-eval's rows of a rank, in the order of documents, of the filter that is scored."""
    (log,) = (place / "logs" / "my_adapter" / f"rank_{rank}").rglob(f"samples_{task}_*")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [row for row in rows if row["filter"] in ("none", "strict-match")]
    return sorted(kept, key=lambda row: row["doc_id"])


def test_a_server_without_prompt_log_probabilities_is_found_out(place, server, monkeypatch):
    """lm-eval itself ends well, with 0 for every choice."""
    if not PAGE.is_file():
        pytest.skip("the documentation comes with the sources only")
    monkeypatch.setattr(server, "echoes", False)
    of_rank, _ = lm_eval_commands()
    for rank in (1, 2):
        lm_eval(place, server, of_rank, rank, logs="silent", tasks="tiny_choice")
    (log,) = (place / "silent" / "my_adapter" / "rank_1").rglob("samples_tiny_choice_*")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == LIMIT
    assert {tuple(pair) for row in rows for pair in row["filtered_resps"]} == {("0", "True")}
    with pytest.raises(DataError, match=r"samples_tiny_choice.*server .*prompt_logprobs"):
        call("score", place / "silent")
