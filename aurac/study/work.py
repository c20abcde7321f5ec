"""The folder of a study: its adapters, what is stored of them, and how more are added."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from msgspec import structs

from aurac.adapters import truncate
from aurac.curves.curve import Curve
from aurac.curves.question import Question
from aurac.errors import DivergedError
from aurac.records.run import StoredRun, read_run
from aurac.study.design import SEARCH, Part, Planned, Study, Training
from aurac.study.file import Cut

logger = logging.getLogger(__name__)

TRAININGS = "trainings.jsonl"  # below the study's


class Step(NamedTuple):
    """An adapter of a part, and what is left of it.

    Attributes:
        state: `search`, `train`, `evaluate`, or `wait` for a search; else `done`, or `diverged`.
        adapter: A seed of a recipe, or a trial.
        curves: Of one that is done, that of each cut.
        why: How its training diverged.
    """

    state: str
    adapter: Planned
    curves: Mapping[Cut, Curve] = {}
    why: str = ""


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
        train: Trains a recipe to a folder, as `aurac.train` does; None: that.
        runs, made: What was read, until `refresh`: the runs, and how each training diverged.
    """

    study: Study
    out: Path
    device: str | None = None
    progress: bool = False
    say: Callable[[str], None] = logger.info
    train: Callable[..., Any] | None = None
    runs: dict[Path, StoredRun] = field(default_factory=dict)
    made: dict[tuple[str, int], str] = field(default_factory=dict)

    def refresh(self) -> None:
        """Forget what was read: another process may have added to it."""
        self.runs.clear()
        self.made.clear()

    def stored(self, part: Part, where: str) -> StoredRun | None:
        """The run in the `run` or `search` of a part, if there is one."""
        folder = self.out / part.name / where
        if folder not in self.runs and (folder / "run.json").is_file():
            search = self.study.file.search if where == SEARCH else None
            asked = Question(limit=search.limit or None) if search else None
            self.runs[folder] = read_run(folder, asked)
        return self.runs.get(folder)

    def step(self, part: Part, adapter: Planned, *, waits: bool = False) -> Step:
        """What is left of an adapter, which may wait for a search."""
        if waits:
            return Step("wait", adapter)
        run = self.stored(part, adapter.where)
        if run and (curves := adapter.stored(run)):
            return Step("done", adapter, curves)
        if why := next(filter(None, map(self._diverged, adapter.trainings)), ""):
            return Step("diverged", adapter, why=why)
        there = all((self.out / job.folder).exists() for job in adapter.trainings)
        state = "evaluate" if there else "train"
        return Step("search" if adapter.where == SEARCH else state, adapter)

    def _diverged(self, job: Training) -> str:
        """How a training diverged, by `trainings.jsonl`; empty where it did not."""
        path = self.out / TRAININGS
        if not self.made and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # one that was cut off
                    record = json.loads(line)
                    self.made[record["sha256"], record["seed"]] = record.get("diverged", "")
        return self.made.get((job.recipe.sha256, job.recipe.seed), "")

    def do(self, part: Part, adapter: Planned) -> None:
        """Train what an adapter needs and evaluate it, unless the training diverges."""
        if all(self._trained(job, adapter.name) for job in adapter.trainings):
            self._evaluate(part, adapter)

    def _trained(self, job: Training, name: str) -> bool:
        """Train what is not there yet; False where that diverges."""
        from aurac.training.job import train

        folder, start = self.out / job.folder, None
        with FileLock(f"{folder}.lock"):  # another recipe's process may want it, too
            self.refresh()
            if self._diverged(job) or folder.exists():
                return not self._diverged(job)
            self.say(f"training {job.folder} ({name})")
            if job.start:
                start = truncate(self.out / job.start, job.recipe.rank, basis="svd")
            told: dict[str, Any] = {"device": self.device, "progress": self.progress}
            try:
                done = (self.train or train)(job.recipe, folder, start=start, **told)
            except DivergedError as error:
                self.say(str(error))
                self._keep(job, {"diverged": str(error)})
                return False
            facts = {"seconds": round(done.seconds, 1), "tokens": done.tokens}
            self._keep(job, {**facts, "memory": done.memory, "losses": done.losses})
            return True

    def _keep(self, job: Training, facts: dict[str, Any]) -> None:
        """Add a training to `trainings.jsonl`."""
        recipe, path = job.recipe, self.out / TRAININGS
        told = {"folder": job.folder, "recipe": recipe.name, "seed": recipe.seed}
        told |= {"sha256": recipe.sha256, "data_sha256": recipe.data_sha256, **facts}
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a", encoding="utf-8") as lines:
            lines.write("\n" * torn + json.dumps(told) + "\n")

    def _evaluate(self, part: Part, adapter: Planned) -> None:
        """Evaluate an adapter under each of its cuts in the `run` or `search` of a part."""
        from aurac.runs.compare import run
        from aurac.runs.progress import Bar, Progress

        settings = structs.replace(
            adapter.asked,
            checkpoints=(f"{Path(adapter.folder).name}={self.out / adapter.folder}",),
            ranks=adapter.ranks,
            device=self.device,
            out=str(self.out / part.name / adapter.where),
        )
        for basis, rescale in adapter.plan.cuts:
            if not adapter.plan.family:
                settings = structs.replace(settings, basis=(basis,), rescale=(rescale,))
            run(settings, Bar() if self.progress else Progress(), report=False)
