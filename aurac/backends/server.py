"""A server with OpenAI's completions: the base under a name, each cut under one of its own.

Cuts are loaded while it runs where it allows that (vLLM: VLLM_ALLOW_RUNTIME_LORA_UPDATING=1).
Their names are made of their content, since a server may keep what it computed under a name
(vllm-project/vllm#42125).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aurac.adapters.cut import Cut
from aurac.backends.backend import Backend, Exports
from aurac.backends.keys import secrets
from aurac.backends.lm_eval_models import model_class, one_at_a_time
from aurac.curves.display import slot_rank
from aurac.errors import AuracError, CellError, UsageError, first_line
from aurac.models.base import LoadedBase

SERVER = "local-completions"
_CLIENT = ("aiohttp", "requests", "tenacity")
_PATHS = ("/v1/completions", "/v1", "/")
_NOT_THERE, _ITS_FAULT = (403, 404, 405), 500


class ServerError(AuracError):
    """A server that does not answer; the same command goes on when it is there again."""

    exit_code = 3


class ServerBackend(Backend):
    """lm-eval's ``local-completions``, whose model is the name of a cut.

    Attributes:
        root: The server's address without a path.
        served: The name of the served base.
    """

    checked = True
    device_kind = "server"

    def __init__(
        self,
        arguments: Mapping[str, Any],
        base: LoadedBase,
        exports: Exports,
        largest: int,
        *,
        chat: bool = False,
    ) -> None:
        super().__init__(SERVER, arguments, base)
        if missing := [each for each in _CLIENT if find_spec(each) is None]:
            raise UsageError(f"{SERVER} needs {', '.join(missing)}: pip install 'aurac[servers]'")
        url = str(arguments.get("base_url") or "")
        if not urlsplit(url).netloc:
            raise UsageError(f"--model {SERVER} needs --model-args base_url=http://HOST:PORT/v1/…")
        self.root = url.rstrip("/")
        for path in _PATHS:
            self.root = self.root.removesuffix(path)
        self._exports, self._largest, self._chat = exports, largest, chat
        self._secrets = secrets(arguments)
        served = self.models()
        self.served = str(arguments.get("model") or arguments.get("pretrained") or _base_of(served))
        if self.served not in served:
            raise UsageError(f"{self.root} serves {', '.join(served)}, and no {self.served!r}")
        self._longest = served[self.served].get("max_model_len")

    @cached_property
    def version(self) -> str:
        """Of the server, as vLLM and others tell it; else who it says owns the models."""
        reply = self._call("get", "/version")
        told = reply.json() if reply.ok else {}
        owner = self.models()[self.served].get("owned_by") or "server"
        return f"{owner} {told['version']}" if isinstance(told, dict) and told else str(owner)

    def identity(self) -> dict[str, Any]:
        """As of any backend; also the served model's name and its length in tokens."""
        length = self._arguments["max_length"]
        return {**super().identity(), "served_model": self.served, "max_length": length}

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """Of lm-eval's class: tokens are sent, those that the engine would compute."""
        tokenizer = self.base.tokenizer
        start = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        config = self.base.model.config
        longest = self._longest or getattr(config, "max_position_embeddings", None) or 2048
        here = {
            "tokenizer": tokenizer.name_or_path or str(self.base.path),
            "tokenizer_backend": "huggingface",
            "add_bos_token": start and not self._chat,
            "max_length": longest,
        }
        given = {k: v for k, v in self.arguments.items() if k != "dtype"}
        url = {"base_url": f"{self.root}/v1/completions", "model": self.served}
        return {**here, **given, **url}

    @cached_property
    def _lm(self) -> Any:
        made = model_class(self.name)
        _without_bars()
        return made(**self._arguments)

    @contextmanager
    def _model(self, cut: Cut | None) -> Iterator[Any]:
        """lm-eval's client for this cut (None: the base); its errors have the server's name.

        Raises:
            ServerError: The server does not answer.
            CellError: It does not take the adapter, or a request failed as often as it may.
        """
        self._lm.model = self.served if cut is None else self._loaded(cut)
        try:
            yield self._lm
        except AuracError:
            raise
        except Exception as error:
            reason = self._clean(f"{type(error).__name__}: {first_line(error)}")
            raise CellError(f"{self.root} failed on {self._lm.model} ({reason})") from error

    @contextmanager
    def checking(self, cut: Cut | None) -> Iterator[Any]:
        """``lm(cut)``, one request at a time."""
        with self.lm(cut) as lm, one_at_a_time(lm, "_concurrent"):
            yield lm

    def begin(self, cuts: Sequence[Cut], *, scores: bool) -> None:
        """Have every cut served, and ask whether the prompt's log-probabilities come.

        Raises:
            UsageError: The server does neither load adapters nor have them, or tasks need
                log-probabilities of the prompt and it gives none.
        """
        for folder in self.missing(cuts):
            if not self._load(folder):
                raise UsageError(
                    f"{self.root} loads no adapters while it runs: start it with "
                    f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, or with {self.line(cuts)}"
                )
        if scores and not self.scores:
            raise UsageError(
                f"{self.root} gives no log-probabilities of the prompt (echo with logprobs), "
                "without which every choice of a multiple-choice task would score 0"
            )

    @cached_property
    def scores(self) -> bool:
        """Whether a request with echo and logprobs gets one log-probability for each token."""
        tokens = self._lm.tok_encode("One two three four five six")
        self._lm.model = self.served
        asked = self._lm._create_payload(self._lm.create_message([tokens]), generate=False)
        reply = self._call("post", "/v1/completions", json=asked)
        told: Any = reply.json()["choices"][0].get("logprobs") if reply.ok else None
        return len((told or {}).get("token_logprobs") or ()) >= len(tokens)

    def line(self, cuts: Sequence[Cut]) -> str:
        """The options with which vLLM serves these cuts from its start."""
        folders = dict.fromkeys(map(self._exports.of, cuts))
        modules = shlex.join(f"{folder.name}={folder}" for folder in folders)
        rank = slot_rank(self._largest)
        return f"--enable-lora --max-lora-rank {rank} --lora-modules {modules}"

    def missing(self, cuts: Sequence[Cut]) -> list[Path]:
        """The folders of cuts that the server does not know."""
        served = self.models()
        folders = dict.fromkeys(map(self._exports.of, cuts))
        return [folder for folder in folders if folder.name not in served]

    def models(self) -> dict[str, dict[str, Any]]:
        """Name → what the server says of a model or adapter."""
        reply = self._call("get", "/v1/models")
        if not reply.ok:
            raise ServerError(f"{self.root}/v1/models answers {reply.status_code}")
        return {str(each["id"]): each for each in reply.json()["data"]}

    def _loaded(self, cut: Cut) -> str:
        """The name of a cut; a server that was started anew gets it again."""
        for folder in self.missing([cut]):
            if not self._load(folder):
                raise CellError(f"{self.root} serves no {folder.name} and loads no adapters")
        return self._exports.of(cut).name

    def _load(self, folder: Path) -> bool:
        """Have the server load an adapter; False where it does not do such things."""
        what = {"lora_name": folder.name, "lora_path": str(folder)}
        reply = self._call("post", "/v1/load_lora_adapter", json=what)
        if reply.status_code in _NOT_THERE:
            return False
        if not reply.ok and folder.name not in self.models():  # unless another process was quicker
            raise CellError(
                f"{self.root} does not take {folder.name}: {self._clean(reply.text)[:300]}"
            )
        return True

    def _call(self, method: str, path: str, **content: Any) -> Any:
        """A request beside lm-eval's, tried as often as those."""
        import requests
        from tenacity import retry, stop_after_attempt, wait_exponential

        again = retry(
            stop=stop_after_attempt(int(self.arguments.get("max_retries", 3))),
            wait=wait_exponential(multiplier=0.5, min=1, max=10),
            reraise=True,
        )
        verify = self.arguments.get("verify_certificate", True)
        how = {
            "headers": self._header,
            "verify": verify and (self.arguments.get("ca_cert_path") or True),
        }

        timeout = float(self.arguments.get("timeout", 300))

        def send() -> Any:
            reply = requests.request(method, self.root + path, timeout=timeout, **how, **content)
            if reply.status_code >= _ITS_FAULT:
                reply.raise_for_status()
            return reply

        try:
            return again(send)()
        except requests.HTTPError as error:
            reason = self._clean(f"{error.response.status_code} {error.response.text[:200]}")
            raise ServerError(f"{self.root}{path} answers {reason}") from error
        except requests.RequestException as error:
            kind = type(error).__name__
            raise ServerError(f"{self.root} does not answer ({kind})") from error

    @property
    def _header(self) -> dict[str, str]:
        key = os.environ.get("OPENAI_API_KEY", "")  # as lm-eval has it
        return dict(self.arguments.get("header") or {"Authorization": f"Bearer {key}"})

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def _base_of(served: Mapping[str, Mapping[str, Any]]) -> str:
    """The first model that is no adapter of another."""
    if not served:
        raise UsageError("the server serves no model")
    return next(
        (name for name, told in served.items() if not told.get("parent")), next(iter(served))
    )


def _without_bars() -> None:
    """lm-eval's client draws a bar for each call."""
    from lm_eval.models import api_models

    class Silent(api_models.tqdm_asyncio):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    api_models.tqdm, api_models.tqdm_asyncio = partial(api_models.tqdm, disable=True), Silent
