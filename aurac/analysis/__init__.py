"""What curves may claim: `analyse` answers every question of a report, the others one each.

They take a `Curve`, or what `as_curve` accepts, and several as training seeds of one recipe;
`margin_test` takes the scores of documents.
"""

from aurac.arguments import public

__getattr__, __dir__, __all__ = public(__name__, __file__)
