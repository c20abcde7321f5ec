"""Strictness about docstrings: each public name has one, and each type that it names is known.

- A documented function, class, method or property without a docstring is a warning (an error under
  `-W`).
- Annotations are resolved by their last part among the names of this site: ``Curve`` in a
  signature leads to `aurac.Curve`. Types of other libraries are left as text. A name that looks
  like one of ours and is documented nowhere stays unresolved, which `-n` reports.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.util import logging

_log = logging.getLogger(__name__)
_COLON = "\N{RATIO}"
_NEEDS = {"function", "class", "exception", "method", "property", "module"}


def check_presence(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Warn where there is nothing to read."""
    if what in _NEEDS and not any(line.strip() for line in lines):
        _log.warning("%s %s has no docstring", what, name)


def check_members(
    app: Any, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Warn of a public function, class or property that autodoc would silently leave out."""
    described = inspect.isroutine(obj) or inspect.isclass(obj) or isinstance(obj, property)
    if getattr(obj, "__module__", "aurac").split(".")[0] in {"collections", "functools"}:
        return None  # imported, not ours
    if skip and described and not name.startswith("_") and not inspect.getdoc(obj):
        _log.warning("%s %s has no docstring", what, getattr(obj, "__qualname__", name))
    return None


def as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Habits of the docstrings here that reStructuredText would read as something else."""
    for k, given in enumerate(lines):
        line = re.sub(r"(?<![\\`\w])\|(?=\w+\|)", r"\\|", given)  # |S| is a size
        code = re.sub(r"(?<!`)(`[^`]+`)(?=\w)", r"\1\\ ", line)  # a plural after code
        # Two attributes described together: napoleon would take the first one for a type.
        lines[k] = re.sub(r"^(\s*\w+)((?:, \w+)+):", lambda m: m[0].replace(", ", ","), code)
    if what in {"property", "attribute"}:
        lines[:1] = [line.replace(":", _COLON) for line in lines[:1]]


def after_napoleon(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Put back the colons that napoleon would have taken for the end of a type."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def resolve(app: Any, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """A reference by last name, if exactly one thing here is called so."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].rpartition(".")[2]
    domain = env.get_domain("py")
    found = [
        (full, entry)
        for full, entry in domain.objects.items()
        if full.rpartition(".")[2] == target and entry.objtype in {"class", "exception", "function"}
    ]
    if not found:
        return None
    full, entry = min(found, key=lambda item: (len(item[0]), item[0]))
    from sphinx.util.nodes import make_refnode

    return make_refnode(
        app.builder, node.get("refdoc", env.docname), entry.docname, entry.node_id, content, full
    )


def dashes(app: Any, doctree: nodes.document) -> None:
    """The dash between a parameter and its description; two hyphens elsewhere are an option's."""
    for text in list(doctree.findall(nodes.Text)):
        if str(text) == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's hook."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", check_presence, priority=400)
    app.connect("autodoc-skip-member", check_members)
    app.connect("autodoc-process-docstring", as_rst, priority=410)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("doctree-read", dashes)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
