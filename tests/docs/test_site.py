"""The strict build of the documents: what it must catch, and the house that it draws."""

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

import house  # noqa: E402

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


ROOMS = {"top": {"left", "right", "low"}, "left": {"low"}, "right": {"low"}, "low": set()}


def test_floors_and_arrows_by_hand():
    assert house.floors(ROOMS) == {"top": 2, "left": 1, "right": 1, "low": 0}
    assert house.direct(ROOMS) == {
        "top": {"left", "right"},  # low is reached through both
        "left": {"low"},
        "right": {"low"},
        "low": set(),
    }
    with pytest.raises(ValueError, match="a → b → a"):
        house.floors({"a": {"b"}, "b": {"a"}})


def test_the_house_is_drawn_from_what_the_files_import():
    rooms = house.imports()
    root = DOCS.parent / "aurac"
    folders = {p.parent.name for p in root.glob("*/__init__.py")}
    assert {p.stem for p in root.glob("[a-z]*.py")} | folders <= set(rooms)
    assert "curves" in rooms["stats"]
    assert "run files" in rooms["readers"]
    assert rooms["errors"] == set()
    svg = ET.fromstring(house.draw(rooms))
    boxes = {text.text for text in svg.iter("text")}
    assert set(rooms) - set(house.FOUNDATION) <= boxes
    assert any("errors" in text and "files" in text for text in boxes)
    assert len(svg.findall("path")) == sum(
        len(known)
        for known in house.direct(
            {r: k - set(house.FOUNDATION) for r, k in rooms.items() if r not in house.FOUNDATION}
        ).values()
    )
