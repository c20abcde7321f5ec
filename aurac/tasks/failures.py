"""What goes wrong while a task is loaded, as one of aurac's own errors."""

from __future__ import annotations

from aurac.errors import AuracError, DataError, TaskError

_UNREACHABLE = {
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "DatasetNotFoundError",
    "HfHubHTTPError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "ReadTimeout",
}


def translated(error: Exception, leaf: str, *, asked: str, local: bool) -> AuracError:
    """A library's error, raised while a task's documents or prompts were made.

    Args:
        error: What was raised; its causes are looked at too.
        leaf: The task lm-eval was working on.
        asked: What the user asked for: ``leaf``, or a group or tag that brings it.
        local: Whether its documents came from local files.
    """
    if isinstance(error, KeyError):
        reason = f"there is no {error}"
    else:
        reason = f"{type(error).__name__}: {error}"
    if local:
        return DataError(
            f"local data of task {leaf!r} does not fit its definition ({reason})",
            expected="the columns of the task's hub data set, and enough few-shot examples",
        )
    if unreachable(error):
        return DataError(
            f"the documents of task {leaf!r} are not on this machine and the hub cannot be reached",
            fix=f"give local files with --data {asked}=FOLDER",
        )
    return TaskError(f"lm-eval cannot build task {leaf!r} ({reason})")


def unreachable(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that the hub or the data set was not reached."""
    while error is not None:
        if any(kind.__name__ in _UNREACHABLE for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False
