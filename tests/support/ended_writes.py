"""A process that ends at one of its writes, as a kill would end it."""

from __future__ import annotations

import contextlib
import math
import os

import pytest


class EndedError(BaseException):
    """What ends a command at a write."""


@contextlib.contextmanager
def ending(writes=math.inf):
    """The process ends at so many writes to files; the line of the last one is cut off."""
    left = [writes]

    def counted(real):
        def call(*args, **options):
            left[0] -= 1
            if left[0] > 0:
                return real(*args, **options)
            if real.__name__ == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            raise EndedError

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "replace", "rename", "fsync", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        yield
