"""Reports: what a run measured, as Markdown, HTML, LaTeX, CSV, figures and a terminal table.

Everything here works from `results.json` and the stored cells alone; torch is never loaded, and
matplotlib only when a figure is drawn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
