"""What a run asks of whoever answers: the one interface of all backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from typing_extensions import Self

from aurac.adapters import save_adapter
from aurac.adapters.cut import Cut, Truncation
from aurac.adapters.truncate import Prepared
from aurac.errors import RunFolderError, UsageError
from aurac.models.base import LoadedBase
from aurac.tasks.build import quiet

_NO_IDENTITY = {  # where the answers come from and how fast, not which they are
    "base_url", "ca_cert_path", "verify_certificate", "num_concurrent", "max_retries", "timeout",
    "batch_size", "max_batch_size", "device", "model", "pretrained", "dtype", "tokenizer",
    "gpu_memory_utilization", "max_num_seqs", "max_loras", "max_cpu_loras", "max_lora_rank",
    "device_map",
}  # fmt: skip
_KEYS = {"api_key", "auth_token", "header", "hf_token", "password", "token"}


class Backend:
    """An answerer of lm-eval's requests for one cut after another; a context.

    Nothing is loaded before it is asked. All but the engine read a cut as a plain PEFT folder.

    Attributes:
        name: lm-eval's name of the model.
        arguments: lm-eval's arguments of it.
        base: The base; perhaps an outline, without weights.
        checked: Whether its answers are held against the engine's before the first cell.
        gives_logprobs: Whether it gives log-likelihoods.
        progress: Called with the number of requests newly answered (negative if repeated), where
            that is known before a block ends.
    """

    checked = False
    gives_logprobs: Any = True
    progress: Callable[[int], None] = staticmethod(lambda _count: None)

    def __init__(
        self, name: str, arguments: Mapping[str, Any], base: LoadedBase, folder: Callable[[], Path]
    ) -> None:
        self.name, self.arguments, self.base = name, dict(arguments), base
        self._folder = folder
        self._prepared: dict[Truncation, Prepared] = {}
        self._exported: dict[tuple[Truncation, int], Path] = {}
        for argument in sorted(_KEYS & arguments.keys()):
            raise UsageError(
                f"{argument} in --model-args may be a key, and these arguments are kept in files: "
                "give keys in the environment, such as OPENAI_API_KEY or HF_TOKEN"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what is held."""

    @property
    def device_kind(self) -> str:
        """`cpu`, `cuda` or `mps`; `server` where that computes."""
        return self.base.device.split(":")[0]

    @property
    def version(self) -> str:
        """Of what computes."""
        return f"lm-eval {version('lm_eval')}"

    @property
    def longest(self) -> int:
        """Most tokens of a prompt that it does not cut, by its arguments or the base's config."""
        told = self.arguments.get("max_model_len") or self.arguments.get("max_length")
        config = self.base.model.config
        return int(told or getattr(config, "max_position_embeddings", None) or 2048)

    def identity(self) -> dict[str, Any]:
        """What decides its answers beside the base and the prompts."""
        told = {name: v for name, v in self.arguments.items() if name not in _NO_IDENTITY}
        dtype = str(self.arguments.get("dtype") or "auto")
        backend = f"{self.name}, {self.version}"
        return {"backend": backend, "dtype": dtype, "model_args": told or None}

    def load(self) -> None:
        """Load what every cell needs, so that a base that cannot be used fails before the first."""

    def begin(self, cuts: Sequence[Cut], *, logprobs: bool) -> None:
        """Before the first cell: raise what would fail every cell.

        Args:
            cuts: All that will be asked for.
            logprobs: Whether log-likelihoods will be.
        """

    def prepare(self, task: Any) -> None:
        """Get a task's requests ready for all cuts (`aurac.tasks.evaltask.EvalTask`)."""

    @contextmanager
    def lm(self, cut: Cut | None) -> Iterator[Any]:
        """The lm-eval model that answers for this cut (None: the base), until the next.

        What lm-eval's own models say is kept from the terminal.
        """
        with quiet(), self._model(cut) as lm:
            yield lm

    def _model(self, cut: Cut | None) -> AbstractContextManager[Any]:
        raise NotImplementedError

    def unfinished(self, texts: Sequence[str], limit: int) -> list[bool]:
        """Which of the n latest answers were cut off at `limit` tokens, as far as texts tell."""
        encoded = self.base.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [len(tokens) >= limit for tokens in encoded["input_ids"]]

    def prepared(self, cut: Cut) -> Prepared:
        """The adapter of a cut ready to be truncated; it comes back for other ranks and tasks."""
        if cut.truncation not in self._prepared:
            self._prepared[cut.truncation] = cut.prepared()
        return self._prepared[cut.truncation]

    def exported(self, cut: Cut) -> Path:
        """A cut as a plain PEFT folder, which is named by its weights and scale, and absolute."""
        key = cut.truncation, cut.rank
        if key not in self._exported:
            adapter = self.prepared(cut).at(cut.rank)
            folder = self._folder() / f"aurac-r{cut.rank}-{adapter.sha256[:16]}"
            if not folder.exists():
                try:
                    save_adapter(adapter, folder)
                except (RunFolderError, OSError):
                    if not folder.exists():  # another process was not quicker
                        raise
            self._exported[key] = folder.resolve()
        return self._exported[key]
