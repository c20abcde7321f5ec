"""Annotations become links: ``Curve`` in a signature leads to `aurac.Curve`, by its last part.

Types of other libraries are left as text. A name that looks like one of ours and is documented
nowhere stays unresolved, which `-n` reports. (Ruff checks that public names have a docstring.)
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes

_COLON = "\N{RATIO}"


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
    app.connect("autodoc-process-docstring", as_rst, priority=410)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("doctree-read", dashes)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
