"""What curves may claim: `analyse` answers a `Question` in five frames, an `Analysis`."""

from __future__ import annotations

from aurac.analysis.frames import Analysis, Question, analyse
from aurac.analysis.gather import Row

__all__ = ["Analysis", "Question", "Row", "analyse"]
