"""What a sequential run asks, and which documents it takes first: a random order from the seed."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray

from aurac.arguments import fraction
from aurac.errors import UsageError
from aurac.runs.folder import RunRequest, SequentialPlan
from aurac.runs.plan import PlannedCell, Variant
from aurac.runs.session import Session
from aurac.runs.settings import Request
from aurac.stats.design import LEAST_STEP, Design, document_order
from aurac.tasks.task import BuiltTask

Counts = dict[tuple[str, str], int]  # (task, adapter) → documents


_TIMES = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Until:
    """When to stop.

    Attributes:
        design: Of the tests.
        width: Stop when the interval of each AURAC is this narrow; None: when all is decided.
        documents: Most documents of each task; None: all.
        seconds: Most time; None: any.
        ranks: Ask for the smallest non-inferior rank of each adapter, not for pairs.
    """

    design: Design
    width: float | None = None
    documents: int | None = None
    seconds: float | None = None
    ranks: bool = False

    @property
    def pairs(self) -> bool:
        """Whether pairs of adapters are compared."""
        return self.width is None and not self.ranks

    @property
    def words(self) -> str:
        """As on the command line."""
        decided = "decided, at any time" if self.design.anytime else "decided"
        return decided if self.width is None else f"width={self.width:g}"

    @classmethod
    def of(
        cls,
        until: str,
        *,
        margin: float | None = None,
        budget: str | None = None,
        ranks: bool = False,
        alpha: float = 0.05,
        anytime: bool = False,
    ) -> Until:
        """From the words of the command line.

        Raises:
            UsageError: Words that cannot be read, or numbers that make no sense.
        """
        width = None
        if until != "decided":
            name, _, value = until.partition("=")
            with contextlib.suppress(ValueError):
                width = float(value) if name == "width" else None
            if width is None or not 0.0 < width < 1.0:
                raise UsageError(
                    f"--until {until!r}",
                    expected="decided, or width=0.02 for an interval two points wide",
                )
            for name, option in {"margin": margin, "anytime": anytime}.items():
                if option:
                    raise UsageError(f"--{name} with --until width=…", fix="leave one of them out")
        if margin is not None:
            fraction(margin, "margin")
        documents, seconds = _budget(budget)
        design = Design(alpha=alpha, margin=margin, one_sided=ranks, anytime=anytime)
        return cls(design, width, documents, seconds, ranks)


def sequential(request: Request, until: Until) -> Request:
    """The request for all documents, of which the run takes a random order.

    Raises:
        UsageError: Options that do not go with it, or nothing to decide.
    """
    settings = request.settings
    task, one_score = settings.task, "one score of each task to decide on"
    for applies, what, expected, fix in (
        (task.pass_at, "--pass-at with --until", one_score, "leave --pass-at out"),
        (
            task.fewshot_seeds > 1,
            "--fewshot-seeds with --until",
            one_score,
            "leave --fewshot-seeds out",
        ),
        (
            task.limit not in (None, 0),  # 0: all
            "--limit with --until",
            "a random sample: --limit takes the first documents",
            "give --budget DOCUMENTS in the place of --limit",
        ),
        (
            settings.truncation.auto,
            "--ranks auto with --until",
            "ranks that do not depend on the results: its tests are planned for them",
            "give --ranks pow2, or leave --until out",
        ),
        (
            request.execution.shard,
            "--shard with --until",
            "processes that know each other's results after each look",
            "give --workers or --executor ray",
        ),
        (
            settings.groups and until.width is None,
            "--group with --until",
            "single checkpoints: more documents tell nothing about other training seeds",
            "evaluate all documents to compare recipes over their seeds",
        ),
        (
            until.pairs and len(request.checkpoints) < 2,
            "--until decided with one adapter",
            "at least two to compare",
            "use --until width=0.02, or aurac recommend --until decided for the smallest rank",
        ),
    ):
        if applies:
            raise UsageError(what, expected=expected, fix=fix)
    task = dataclasses.replace(task, limit=0)
    return dataclasses.replace(request, settings=dataclasses.replace(settings, task=task))


def _budget(text: str | None) -> tuple[int | None, float | None]:
    """`500` (documents of each task), `30min`, `2h`: documents and seconds."""
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)?", text.strip())
    if match and match[2] and float(match[1]) > 0:
        return None, float(match[1]) * _TIMES[match[2]]
    if match and not match[2] and match[1].isdigit() and int(match[1]) >= 2 * LEAST_STEP:
        return int(match[1]), None
    raise UsageError(
        f"--budget {text!r}",
        expected=f"documents of each task, at least {2 * LEAST_STEP}, or a time such as 30min, 2h",
    )


@dataclass(eq=False)
class Part(Session):
    """A session for some of its documents, in their random order.

    Attributes:
        whole: The session with all documents.
        cuts: (task, adapter) → the task with the documents that the adapter is evaluated on.
        plans: Of its tests, by the question that they answer.
    """

    whole: Session | None = field(default=None, repr=False)
    cuts: Mapping[tuple[str, str], BuiltTask] = field(default_factory=dict, repr=False)
    plans: Mapping[str, SequentialPlan] = field(default_factory=dict, repr=False)

    def base(self) -> Any:
        """The base of the whole session, loaded once."""
        return self.whole.base() if self.whole else super().base()

    def place_on(self, device: str) -> None:
        """See `Session`."""
        super().place_on(device)
        if self.whole:
            self.whole.place_on(device)

    def task_of(self, task: BuiltTask, variant: Variant) -> BuiltTask | None:
        """See `Session`."""
        return self.cuts.get((task.name, variant.name))

    def cells(self) -> list[PlannedCell]:
        """The plan; of an adapter that needs no more documents, with those that it has."""
        cells = []
        for cell in super().cells():
            task = cell.task if cell.variant is None else self.task_of(cell.task, cell.variant)
            if task is not None:
                cells.append(cell if task is cell.task else cell.of(task))
        return cells

    def request(self) -> RunRequest:
        """That of the whole session, for these documents."""
        if self.whole is None:
            return super().request()
        request, here = self.whole.request(), {task.name: task.n_docs for task in self.built}
        tasks = {
            name: msgspec.structs.replace(task, documents=here.get(name, 0))
            for name, task in request.tasks.items()
        }
        curves = [(v.label, list(v.ranks)) for v in self.variants]
        return msgspec.structs.replace(request, tasks=tasks, curves=curves, sequential=self.plans)


class SampleLabels(TypedDict):
    """Labels of sampled documents, one for each; None where there are none."""

    clusters: Sequence[str] | None
    strata: Sequence[str] | None


class Sampler:
    """Random orders of the documents of a session, and its parts; `until` says when to stop."""

    def __init__(self, session: Session, until: Until) -> None:
        self.session, self.until, self.seed = session, until, session.settings.task.seed
        self.tasks = [task for task in session.built if task.group is None]
        self.orders, self.totals = {}, dict[str, int]()
        for task in self.tasks:
            labels = {"clusters": task.clusters, "strata": task.strata}
            self.orders[task.name] = document_order(task.n_docs, self.seed, **labels)
            self.totals[task.name] = min(until.documents or task.n_docs, task.n_docs)
        self._cut: dict[tuple[str, int], BuiltTask] = {}

    def cut(self, task: BuiltTask, count: int) -> BuiltTask:
        """The first `count` documents of a task."""
        key = task.name, count
        if key not in self._cut:
            self._cut[key] = task.only(self._places(task, count))
        return self._cut[key]

    def _places(self, task: BuiltTask, count: int) -> list[int]:
        """In the order of the documents of the cut task: a group's members one after the other."""
        first = self.orders[task.name][:count]
        if not task.members:
            return [int(place) for place in first]
        ends = np.cumsum([member.n_docs for member in task.members])
        member = np.searchsorted(ends, first, side="right")
        return [int(place) for place in first[np.argsort(member, kind="stable")]]

    def sampled(self, name: str, count: int) -> NDArray[np.intp]:
        """Places in the cut task of its documents, in the random order."""
        order = self.orders[name]
        rank = np.empty(order.size, dtype=np.intp)
        rank[order] = np.arange(order.size)
        return np.argsort(rank[self._places(self._task(name), count)])

    def labels(self, name: str, count: int) -> SampleLabels:
        """Clusters and strata of the first documents, in the random order."""
        task, first = self._task(name), self.orders[name][:count]

        def sampled(labels: Sequence[str] | None) -> list[str] | None:
            return None if labels is None else [labels[place] for place in first]

        return {"clusters": sampled(task.clusters), "strata": sampled(task.strata)}

    def _task(self, name: str) -> BuiltTask:
        return next(task for task in self.tasks if task.name == name)

    def part(self, counts: Counts, variants: Sequence[Variant]) -> Part:
        """The session for the first documents of each task, as many as each adapter needs."""
        built: list[BuiltTask] = []
        cuts: dict[tuple[str, str], BuiltTask] = {}
        for task in self.tasks:
            needed = {v.name: counts[task.name, v.name] for v in variants}
            for name, count in needed.items():
                part = self.cut(task, count)
                cuts |= {(part_task.name, name): part_task for part_task in (*part.members, part)}
            most = self.cut(task, max(needed.values()))
            built += [*most.members, most]
        shared = {f.name: getattr(self.session, f.name) for f in dataclasses.fields(Session)}
        replaced = {**shared, "built": built, "variants": list(variants)}
        return Part(**replaced, whole=self.session, cuts=cuts, plans=self.plans())

    def plans(self) -> dict[str, SequentialPlan]:
        """What may not change once the tests have begun; a width is no test."""
        design, until = self.until.design, self.until
        if until.width is not None:
            return {}
        plan = SequentialPlan(
            alpha=design.alpha,
            margin=design.margin,
            anytime=design.anytime,
            budget={name: None if design.anytime else n for name, n in self.totals.items()},
            ranks={v.label: list(v.ranks) for v in self.session.variants if v.role == "default"},
        )
        return {"ranks" if until.ranks else "pairs": plan}

    def first(self, variants: Sequence[Variant]) -> Counts:
        """The documents of the first look."""
        looks = {name: self.until.design.documents(total) for name, total in self.totals.items()}
        return {(name, v.name): counts[0] for name, counts in looks.items() for v in variants}


def part_of(session: Session, until: Until, *, whole: bool = False) -> Part:
    """What a run begins with, the documents of the first look; as a whole all within the budget.

    A search for the smallest rank begins with the largest.

    Raises:
        UsageError: Curves that cannot be compared.
    """
    if until.ranks:  # what is shown beside the compared curves answers no question about them
        session.variants = [v for v in session.variants if v.role == "default"]
    elif until.pairs:
        first, *others = (v for v in session.variants if v.role == "default")
        for v in others:
            if v.ranks != first.ranks:
                has = [f"{x.name} has ranks {', '.join(map(str, x.ranks))}" for x in (first, v)]
                raise UsageError(
                    " and ".join(has),
                    expected="the same ranks",
                    fix="give --ranks with those that both have",
                )
    sampler, variants = Sampler(session, until), session.variants
    for task in sampler.tasks:
        check_task(task, until)
    if whole:
        most = {(name, v.name): total for name, total in sampler.totals.items() for v in variants}
        return sampler.part(most, variants)
    if until.ranks:
        variants = [dataclasses.replace(v, ranks=v.ranks[-1:]) for v in variants]
    return sampler.part(sampler.first(variants), variants)


def check_task(task: BuiltTask, until: Until) -> None:
    """Refuse a task that cannot be stopped early on.

    Raises:
        UsageError: Too few documents, or dependent ones with confidence sequences.
    """
    if until.width is None and task.n_docs < 2 * LEAST_STEP:
        raise UsageError(
            f"{task.name} has {task.n_docs} documents",
            expected=f"at least {2 * LEAST_STEP} to stop early",
            fix="leave --until out to evaluate all of them",
        )
    if until.design.anytime and (task.clusters or task.strata):
        raise UsageError(
            f"--anytime on {task.name}, whose documents share passages or belong to a group",
            expected="independent documents",
            fix="leave --anytime out",
        )
