"""What curves may claim: `analyse` answers a `Question` in five frames, an `Analysis`."""

from __future__ import annotations

from aurac.analysis.frames import Analysis, analyse
from aurac.analysis.gather import Row
from aurac.curves.question import Question

__all__ = ["Analysis", "Question", "Row", "analyse"]
