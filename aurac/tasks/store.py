"""The documents on disk: generated once into the cache, verified, safe with two processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import DataError, TaskError
from aurac.models.cache import cache_root
from aurac.tasks import multiple_choice, word_problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from aurac.tasks.word_problems import Splits

_GENERATORS: dict[str, Callable[[], Splits]] = {
    "aurac_word_problems": word_problems.generate,
    "aurac_word_problems_mc": multiple_choice.generate,
}
DIGESTS: dict[str, dict[str, str]] = {
    "aurac_word_problems": {
        "train": "4bb9b513d211006a27e509893305d149d08a8d5fac6cd96039b40a3ae72bf768",
        "validation": "94613542414019fa5dadef15016b390016f441d5b461a6e98f696c4cd22c148a",
        "test": "67ac09ab0f6222273b746aefd0a605c43be997c7ec98c89efcccd87836bee7de",
    },
    "aurac_word_problems_mc": {
        "train": "e99874d3b3c116fbd21aa10d4eb23c4374ef5e5ed2e5456015e0b3f88bb6c1e7",
        "validation": "add14afd4013f6269bd225d934dddaaf79d4f3a85ceb7da58d235f160f6b78c6",
        "test": "864280c617999c87c2cac7a776e8664751ac90af7f4fc81798ebd82bc5428e3a",
    },
}
"""SHA-256 of each split's file: a published number refers to exactly these documents."""

BUNDLED: tuple[str, ...] = tuple(_GENERATORS)


def encode(documents: list[dict[str, Any]]) -> bytes:
    """The bytes of a split's file: a JSON object a line, ASCII, keys as generated."""
    return "".join(json.dumps(document) + "\n" for document in documents).encode("ascii")


def folder(task: str) -> Path:
    """Where a task's splits lie; the name carries the digest, so that versions never mix.

    Raises:
        TaskError: The task is not one of `BUNDLED`.
    """
    if task not in DIGESTS:
        raise TaskError(f"{task!r} is not a bundled task", expected=f"one of {', '.join(BUNDLED)}")
    digest = hashlib.sha256("".join(DIGESTS[task].values()).encode()).hexdigest()
    return cache_root() / "tasks" / f"{task}-{digest[:16]}"


def documents(task: str) -> dict[str, Path]:
    """The files of a bundled task's splits, generated if they are not there or damaged.

    The files appear whole: they are written into a temporary folder, verified against `DIGESTS`
    and renamed one by one, so that two processes at once both succeed.

    Args:
        task: One of `BUNDLED`.

    Returns:
        The JSON Lines file of each of "train", "validation" and "test".

    Raises:
        TaskError: The task is not one of `BUNDLED`.
        DataError: The cache folder cannot be written, or the generator does not give the
            published documents here.
    """
    home = folder(task)
    files = {split: home / f"{split}.jsonl" for split in DIGESTS[task]}
    if not all(_intact(path, DIGESTS[task][split]) for split, path in files.items()):
        try:
            _write(task, files)
        except OSError as error:
            raise DataError(
                f"the documents of {task} cannot be written to {home} ({error.strerror or error})",
                fix="set AURAC_CACHE to a folder that can be written",
            ) from error
    return files


def load_split(task: str, split: str) -> list[dict[str, Any]]:
    """The documents of one split, verified.

    Args:
        task: One of `BUNDLED`.
        split: "train", "validation" or "test".

    Raises:
        TaskError: The task or the split is unknown.
        DataError: As `documents`.
    """
    files = documents(task)
    if split not in files:
        raise TaskError(f"{task} has no split {split!r}", expected=f"one of {', '.join(files)}")
    lines = files[split].read_text(encoding="ascii").splitlines()
    return [json.loads(line) for line in lines]


def _intact(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _write(task: str, files: dict[str, Path]) -> None:
    home = next(iter(files.values())).parent
    home.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    try:
        for split, generated in _GENERATORS[task]().items():
            data = encode(generated)
            if hashlib.sha256(data).hexdigest() != DIGESTS[task][split]:
                raise DataError(
                    f"{task}/{split} came out different from the published documents",
                    fix="reinstall aurac, and report this if it persists",
                )
            part = scratch / f"{split}.jsonl"
            part.write_bytes(data)
            part.replace(files[split])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
