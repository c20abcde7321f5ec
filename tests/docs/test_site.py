"""The strict build of the documents: what it must catch, and the graph that it draws."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("sphinx", reason="the documents' tools are in the docs extra")
pytest.importorskip("grimp")

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import package_graph  # noqa: E402

CONF = f"""
import sys
sys.path[:0] = [{str(DOCS / "_ext")!r}, "."]
extensions = ["docstrings", "myst_parser", "sphinx.ext.napoleon"]
default_role = "code"
"""
MODULE = '''
"""A module."""

__all__ = ["Given", "take"]


class Given:
    """Something."""

    def shown(self) -> int:
        {method}
        return 1

    @property
    def name(self) -> str:
        """A name: what it is called."""
        return ""


def take(given: "Given") -> "{returned}":
    """Takes |S| of `Given`s.

    Args:
        given: It.
    """
'''


def build(folder: Path, page: str, method: str = '"""Shown."""', returned: str = "Given"):
    (folder / "conf.py").write_text(CONF)
    (folder / "index.md").write_text(textwrap.dedent(page))
    (folder / "sample_module.py").write_text(MODULE.format(method=method, returned=returned))
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", ".", "site"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


PAGE = """
# Page

```{eval-rst}
.. automodule:: sample_module
   :members:
```
"""


def test_a_good_page_passes_and_names_become_links(tmp_path):
    done = build(tmp_path, PAGE)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert 'href="#sample_module.Given"' in page  # from the annotation `Given`
    assert "A name: what it is called" in page  # the colon is no type
    assert "Takes |S| of" in page


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"method": "0"}, "Given.shown has no docstring"),
        ({"returned": "Nowhere"}, "Nowhere"),
        ({"page": PAGE + "\n[gone](missing.md)\n"}, "missing.md"),
        ({"page": PAGE + "\n[gone](#nowhere-here)\n"}, "nowhere-here"),
    ],
)
def test_what_the_strict_build_catches(tmp_path, change, complaint):
    done = build(tmp_path, **{"page": PAGE, **change})
    assert done.returncode != 0
    assert complaint in done.stderr


PACKAGES = {"top": {"left", "right", "low"}, "left": {"low"}, "right": {"low"}, "low": set()}


def test_floors_and_arrows_by_hand():
    assert package_graph.levels(PACKAGES) == {"top": 2, "left": 1, "right": 1, "low": 0}
    assert package_graph.direct(PACKAGES) == {
        "top": {"left", "right"},  # low is reached through both
        "left": {"low"},
        "right": {"low"},
        "low": set(),
    }
    with pytest.raises(ValueError, match="a → b → a"):
        package_graph.levels({"a": {"b"}, "b": {"a"}})


def test_the_packages_are_drawn_from_what_the_files_import():
    packages = package_graph.imports()
    root = DOCS.parent / "aurac"
    folders = {p.parent.name for p in root.glob("*/__init__.py")}
    assert {p.stem for p in root.glob("[a-z]*.py")} | folders <= set(packages)
    assert "curves" in packages["analysis"]
    assert "records" in packages["readers"]
    assert packages["errors"] == set()
    svg = ET.fromstring(package_graph.draw(packages))
    boxes = {text.text for text in svg.iter("text")}
    assert set(packages) - set(package_graph.FOUNDATION) <= boxes
    assert any("errors" in text and "files" in text for text in boxes)
    assert len(svg.findall("path")) == sum(
        len(known)
        for known in package_graph.direct(
            {
                r: k - set(package_graph.FOUNDATION)
                for r, k in packages.items()
                if r not in package_graph.FOUNDATION
            }
        ).values()
    )
