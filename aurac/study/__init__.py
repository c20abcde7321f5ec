"""Studies: one file becomes trained adapters, their evaluation and reports."""

from aurac.study.design import Job, Study, load_study
from aurac.study.work import Work, jobs, left, run_study

__all__ = ["Job", "Study", "Work", "jobs", "left", "load_study", "run_study"]
