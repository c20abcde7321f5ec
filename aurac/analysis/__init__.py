"""What curves may claim: `analyse` answers every question of a report, the others one each.

Each takes a `Curve`, or what `as_curve` accepts; several are training seeds of one recipe.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
