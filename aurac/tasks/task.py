"""A task with its requests, evaluated on one state of a model after another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import DataError, TaskError
from aurac.files import sha256_json, sha256_text
from aurac.records.cell import DocumentKey, same_scoring
from aurac.records.requests import ModelFacts, RequestRow, RequestsHeader, StoredRequests
from aurac.records.results_file import TaskDocuments, TaskRecord
from aurac.tasks.metrics import Leaf, Outcome, check_scores, plain
from aurac.tasks.requests import Requests, answers_of, prompts_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.models.base import LoadedBase
    from aurac.tasks.metrics import Document
    from aurac.tasks.options import Prompting, TaskOptions


def cluster_labels(task: str, documents: Iterable[Any], field: str) -> tuple[str, ...]:
    """One label for each document, its `field` as text or JSON; one without it is refused."""
    labels = []
    for document in documents:
        value = document.get(field)
        if value is None:
            raise DataError(
                f"a document of task {task!r} has no field {field!r} to cluster by",
                expected=f"one of {', '.join(sorted(map(str, document)))}",
            )
        labels.append(value if isinstance(value, str) else json.dumps(value, default=str))
    return tuple(labels)


@dataclass(frozen=True, eq=False)
class BuiltTask:
    """A task, or a group of tasks pooled, ready to be evaluated on any number of model states."""

    name: str  # lm-eval's name of the task or group
    version: str  # lm-eval's version of it
    metric: str  # the ``name,filter`` that is integrated
    options: TaskOptions  # as it was built; of several draws of examples those of the first
    template_sha256: str | None  # of the chat template that prompts went through, if any
    # lm-eval's tasks with their requests; of a group those of all members
    leaves: tuple[Leaf, ...] = field(repr=False)
    group: str | None = None  # the group that was asked for and brought this task along, if any
    # A group's leaves, in the order of its documents, which are theirs pooled
    members: tuple[BuiltTask, ...] = ()
    # Whether the members are the same documents with other few-shot examples: a score is their mean
    drawn: bool = False
    # The documents' field by which they are clustered; None where they are independent
    cluster: str | None = None
    clusters: tuple[str, ...] | None = None  # n labels of what documents share inside the leaves
    # Of a leaf with some of a task's documents: where they stand there
    places: tuple[int, ...] | None = None

    @classmethod
    def of_group(cls, name: str, version: str, members: Sequence[BuiltTask]) -> BuiltTask:
        """The documents of all ``members`` in their order; the metric is still to be chosen."""
        return cls(
            name=name,
            version=version,
            metric="",
            options=members[0].options,
            template_sha256=members[0].template_sha256,
            leaves=tuple(chain.from_iterable(member.leaves for member in members)),
            members=tuple(members),
            cluster=", ".join(dict.fromkeys(m.cluster for m in members if m.cluster)) or None,
            clusters=_clusters_of(members),
        )

    def passing(self, k: int) -> BuiltTask:
        """The same documents under another score: the chance that one of k samples is right."""
        return replace(
            self,
            name=f"{self.name}:pass@{k}",
            metric=f"pass@{k}:{self.metric}",  # see `aurac.records.cell.metric_column`
            group=self.group or self.name,
            members=self.members or (self,),
        )

    def only(self, places: Sequence[int]) -> BuiltTask:
        """The same task with some of its documents, in this order (of a group, within members)."""
        if self.members:
            ends = list(accumulate(member.n_docs for member in self.members))
            parts = zip(self.members, [0, *ends[:-1]], ends, strict=True)
            inside = [(m, [p - a for p in places if a <= p < end]) for m, a, end in parts]
            members = tuple(member.only(part) for member, part in inside if part)
            leaves = tuple(chain.from_iterable(member.leaves for member in members))
            return replace(self, members=members, leaves=leaves, clusters=_clusters_of(members))
        leaf = replace(self.leaf, documents=tuple(self.leaf.documents[p] for p in places))
        clusters = None if self.clusters is None else tuple(self.clusters[p] for p in places)
        return replace(self, leaves=(leaf,), clusters=clusters, places=tuple(places))

    @cached_property
    def doc_ids(self) -> tuple[str, ...]:
        """The n identities of the documents: lm-eval's ``doc_id``, in a group ``leaf:doc_id``."""
        if self.members and not self.drawn:
            return tuple(f"{m.name}:{doc_id}" for m in self.members for doc_id in m.doc_ids)
        return tuple(str(document.doc_id) for document in self.leaf.documents)

    @cached_property
    def doc_hashes(self) -> tuple[str, ...]:
        """The n SHA-256 of the documents, those of lm-eval's samples."""
        return tuple(document.doc_hash for leaf in self.leaves for document in leaf.documents)

    @cached_property
    def keys(self) -> tuple[DocumentKey, ...]:
        """The n documents as cells name them, in order."""
        keys = zip(self.doc_ids, self.doc_hashes, self.prompt_hashes, strict=True)
        return tuple(DocumentKey(*key) for key in keys)

    @cached_property
    def documents_sha256(self) -> str:
        """One hash of all documents and their order."""
        documents = zip(self.doc_ids, self.doc_hashes, strict=True)
        return sha256_text("".join(f"{doc_id} {doc_hash}\n" for doc_id, doc_hash in documents))

    @cached_property
    def prompts_sha256(self) -> str:
        """One hash of every request: contexts, continuations, generation settings."""
        if self.drawn:
            return sha256_json([draw.prompts_sha256 for draw in self.members])
        return prompts_sha256(i for leaf in self.leaves for i in leaf.instances)

    @property
    def integrable(self) -> dict[str, bool]:
        """For each ``name,filter`` that all leaves declare, whether it can be integrated."""
        declared = [leaf.integrable for leaf in self.leaves]
        everywhere = (key for key in declared[0] if all(key in other for other in declared))
        return {key: all(leaf[key] for leaf in declared) for key in everywhere}

    @property
    def strata(self) -> tuple[str, ...] | None:
        """For a group of several the n names of the leaves; None for a plain task."""
        names = (member.name for member in self.members for _ in member.doc_ids)
        return tuple(names) if len(self.members) > 1 and not self.drawn else None

    @property
    def num_fewshot(self) -> int | None:
        """Examples in each prompt; None in a group whose leaves differ."""
        shots = {leaf.num_fewshot for leaf in self.leaves}
        return shots.pop() if len(shots) == 1 else None

    @property
    def output_type(self) -> str:
        """lm-eval's (``multiple_choice``, …); ``mixed`` in a group whose leaves differ."""
        kinds = {str(leaf.task.OUTPUT_TYPE) for leaf in self.leaves}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def leaf(self) -> Leaf:
        """The lm-eval task behind it; a group has several."""
        (leaf,) = self.leaves
        return leaf

    @property
    def generates(self) -> bool:
        """Whether any answer is a generated text."""
        return any(leaf.task.OUTPUT_TYPE == "generate_until" for leaf in self.leaves)

    @property
    def settings(self) -> Prompting:
        """Those of `TaskOptions.prompting` that concern this task."""
        settings = self.options.prompting()
        if not self.generates:
            settings.pop("gen_kwargs", None)
            settings.pop("repeats", None)
        return settings

    @cached_property
    def prompt_hashes(self) -> tuple[str, ...]:
        """The n hashes, each of all requests of a document."""
        documents = chain.from_iterable(leaf.documents for leaf in self.leaves)
        return tuple(prompts_sha256(document.instances) for document in documents)

    @property
    def n_docs(self) -> int:
        """How many documents are evaluated."""
        return len(self.doc_ids)

    @property
    def n_requests(self) -> int:
        """How many requests one evaluation answers; ``progress`` adds up to it."""
        return len(self._requests)

    @cached_property
    def effort(self) -> float:
        """About how long an evaluation takes beside other tasks' (see `Requests.effort`)."""
        return self._requests.effort()

    @cached_property
    def _requests(self) -> Requests:
        instances = list(chain.from_iterable(leaf.instances for leaf in self.leaves))
        return Requests(instances)

    @cached_property
    def lm_eval(self) -> str:
        """Version of lm-eval, which builds the prompts."""
        return version("lm_eval")

    def identity(self) -> TaskRecord:
        """What was asked: two cells can be paired only if these agree."""
        return TaskRecord(
            name=self.name,
            version=self.version,
            output_type=self.output_type,
            num_fewshot=self.num_fewshot,
            fewshot=self.options.fewshot,
            chat_template=self.options.chat_template,
            n_docs=self.n_docs,
            documents_sha256=self.documents_sha256,
            prompts_sha256=self.prompts_sha256,
            lm_eval=self.lm_eval,
            **self.settings,
        )

    @property
    def instances(self) -> tuple[Any, ...]:
        """All requests, in order."""
        return self._requests.instances

    def evaluation(self, lm: Any) -> Evaluation:
        """Puts the requests to an lm-eval model, block by block."""
        return Evaluation(self, lm, self._requests)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """For each document its first request and the one after its last."""
        ends = list(accumulate(len(document.instances) for document in self.leaf.documents))
        return tuple(zip([0, *ends[:-1]], ends, strict=True))


class Evaluation:
    """A task that is no group, put to an lm-eval model."""

    def __init__(self, task: BuiltTask, lm: Any, requests: Requests) -> None:
        self._task, self._lm, self._requests = task, lm, requests

    def block(self, documents: Sequence[int]) -> Outcome:
        """The outcome of some of the task's documents, given by their places.

        Raises:
            CellError: A log-likelihood is not a finite number, or an answer cannot be judged.
            TaskError: The task does not report its metric for every document, or not within [0, 1].
        """
        task, leaf = self._task, self._task.leaf
        part = [leaf.documents[place] for place in documents]
        numbers = [n for place in documents for n in range(*task.spans[place])]
        answers = answers_of(self._lm, self._requests, numbers)
        outcome = leaf.judge(part, answers)
        if task.metric not in outcome.metrics:
            raise TaskError(
                f"task {task.name!r} did not report {task.metric!r} for every document",
                expected=f"one of {', '.join(outcome.metrics) or 'no metric'}",
                fix=f"name one with --metric {task.name}=NAME,FILTER",
            )
        check_scores(task.name, task.metric, outcome.metrics[task.metric])
        return outcome


def _clusters_of(members: Sequence[BuiltTask]) -> tuple[str, ...] | None:
    """The members' clusters; a document of a member without any is one by itself."""
    if all(member.clusters is None for member in members):
        return None
    return tuple(f"{i}:{label}" for i, m in enumerate(members) for label in m.clusters or m.doc_ids)


def readable(task: BuiltTask) -> TaskDocuments:
    """The documents of a task for the examples of a report."""
    members = (task,) if task.drawn else task.members or (task,)
    ids: list[str] = []
    rows = []
    for index, member in enumerate(members):
        prefix = f"{index}:" if len(members) > 1 else ""
        for leaf in member.leaves:
            ids += [f"{prefix}{document.doc_id}" for document in leaf.documents]
            rows += [_readable(leaf.task, document.content) for document in leaf.documents]
    questions, targets, choices = map(list, zip(*rows, strict=True))
    return TaskDocuments(
        doc_ids=ids,
        questions=questions,
        targets=targets,
        choices=choices if any(choices) else None,
        keys=None if task.members else list(task.keys),
        clusters=None if task.clusters is None else list(task.clusters),
    )


def _readable(task: Any, content: Any) -> tuple[str | None, str | None, list[str] | None]:
    """Question, reference and choices of a document, where lm-eval's task has a text for them."""
    question, target = task.doc_to_text(content), task.doc_to_target(content)
    choices = None
    if task.config.doc_to_choice is not None:
        choices = [str(choice) for choice in task.doc_to_choice(content)]
        if isinstance(target, int) and 0 <= target < len(choices):
            target = choices[target]
    texts = [text if isinstance(text, str) else None for text in (question, target)]
    return texts[0], texts[1], choices


def write_requests(folder: Path, task: BuiltTask, base: LoadedBase) -> str | None:
    """Write a task's prompts and documents into a run folder.

    Returned is the path in the run folder; None for a group, whose members have files of their own.
    """
    if task.members:
        return None
    leaf = task.leaf
    path = Path("requests") / f"{task.name.replace('/', '_')}-{task.prompts_sha256[:16]}.jsonl.gz"
    header = StoredRequests.header_in(folder / path)
    if header is None or not same_scoring(header.scoring, leaf.scoring):
        rows = [_row(leaf, document) for document in leaf.documents]
        StoredRequests(_header(leaf, task, base), rows).write(folder / path)
    return path.as_posix()


def _header(leaf: Leaf, task: BuiltTask, base: LoadedBase) -> RequestsHeader:
    config = leaf.task.dump_config()
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if files:  # where the documents lie is this machine's business
        config["dataset_kwargs"] = {**config["dataset_kwargs"], "data_files": _names(files)}
    if (made := leaf.task.config.custom_dataset) is not None:
        config["custom_dataset"] = f"{made.__module__}:{made.__qualname__.split('.')[0]}"
    (config.get("metadata") or {}).pop("config_source", None)
    return RequestsHeader(
        task=task.name,
        config=plain(config),
        version=plain(leaf.task.VERSION),
        higher_is_better=plain(leaf.task.higher_is_better()),
        original=len(leaf.task.eval_docs),
        chat_template=base.tokenizer.chat_template if task.options.chat_template else None,
        system_instruction=task.settings.get("system_instruction"),
        fewshot_as_multiturn=task.settings.get("fewshot_as_multiturn", True),
        scoring=leaf.scoring,
        model=_model(base, task.options.max_length),
    )


def _names(files: Any) -> Any:
    """Files as they were written, absolute ones by their last part."""
    if isinstance(files, dict):
        return {split: _names(each) for split, each in files.items()}
    if isinstance(files, list):
        return [_names(file) for file in files]
    return Path(str(files)).name if Path(str(files)).is_absolute() else files


def _model(base: LoadedBase, limit: int | None) -> ModelFacts:
    tokenizer = base.tokenizer
    return ModelFacts(
        parameters=sum(p.numel() for p in base.model.parameters()),
        max_length=limit or getattr(base.model.config, "max_position_embeddings", None),
        eot_token_id=tokenizer.eos_token_id,
        pad_token=[plain(tokenizer.pad_token), str(tokenizer.pad_token_id)],
        eos_token=[plain(tokenizer.eos_token), str(tokenizer.eos_token_id)],
        bos_token=[plain(tokenizer.bos_token), str(tokenizer.bos_token_id)],
    )


def _row(leaf: Leaf, document: Document) -> RequestRow:
    target = str(leaf.task.doc_to_target(document.content))
    arguments = [instance.args for instance in document.instances]
    return RequestRow(
        doc_id=document.doc_id,
        doc=plain(document.content),
        target=target,
        arguments=plain(arguments),
        doc_hash=document.doc_hash,
        prompt_hash=sha256_text(arguments[0][0]),
        target_hash=sha256_text(target),
    )
