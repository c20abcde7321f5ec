"""Studies: one file becomes trained adapters, their evaluation and reports."""

from aurac.study.design import Job, Study, load_study
from aurac.study.work import StudyFolder, jobs, left, run_study

__all__ = ["Job", "Study", "StudyFolder", "jobs", "left", "load_study", "run_study"]
