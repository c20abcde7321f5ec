"""The command line: parse, call the library, print. A command's file is loaded when it is used.

Messages: aurac's warnings go to the screen, each once; those of libraries to a log.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from importlib import import_module
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import click

from aurac.arguments import alike, nearest
from aurac.errors import AuracError
from aurac.models import cache_root
from aurac.models.device import share_cores
from aurac.terminal import spelled, terminal_width, visible_streams, wrapped

SECTIONS = {
    "Compare adapters": {
        "compare": "Evaluate adapters at every rank on tasks: curves, AURAC, a report.",
        "score": "AURAC and comparisons from numbers alone.",
        "plan": "How many documents and seeds a question needs.",
    },
    "Choose a rank": {
        "recommend": "The smallest configuration within a margin of the best one.",
        "truncate": "Cut an adapter to a smaller rank; the result is plain PEFT.",
    },
    "Check and train adapters": {
        "inspect": "Say what a checkpoint is: format, method, ranks, scaling, sizes.",
        "train": "Train an adapter from a recipe.",
        "study": "Search, train and evaluate a whole experiment from one file.",
    },
    "Runs": {
        "report": "Write the report of a run again.",
        "export": "Write a run in the layout of another tool (lm-eval).",
    },
    "What is here": {
        "tasks": "List the tasks, or the files of a bundled one.",
        "zoo": "List the adapters that come with the sources.",
        "base": "Fetch a base model and print its folder.",
    },
}
COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}
_MODULES = {
    **dict.fromkeys(("base", "zoo"), "here"),
    **dict.fromkeys(("report", "export"), "runs"),
    **dict.fromkeys(("inspect", "truncate"), "adapters"),
    **dict.fromkeys(("train", "study"), "training"),
}
"""Commands that share a file with another one."""

_WORDS = {
    "aurac --help": "help usage",
    "aurac --version": "version",
    "compare": "eval evaluate simple_evaluate bench benchmark test diff resume leaderboard",
    "zoo or tasks": "list",
    "report": "show plot html summary",
    "recommend": "rank ranks best choose select",
    "truncate": "cut prune compress svd merge convert",
    "inspect": "info describe check",
    "train": "fit finetune sft",
    "base": "download pull fetch model models",
}
_MEANT = {word: command for command, words in _WORDS.items() for word in words.split()}
"""What people type for a command of another name."""

_OF_SERVERS = {
    "lora-modules": "Adapters are given as paths: aurac compare NAME=PATH.",
    "max-lora-rank": "--ranks says which are evaluated.",
    "svd": "Use --basis svd.",
}
"""Options of vLLM, and others that are not here, with what to type."""

_LARGEST = 5_000_000  # bytes, after which the log begins again
_VERBOSE = "%(levelname)s %(name)s: %(message)s"
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DATASETS_VERBOSITY": "error",
}
_OWN_HANDLERS = ("transformers", "datasets", "huggingface_hub")
"""Libraries whose loggers print by themselves and pass nothing on to the root logger."""


class LazyGroup(click.Group):
    """Imports a command's file only when that command is used, so that `--help` is instant."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; errors name options as they are typed, and the nearest for a wrong one."""
        try:
            with visible_streams():
                return super().invoke(ctx)
        except AuracError as error:
            error.args = (error.text,)
            raise
        except click.NoSuchOption as error:
            options = error.ctx.command.params if error.ctx else []
            name = error.option_name.lstrip("-")
            known = [x[2:] for option in options for x in option.opts if x.startswith("--")]
            near = nearest(name, known, "--")
            hint = f"Did you mean {near}?" if near else "--help lists them."
            hint = _OF_SERVERS.get(name, hint)
            message = f"No such option {error.option_name}. {hint}"
            raise click.UsageError(message, error.ctx) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; an option of a command that stands before it is said to."""
        try:
            return super().parse_args(ctx, [*args])
        except click.NoSuchOption as error:
            name = next((word for word in args if word in COMMANDS), "compare")
            command = self.get_command(ctx, name)
            known = {x for option in command.params for x in option.opts} if command else set()
            if error.option_name.replace("_", "-") not in known:
                raise
            rest = [word for word in args if word != name]
            line = shlex.join(["aurac", name, *rest])
            raise click.UsageError(
                f"{error.option_name} before a command; use: {line}", ctx
            ) from error

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
            meant = _MEANT.get(args[0]) or " or ".join(alike(args[0], COMMANDS, 0.7))
            hint = f"Did you mean {meant}?" if meant else "`aurac --help` lists them."
            if Path(args[0]).exists():
                hint = f"For an adapter: aurac inspect {args[0]}; for a run: aurac score {args[0]}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
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
    aurac compare adapters_zoo/word_problems/* --tasks aurac_word_problems
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
    except (AuracError, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if any(word.partition("=")[0] == "--delta" for word in sys.argv):
            text = text.replace("--margin", "--delta")  # as it was typed
        mark = "" if isinstance(error, click.exceptions.NoArgsIsHelpError) else "aurac: error: "
        sys.stderr.write(spelled(_folded(f"{mark}{text}\n")))
        status = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):  # the latter within a command
        sys.stderr.write("aurac: interrupted; the same command goes on where it stopped\n")
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _folded(text: str) -> str:
    return wrapped(text, terminal_width(error=True))


class Line(logging.Formatter):
    """`aurac: warning: …`, one line without a traceback, which only the log keeps."""

    def format(self, record: logging.LogRecord) -> str:
        """Its text."""
        return _folded(f"aurac: {record.levelname.lower()}: {record.getMessage()}")


class Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error as it is now: above a progress bar while one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


class Once(Screen):
    """A screen that shows each warning a single time."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record unless its text was written before."""
        text = record.getMessage()
        if text not in self._seen:
            self._seen.add(text)
            super().emit(record)


class LogFile(RotatingFileHandler):
    """Appends to a file that is made by the first message; a disk that refuses is no error."""

    def __init__(self) -> None:
        super().__init__(log_path(), maxBytes=_LARGEST, backupCount=1, delay=True, encoding="utf-8")

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """A full or read-only disk must not disturb the command."""


def log_path() -> Path:
    """The log of all commands: `AURAC_CACHE/logs/aurac.log`."""
    return cache_root() / "logs" / "aurac.log"


def quiet_libraries(*, verbose: bool) -> None:
    """Bars, advice and warnings of libraries go to the log; with `verbose` to the terminal."""
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    ours = logging.getLogger("aurac")
    libraries = [logging.getLogger(name) for name in _OWN_HANDLERS]
    for logger in (root, ours, *libraries):  # a second command must not print twice
        for handler in [h for h in logger.handlers if getattr(h, "of_aurac", False)]:
            logger.removeHandler(handler)
            handler.close()
    if verbose:
        _add_handler(root, Screen(), logging.Formatter(_VERBOSE))
        root.setLevel(logging.INFO)
        return
    dated = logging.Formatter(f"%(asctime)s {_VERBOSE}")
    _add_handler(root, LogFile(), dated)
    root.setLevel(logging.WARNING)
    for logger in libraries:
        vars(logger).pop("addHandler", None)
        logger.handlers.clear()
        _add_handler(logger, LogFile(), dated)
        logger.propagate = False
        logger.addHandler = _refuse_handler  # type: ignore[method-assign]
    _add_handler(ours, Once(), Line())
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def _refuse_handler(hdlr: logging.Handler) -> None:
    """In the place of `addHandler`: a library adds a stream when it is imported."""


def _add_handler(
    logger: logging.Logger, handler: logging.Handler, layout: logging.Formatter
) -> None:
    handler.setFormatter(layout)
    handler.of_aurac = True  # type: ignore[attr-defined]
    logger.addHandler(handler)
