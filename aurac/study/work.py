"""The folder of a study: its adapters, what is stored of them, and how more are added."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from msgspec import structs

from aurac.curves.question import Question
from aurac.errors import DivergedError
from aurac.study.design import SEARCH, Part, Planned, Study, Training

if TYPE_CHECKING:
    from aurac.records.run import StoredRun
    from aurac.training.job import TrainingResult

    Train = Callable[..., TrainingResult]

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
        train: Trains a recipe to a folder, as `aurac.train` does; None: that.
        runs, made: What was read, until `refresh`: the runs, and of each training its record.
    """

    study: Study
    out: Path
    device: str | None = None
    progress: bool = False
    say: Callable[[str], None] = logger.info
    train: Train | None = None
    runs: dict[Path, StoredRun] = field(default_factory=dict)
    made: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def refresh(self) -> None:
        """Forget what was read: another process may have added to it."""
        self.runs.clear()
        self.made.clear()

    def stored(self, part: Part, where: str) -> StoredRun | None:
        """The run in the `run` or `search` of a part, if there is one."""
        from aurac.records.run import read_run

        folder = self.out / part.name / where
        if folder not in self.runs and (folder / "run.json").is_file():
            search = self.study.search if where == SEARCH else None
            asked = Question(limit=search.limit or None) if search else None
            self.runs[folder] = read_run(folder, asked)
        return self.runs.get(folder)

    def trained(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Hash of the recipe and seed of each training → what `trainings.jsonl` says of it."""
        path = self.out / TRAININGS
        if not self.made and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # one that was cut off
                    record = json.loads(line)
                    self.made[record["sha256"], record["seed"]] = record
        return self.made

    def state(self, part: Part, adapter: Planned, where: str) -> tuple[str, str]:
        """What is left of an adapter: `train` or `evaluate`; else `done`, or `diverged` and how."""
        run = self.stored(part, where)
        if run and adapter.stored(run, where):
            return "done", ""
        if why := next(filter(None, map(self._diverged, adapter.trainings)), ""):
            return "diverged", why
        there = all((self.out / job.folder).exists() for job in adapter.trainings)
        return "evaluate" if there else "train", ""

    def _diverged(self, job: Training) -> str:
        """How a training diverged; empty where it did not."""
        made = self.trained().get((job.recipe.sha256, job.recipe.seed), {})
        return str(made.get("diverged", ""))

    def do(self, part: Part, adapter: Planned, where: str) -> None:
        """Train what an adapter needs and evaluate it, unless the training diverges."""
        for job in adapter.trainings:
            folder = self.out / job.folder
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # another recipe's process may want it, too
                self.refresh()
                if self._diverged(job) or not (
                    folder.exists() or self._train(job, folder, adapter.name)
                ):
                    return
        self._evaluate(part, adapter, where)

    def _train(self, job: Training, folder: Path, name: str) -> bool:
        from aurac.adapters import load_adapter, truncate
        from aurac.training.job import train

        self.say(f"training {job.folder} ({name})")
        start = None
        if job.start:
            start = truncate(
                load_adapter(self.out / job.start[0]), job.recipe.rank, basis=job.start[1]
            )
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
        made_by = {"recipe": recipe.name, "seed": recipe.seed, "sha256": recipe.sha256}
        data = {"data_sha256": recipe.data_sha256}
        line = json.dumps({"folder": job.folder, **made_by, **data, **facts}) + "\n"
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a", encoding="utf-8") as lines:
            lines.write("\n" * torn + line)

    def _evaluate(self, part: Part, adapter: Planned, where: str) -> None:
        """Evaluate an adapter under each of its cuts in the `run` or `search` of a part."""
        from aurac.runs.compare import run
        from aurac.runs.progress import Bar, Progress

        settings = structs.replace(
            adapter.plan.asked[where],
            checkpoints=(f"{Path(adapter.folder).name}={self.out / adapter.folder}",),
            ranks=adapter.ranks,
            device=self.device,
            out=str(self.out / part.name / where),
        )
        for basis, rescale in adapter.plan.cuts:
            if not adapter.plan.family:
                settings = structs.replace(settings, basis=(basis,), rescale=(rescale,))
            run(settings, Bar() if self.progress else Progress(), report=False)
