"""What a reader needs beside the answers: each document's question, target and choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurac.tasks.task import BuiltTask, Leaf


def readable(task: BuiltTask) -> dict[str, Any]:
    """The documents of a task as plain JSON, for the examples of a report.

    Returns:
        `doc_ids` (in a group `member index:doc_id`), `keys` (of a task: id, SHA-256 of the content
        and of the requests of each document), `questions`, `targets`, and `choices` (one
        list of texts per document, or None for the whole where the task offers none), and
        `clusters` (what documents share; None where they are independent).
    """
    members = task.members or (task,)
    found: dict[str, Any] = {"doc_ids": [], "questions": [], "targets": [], "choices": []}
    for index, member in enumerate(members):
        for leaf in member.leaves:
            for document in leaf.documents:
                prefix = f"{index}:" if task.members else ""
                question, target, choices = _read(leaf, document.content)
                found["doc_ids"].append(f"{prefix}{document.doc_id}")
                found["questions"].append(question)
                found["targets"].append(target)
                found["choices"].append(choices)
    if not any(found["choices"]):
        found["choices"] = None
    if not task.members:
        keys = zip(task.doc_ids, task.doc_hashes, task.prompt_hashes, strict=True)
        found["keys"] = [list(key) for key in keys]
    found["clusters"] = list(task.clusters) if task.clusters is not None else None
    return found


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
