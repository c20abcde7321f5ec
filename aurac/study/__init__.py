"""Studies: one validated file becomes trained adapters, evaluations, tables and a report."""

from __future__ import annotations

from aurac.study.design import Study
from aurac.study.load import load_study
from aurac.study.plan import Progress, plan_study
from aurac.study.run import run_study
from aurac.study.summary import summarise

__all__ = ["Progress", "Study", "load_study", "plan_study", "run_study", "summarise"]
