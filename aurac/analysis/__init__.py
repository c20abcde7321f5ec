"""What curves may claim: `analyse` answers every question of a report, the others one each.

Each takes a `Curve`, or what `as_curve` accepts; several are training seeds of one recipe.
"""

from aurac.arguments import public

__getattr__, __dir__, __all__ = public(__name__, __file__)
