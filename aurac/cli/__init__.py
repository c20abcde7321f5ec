"""The command line: parse, call the library, print. A command's file is loaded when it is used."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from typing import Any

import click

from aurac.cli.logs import quiet_libraries
from aurac.errors import AuracError
from aurac.models.device import share_cores
from aurac.terminal import spelled, visible_streams

SECTIONS = {
    "Compare adapters": {
        "compare": "Evaluate adapters at every rank on tasks: curves, AURAC, a report.",
        "score": "AURAC and comparisons from numbers alone.",
        "plan": "How many documents and seeds a question needs.",
    },
    "Choose a rank": {
        "recommend": "The smallest rank that is non-inferior to the full one.",
        "cost": "Measure what each rank costs to serve on this machine.",
        "truncate": "Cut an adapter to a smaller rank; the result is plain PEFT.",
    },
    "Check and train adapters": {
        "inspect": "Say what a checkpoint is: format, method, ranks, scaling, sizes.",
        "train": "Train an adapter from a recipe.",
        "study": "Search, train and evaluate a whole experiment from one file.",
    },
    "Runs": {
        "runs": "List run folders, or say how one stands: done, running, failed, left.",
        "report": "Write the report of a run again.",
        "export": "Write a run in the layout of another tool (lm-eval).",
    },
    "What is here": {
        "tasks": "List the tasks, or the files of a bundled one.",
        "zoo": "List the adapters that come with the sources.",
        "base": "Fetch a base model and print its folder.",
        "doctor": "What this machine can do, what is missing and how to get it.",
    },
}
COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}
_MODULES = {
    **dict.fromkeys(("base", "tasks", "zoo", "doctor"), "here"),
    **dict.fromkeys(("report", "export"), "runs"),
    **dict.fromkeys(("inspect", "truncate", "cost"), "adapters"),
    **dict.fromkeys(("train", "study"), "training"),
}
"""Commands that share a file with another one."""


class LazyGroup(click.Group):
    """Imports a command's file only when that command is used, so that `--help` is instant."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does; what is printed cannot steer the terminal."""
        with visible_streams():
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"aurac.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest names for a mistyped one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names with their one-line help, without importing any of them."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aurac", prog_name="aurac")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries beneath say, too.")
def cli(verbose: bool) -> None:
    """How good is a low-rank adapter at every rank?

    \b
    aurac compare adapters_zoo/word_problems/{lora,dylora,matryoshka} --tasks aurac_word_problems
    aurac compare ckpt_a ckpt_b --tasks gsm8k --data gsm8k=FOLDER
    aurac train word_problems/matryoshka --out my_adapter
    """  # noqa: D301 - click's mark for lines that stay as they are
    quiet_libraries(verbose=verbose)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 2 bad request or input, 3 some cells failed, 4 a gate (`score`, `recommend`,
    `study --check`) that is not passed, 130 interrupted.
    """
    share_cores()
    try:
        status = cli.main(standalone_mode=False)
    except AuracError as error:
        sys.stderr.write(spelled(f"aurac: error: {error}\n"))
        status = error.exit_code
    except click.ClickException as error:
        with visible_streams():
            error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):  # the latter within a command
        sys.stderr.write("aurac: interrupted; the same command goes on where it stopped\n")
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status if isinstance(status, int) else 0)
