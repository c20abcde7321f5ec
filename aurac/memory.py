"""Settings of the C library for passes over many layers on a CPU: for speed or for a small peak."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_KERNELS = 128
# malloc.h; 1 GiB is more than any tensor of a pass, and below the limit of the C int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGE, _SMALL = -1, -3, 1 << 30, 1 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next pass instead of giving it back each time.

    A pass frees and allocates the same few megabytes in every layer. By default glibc returns them
    to the system and fetches them again page by page, about a third of a large pass on a CPU. The
    process holds on to its peak instead, which the token budget bounds.

    Returns:
        Whether the C library took the setting; others are left as they are.
    """
    return _set(_TRIM_THRESHOLD, _LARGE) and _set(_MMAP_THRESHOLD, _LARGE)


def keep_few_kernels() -> None:
    """Bound what oneDNN keeps of its kernels, unless the user has: half a MB for each shape.

    In 16 bit on a CPU each pass brings shapes of its own. By default a thousand kernels are kept,
    some 600 MB, of which nearly none is asked for again. Counts from oneDNN's first use on.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))


@functools.cache
def return_freed_memory() -> bool:
    """Let the C library give each large block back at once, so that a stream's peak is its own.

    By default glibc keeps freed blocks below 32 MB in a heap whose holes the next ones may not fit.

    Returns:
        Whether the C library took the setting; others are left as they are.
    """
    return _set(_MMAP_THRESHOLD, _SMALL)


def _set(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(option, value))
