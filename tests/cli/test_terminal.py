"""What a person meets on the terminal: help with examples, hints, completion, quiet, JSON."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import warnings

import click
import pytest
from click.testing import CliRunner

from aurac.cli import COMMANDS, cli, log_path, quiet_libraries
from aurac.cli.options import options
from aurac.training.recipe import built_in_recipes


def help_of(name: str) -> str:
    done = CliRunner().invoke(cli, [name, "--help"], terminal_width=100)
    assert done.exit_code == 0
    return done.output


def example_lines(text: str) -> list[str]:
    """Lines of a help text that are commands; a backslash joins the next line."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("aurac ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse(name):
    examples = [line for line in example_lines(help_of(name)) if line.split()[1] == name]
    assert examples
    for line in examples:
        words = shlex.split(line)[2:]
        command = cli.get_command(None, name)
        command.make_context(name, words)  # raises for an option that does not exist


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name):
    command = cli.get_command(None, name)
    shown = {"--basis", "--question", "--alpha", "--power", "--dtype"}  # the choices say it
    for option in command.params:
        if isinstance(option, click.Option) and not (option.hidden or shown & set(option.opts)):
            assert option.help, f"{name} {option.opts}"


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("--limit INTEGRE: A number.", "INTEGRE is no kind of option"),
        ("--limit TEXT: A word.", "TEXT is no kind of option"),
        ("--limit", "--limit is no shared option"),
    ],
)
def test_an_entry_that_cannot_be_read_is_an_error_at_import(entry, wrong):
    with pytest.raises(TypeError, match=wrong):
        options(entry)


@pytest.mark.parametrize("name", COMMANDS)
def test_underscores_and_hyphens_are_alike_in_every_option(name):
    options = [p for p in cli.get_command(None, name).params if isinstance(p, click.Option)]
    spelled = [(p, opt) for p in options for opt in p.opts if "-" in opt.strip("-")]
    for option, opt in spelled:
        words = ["--" + opt.strip("-").replace("-", "_"), *([] if option.is_flag else ["1"])]
        assert CliRunner().invoke(cli, [name, *words, "--help"]).exit_code == 0, opt
    unknown = CliRunner().invoke(cli, [name, "--no_such_option", "--help"])
    assert unknown.exit_code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_prints_a_result_can_print_json(name):
    command = cli.get_command(None, name)
    assert any("--json" in option.opts for option in command.params)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["cmpare", "x"], "compare"),
        (["compare", "x", "--taks", "y"], "--tasks"),
        (["score", "x", "--detials"], "--details"),
        (["truncate", "x", "--bsais", "svd"], "--basis"),
    ],
)
def test_a_mistyped_word_gets_the_nearest_one(typed, meant):
    done = CliRunner().invoke(cli, typed)
    assert done.exit_code == 2
    assert meant in done.output.split("Error:")[1]


def complete(line: str) -> list[str]:
    words = shlex.split(line)
    environment = os.environ | {
        "_AURAC_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - (0 if line.endswith(" ") else 1)),
    }
    code = "import sys; sys.argv = ['aurac']; from aurac.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "torch" not in done.stderr
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


def test_the_shell_completes_commands_tasks_and_recipes():
    assert complete("aurac re") == ["recommend", "report"]
    assert complete("aurac compare x --tasks aurac_word_problems_") == ["aurac_word_problems_mc"]
    assert complete("aurac compare x --tasks gsm8k,aurac_word_problems_") == [
        "gsm8k,aurac_word_problems_mc"
    ]
    assert sorted(complete("aurac train ")) == sorted(built_in_recipes())


@pytest.mark.parametrize(
    ("arguments", "name", "shown"),
    [
        (["train", "--list"], "word_problems/lora", "120 steps"),
        (["base", "--list"], "smollm2-135m-instruct-q4_1", "93 MB"),
        (["zoo"], "adapters_zoo/word_problems/lora", "120 steps of 16 examples"),
    ],
)
def test_lists_say_what_each_is_and_costs(arguments, name, shown):
    rows = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert name in [row.get("name", row.get("path")) for row in rows]
    [line] = [x for x in CliRunner().invoke(cli, arguments).output.splitlines() if name in x]
    assert shown in line


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """Logging as a command sets it up, undone afterwards."""
    monkeypatch.setenv("AURAC_CACHE", str(tmp_path / "cache"))
    loggers = [logging.getLogger(name) for name in ("", "aurac", *LIBRARIES)]
    before = [(log, log.level, log.propagate, list(log.handlers)) for log in loggers]

    def set_up():
        logging.captureWarnings(capture=False)  # pytest has put its own recorder in between
        quiet_libraries(verbose=False)

    yield set_up
    logging.captureWarnings(capture=False)
    for log, level, propagate, handlers in before:
        for handler in {*log.handlers} - {*handlers}:
            handler.close()
        vars(log).pop("addHandler", None)
        log.setLevel(level)
        log.propagate, log.handlers[:] = propagate, handlers


LIBRARIES = ("transformers", "datasets", "huggingface_hub")


def test_libraries_speak_to_the_log_and_aurac_to_the_screen_once(quiet, capsys):
    quiet()
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(logging.StreamHandler())  # as each does when imported
        logging.getLogger(name).propagate = False
        logging.getLogger(f"{name}.models").error("advice of %s", name)
    warnings.warn("a library's warning", UserWarning, stacklevel=1)
    for _ in range(3):
        logging.getLogger("aurac.records.store").warning("cell %s is damaged", "x")
    try:
        raise RuntimeError("inner")
    except RuntimeError:
        logging.getLogger("aurac.runs.plan").exception("cell y failed")
    screen = capsys.readouterr().err
    assert screen.splitlines() == [
        "aurac: warning: cell x is damaged",
        "aurac: error: cell y failed",
    ]
    log = log_path().read_text()
    for name in LIBRARIES:
        assert log.count(f"advice of {name}\n") == 1
    assert "a library's warning" in log
    assert "RuntimeError: inner" in log  # the traceback is kept for whoever needs it


def test_a_log_that_cannot_be_written_disturbs_nobody(tmp_path, monkeypatch, capsys, quiet):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("AURAC_CACHE", str(blocked))
    quiet()
    logging.getLogger("somewhere").warning("lost")
    assert capsys.readouterr().err == ""


def test_a_log_begins_again_when_it_is_large(quiet):
    quiet()
    path = log_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 5_000_001)
    logging.getLogger("somewhere").warning("new")
    assert path.stat().st_size < 1000


def test_no_colour_and_no_frames_on_a_pipe(tmp_path):
    source = tmp_path / "points.csv"
    source.write_text("rank,accuracy\n1,0.2\n2,0.3\n")
    done = subprocess.run(
        [sys.executable, "-m", "aurac", "score", str(source)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": "40"},
    )
    assert "\x1b" not in done.stdout
    assert "001b" not in done.stdout
    assert "25.0" in done.stdout
