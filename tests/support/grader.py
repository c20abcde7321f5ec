"""Grades the stored answers of the study of small ranks from their texts, without aurac.

Written from the format of a run folder (docs/design/run-folder.md) and the two tasks alone, by
somebody who had not read `scripts/small_ranks`. A word problem is right where the first whole
number behind "####" is the reference's: of 5.2 it is 5. A MAWPS equation is what stands before the
last equals sign. It is right where its value is that of the reference's equation, to a millionth of
it: answers end after 48 tokens, in the middle of some decimal fractions. One reference of 200 has
an unknown and no value, which no answer has.
"""

import ast
import gzip
import json
import operator
import re
import tarfile
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def equation(text: str) -> str:
    """What stands before the last equals sign, or all of a text without one."""
    before, sign, after = text.rpartition("=")
    return (before if sign else after).strip()


@cache
def value(text: str) -> Fraction | None:
    """The value of an arithmetic expression, or None."""

    def of(node: ast.AST) -> Fraction:
        if isinstance(node, ast.Expression):
            return of(node.body)
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -of(node.operand)
        return Fraction(ast.get_source_segment(text, node) or "")

    try:
        return of(ast.parse(text, mode="eval"))
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
        return None


def same_text(answer: str, reference: str) -> bool:
    """Whether two equations have the same text but for spaces and brackets."""
    answer, reference = (re.sub(r"[\s()]", "", equation(text)) for text in (answer, reference))
    return answer == reference


def same_value(answer: str, reference: str) -> bool:
    """Whether two equations have the same value; of none where one has none."""
    found, wanted = value(equation(answer)), value(equation(reference))
    return None not in (found, wanted) and abs(found - wanted) <= abs(wanted) / 10**6


def same_number(answer: str, reference: str) -> bool:
    """Whether the first whole numbers behind "####" are the same."""
    found, wanted = (re.search(r"#### (-?[0-9]+)", text) for text in (answer, reference))
    return bool(found and wanted and found[1] == wanted[1])


def documents(run: Path, task: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What is stored of each example of a task, by its number and the hash of its content."""
    found = {}
    for path in run.glob(f"documents/{task}*.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for one in map(json.loads, lines):
                if "doc_id" in one:
                    found[str(one["doc_id"]), one["doc_hash"]] = one
    return found


def references(run: Path, task: str) -> dict[tuple[str, str], str]:
    """The reference of each example of a task."""
    return {key: one["target"] for key, one in documents(run, task).items()}


def templates(run: Path) -> dict[str, dict[tuple[str, str], str]]:
    """Task → example → its template, or of MAWPS its question without numbers."""
    words = documents(run, "aurac_word_problems")
    mawps = documents(run, "mawps")
    plain = {k: re.sub(r"\d[\d.,]*", "#", one["doc"]["question"]) for k, one in mawps.items()}
    named = {key: one["doc"]["template"] for key, one in words.items()}
    return {"aurac_word_problems": named, "mawps": plain}


def lines_of(run: Path) -> dict[str, list[Any]]:
    """Cell → the lines of its file, in a packed run folder."""
    found: dict[str, list[Any]] = {}
    with tarfile.open(run / "cells.tar.xz") as packed:
        for member in filter(tarfile.TarInfo.isfile, packed):
            file: Any = packed.extractfile(member)
            found[Path(member.name).stem] = [*map(json.loads, file.read().decode().splitlines())]
    return found


def heads(run: Path) -> dict[str, dict[str, Any]]:
    """Cell → what decides its answers."""
    return {cell: lines[0]["content"]["identity"] for cell, lines in lines_of(run).items()}


def answers(run: Path) -> dict[str, dict[tuple[str, str], str]]:
    """Cell → example → its answer; the first one counts."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for name, lines in lines_of(run).items():
        cell = found.setdefault(name, {})
        for block in (line["content"] for line in lines if line["kind"] == "block"):
            for (number, digest, _), text in zip(
                block["documents"], block["responses"], strict=True
            ):
                cell.setdefault((number, digest), text)
    return found
