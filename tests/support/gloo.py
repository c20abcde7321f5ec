"""Scripts in several processes that torch.distributed joins on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def run_processes(script, arguments, number=2):
    """Run a script once per process with gloo's environment; each has to end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=os.environ
            | {"OMP_NUM_THREADS": "1"}
            | (shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if number > 1 else {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors[-2000:]
