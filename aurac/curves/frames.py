"""The data frame that Python callers get, which shows every column and whole sentences."""

from __future__ import annotations

import shutil

import pandas as pd

from aurac.curves.display import next_margin
from aurac.terminal import wrapped

_DIGITS = 4  # decimals that are shown


class Table(pd.DataFrame):
    """A data frame that shows all columns, margins rounded up; in a terminal sentences below it."""

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def __repr__(self) -> str:
        width = shutil.get_terminal_size().columns
        said = list(self["sentence"].items()) if "sentence" in self.columns else []
        whole = ("display.max_columns", None, "display.width", width, "display.precision", _DIGITS)
        with pd.option_context(*whole):
            shown = self._plain().drop(columns="sentence", errors="ignore")
            lines = [repr(shown), *([""] if said else [])]
        return "\n".join([*lines, *(wrapped(f"{at}  {text}", width) for at, text in said)])

    def _repr_html_(self) -> str | None:
        whole = ("display.max_columns", None, "display.max_colwidth", None)
        with pd.option_context(*whole, "display.precision", _DIGITS):
            shown: str | None = self._plain()._repr_html_()  # type: ignore[operator]
        return shown

    def _plain(self) -> pd.DataFrame:
        shown = pd.DataFrame(self)
        if "needed" in shown:
            shown = shown.assign(needed=shown["needed"].map(_rounded_up, na_action="ignore"))
        return shown


def _rounded_up(margin: float) -> float:
    """So that the margin that is shown passes; a count in `describe` is none."""
    return next_margin(margin, _DIGITS) if margin < 1 else margin
