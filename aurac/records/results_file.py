"""`results.json`, and the documents of its tasks, as a run folder holds them."""

from __future__ import annotations

from operator import methodcaller
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from aurac.errors import RunFolderError
from aurac.files import Json, did_you_mean, write_json
from aurac.records.cell import DocumentKey, SchemaNumber, read_record
from aurac.records.cut import Derived
from aurac.records.decisions import Declaration

RESULTS_SCHEMA = 1
RESULTS_FILE = "results.json"
SUBSETS = "subsets"
STATE_FILE = "study.json"  # in a study's folder
REPORT_FILE = "report.md"  # written last: where it is, the whole report is
Role = Literal["default", "published", "extra"]
_NUMBER = methodcaller("item")  # one of numpy as one of Python's
REQUEST_FILE = "run.json"  # what a run was asked for, from which it continues


LOG_SAMPLES = (
    "of lm-eval give the folder with samples_TASK_DATE.jsonl (a folder for each rank), which "
    "`lm_eval … --log_samples --output_path FOLDER` writes"
)


def again(folder: Path, what: str = "") -> str:
    """What to do where a file of a run is lost or damaged; `what` the run does with it then."""
    if (folder / REQUEST_FILE).is_file():
        return f"give the command of the run again{what}"
    return "restore it, or give the command of the run with another --out"


def run_folder(path: str | Path) -> Path:
    """The folder of a run, for which its results file may stand; any other path as it is."""
    path = Path(path).expanduser()
    return path.parent if path.name == RESULTS_FILE else path


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or runs below it."""
    return (folder / RESULTS_FILE).is_file() or runs_below(folder) is not None


def runs_below(folder: Path) -> str | None:
    """Runs in a folder that is none, of a study those of its tasks, as what to do next."""
    found = (path for each in ("*", "*/*") for path in folder.glob(f"{each}/{RESULTS_FILE}"))
    runs = sorted(path.parent for path in found)
    runs = [run for run in runs if run.parent.name == "results"] or runs
    return f"give a run below it: {', '.join(map(str, runs))}" if runs else None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a JSON file of the run folder; its keys are the fields, in this order."""

    def to_dict(self) -> dict[str, Json]:
        """Plain JSON values."""
        return dict(msgspec.to_builtins(self, str_keys=True, enc_hook=_NUMBER))


class Area(Record, frozen=True, kw_only=True):
    """AURAC on one axis, a fraction, with its standard error and 95 % interval."""

    value: float
    se: float | None = None
    low: float | None = None
    high: float | None = None


class Areas(Record, frozen=True, kw_only=True):
    """AURAC of a curve on both axes, and the plain mean over its ranks."""

    log2: Area
    linear: Area
    mean: float


class AxisWeights(Record, frozen=True, kw_only=True):
    """Quadrature weights of the ranks on each axis, summing to 1."""

    log2: list[float] | None = None
    linear: list[float] | None = None


class SamplingRecord(Record, frozen=True, kw_only=True):
    """How much the samples of a document vary, on AURAC over the log2 axis.

    Attributes:
        samples: K, for each document.
        between: Variance of the documents' expected AURAC.
        within: Variance of the AURAC of one sample of a document.
        share: Of sampling in the variance of the score, ``within / K`` of the whole; null where
            nothing varies.
    """

    samples: int
    between: float
    within: float
    share: float | None = None


class DrawsRecord(Record, frozen=True, kw_only=True):
    """How much the draws of the few-shot examples vary, on AURAC over the log2 axis.

    Attributes:
        draws: N.
        scores: AURAC under each.
        share: Of the draws in the variance of the score; null where nothing varies.
    """

    draws: int
    scores: list[float]
    share: float | None = None


class CurveRecord(Record, frozen=True, kw_only=True):
    """One adapter, truncated one way, on one task; lists have an element for each rank.

    Attributes:
        id: Unique within the task.
        adapter, method, base, task: Names.
        metric: lm-eval's metric and filter that is the accuracy.
        basis, rescale: How the adapter was truncated.
        default: Whether it is the curve that the adapter is compared by.
        role: `default`; `published`: as the method is published, beside it (an adapter with a
            recorded P without it, or the prefix beside SVD); `extra`: further, as asked for.
        ranks: In ascending order.
        accuracy, accuracy_low, accuracy_high: Fractions, with 95 % intervals; null: see `missing`.
        missing: Rank → why it has no accuracy.
        baseline: Accuracy of the base, rank 0.
        trained_rank: The adapter's own rank.
        parameters, bytes: Of the adapter truncated to each rank.
        fit_factors: Rank → factor, where the rescale is `fit`.
        n_docs: Documents that these results are about; cells may hold more.
        documents: Task, or member of a group → how many of its documents, the first in its file;
            left out where it is all of them.
        near_ties: Documents with a decision within rounding; null where that was not counted.
        cells: Rank → file in the run folder; of a group of tasks a file for each member.
        baseline_cell: That of the base.
        score: AURAC; null: see `score_reason`.
        score_pow2: log2 AURAC over the powers of two alone, where `--ranks auto` added ranks.
        score_method: How the interval of `score` was computed.
        score_notes: What a reader of the interval should know.
        drops: `[rank, next rank, loss]` wherever accuracy falls.
        sampling: How much the samples of a document vary; left out where there is one answer.
        fewshot_draws: How much draws of the few-shot examples vary; left out where there is one.
    """

    id: str = ""
    adapter: str
    method: str | None = None
    base: str | None = None
    task: str
    metric: str
    basis: str = "prefix"
    rescale: str = "not recorded"
    default: bool = True
    role: Role = "default"
    ranks: list[int]
    accuracy: list[float | None]
    accuracy_low: list[float | None] = []
    accuracy_high: list[float | None] = []
    missing: dict[int, str] = {}
    baseline: float | None = None
    baseline_reason: str | None = None
    trained_rank: int | None = None
    parameters: list[int | None] = []
    bytes: list[int | None] = []
    fit_factors: dict[int, float] | None = None
    n_docs: int | None = None
    documents: dict[str, int] | UnsetType = UNSET
    near_ties: list[int | None] = []
    cells: dict[int, str | list[str] | None] = {}
    baseline_cell: str | list[str] | None = None
    score: Areas | None = None
    score_pow2: Area | UnsetType = UNSET
    score_method: str | None = None
    score_notes: list[str] = []
    score_reason: str | None = None
    weights: AxisWeights | None = None
    drops: list[tuple[int, int, float]] = []
    sampling: SamplingRecord | UnsetType = UNSET
    fewshot_draws: DrawsRecord | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuse lists that do not match the ranks, with a ValueError."""
        for name in BY_RANK:
            column = getattr(self, name)
            if len(column) != len(self.ranks) and (column or name == "accuracy"):
                raise ValueError(f"{name} has {len(column)} values for {len(self.ranks)} ranks")

    def files(self, rank: int) -> list[str]:
        """The cells of a rank (0: the base) in the run folder; none where it has no accuracy."""
        where = self.cells.get(rank) or (self.baseline_cell if rank == 0 else None)
        return [where] if isinstance(where, str) else list(where or ())


BY_RANK = ("accuracy", "accuracy_low", "accuracy_high", "parameters", "bytes", "near_ties")


class TaskRecord(Record, frozen=True, kw_only=True):
    """A task as it was evaluated.

    Attributes:
        version, output_type, num_fewshot, lm_eval: As lm-eval has them.
        system_instruction, fewshot_as_multiturn, gen_kwargs, repeats, max_length: Left out at
            lm-eval's defaults.
        metric: The one that is the accuracy; `metrics` are all that the cells hold.
        cluster: Field of the documents by which they are clustered.
        limit: How many documents were asked for; null: all.
        members: Tasks of a group.
        drawn: The members are the same documents, each with another draw of the few-shot examples.
        group: The group that it was asked for in.
        documents: File with questions, references and identities of the documents.
        requests: File with prompts and lm-eval's configuration; null for a group.
    """

    name: str
    version: str = ""
    output_type: str | None = None
    num_fewshot: int | None = None
    fewshot: str | None = None
    chat_template: bool | None = None
    system_instruction: str | UnsetType = UNSET
    fewshot_as_multiturn: bool | UnsetType = UNSET
    gen_kwargs: str | UnsetType = UNSET
    repeats: int | UnsetType = UNSET
    max_length: int | UnsetType = UNSET
    n_docs: int | None = None
    documents_sha256: str | None = None
    prompts_sha256: str | None = None
    lm_eval: str | None = None
    metric: str | None = None
    metrics: list[str] = []
    cluster: str | None = None
    limit: int | float | None = None
    members: list[str] = []
    drawn: bool | UnsetType = UNSET
    group: str | None = None
    documents: str | None = None
    requests: str | None = None


class AdapterRecord(Record, frozen=True, kw_only=True):
    """An adapter as it was read; sizes are those of its full rank. `derived` is of a cut alone."""

    name: str
    path: str | None = None
    format: str | None = None
    sha256: str | None = None
    method: str | None = None
    nested_ranks: list[int] | None = None
    weights: list[int | float] | None = None
    update: str | None = None
    rule: str | None = None
    alpha: int | float | None = None
    trained_rank: int | None = None
    ranks_of_modules: list[int] = []
    modules: int | None = None
    parameters: int | None = None
    bytes: int | None = None
    notes: list[str] = []
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    derived: Derived | UnsetType = UNSET
    licence: str | UnsetType = UNSET  # where the README beside it names one
    licence_name: str | UnsetType = UNSET
    licence_link: str | UnsetType = UNSET


class FailedCell(Record, frozen=True, kw_only=True):
    """A cell that could not be computed; of the base, `adapter` and `curve` are null."""

    adapter: str | None = None
    curve: str | None = None
    task: str
    rank: int
    reason: str


class EngineTotals(Record, frozen=True, kw_only=True):
    """What all cells cost together; null was not counted."""

    computed_tokens: float | None = None
    distinct_tokens: float | None = None
    passes: float | None = None
    forward_seconds: float | None = None
    flops: float | None = None
    paths: list[str] = []


class BaseRecord(Record, frozen=True, kw_only=True):
    """The base model and the hash of its weights; `tokenizer` where prompts go through another."""

    name: str | None = None
    sha256: str | None = None
    tokenizer: str | UnsetType = UNSET


class RunSettings(Record, frozen=True, kw_only=True):
    """The settings of the command."""

    ranks: str | list[int] = "pow2"
    basis: list[str] = []
    rescale: list[str] | None = None
    num_fewshot: int | None = None
    fewshot: str | None = None
    limit: int | float | None = None
    split: str | None = None
    chat_template: bool = False
    system_instruction: str | UnsetType = UNSET
    fewshot_as_multiturn: bool | UnsetType = UNSET
    gen_kwargs: str | UnsetType = UNSET
    repeats: int | UnsetType = UNSET
    max_length: int | UnsetType = UNSET
    cluster: dict[str, str] = {}
    device_map: str | dict[str, Any] | None = None
    data: dict[str, str] = {}
    batching: str | None = None


class Provenance(Record, frozen=True, kw_only=True):
    """What produced the results: command, times (UTC), device, versions, settings."""

    command: str | None = None
    started: str | None = None
    finished: str | None = None
    seconds: float | None = None
    seed: int | None = None
    dtype: str | None = None
    device: str | None = None
    base: BaseRecord = BaseRecord()
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    settings: RunSettings = RunSettings()


class Results(Record, frozen=True, kw_only=True):
    """`results.json`: the curves of a run, their scores, and what produced them.

    Attributes:
        schema: 1.
        aurac: The version that wrote it.
        groups: Recipe group → names of the adapters that are seeds of one recipe, as named in the
            command; recorded seeds are found anew.
        primary: The primary comparisons, where some were declared.
        failures: Cells that could not be computed.
    """

    schema: int
    aurac: str = "unknown"
    curves: list[CurveRecord]
    tasks: list[TaskRecord] = []
    adapters: list[AdapterRecord] = []
    groups: dict[str, list[str]] = {}
    primary: Declaration | UnsetType = UNSET
    failures: list[FailedCell] = []
    engine: EngineTotals = EngineTotals()
    provenance: Provenance = Provenance()

    def __repr__(self) -> str:
        tasks = ", ".join(task.name for task in self.tasks)
        failed = f", {len(self.failures)} failed cells" if self.failures else ""
        return f"Results({len(self.curves)} curves on {tasks}{failed})"

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The `results.json` of a run folder.

        Raises:
            RunFolderError: Missing, not JSON, of another schema, or not of this form.
        """
        path = folder / RESULTS_FILE
        if not path.is_file():
            run = "run `aurac compare … --out FOLDER` first, or let an interrupted run finish"
            why, fix = f"holds no {RESULTS_FILE}", runs_below(folder)
            if folder.is_file():
                why, fix = "is a file", "`aurac score FILE` reads tables"
            if not folder.exists():
                why, fix = "does not exist", did_you_mean(folder, is_run)
            raise RunFolderError(f"{folder} {why}", expected="a run folder", fix=fix or run)
        schema = read_record(path, SchemaNumber, again(folder)).schema
        if schema is None:
            raise RunFolderError(f"{path} has no schema", expected="one of a run", fix=LOG_SAMPLES)
        if schema != RESULTS_SCHEMA:
            raise RunFolderError(
                f"{path} has schema {schema!r}",
                expected=f"schema {RESULTS_SCHEMA}",
                fix=f"update aurac, or {again(folder)}",
            )
        return read_record(path, cls, again(folder))

    def write(self, folder: Path) -> None:
        """Write it to a run folder; a ValueError where JSON cannot hold a number."""
        write_json(folder / RESULTS_FILE, self.to_dict())

    @property
    def headline(self) -> TaskRecord:
        """The task of a run that was asked for one: of a group the whole, not a member."""
        return next((task for task in reversed(self.tasks) if task.members), self.tasks[0])

    @property
    def areas(self) -> dict[str, float]:
        """Adapter → AURAC (log2 axis) of its default curve on that task, where it has one."""
        every = [c for c in self.curves if c.default and c.task == self.headline.name]
        return {curve.adapter: curve.score.log2.value for curve in every if curve.score}

    def task(self, name: str) -> TaskRecord:
        """The task of this name; an empty record where there is none."""
        return next((task for task in self.tasks if task.name == name), TaskRecord(name=name))

    def files(self) -> set[str]:
        """All files in the run folder that are named."""
        named = [file for task in self.tasks for file in (task.documents, task.requests) if file]
        for curve in self.curves:
            named += [file for rank in (0, *curve.ranks) for file in curve.files(rank)]
        return set(named)


class TaskDocuments(Record, frozen=True, kw_only=True):
    """The documents of a task for people: questions and references, and their identities.

    Attributes:
        doc_ids: n identities; in a group `member index:doc_id`.
        questions, targets: n texts; null where the task has no text.
        choices: n lists of texts; null where the task offers none.
        keys: Of a task: how the cells name the documents. Null for a group.
        clusters: What documents share; null where they are independent.
    """

    doc_ids: list[str]
    questions: list[str | None] = []
    targets: list[str | None] = []
    choices: list[list[str] | None] | None = None
    keys: list[DocumentKey] | None = None
    clusters: list[str] | None = None
