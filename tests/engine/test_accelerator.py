"""What runs on the pretended CUDA device (`support/accelerator.py`), in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import accelerator
import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
COMMANDS = {
    "engine and training": ("-m", "pytest", "-q", "-x", "tests/engine/accelerator_cases.py"),
    "the benchmark of GPUs": ("benchmarks/gpu.py", "--pretended"),
}


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.__version__.startswith(accelerator.VERSION) or torch.version.cuda is not None,
    reason=f"the pretended device knows torch {accelerator.VERSION} without CUDA alone",
)
@pytest.mark.parametrize("name", COMMANDS)
def test_on_the_pretended_device(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command, how = [sys.executable, *COMMANDS[name]], {"capture_output": True, "text": True}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, **how)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
