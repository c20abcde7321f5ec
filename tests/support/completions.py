"""A server with OpenAI's completions: a random model with PEFT adapters, which can misbehave."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from harness_doubles import make_model, make_tokenizer
from support.adapters import load_with_peft

from aurac.runs.compare import run
from aurac.runs.settings import Settings

RANKS, KEY = (1, 2, 4), "sk-this-is-secret"


class Completions(BaseHTTPRequestHandler):
    """vLLM's part of the API, one prompt after the other, greedily."""

    def log_message(self, *_):
        pass

    def reply(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        names = {"BASE": None, **dict.fromkeys(self.server.adapters, "BASE")}
        about = {"owned_by": "double", "max_model_len": self.server.longest}
        data = [{"id": n, "parent": p, **about} for n, p in names.items()]
        known = {"/v1/models": {"data": data}, "/version": {"version": "1.0"}}
        self.reply(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter":
            if self.server.loads is not True:
                return self.reply(self.server.loads or 404, {"headers": dict(self.headers)})
            self.server.adapters[asked["lora_name"]] = asked["lora_path"]
            return self.reply(200, b"Success: it is loaded")
        if self.path == "/v1/unload_lora_adapter":
            return self.reply(200 if self.server.adapters.pop(asked["lora_name"], 0) else 404, b"")
        with self.server.lock:
            return self.complete(asked)

    def complete(self, asked):
        server = self.server
        server.asked.append(asked["model"])
        server.keys.add(self.headers["Authorization"])
        fault = server.faults.pop(0) if server.faults else server.always
        if isinstance(fault, int):
            return self.reply(fault, {"headers": dict(self.headers)})
        if fault == "drop":
            return self.connection.close()
        if fault == "slow":
            threading.Event().wait(1.2)  # tests have no time.sleep
        if fault == "unload":
            server.adapters.clear()
        if fault == "garbage":
            return self.reply(200, b"<html>It works!</html>")
        if asked["model"] not in ("BASE", *server.adapters):
            return self.reply(404, {"error": f"no model {asked['model']}"})
        prompts = asked["prompt"]
        prompts = [prompts] if isinstance(prompts[0], int) else prompts
        echoes = asked.get("echo")
        answer = (echo if server.echoes else one_token) if echoes else continue_
        model = server.model("BASE" if server.writes_base and not echoes else asked["model"])
        with torch.no_grad():
            choices = [
                {"index": i, **answer(model, server, server.prompt(ids, asked), asked)}
                for i, ids in enumerate(prompts)
            ]
        if not echoes:
            choices = [server.text(choice) for choice in choices]
        return self.reply(200, {"choices": choices[: server.most_choices]})


def echo(model, _server, ids, _asked):
    """The prompt's own log-probabilities, and the one token that was asked for beyond it."""
    logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    ids = [*ids, int(logits[-1].argmax())]
    own = [None, *(float(logits[i, token]) for i, token in enumerate(ids[1:]))]
    best = [None, *({"top": float(logits[i].max())} for i in range(len(ids) - 1))]
    return {"text": "", "logprobs": {"token_logprobs": own, "top_logprobs": best}}


def one_token(model, server, ids, asked):
    """As servers do that know no log-probabilities of the prompt: those of the new token alone."""
    whole = echo(model, server, ids, asked)["logprobs"]
    return {"text": "", "logprobs": {name: values[-1:] for name, values in whole.items()}}


def continue_(model, server, ids, asked):
    """Text up to a stop string or the number of tokens, greedy unless the server samples."""
    new: list[int] = []
    decode = server.tokenizer.decode
    while len(new) < min(asked["max_tokens"], server.most_tokens):
        logits = model(torch.tensor([[*ids, *new]])).logits[0, -1]
        token = int(logits.softmax(-1).multinomial(1) if server.samples else logits.argmax())
        if token == server.tokenizer.eos_token_id:
            break
        new.append(token)
        text = decode(new, skip_special_tokens=True)
        ends = [text.find(stop) for stop in asked.get("stop") or () if stop and stop in text]
        if ends:
            return {"text": text[: min(ends)]}
    return {"text": decode(new, skip_special_tokens=True)}


class Server(ThreadingHTTPServer):
    """The state that tests change.

    Attributes:
        faults, always: What the next answers are, and all later ones: a status,
            "garbage", "drop", "slow", or "unload", which forgets the adapters.
        scale, without: Of every adapter: a factor of its scale (0: ignored), modules not applied.
        keeps_first: Whether it answers for the first adapter, whichever is asked for.
        writes_base: Whether texts are the base's.
        wrapped: What stands before each prompt that is continued, as a chat template puts it.
        most_prompt, most_tokens, most_choices: Lengths to which it cuts.
        text: What becomes of a choice.
        longest: The length in tokens that it states.
        dtype: Of the model and its adapters.
        attention: Of transformers.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Completions)
        self.tokenizer, self.lock = make_tokenizer(), threading.Lock()
        self.adapters, self.asked, self.keys, self.faults = {}, [], set(), []
        self.always, self.loads, self.echoes, self.scale, self.models = None, True, True, 1.0, {}
        self.without, self.writes_base, self.samples, self.wrapped = (), False, False, ""
        self.most_tokens, self.most_choices, self.most_prompt = 10**9, None, 0
        self.text, self.longest = lambda choice: choice, None
        self.dtype, self.attention, self.keeps_first = torch.float32, "sdpa", False
        self.base = lambda: make_model(1)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1/completions"

    def prompt(self, ids, asked):
        """The tokens that are computed of a prompt."""
        if not asked.get("echo"):
            ids = [*self.tokenizer(self.wrapped).input_ids, *ids]
        return ids[-self.most_prompt :]

    def model(self, name):
        """The base, or with an adapter as `scale` and `without` have it."""
        key = name, self.scale, self.without, self.keeps_first
        if key not in self.models:
            model = self.base().to(self.dtype)
            model.set_attn_implementation(self.attention)
            if name != "BASE" and self.scale:
                served = next(iter(self.adapters)) if self.keeps_first else name
                model = load_with_peft(model, self.adapters[served])
                for path, module in model.named_modules():
                    for part in module.scaling if hasattr(module, "lora_A") else ():
                        lacks = any(each in path for each in self.without)
                        module.scaling[part] *= 0 if lacks else self.scale
            self.models[key] = model
        return self.models[key]


def settings_of(place, out, model="hf", tasks=("tiny_choice", "tiny_text"), **words):
    """A comparison of the adapter at three ranks on two small tasks."""
    files = [str(place / "tasks" / f"{task}.yaml") for task in tasks]
    given = {"limit": 5, "dtype": "float32", "device": "cpu", "ranks": RANKS, "model": model}
    return Settings.of(place / "mine", files, out=out, **{**given, **words})


def compared(place, out, *, progress=None, command=None, **words):
    """A run, and its accuracies and answers by task and rank."""
    stored = run(settings_of(place, out, **words), progress, command)
    return stored, {
        (task.name, rank): stored.answers(task.name, "mine", "svd", "keep", rank)
        for task in stored.tasks
        for rank in (0, *RANKS)
        if not stored.failures
    }


def over_http(server, **more):
    return {"model": "local-completions", "model_args": {"base_url": server.url, **more}}
