"""The site: `sphinx-build -W --keep-going -n docs FOLDER`. All is local; nothing is fetched."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from aurac import __version__  # noqa: E402

project = "aurac"
author = "The aurac authors"
project_copyright = author
version = release = __version__
language = "en"

extensions = [
    "docstrings",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

smartquotes_action = "qe"  # two dashes are an option, not a dash

html_theme = "furo"
html_title = f"aurac {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = False

default_role = "code"
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Types of other libraries, and short names of type parameters and aliases: text, not links.
nitpick_ignore_regex = [
    # Sphinx takes a literal of several words ('task of a study') apart.
    (r"py:class", r"'[\w ]*|[\w ]*'|'.*'"),
    (r"py:class", r"(.* \| )?(~?[\w.]*\.)?(tuple|dict|list|Mapping|Sequence|Literal)\[.*"),
    # Short names of type parameters and aliases, and classes whose modules have no page.
    (
        r"py:class",
        r"(.*\.)?(Axis|Basis(Option)?|Cell(Store)?|Cut(Info)?|Dtype|EvalTask|Groups?|Json)",
    ),
    (
        r"py:class",
        r"(.*\.)?(Description|Key|Manifest|PeftModel|Prepared|Recipe|Record|Rescale|Rule|Sidecar|Source|Train)",
    ),
    (r"py:class", r"(.*\.)?(TrainerCallback|TrainingResult|Update|Values)|nn\.\w+"),
    (
        r"py:.*",
        r"(np|numpy|torch|pd|pandas|collections|typing|pathlib|types|transformers|msgspec)\..*",
    ),
    (r"py:.*", r"(NDArray|Tensor|Path|Any|Literal|Self|Axes|DataFrame|Series|Callable|Sequence)"),
    (r"py:.*", r"(Mapping|Iterable|Iterator|Generator|TracebackType|Module|MappingProxyType)"),
]

# A link to a file of the repository that is no page here becomes the file's name.
_LINK = re.compile(r"\[([^\]]*)\]\((?:\.\./)+((?:adapters_zoo|aurac|reports|[A-Z])[^)]*)\)")


def _inside(app: Any, page: str, source: list[str]) -> None:
    source[0] = _LINK.sub(r"\1 (`\2`)", source[0])


def _examples(app: Any, context: Any, lines: list[str]) -> None:
    """Examples in a command's help (kept lines that begin with its name) become a code block."""
    text = "\n".join(lines)
    block = re.compile(r"(?:^\| .*\n?)+", re.MULTILINE)

    def code(match: re.Match[str]) -> str:
        kept = [line.removeprefix("| ") for line in match[0].splitlines()]
        if not any(line.startswith("aurac ") for line in kept):
            return match[0]
        return ".. code-block:: shell\n\n" + "".join(f"   {line}\n" for line in kept)

    lines[:] = block.sub(code, text).splitlines()


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect("source-read", _inside)
    app.connect("sphinx-click-process-description", _examples)
