"""The commands, code and links of the documents are ones that exist; `slow` runs them."""

from __future__ import annotations

import contextlib
import io
import re

import click
import pytest
import yaml
from document_blocks import (
    PAGES,
    README,
    REPOSITORY,
    TUTORIAL,
    aurac_words,
    blocks,
    lines,
    runs_here,
)

import aurac
from aurac.cli import COMMANDS, cli, hyphens
from aurac.training.recipe import built_in_recipes, make_recipe


def commands() -> list[tuple[str, str]]:
    found = [(page.name, line) for page in [README, *PAGES] for line in lines(page)]
    for name, path in built_in_recipes().items():
        found.append((name, path.read_text().splitlines()[0].lstrip("# ")))
    return [(where, line) for where, line in found if aurac_words(line)]


@pytest.mark.parametrize(("where", "line"), commands())
def test_every_aurac_command_parses(where, line):
    for words in aurac_words(line):
        command = cli.get_command(None, words[0])
        assert command is not None, f"no command {words[0]}"
        command.make_context(words[0], words[1:])  # raises for an option that does not exist


OTHERS = {"--lora-modules", "--log-samples", "--max-lora-rank", "--max-rank", "--dynamic-method"}
"""Options of other programs that the pages speak of."""


def test_options_that_are_named_in_text_exist():
    known = {"--help", "--version", "--debug", *OTHERS}
    for name in COMMANDS:
        for option in cli.get_command(None, name).params:
            if isinstance(option, click.Option):
                known |= {*option.opts, *option.secondary_opts}
    for page in [README, *(page for page in PAGES if not page.name.startswith("benchmarks"))]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for option in re.findall(r"`(--[a-z][a-z_-]+)", text):
            assert hyphens(option) in known, f"{page.name}: {option}"


def test_the_two_commands_are_there():
    text = "\n".join(lines(README))
    assert "pip install -e . && python -m aurac compare adapters_zoo/word_problems/lora" in text
    assert "pip install -e '.[test]' && pytest -n auto" in text


def test_every_command_is_shown_under_the_question_that_it_answers():
    [page] = [page for page in PAGES if page.name == "commands.md"]
    shown = {words[0] for line in lines(page) for words in aurac_words(line)}
    assert shown == set(COMMANDS)


def test_the_table_of_the_readers_own_has_an_interval(tmp_path):
    from click.testing import CliRunner

    [page] = [page for page in PAGES if page.name == "commands.md"]
    [rows] = [block.said for block in blocks(page) if "adapter,task" in (block.said or "")]
    (path := tmp_path / "outcomes.csv").write_text(rows)
    said = CliRunner().invoke(cli, ["score", str(path)], standalone_mode=False).output
    assert "2 examples" in said
    path.write_text("".join(line for line in rows.splitlines(True) if ",1," not in line))
    said = CliRunner().invoke(cli, ["score", str(path)], standalone_mode=False).output
    assert "1 example" in said


def test_few_commands_cannot_run_here():
    """The README's one that needs the hub; the first pages need neither hub nor data."""
    assert [runs_here(line) for line in lines(README)].count(False) == 1
    first = [page for page in PAGES if page.name == "your-adapter.md"]
    assert all(runs_here(line) for page in [TUTORIAL, *first] for line in lines(page))


@pytest.mark.parametrize(
    ("page", "block"),
    [
        (page.name, block)
        for page in PAGES
        if page.parent.name == "explain"
        for block in blocks(page)
        if block.language == "python"
    ],
)
def test_python_of_the_explanations_prints_what_it_says(page, block):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block.text, {})
    assert out.getvalue() == block.said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_and_yaml_can_be_read(page):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, page.name, "exec")
        if block.language == "yaml":
            yaml.safe_load(block.text)


def test_the_recipe_of_the_how_to_is_one():
    [page] = [page for page in PAGES if page.name == "recipe.md"]
    [block] = [block for block in blocks(page) if block.language == "yaml"]
    recipe = make_recipe(yaml.safe_load(block.text))
    assert (recipe.method, recipe.rank, recipe.nesting.ranks) == ("lora", 8, (8,))


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), target


def test_citation_names_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == aurac.__version__
    assert citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert all({"name"} == set(author) for author in citation["authors"])
