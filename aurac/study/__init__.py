"""Studies: one file becomes trained adapters, their evaluation and reports."""

from aurac.study.design import Study, load_study
from aurac.study.work import Step, Work, left, run_study, steps

__all__ = ["Step", "Study", "Work", "left", "load_study", "run_study", "steps"]
