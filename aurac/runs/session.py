"""The inputs of a run, and what follows from them: identity, curves, the record in its folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.files import sha256_json
from aurac.records.folder import default_folder, known_names
from aurac.runs.backends import open_backend
from aurac.runs.fit import fitted
from aurac.runs.inputs import Inputs, load_inputs
from aurac.runs.plan import Cell, Way, ways_of
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from aurac.adapters.cut import Cut
    from aurac.backends.check import Verdict
    from aurac.tasks.evaltask import EvalTask

logger = logging.getLogger(__name__)

ENGINE_VERSION = 7  # raise when the engine changes in a way that can change a number


def open_session(settings: Settings) -> Session:
    """Read the inputs; adapters have the names that the run folder has given them."""
    return Session(load_inputs(settings, known_names(settings.out)))


@dataclass(eq=False)
class Session:
    """The inputs of a run with what follows from them."""

    inputs: Inputs

    @property
    def settings(self) -> Settings:
        """What was asked for."""
        return self.inputs.settings

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What may not change within a run folder; adapters, ranks, tasks and examples may grow."""
        given, base = self.settings, self.inputs.base
        backend: dict[str, Any] = {"backend": f"aurac {ENGINE_VERSION}"}
        if given.model != "hf":
            backend = self.backend().identity()
        return {
            "base_sha256": base.sha256,
            "dtype": base.dtype,
            "device_kind": self.device_kind,
            "lm_eval": version("lm_eval"),
            "tokenizer": self.inputs.tokenizer.sha256,
            "max_length": given.max_length,
            "num_fewshot": given.num_fewshot,
            "fewshot": given.fewshot,
            "seed": given.seed,
            "chat_template": given.apply_chat_template,
            "system_instruction": given.system_instruction,
            "fewshot_as_multiturn": given.fewshot_as_multiturn,
            "gen_kwargs": dict(given.gen_kwargs) or None,
            **backend,
        }

    @cached_property
    def digest(self) -> str:
        """Hash of the identity."""
        return sha256_json(self.identity)

    @property
    def device_kind(self) -> str:
        """`cpu`, `cuda` or `mps`; `server` where that computes."""
        if self.settings.model != "hf" and (kind := self.backend().device_kind):
            return str(kind)
        return self.inputs.base.device.split(":")[0]

    @cached_property
    def folder(self) -> Path:
        """The run folder."""
        adapters = [adapter.sha256 for adapter in self.inputs.adapters.values()]
        given = self.settings
        return Path(given.out or default_folder(given.tasks, self.identity, adapters))

    @cached_property
    def ways(self) -> list[Way]:
        """The curves of all adapters, one adapter after the other."""
        given = self.settings
        asked = given.ranks, given.basis, given.rescale
        return [w for n, a in self.inputs.adapters.items() for w in ways_of(n, a, *asked)]

    @property
    def cuts(self) -> list[Cut]:
        """All that is evaluated of the adapters, whatever the task."""
        return [way.cut(rank) for way in self.ways for rank in way.ranks]

    @cached_property
    def leaves(self) -> list[EvalTask]:
        """The tasks that have cells."""
        return [task for task in self.inputs.tasks if not task.members]

    def fitted(self) -> list[Way]:
        """The ways, with the factors of rescale `fit`."""
        return fitted(self.ways, self.leaves, self.backend, self.digest, self.folder / "fit")

    def backend(self) -> Any:
        """Who answers, made the first time."""
        return self._backend

    @cached_property
    def _backend(self) -> Any:
        largest = max(max(way.ranks) for way in self.ways)
        return open_backend(self.inputs, largest, lambda: self.folder / "served")

    def begin(self, cells: Sequence[Cell], *, progress: bool = False) -> None:
        """Before the first of these cells: what a backend cannot do, and whether it computes.

        Raises:
            NotComputedError: Its answers are not those of the engine.
        """
        backend = self.backend()
        if self.settings.model == "hf":
            return
        requests = [cell.task.instances([0])[0] for cell in cells]
        own = {(*cut.truncation, cut.rank, cut.factor): cut for cell in cells if (cut := cell.cut)}
        cuts = list(own.values())
        backend.begin(
            cuts, scores=any(request.request_type != "generate_until" for request in requests)
        )
        if not backend.checked or not cuts:
            return
        from aurac.backends.check import QUICK, NotComputedError

        for cut, verdict in zip([None, *cuts], self.verdicts(cuts, QUICK), strict=False):
            line = f"{cut.adapter.name} at {verdict}" if cut else str(verdict)
            if progress:
                sys.stderr.write(f"{backend.name}: {line}\n")
            if not verdict.right:
                raise NotComputedError(f"{backend.name}: {line}")

    def verdicts(self, cuts: Sequence[Cut], prompts: int) -> Iterator[Verdict]:
        """What the backend computes of the base and of each cut, by so many of the prompts."""
        from aurac.backends.check import Check, fits
        from aurac.models.base import load_base
        from aurac.tasks.build import quiet

        base, given, backend = self.inputs.base, self.settings, self.backend()
        if not fits(base.model):
            logger.warning(
                "the base does not fit this machine in float32, so that what %s computes is not "
                "held against the engine",
                given.model,
            )
            return
        trust = given.trust_remote_code
        loaded = load_base(base.name, dtype="float32", device="cpu", trust_remote_code=trust)
        loaded = self.inputs.tokenizer.adopted_by(loaded)
        requests = [r for task in self.leaves for r in task.instances(range(len(task)))]
        check = Check(loaded, self.served_dtype, requests, prompts, scores=backend.scores)
        found = check.verdicts(backend.checking, cuts)
        while True:
            with quiet():
                verdict = next(found, None)
            if verdict is None:
                return
            yield verdict

    @property
    def served_dtype(self) -> str:
        """As stated, or that of the base's files; bfloat16 for float32, which servers cast."""
        given = self.settings.model_args.get("dtype") or self.settings.dtype
        stored = str(self.inputs.base.model.config.dtype).removeprefix("torch.")
        if given in (None, "auto"):
            given = "bfloat16" if stored in ("float32", "None") else stored
        return str(given).replace("half", "float16")
