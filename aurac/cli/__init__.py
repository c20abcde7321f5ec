"""The command line: parse, call the library, print.

The files of commands load libraries only within functions, so that `--help` is instant.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Any

import click

from aurac.cli import adapters, compare, listing, plan, results, training
from aurac.errors import AuracError, first_line
from aurac.models.device import share_cores
from aurac.terminal import spelled, visible_output

SECTIONS = {
    "Compare adapters": [
        compare.compare,
        results.recommend,
        results.score,
        results.report,
        results.export,
        plan.plan,
    ],
    "Make adapters": [adapters.inspect, adapters.truncate, training.train, training.study],
    "What is here": [listing.list_all],
}
COMMANDS = {str(command.name): command for commands in SECTIONS.values() for command in commands}
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DATASETS_VERBOSITY": "error",
}


class Group(click.Group):
    """The commands by section."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, with control characters spelled out."""
        with visible_output():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their sections."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with the first sentence of its help."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name), c.get_short_help_str(100)) for c in commands])


def hyphens(name: str) -> str:
    """lm-eval's spelling is understood: `--num_fewshot` → `--num-fewshot`."""
    return name.replace("_", "-")


@click.group(
    cls=Group,
    commands=COMMANDS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "token_normalize_func": hyphens,
    },
)
@click.version_option(package_name="aurac", prog_name="aurac")
@click.option("--debug", is_flag=True, help="Show tracebacks and what libraries say.")
def cli(debug: bool) -> None:
    """Cut a LoRA adapter to smaller ranks, evaluate each on a task, and name the smallest to ship.

    \b
    aurac compare my_adapter --tasks gsm8k --margin 0.02
    aurac truncate my_adapter --rank 4 --out my_adapter_r4

    Several adapters are compared at every rank.

    \b
    aurac compare adapter_a adapter_b --tasks gsm8k
    """  # noqa: D301 - click's mark for lines that stay as they are
    log(debug=debug)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 2 bad request or input, 3 some cells failed, 4 a check says no,
    130 interrupted.
    """
    share_cores()
    try:
        status = cli.main(standalone_mode=False)
    except (KeyboardInterrupt, click.exceptions.Abort):  # the latter within a command
        sys.stderr.write("aurac: interrupted; the same command goes on where it stopped\n")
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = error.exit_code
    except Exception as error:  # noqa: BLE001 - the one place where all of them end
        if "--debug" in sys.argv:
            traceback.print_exc()
        sys.stderr.write(spelled(f"aurac: error: {message(error)}\n"))
        status = getattr(error, "exit_code", 2)
    sys.exit(status if isinstance(status, int) else 0)


def message(error: Exception) -> str:
    """One line of an error; of a library's also its type and how to see where it comes from."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, AuracError):
        return str(error)
    file = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    return f"{first_line(error)}{file} ({type(error).__name__}; `aurac --debug …` shows where)"


class Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes each warning once to standard error as it is now: above a bar while one is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record unless its text was written before."""
        self.stream = sys.stderr
        if (text := record.getMessage()) not in self._seen:
            self._seen.add(text)
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """One line without a traceback."""
        return spelled(f"aurac: {record.levelname.lower()}: {record.getMessage()}")


def log(*, debug: bool) -> None:
    """Show aurac's warnings, or with `debug` what libraries say, too."""
    logging.captureWarnings(capture=True)
    ours = logging.getLogger("aurac")
    ours.handlers.clear()
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger().addHandler(logging.NullHandler())
    ours.addHandler(Screen())
