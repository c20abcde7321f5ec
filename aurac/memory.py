"""One setting of the C library that passes over many layers on a CPU profit from."""

from __future__ import annotations

import ctypes
import functools
import sys

# malloc.h; 1 GiB is more than any tensor of a pass, and below the limit of the C int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGE = -1, -3, 1 << 30


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next pass instead of giving it back each time.

    A pass frees and allocates the same few megabytes in every layer. By default glibc returns them
    to the system and fetches them again page by page, about a third of a large pass on a CPU. The
    process holds on to its peak instead, which the token budget bounds.

    Returns:
        Whether the C library took the setting; others are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGE)) and bool(mallopt(_MMAP_THRESHOLD, _LARGE))
