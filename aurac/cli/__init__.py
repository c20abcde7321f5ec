"""The command line: parse, call the library, print. A command's file is loaded when it is used.

Messages: aurac's warnings go to the screen, each once; those of libraries to a log.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from logging.handlers import RotatingFileHandler
from typing import Any

import click

from aurac.errors import AuracError, first_line
from aurac.models import cache_root
from aurac.models.device import share_cores
from aurac.terminal import spelled, visible_output

SECTIONS = {
    "Compare adapters": {
        "compare": ("compare", "Evaluate adapters at every rank: which to ship, which is better."),
        "recommend": ("results", "Name the rank to ship of each adapter of a finished run."),
        "score": (
            "results",
            "Compute AURAC and differences from a table, lm-eval's logs or a run.",
        ),
        "report": ("results", "Write the report of a run again, with other labels or margin."),
        "export": ("results", "Write a run as lm-eval's results and samples."),
        "plan": ("plan", "Say how many examples and seeds a difference needs."),
    },
    "Make adapters": {
        "inspect": ("adapters", "Say what a checkpoint is: format, method, ranks, scaling, sizes."),
        "truncate": ("adapters", "Cut an adapter to a smaller rank; the result is plain PEFT."),
        "train": ("training", "Train an adapter from a recipe."),
        "study": ("training", "Train and evaluate a whole experiment from one file."),
    },
    "What is here": {
        "tasks": ("tasks", "List the bundled tasks."),
        "zoo": ("zoo", "List the adapters that come with the sources, and base models."),
    },
}
COMMANDS = {name: place for section in SECTIONS.values() for name, place in section.items()}
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DATASETS_VERBOSITY": "error",
}


class LazyGroup(click.Group):
    """Imports a command's file only when that command is used, so that `--help` is instant."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, with control characters spelled out."""
        with visible_output():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; of a mistyped one an error with the nearest."""
        name = hyphens(args[0])
        near = get_close_matches(name, COMMANDS, 1)
        if name not in COMMANDS and near and not ctx.resilient_parsing:
            ctx.fail(f"there is no command {name!r}; did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(
            import_module(f"aurac.cli.{COMMANDS[cmd_name][0]}"), cmd_name.replace("-", "_")
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names with their one-line help, without importing any of them."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


def hyphens(name: str) -> str:
    """lm-eval's spelling is understood: `--num_fewshot` → `--num-fewshot`."""
    return name.replace("_", "-")


@click.group(
    cls=LazyGroup,
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
    if isinstance(error, click.NoSuchOption):
        return _no_option(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, AuracError):
        return str(error)
    file = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    return f"{first_line(error)}{file} ({type(error).__name__}; `aurac --debug …` shows where)"


def _no_option(error: click.NoSuchOption) -> str:
    """The nearest option that there is; of a recipe's setting how to change it."""
    near = get_close_matches(error.option_name, error.possibilities or (), 1)
    if error.ctx and error.ctx.info_name == "train":
        near.append(f"--set {error.option_name.lstrip('-')}=VALUE")
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"there is no option {error.option_name}{meant}"


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
        """One line without a traceback, which only the log keeps."""
        return spelled(f"aurac: {record.levelname.lower()}: {record.getMessage()}")


def log(*, debug: bool) -> None:
    """Messages of libraries go to `AURAC_CACHE/logs/aurac.log`; with `debug` to the terminal."""
    logging.captureWarnings(capture=True)
    root, ours = logging.getLogger(), logging.getLogger("aurac")
    for logger in (root, ours):  # a second command must not print twice
        for handler in [h for h in logger.handlers if getattr(h, "of_aurac", False)]:
            logger.removeHandler(handler)
            handler.close()
    layout = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    if debug:
        _add(root, logging.StreamHandler(), layout)
        root.setLevel(logging.INFO)
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    path = cache_root() / "logs" / "aurac.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = RotatingFileHandler(path, maxBytes=5_000_000, backupCount=1, encoding="utf-8")
        _add(root, file, layout)
    except OSError:
        _add(root, logging.NullHandler(), layout)  # a full or read-only disk is no error
    _add(ours, Screen(), None)


def _add(
    logger: logging.Logger, handler: logging.Handler, layout: logging.Formatter | None
) -> None:
    if layout:
        handler.setFormatter(layout)
    handler.of_aurac = True  # type: ignore[attr-defined]
    logger.addHandler(handler)
