"""Studies: one file becomes trained adapters, their evaluation and one report."""

from aurac.study.design import Study, load_study, planned
from aurac.study.execution import run_study, write_study

__all__ = ["Study", "load_study", "planned", "run_study", "write_study"]
