"""A progress bar for training: step, loss and time left."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from aurac.terminal.console import drawn, spelled, stderr_console

if TYPE_CHECKING:
    from typing_extensions import Self


class StepProgress(TrainerCallback):
    """Draws one bar on standard error for the main process; a context that ends it.

    Args:
        title: What is trained.
    """

    def __init__(self, title: str) -> None:
        self._title = " ".join(spelled(title).split())
        self._bar: Progress | None = None
        self._drawn = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        console = stderr_console()
        if not state.is_world_process_zero or not console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(self._title, total=state.max_steps, loss="–")
        self._bar.update(self._task, completed=state.global_step)
        self._drawn.enter_context(drawn(self._bar))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the newest mean loss."""
        if self._bar is not None and logs and "loss" in logs:
            self._bar.update(self._task, loss=f"{float(logs['loss']):.3f}")
