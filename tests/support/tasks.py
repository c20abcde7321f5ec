"""Tasks as a test asks for them."""

from __future__ import annotations

from aurac.engine.lm import EngineLM
from aurac.tasks import lm_eval
from aurac.tasks.options import TaskOptions


def build_tasks(names, *, tokenizer, **options):
    """`aurac.tasks.lm_eval.build_tasks` with the fields of `TaskOptions` as keywords."""
    return lm_eval.build_tasks(names, tokenizer=tokenizer, options=TaskOptions(**options))


def evaluate(task, model, tokenizer, options=None, progress=None):
    """All documents of a task in one block."""
    lm = EngineLM(model, tokenizer, options)
    lm.progress = progress or lm.progress
    return task.evaluation(lm).block(range(task.n_docs))
