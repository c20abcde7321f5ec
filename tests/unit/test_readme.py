"""The commands and code of the README and the recipes are ones that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from aurac.cli import cli
from aurac.training.recipe import built_in_recipes

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    recipes = [p.read_text().splitlines()[0].lstrip("# ") for p in built_in_recipes().values()]
    parts = [part.strip() for line in [*lines, *recipes] for part in line.split("&&")]
    parts = [re.sub(r"^python -m ", "", part) for part in parts]
    return [part for part in parts if part.startswith("aurac ")]


@pytest.mark.parametrize("line", commands())
def test_every_aurac_command_parses(line):
    words = shlex.split(line, comments=True)[1:]
    command = cli.get_command(None, words[0])
    assert command is not None, f"no command {words[0]}"
    command.make_context(words[0], words[1:])  # raises for an option that does not exist


def test_the_two_commands_are_there():
    text = "\n".join(blocks("bash"))
    assert "pip install -e . && python -m aurac compare adapters_zoo/word_problems/lora" in text
    assert "pip install -e '.[test]' && pytest" in text


def test_python_blocks_run_and_give_what_they_say():
    for block in blocks("python"):
        scope: dict[str, object] = {}
        for line in block.splitlines():
            code, _, said = line.partition("  # ")
            number = re.match(r"[\d.]+", said)
            if number and not code.startswith("import"):
                assert eval(code, scope) == pytest.approx(float(number[0].rstrip(".")), abs=5e-5)
            else:
                exec(line, scope)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (REPOSITORY / target).exists(), target
