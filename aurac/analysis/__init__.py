"""What curves may claim: `analyse` answers every question of a report, the others one each.

Each takes a `Curve`, or what `as_curve` accepts; several are training seeds of one recipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from aurac.analysis.choice import non_inferior_rank
    from aurac.analysis.choice_rows import Choice, Configuration, RankRow, RankTest
    from aurac.analysis.comparisons import paired_curves
    from aurac.analysis.equivalence import margin_test
    from aurac.analysis.rows import MarginTest
    from aurac.analysis.score import Bands, bands
    from aurac.analysis.whole import analyse

__all__ = [
    "Bands",
    "Choice",
    "Configuration",
    "MarginTest",
    "RankRow",
    "RankTest",
    "analyse",
    "bands",
    "margin_test",
    "non_inferior_rank",
    "paired_curves",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "whole": ["analyse"],
        "choice": ["non_inferior_rank"],
        "choice_rows": ["Choice", "Configuration", "RankRow", "RankTest"],
        "equivalence": ["margin_test"],
        "rows": ["MarginTest"],
        "comparisons": ["paired_curves"],
        "score": ["Bands", "bands"],
    },
)
