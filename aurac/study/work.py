"""The folder of a study: its adapters, what is stored of them, and how more are added."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from msgspec import structs

from aurac.errors import DivergedError
from aurac.runs.settings import Settings
from aurac.study.design import ADAPTERS, RUN, Part, Planned, Study, Training

if TYPE_CHECKING:
    from aurac.records.run import StoredRun

logger = logging.getLogger(__name__)

TRAININGS = "trainings.jsonl"  # below the study's


@dataclass
class Work:
    """A study in its folder.

    Attributes:
        study: What is done.
        out: Where all is kept: `adapters`, `trainings.jsonl`, and for each part `search`, `run` and
            the report.
        device: Of trainings and evaluations.
        progress: Whether to show bars.
        say: Called with what is done next.
    """

    study: Study
    out: Path
    device: str | None = None
    progress: bool = False
    say: Callable[[str], None] = logger.info
    runs: dict[Path, StoredRun] = field(default_factory=dict)  # those that were read

    def stored(self, part: Part, where: str) -> StoredRun | None:
        """The run in the `run` or `search` of a part, if there is one."""
        from aurac.records.run import read_run

        folder = self.out / part.name / where
        if folder not in self.runs and (folder / "run.json").is_file():
            self.runs[folder] = read_run(folder)
        return self.runs.get(folder)

    def missing(self, part: Part, adapters: list[Planned], where: str = RUN) -> list[Planned]:
        """Those that lack cells and whose training did not diverge."""
        run, lost = self.stored(part, where), self.diverged(adapters)
        return [
            adapter
            for adapter in adapters
            if adapter.name not in lost and not (run and adapter.stored(run, where))
        ]

    def train(self, adapter: Planned) -> bool:
        """Train what an adapter needs; False where that diverges, or once did."""
        if self.diverged([adapter]):
            return False
        try:
            for job in adapter.trainings(self.out):
                job.folder.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{job.folder}.lock"):  # another recipe's process may want it, too
                    self._train(job, adapter.name)
        except DivergedError as error:
            self.say(str(error))
            self.keep(job, {"diverged": str(error)})
            return False
        return True

    def _train(self, job: Training, name: str) -> None:
        from aurac.adapters import load_adapter, truncate
        from aurac.training.job import is_trained, train

        if is_trained(job.folder, job.recipe):
            return
        self.say(f"training {self._below(job)} ({name})")
        start = None
        if job.start:
            whole, basis = job.start
            start = truncate(load_adapter(whole), job.recipe.rank, basis=basis)
        told: dict[str, Any] = {"device": self.device, "progress": self.progress}
        done = train(job.recipe, job.folder, start=start, **told)
        facts = {"seconds": round(done.seconds, 1), "tokens": done.tokens}
        self.keep(job, {**facts, "memory": done.memory, "losses": done.losses})

    def keep(self, job: Training, facts: dict[str, Any]) -> None:
        """Add a training to `trainings.jsonl`."""
        recipe, folder = job.recipe, self._below(job)
        made_by = {"recipe": recipe.name, "seed": recipe.seed, "sha256": recipe.sha256}
        line, path = json.dumps({"folder": folder, **made_by, **facts}) + "\n", self.out / TRAININGS
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a", encoding="utf-8") as lines:
            lines.write("\n" * torn + line)

    def diverged(self, adapters: Sequence[Planned]) -> dict[str, str]:
        """Name → how its training diverged, of those of which one did."""
        path, records = self.out / TRAININGS, []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with suppress(ValueError):  # one that was cut off
                records.append(json.loads(line))
        why = {(r["folder"], r["sha256"]): r["diverged"] for r in records if "diverged" in r}
        return {
            adapter.name: why[made]
            for adapter in (adapters if why else ())
            for job in adapter.trainings(self.out)
            if (made := (self._below(job), job.recipe.sha256)) in why
        }

    def _below(self, job: Training) -> str:
        return job.folder.relative_to(self.out).as_posix()

    def evaluate(self, part: Part, adapter: Planned, where: str) -> None:
        """Evaluate an adapter under each of its cuts in the `run` or `search` of a part."""
        from aurac.runs.compare import run
        from aurac.runs.progress import Bar, Progress

        for cut in [()] if adapter.plan.family else adapter.plan.cuts:
            settings = self.settings(part, adapter, where, cut)
            run(settings, Bar() if self.progress else Progress(), report=False)
        self.runs.pop(self.out / part.name / where, None)

    def settings(
        self, part: Part, adapter: Planned, where: str, cut: Sequence[str] = ()
    ) -> Settings:
        """Those of an evaluation."""
        return structs.replace(
            adapter.plan.asked[where],
            checkpoints=(f"{adapter.folder}={self.out / ADAPTERS / adapter.folder}",),
            ranks=adapter.ranks,
            device=self.device,
            out=str(self.out / part.name / where),
            basis=tuple(cut[:1]),
            rescale=tuple(cut[1:]),
        )
