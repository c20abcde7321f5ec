"""The command line in this process."""

from __future__ import annotations

import contextlib
import io
import sys

from aurac.cli import main


def run_aurac(*arguments):
    """Exit code, stdout and stderr of the command line itself."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["aurac", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        return end.code, out.getvalue(), err.getvalue()
    finally:
        sys.argv = argv
