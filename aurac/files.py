"""Files: atomic writes, new folders, content hashes, and what is read of a packed folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import secrets
import shutil
import tarfile
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from aurac.errors import AuracError, RunFolderError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json: TypeAlias = "str | float | Sequence[Json] | Mapping[str, Json] | None"

T = TypeVar("T")


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write to a temporary sibling, flush it to disk, and move it over `path`; text as UTF-8.

    Raises:
        OSError: The folder cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unlike tempfile's, readable by whom the umask lets read.
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with made.open("xb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_atomic`; a ValueError for NaN and infinities."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, kind: type[T], refused: type[AuracError] = RunFolderError) -> T:
    """What a JSON file holds; a RunFolderError, or another, where it is not of that kind."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, RecursionError, AuracError) as error:
        raise refused(f"{path} cannot be read ({first_line(error)})") from error


def flush_folder(folder: Path) -> None:
    """Make a new name in a folder survive a loss of power, where the system can flush folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def fresh_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder to fill; it is flushed and takes the place of ``target`` at the end.

    When the block fails the new folder is removed and ``target`` stays as it was. Without
    `replace`, a target that was filled meanwhile is kept and an OSError is raised.
    """
    target = Path.cwd() / target
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        mode = fresh.stat().st_mode & 0o666  # some libraries leave files to their owner alone
        for path in (path for path in fresh.rglob("*") if path.is_file()):
            path.chmod(mode)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        flush_folder(fresh)
        if target.exists() and (replace or not any(target.iterdir())):
            target.rename(old)
        fresh.rename(target)
        flush_folder(target.parent)
    except OSError:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def archive_of(folder: Path) -> Path:
    """`FOLDER.tar.xz`."""
    return folder.with_name(f"{folder.name}.tar.xz")


def packed(folder: Path) -> Mapping[str, bytes]:
    """Name within `folder` → content of the files in `FOLDER.tar.xz`; empty without one.

    The archive is one that `tar cJf cells.tar.xz cells` makes. It is read into memory whole, since
    compression spans its members. A damaged one is a RunFolderError.
    """
    archive = archive_of(folder)
    try:
        state = archive.stat()
        return _members(archive, folder.name, state.st_mtime_ns, state.st_size)
    except FileNotFoundError:  # perhaps another process has just unpacked it
        return {}
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        raise RunFolderError(f"{archive} cannot be read ({first_line(error)}).") from error


def unpack(folder: Path) -> None:
    """Move what is packed in `FOLDER.tar.xz` into `folder`; files that are there stay."""
    for name, content in packed(folder).items():
        if not (path := folder / PurePath(name).name).exists():
            write_atomic(path, content)
    archive_of(folder).unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _members(archive: Path, folder: str, *_state: int) -> dict[str, bytes]:
    files = {}
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            parts = PurePath(member.name).parts
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None and parts[:1] == (folder,):
                files["/".join(parts[1:])] = file.read()
    return files


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces, UTF-8, no NaN)."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return sha256_text(text)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8; unpaired surrogates are kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
