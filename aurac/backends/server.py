"""A server with OpenAI's completions: the base under a name, each cut under one of its own.

Cuts are loaded while it runs where it allows that (vLLM: VLLM_ALLOW_RUNTIME_LORA_UPDATING=1), and
unloaded at the end. Their names are made of their content, since a server may keep what it computed
under a name (vllm-project/vllm#42125).
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from itertools import chain
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from lm_eval.api.instance import Instance

from aurac.adapters.cut import Cut
from aurac.backends.backend import Backend
from aurac.curves.names import slot_rank
from aurac.engine.tokens import encode_texts
from aurac.errors import AuracError, CellError, UsageError, first_line
from aurac.terminal import one_line

SERVER = "local-completions"
_SHORTEST_KEY = 8


class ServerError(AuracError):
    """A server that does not answer; the same command goes on when it is there again."""

    exit_code = 3


class IncompleteAnswerError(CellError):
    """An answer that lacks a text or the log-probability of a token."""

    exit_code = 4


class ServerBackend(Backend):
    """lm-eval's ``local-completions``, whose model is the name of a cut.

    Attributes:
        address: The server's, without a path.
        served: The name of the served base.
        threads: How many requests are sent at a time.
    """

    checked = True
    device_kind = "server"

    def __init__(self, name: str, arguments: Mapping[str, Any], *given: Any) -> None:
        super().__init__(name, arguments, *given)
        url = str(arguments.get("base_url") or "")
        if not urlsplit(url).netloc:
            raise UsageError(f"--model {name} needs --model-args base_url=http://HOST:PORT/v1/…")
        if "@" in urlsplit(url).netloc:
            raise UsageError("base_url is kept in files: give its user and password in ~/.netrc")
        self.address = re.sub("(/v1(/completions)?)?/?$", "", url)
        self.threads = int(arguments.get("num_concurrent", 1))
        self._loaded: set[str] = set()
        if not (served := self.models()):
            raise UsageError(f"{self.address} serves no model")
        bases = [name for name, each in served.items() if not each.get("parent")]
        self.served = str(arguments.get("model") or next(iter(bases), None))
        self._serve([None])
        how = {
            "tokenizer": self.base.tokenizer.name_or_path or str(self.base.path),
            "tokenizer_backend": "huggingface",
            "max_length": served[self.served].get("max_model_len") or super().longest,
            **{name: value for name, value in arguments.items() if name != "dtype"},
        }
        self._how = how | {"model": self.served, "num_concurrent": 1}

    def __exit__(self, *_: object) -> None:
        """Unload what was loaded; a server that is gone has nothing to unload."""
        with suppress(ServerError):
            for name in self._loaded:
                with suppress(UsageError, CellError):  # another process was quicker
                    self.send("post", "/v1/unload_lora_adapter", json={"lora_name": name})

    @cached_property
    def version(self) -> str:
        """Of the server, as vLLM and others tell it, behind who it says owns the models."""
        said = self.models()[self.served].get("owned_by") or "server"
        with suppress(AuracError, AttributeError, KeyError):
            said += f" {self.told('get', '/version')['version']}"
        return str(said)

    def identity(self) -> dict[str, Any]:
        """As of any backend; also the served model's name and its length in tokens."""
        own = {"served_model": self.served, "max_length": self._how["max_length"]}
        return super().identity() | own

    @property
    def longest(self) -> int:
        """One token less than the server takes: lm-eval asks for one beyond what is scored."""
        return int(self._how["max_length"]) - 1

    @cached_property
    def _lm(self) -> Any:
        return _client(self)(**self._how)

    @contextmanager
    def _model(self, cut: Cut | None) -> Iterator[Any]:
        self._serve([cut])  # a server that was started anew gets it again
        self._cut, self._lm.model = cut, self._name(cut)
        yield self._lm

    def begin(self, cuts: Sequence[Cut], *, logprobs: bool) -> None:
        """Have every cut served, and ask whether the prompt's log-probabilities come.

        Raises:
            UsageError: The server does neither load adapters nor have them, or tasks need
                log-probabilities of the prompt and it gives none.
        """
        self._serve(cuts)
        if logprobs and not self.gives_logprobs:
            raise UsageError(
                f"{self.address} gives no log-probabilities of the prompt (echo with logprobs), "
                "without which every choice of a multiple-choice task would score 0"
            )

    @cached_property
    def gives_logprobs(self) -> bool:
        """Whether a request with echo and logprobs gets one log-probability for each token."""
        asked = Instance("loglikelihood", {}, ("One two three", " four five six"), 0)
        with self.lm(None) as lm:
            try:
                lm.loglikelihood([asked])
            except CellError:
                return False
        return True

    def models(self) -> dict[str, dict[str, Any]]:
        """Name → what the server says of a model or adapter."""
        return {each["id"]: each for each in self.told("get", "/v1/models")["data"]}

    def complete(self, asked: Mapping[str, Any]) -> Any:
        """The answers to prompts (tokens where they are scored), if all of them are whole.

        lm-eval would take what is missing for wrong, or for certain.
        """
        try:
            told = self.told("post", "/v1/completions", json=asked)
        except UsageError:  # another process that uses the adapter, too, may have unloaded it
            self._serve([self._cut])
            raise  # lm-eval asks again
        given = sorted(told.get("choices") or (), key=itemgetter("index"))
        if len(given) != len(asked["prompt"]):
            count = f"{len(given)} of {len(asked['prompt'])} prompts"
            raise ServerError(f"{self.address} answers {count}")
        for prompt, choice in zip(asked["prompt"], given, strict=True):
            each = (choice.get("logprobs") or {}).get("token_logprobs") or ()
            known = np.isfinite(np.array(each[1:], dtype=float))  # the first token has none
            if "echo" in asked and (len(known) != len(prompt) or not known.all()):
                raise IncompleteAnswerError(
                    f"{self.address} gives no log-probability for each token"
                )
            if "echo" not in asked and choice.get("text") is None:
                raise IncompleteAnswerError(f"{self.address} answers without a text")
        return told

    def _name(self, cut: Cut | None) -> str:
        return self.exported(cut).name if cut else self.served

    def _serve(self, cuts: Sequence[Cut | None]) -> None:
        """Have the server load what it lacks."""
        served = set(self.models())
        for cut in cuts:
            if (name := self._name(cut)) in served:
                continue
            if cut is None:
                raise UsageError(f"{self.address} serves {', '.join(served)}, and no {name!r}")
            what = {"lora_name": name, "lora_path": str(self.exported(cut))}
            try:
                self.send("post", "/v1/load_lora_adapter", json=what)
            except (UsageError, CellError) as error:
                if name not in self.models():  # another process was not quicker
                    folders = {self.exported(each): slot_rank(each.rank) for each in cuts if each}
                    modules = shlex.join(f"{folder.name}={folder}" for folder in folders)
                    raise UsageError(
                        f"{error}; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, or with "
                        f"--enable-lora --max-lora-rank {max(folders.values())} --lora-modules "
                        f"{modules}"
                    ) from error
            self._loaded.add(name)
            served.add(name)

    def told(self, method: str, path: str, **content: Any) -> Any:
        """The JSON with which the server answers a request."""
        text = self.send(method, path, **content)
        try:
            return json.loads(text)
        except ValueError as error:
            what = f"{self.address}{path} answers what is no JSON: {one_line(text)[:200]}"
            raise ServerError(what) from error

    @cached_property
    def _session(self) -> Any:
        """Connections that stay, with what lm-eval's arguments say of keys and certificates."""
        from requests import Session
        from requests.adapters import HTTPAdapter

        given, session = self.arguments, Session()
        session.mount(self.address, HTTPAdapter(pool_maxsize=self.threads))
        session.verify = given.get("verify_certificate", True) and given.get("ca_cert_path", True)
        session.headers["Authorization"] = f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"
        return session

    def send(self, method: str, path: str, **content: Any) -> str:
        """A request; what comes back, without the key.

        Raises:
            ServerError, UsageError, CellError: No answer yet; no such path; no such request.
        """
        from requests import RequestException

        timeout = float(self.arguments.get("timeout", 300))  # lm-eval's own
        try:
            reply = self._session.request(method, self.address + path, timeout=timeout, **content)
        except RequestException as error:
            what = _redacted(first_line(error)).rpartition(": ")[2].strip("')\"")
            raise ServerError(f"{self.address} does not answer ({what})") from error
        reply.encoding = "utf-8"
        status, text = reply.status_code, _redacted(reply.text)
        if status >= 400:
            later, absent = status == 429 or status >= 500, status in (401, 403, 404, 405)
            kind = ServerError if later else UsageError if absent else CellError
            said = f"answers {status} {reply.reason}: {one_line(text)[:200]}"
            raise kind(f"{self.address}{path} {said}")
        return text


def _redacted(text: str) -> str:
    """A text without `OPENAI_API_KEY`, which a server may repeat; one such as EMPTY is no key."""
    key = os.environ.get("OPENAI_API_KEY", "")
    return text.replace(key, "…") if len(key) >= _SHORTEST_KEY else text


def _client(server: ServerBackend) -> Any:
    """lm-eval's class: its batches, retries and scores; `server` sends and looks at answers."""
    from lm_eval.models import api_models
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    api_models.tqdm = partial(api_models.tqdm, disable=True)  # it draws a bar for each call

    class Client(LocalCompletionsAPI):
        """Each thread sends one request after the other, since `asyncio.run` fails in notebooks."""

        def tok_encode(self, string: Any, **_: Any) -> Any:
            """The engine's tokens, of a text or of several."""
            texts = [string] if isinstance(string, str) else string
            tokenizer = server.base.tokenizer
            tokens = encode_texts(tokenizer, texts, tokenizer.bos_token)
            return tokens[string] if isinstance(string, str) else [tokens[each] for each in texts]

        def model_call(
            self, messages: Any, *, generate: bool = True, gen_kwargs: Any = None, **_: Any
        ) -> Any:
            how = {"generate": generate, "gen_kwargs": copy.deepcopy(gen_kwargs)}
            return server.complete(
                self._create_payload(messages, seed=self._seed, eos=self.eos_string, **how)
            )

        def loglikelihood(self, requests: Any, **_: Any) -> list[Any]:
            return self._spread(super().loglikelihood, requests)

        def generate_until(self, requests: Any, **_: Any) -> list[Any]:
            return self._spread(super().generate_until, requests)

        def _spread(self, answer: Callable[[Any], list[Any]], requests: Any) -> list[Any]:
            size, pool = self._batch_size, ThreadPoolExecutor(server.threads)
            parts = [requests[at : at + size] for at in range(0, len(requests), size)]
            try:
                return list(chain.from_iterable(pool.map(answer, parts)))
            finally:
                pool.shutdown(cancel_futures=True)

    return Client
