"""The commands, code and links of the documents are ones that exist; `tests/slow` runs them."""

from __future__ import annotations

import re

import click
import pytest
import yaml
from click.testing import CliRunner
from document_blocks import PAGES, README, REPOSITORY, aurac_words, blocks, lines

import aurac
from aurac.cli import COMMANDS, cli, hyphens
from aurac.study import load_study
from aurac.training.recipe import built_in_recipes, make_recipe

ZOO = REPOSITORY / "adapters_zoo" / "README.md"
DESIGN = sorted((REPOSITORY / "docs" / "design").glob("*.md"))


def prose(page) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = [(page.name, line) for page in [README, ZOO, *PAGES] for line in lines(page)]
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
        for option in re.findall(r"`(--[a-z][a-z_-]+)", prose(page)):
            assert hyphens(option) in known, f"{page.name}: {option}"


def test_the_screen_of_the_readme_is_what_the_command_prints(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "80")
    asked = re.search(r"(--limit \d+) (--margin 0\.\d+)", README.read_text(encoding="utf-8"))
    words = ["recommend", "reports/lora", *" ".join(asked.groups()).split()]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    texts = [text for block in blocks(README) for text in (block.text, block.said or "")]
    [screen] = [text for text in texts if text.startswith("Base ")]
    assert screen == done.stdout


@pytest.mark.parametrize("page", [ZOO, *PAGES], ids=lambda page: page.name)
def test_python_recipes_and_studies_can_be_read(page, tmp_path):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, page.name, "exec")
        content = yaml.safe_load(block.text) if block.language == "yaml" else {}
        if "method" in content:
            assert make_recipe(content).name == content["name"]
        if "recipes" in content:
            (path := tmp_path / "study.yaml").write_text(block.text)
            groups = [plans for part in load_study(path).parts.values() for plans in part.values()]
            assert all(plan.job(1) for plans in groups for plan in plans)


@pytest.mark.parametrize("page", [README, ZOO, *PAGES, *DESIGN], ids=lambda page: page.name)
def test_links_and_names_of_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", prose(page)):
        assert (page.parent / target).exists(), target
    roots = REPOSITORY, REPOSITORY / "aurac"
    for name in re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", prose(page)):
        if any((root / name.split("/")[0]).is_dir() for root in roots):
            assert any((root / name).exists() for root in roots), name


def test_citation_names_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == aurac.__version__
