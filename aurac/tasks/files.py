"""What a run keeps of a task beside its cells: documents for people, requests for lm-eval."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.files import write_atomic
from aurac.tasks.metrics import plain

if TYPE_CHECKING:
    from aurac.models.base import LoadedBase
    from aurac.tasks.metrics import Leaf
    from aurac.tasks.task import BuiltTask

FOLDER = "requests"


def readable(task: BuiltTask) -> dict[str, Any]:
    """The documents of a task as plain JSON, for the examples of a report.

    Returns:
        `doc_ids` (in a group `member index:doc_id`), `keys` (of a task: id, SHA-256 of the content
        and of the requests of each document), `questions`, `targets`, `choices` (lists of texts,
        None where the task offers none), and `clusters` (what documents share, if anything).
    """
    members = (task,) if task.drawn else task.members or (task,)
    columns: dict[str, Any] = {"doc_ids": [], "questions": [], "targets": [], "choices": []}
    for index, member in enumerate(members):
        for leaf in member.leaves:
            for document in leaf.documents:
                prefix = f"{index}:" if len(members) > 1 else ""
                question, target, choices = _read(leaf, document.content)
                columns["doc_ids"].append(f"{prefix}{document.doc_id}")
                columns["questions"].append(question)
                columns["targets"].append(target)
                columns["choices"].append(choices)
    if not any(columns["choices"]):
        columns["choices"] = None
    if not task.members:
        keys = zip(task.doc_ids, task.doc_hashes, task.prompt_hashes, strict=True)
        columns["keys"] = [list(key) for key in keys]
    columns["clusters"] = list(task.clusters) if task.clusters is not None else None
    return columns


def _read(leaf: Leaf, content: Any) -> tuple[str | None, str | None, list[str] | None]:
    task = leaf.task
    question, target = task.doc_to_text(content), task.doc_to_target(content)
    choices = None
    if task.config.doc_to_choice is not None:
        choices = [str(choice) for choice in task.doc_to_choice(content)]
        if isinstance(target, int) and 0 <= target < len(choices):
            target = choices[target]
    return (
        question if isinstance(question, str) else None,
        target if isinstance(target, str) else None,
        choices,
    )


def write_requests(folder: Path, task: BuiltTask, base: LoadedBase) -> str | None:
    """Write a task's prompts and documents into a run folder, gzipped lines of JSON.

    The first line describes the task and the base; each other one is a document with its requests.
    Returned is the path in the run folder; None for a group, whose members have files of their own.
    """
    if task.members:
        return None
    (leaf,) = task.leaves
    path = Path(FOLDER) / f"{task.name.replace('/', '_')}-{task.prompts_sha256[:16]}.jsonl.gz"
    if not (folder / path).is_file():
        lines = [json.dumps(_header(leaf, task, base), ensure_ascii=False)]
        lines += [json.dumps(row, ensure_ascii=False) for row in _rows(leaf)]
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        write_atomic(folder / path, gzip.compress(text, 6, mtime=0))
    return path.as_posix()


def _header(leaf: Leaf, task: BuiltTask, base: LoadedBase) -> dict[str, Any]:
    config = leaf.task.dump_config()
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if isinstance(files, dict):  # where the documents lie is this machine's business
        config["dataset_kwargs"] = {"data_files": {split: _names(f) for split, f in files.items()}}
    if isinstance(config.get("metadata"), dict):
        config["metadata"].pop("config_source", None)
    return {
        "task": task.name,
        "config": plain(config),
        "version": plain(leaf.task.VERSION),
        "higher_is_better": plain(leaf.task.higher_is_better()),
        "original": len(leaf.task.eval_docs),
        "chat_template": base.tokenizer.chat_template if task.chat_template else None,
        "system_instruction": task.prompting.get("system_instruction"),
        "fewshot_as_multiturn": task.prompting.get("fewshot_as_multiturn", True),
        "model": _model(base),
    }


def _names(files: Any) -> Any:
    return [_names(file) for file in files] if isinstance(files, list) else Path(str(files)).name


def _model(base: LoadedBase) -> dict[str, Any]:
    """What lm-eval's results say about a model and its tokenizer."""
    tokenizer = base.tokenizer
    return {
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "max_length": getattr(base.model.config, "max_position_embeddings", None),
        "eot_token_id": tokenizer.eos_token_id,
        **{
            f"{kind}_token": [
                plain(getattr(tokenizer, f"{kind}_token")),
                str(getattr(tokenizer, f"{kind}_token_id")),
            ]
            for kind in ("pad", "eos", "bos")
        },
    }


def _rows(leaf: Leaf) -> list[dict[str, Any]]:
    rows = []
    for document in leaf.documents:
        target = leaf.task.doc_to_target(document.content)
        arguments = [instance.args for instance in document.instances]
        rows.append(
            {
                "doc_id": document.doc_id,
                "doc": plain(document.content),
                "target": str(target),
                "arguments": plain(arguments),
                "doc_hash": document.doc_hash,
                "prompt_hash": _hash(arguments[0][0]),
                "target_hash": _hash(str(target)),
            }
        )
    return rows


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
