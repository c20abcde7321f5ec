from . import adapters as adapters
from . import analysis as analysis
from . import errors as errors
from . import readers as readers
from . import training as training
from .adapters.export import save_adapter, truncate
from .adapters.formats import load_adapter
from .adapters.methods import Method, Pass, TrainingSetup, register_method
from .analysis.equivalence import equivalent, non_inferior
from .analysis.pilot import plan
from .analysis.rows import MarginTest
from .analysis.score import Score, score
from .curves.area import quadrature_weights
from .curves.curve import Curve
from .notebook import Run, load_run
from .runs.compare import compare
from .stats.mean import Estimate
from .training import TrainingResult, train

__all__ = [
    "Curve",
    "Estimate",
    "MarginTest",
    "Method",
    "Pass",
    "Run",
    "Score",
    "TrainingResult",
    "TrainingSetup",
    "__version__",
    "compare",
    "equivalent",
    "load_adapter",
    "load_run",
    "non_inferior",
    "plan",
    "quadrature_weights",
    "register_method",
    "save_adapter",
    "score",
    "train",
    "truncate",
]

__version__: str
