"""The page on the library: `python -m scripts.library` writes docs/reference/library.md."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aurac

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "library.md"
MEMBERS = {
    "Curve": ("from_outcomes", "from_examples", "frame", "at"),
    "Run": (
        *("scores", "points", "pairs", "rank_pairs", "recommended"),
        *("ask", "recommend", "samples", "plot", "report", "curves", "failures"),
    ),
}
MANY = 4  # arguments; of more the first ones are shown


def page() -> str:
    """The page: what stands before the first list and after the last is kept from the file."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- made -->\n")
    after = rest.partition("<!-- end -->")[2]
    return f"{before}<!-- made -->\n\n{made()}\n\n<!-- end -->{after}"


def made() -> str:
    """The public names, each with its arguments and the first line of its docstring."""
    return "\n".join(line for name in aurac.__all__ for line in _entry(name))


def _entry(name: str) -> Iterator[str]:
    what = getattr(aurac, name)
    yield f"- `{name}{'' if inspect.isclass(what) else _signature(what)}`: {_line(what)}"
    for member in MEMBERS.get(name, ()):
        each = getattr(what, member, None)
        if each is not None:
            yield f"  - `.{member}{_signature(each) if callable(each) else ''}`: {_line(each)}"


def _signature(function: Any) -> str:
    """Names and defaults."""
    known = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    shown = [p.replace(annotation=inspect.Parameter.empty) for p in known[:MANY]]
    text = str(inspect.Signature(shown)).removesuffix(")")
    return f"{text}, …)" if len(known) > MANY else f"{text})"


def _line(what: Any) -> str:
    """The first sentence of a docstring."""
    first = (inspect.getdoc(what) or "").split("\n")[0].replace("``", "`")
    return first.removesuffix(".")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
