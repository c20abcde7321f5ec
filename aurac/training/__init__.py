"""Training: recipes (data) become adapters, on plain PEFT and the HF Trainer."""

from aurac.arguments import public

__getattr__, __dir__, __all__ = public(__name__, __file__)
