"""What a rank-accuracy curve may claim: one file per question, arithmetic only.

Everything takes plain arrays, ``(n,)`` scores per document or ``(S, n)`` for S training seeds, and
`Curve` where ranks matter. Randomness comes only through a `numpy.random.Generator`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
