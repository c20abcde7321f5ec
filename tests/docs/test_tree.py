"""What CONTRIBUTING and the page on the architecture say about folders and files is true."""

from __future__ import annotations

import ast
import re

from document_blocks import REPOSITORY

PACKAGE, TESTS = REPOSITORY / "aurac", REPOSITORY / "tests"
PACKAGES = {init.parent.name for init in PACKAGE.glob("*/__init__.py")}
BESIDE = {".", "docs", "scripts", "slow"}
"""Folders of tests that are of no package."""
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


def test_each_package_has_a_folder_of_tests_and_no_other_folder_has_any():
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert folders == PACKAGES | BESIDE


def imported(source: str) -> set[str]:
    """The modules that a file imports from, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_no_test_imports_another():
    modules = {path.stem for path in TESTS.rglob("test_*.py")}
    for path in TESTS.rglob("test_*.py"):
        assert not {name.split(".")[-1] for name in imported(path.read_text())} & modules, path


def test_the_architecture_has_a_line_for_each_package_and_module():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    table = text.split("```")[0]
    first = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    modules = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    assert sorted(re.findall(r"`(\w+)`", " ".join(first))) == sorted(PACKAGES | modules)


def test_files_that_the_design_pages_name_exist():
    pages = [ARCHITECTURE, *(REPOSITORY / "docs" / "design").glob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", text):
            if name.split("/")[0] in PACKAGES | {"scripts", "tests", "benchmarks"}:
                assert (PACKAGE / name).exists() or (REPOSITORY / name).exists(), (page, name)
