"""Files of a run: atomic writes, content hashes, and marks of the processes that write.

A mark names no host and no user. It is a hash of the kernel's boot and the process namespace, the
process number, and the time at which that process began, so that a number that is used again is not
mistaken for the earlier process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from aurac.errors import RunFolderError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Json: TypeAlias = "str | float | Sequence[Json] | Mapping[str, Json] | None"

CHUNK = 1 << 22
POINTER, FETCH = "a Git LFS pointer, not the file itself", "run `git lfs pull` in its repository"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # a file system without
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LARGEST = 1 << 30  # bytes of an archive, unpacked


def did_you_mean(path: Path, fits: Callable[[Path], object]) -> str | None:
    """Of a path that is not there the nearest that is and fits, as what to do next."""
    import difflib

    missing = path
    while not missing.parent.is_dir() and missing != missing.parent:
        missing = missing.parent
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(
            missing.name, [each.name for each in missing.parent.iterdir()], n=2
        )
        found = [missing.parent / name / path.relative_to(missing) for name in near]
        known = [str(each) for each in found if fits(each)]
        return f"did you mean {' or '.join(known)}?" if known else None
    return None


def names_in(out: Path) -> list[str]:
    """The names in a folder to write to; none where it is not there yet.

    Raises:
        RunFolderError: It is a file, or cannot be read.
    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"--out {out} is a file", expected="a folder")
    try:
        return [path.name for path in out.iterdir()] if out.is_dir() else []
    except OSError as error:
        raise unwritable(out, error) from error


def unwritable(out: Path, error: OSError) -> RunFolderError:
    """The error for a folder that cannot be written to."""
    return RunFolderError(
        f"--out {out} cannot be written ({error.strerror})", fix="choose another --out"
    )


def is_pointer(path: Path) -> bool:
    """Whether a file holds a pointer of Git LFS in the place of its content."""
    with path.open("rb") as file:
        return file.read(20) == b"version https://git-"


def write_atomic(path: Path, data: str | bytes, *, exclusive: bool = False) -> None:
    """Write to a temporary sibling, flush it to disk, and move it over `path`; text as UTF-8.

    Raises:
        FileExistsError: `exclusive`, and the file is there.
        OSError: The folder cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    # Unlike tempfile's, readable by whom the umask lets read.
    made = path.with_name(f".{path.name}.{process_mark()}.{secrets.token_hex(4)}")
    try:
        with made.open("xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            _move_beside(made, path)
        else:
            made.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            made.unlink()
        raise
    flush_folder(path.parent)


def follow_umask(folder: Path) -> None:
    """Give the files below a new folder the permissions that the folder itself was made with.

    Libraries that write through a temporary file leave it readable by its owner alone.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _move_beside(made: Path, path: Path) -> None:
    """Give a file its name; a FileExistsError where that is taken."""
    try:
        path.hardlink_to(made)
        made.unlink()
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        made.replace(path)


def flush_folder(folder: Path) -> None:
    """Make a new name in a folder survive a loss of power, where the system can flush folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any, *, exclusive: bool = False) -> None:
    """Write JSON as `write_atomic`; a ValueError for NaN and infinities."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text, exclusive=exclusive)


@contextlib.contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to fill; it is synced and renamed to ``target`` at the end.

    When the block fails the new folder is removed and ``target`` stays as it was. RunFolderError
    when the file system refuses.
    """
    target = Path.cwd() / target
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        yield fresh
        follow_umask(fresh)
        for path in (path for path in fresh.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        flush_folder(fresh)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        flush_folder(target.parent)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise RunFolderError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that is only ever replaced as a whole a second name; a copy where that fails."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with open_stored(source) as file:
            write_atomic(target, file.read())


def open_stored(path: Path) -> BinaryIO:
    """Open a file of a run; where its folder was packed, its copy in the archive.

    Raises:
        OSError: It is in neither, or cannot be read.
        RunFolderError: See `packed`.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        content = packed(path.parent).get(path.name)
        if content is None:
            raise
        return io.BytesIO(content)


def packed(folder: Path) -> Mapping[str, memoryview]:
    """Name within `folder` → content of the files in `FOLDER.tar.xz`; empty without one.

    The archive is one that `tar cJf cells.tar.xz cells` makes. It is read into memory whole, since
    compression spans its members; nothing is written.

    Raises:
        RunFolderError: It is damaged, or larger than 1 GiB unpacked.
    """
    archive = folder.with_name(f"{folder.name}.tar.xz")
    try:
        state = archive.stat()
    except OSError:
        return {}
    return _members(archive, folder.name, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _members(archive: Path, folder: str, *_state: int) -> dict[str, memoryview]:
    import lzma
    import tarfile

    try:
        with lzma.open(archive) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise RunFolderError(
                f"{archive} has more than {_LARGEST:,} bytes unpacked",
                fix=f"unpack it with `tar xJf {archive.name}` and remove it",
            )
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            members = [member for member in tar if member.type == tarfile.REGTYPE]
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        given = f"{archive} cannot be read ({first_line(error)})"
        raise RunFolderError(given, fix="restore it") from error
    files = {}
    for member in members:
        parts = PurePath(member.name).parts
        if parts[:1] == (folder,) and ".." not in parts:
            start = member.offset_data
            files["/".join(parts[1:])] = memoryview(content)[start : start + member.size]
    return files


def sweep_scraps(folder: Path) -> int:
    """Remove temporary siblings of killed processes of this machine; how many there were."""
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            mark = entry.name.rsplit(".", 2)[-2:-1] if entry.name.startswith(".") else []
            if mark and same_machine(mark[0]) and not alive(mark[0]):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108
                    removed += 1
    return removed


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks of 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
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


@lru_cache(maxsize=1)
def machine_mark() -> str | None:
    """This boot of this machine and this process namespace; None where it cannot be told."""
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    except OSError:
        return None
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def _began(pid: int) -> str | None:
    """When a process began, in ticks since boot; None for one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def process_mark() -> str:
    """`machine-pid-start` of this process."""
    return _mark_of(os.getpid())


@lru_cache(maxsize=4)
def _mark_of(pid: int) -> str:
    return f"{machine_mark() or 'unknown'}-{pid}-{_began(pid) or 0}"


def same_machine(mark: str) -> bool:
    """Whether a mark was made by a process whose fate can be seen from here."""
    here = machine_mark()
    return here is not None and mark.split("-", maxsplit=1)[0] == here and mark.count("-") == 2


def alive(mark: str) -> bool:
    """Whether the process of a mark of this machine still runs."""
    _, pid, began = mark.split("-")
    return pid.isdigit() and _began(int(pid)) == began
