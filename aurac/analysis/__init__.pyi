from .bands import Bands, bands
from .choice import non_inferior_rank
from .choice_rows import Choice, Configuration, RankRow, RankTest
from .comparisons import paired_curves
from .equivalence import margin_test
from .rows import MarginTest, Options
from .whole import analyse

__all__ = [
    "Bands",
    "Choice",
    "Configuration",
    "MarginTest",
    "Options",
    "RankRow",
    "RankTest",
    "analyse",
    "bands",
    "margin_test",
    "non_inferior_rank",
    "paired_curves",
]
