"""Settings of the C library for passes over many layers on a CPU: for speed or for a small peak."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_KERNELS = 128
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# malloc.h; 1 GiB is more than any tensor of a pass, and below the limit of the C int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGE, _OLD_MOST, _SMALL = -1, -3, 1 << 30, 1 << 25, 1 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next pass instead of giving it back each time.

    A pass frees and allocates the same few megabytes in every layer. By default glibc returns them
    to the system and fetches them again page by page, about a third of a large pass on a CPU. The
    process holds on to its peak instead, which the token budget bounds.

    Returns:
        Whether the C library took the setting; others are left as they are.
    """
    # Older glibc takes no more than half a heap; to be refused after the other setting took would
    # freeze the threshold where it stands, below every activation.
    kept = _set(_MMAP_THRESHOLD, _LARGE) or _set(_MMAP_THRESHOLD, _OLD_MOST)
    return kept and _set(_TRIM_THRESHOLD, _LARGE)


def keep_few_kernels() -> None:
    """Bound what torch and oneDNN keep of their kernels, unless the user has: .5 MB for each shape.

    In 16 bit on a CPU each pass brings shapes of its own. By default both keep a thousand kernels,
    of which nearly none is asked for again: the first variable is oneDNN's own cache, the second
    that of torch's layer above it, which holds on to what oneDNN has let go. Counts from the first
    product on that oneDNN computes.
    """
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, str(_KERNELS))


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
