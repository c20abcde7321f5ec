"""Memory and time of `aurac truncate` and `aurac inspect` on an adapter of a 7 B model.

    python benchmarks/truncation.py                      # 28 layers, rank 256, 1.6 GB
    python benchmarks/truncation.py --layers 2 --rank 32 # a quick look

The adapter (random bf16 factors for the seven projections of Gemma 7B's shapes) is written once to
a scratch folder. Each command then runs as a process of its own, whose peak resident memory the
kernel reports; beside it stand the same file copied (with fsync), the same file read, and a process
that only imports what the command imports. This process itself stays small, because the kernel
counts the memory of a parent for its child.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN, MLP, HEADS = 3072, 24576, 4096
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HEADS),
    "self_attn.k_proj": (HIDDEN, HEADS),
    "self_attn.v_proj": (HIDDEN, HEADS),
    "self_attn.o_proj": (HEADS, HIDDEN),
    "mlp.gate_proj": (HIDDEN, MLP),
    "mlp.up_proj": (HIDDEN, MLP),
    "mlp.down_proj": (MLP, HIDDEN),
}


def write_adapter(folder: Path, layers: int, rank: int) -> None:
    """A PEFT folder of random factors with a side-car."""
    import torch

    from aurac.adapters.formats.storage import SafetensorsWriter

    outline = {}
    for k in range(layers):
        for name, (inside, out) in SHAPES.items():
            key = f"base_model.model.model.layers.{k}.{name}"
            for side, shape in (("A", (rank, inside)), ("B", (out, rank))):
                like = torch.empty(shape, dtype=torch.bfloat16, device="meta")
                outline[f"{key}.lora_{side}.weight"] = like
    folder.mkdir(parents=True)
    writer = SafetensorsWriter(folder / "adapter_model.safetensors", outline, {"format": "pt"})
    generator = torch.Generator().manual_seed(0)
    drawn: dict[torch.Size, torch.Tensor] = {}  # one draw per shape: values change no cost
    for key, like in outline.items():
        if like.shape not in drawn:
            noise = torch.randn(like.shape, generator=generator)
            drawn[like.shape] = noise.mul_(0.02).to(like.dtype)
        writer.put(key, drawn[like.shape])
    writer.finish()
    os.sync()
    targets = sorted({name.rpartition(".")[2] for name in SHAPES})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank}
    config |= {"target_modules": targets, "use_rslora": True, "base_model_name_or_path": "gemma-7b"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    ranks = [1 << k for k in range(rank.bit_length())]
    side = {"aurac_adapter": 1, "method": "matryoshka", "nested_ranks": ranks}
    (folder / "aurac.json").write_text(json.dumps({**side, "rule": "sqrt", "alpha": rank}))


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of CPU and peak resident MB of a child process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    message = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {message}")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start, cpu, usage.ru_maxrss / 1000


def timed(job: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock and of CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - clock, time.process_time() - cpu


def copy(source: Path, target: Path) -> None:
    """A plain copy, flushed to disk."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 22)
        writer.flush()
        os.fsync(writer.fileno())


def read(source: Path) -> None:
    """Read the file from its first byte to its last."""
    with source.open("rb", buffering=0) as reader:
        buffer = bytearray(1 << 22)
        while reader.readinto(buffer):
            pass


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="Where the scratch folder is made.")
    parser.add_argument("--no-svd", action="store_true", help="Leave out what needs arithmetic.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        run(Path(scratch), options)


def run(scratch: Path, options: argparse.Namespace) -> None:
    """Write the adapter, run each command, print what each took."""
    source = scratch / "adapter"
    layer = 2 * options.rank * sum(map(sum, SHAPES.values()))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(write_adapter, (source, options.layers, options.rank))
    weights = source / "adapter_model.safetensors"
    size = weights.stat().st_size
    print(f"adapter {size / 1e6:,.0f} MB, layer {layer / 1e6:.1f} MB, rank {options.rank}")
    print(f"bound on memory: 2 x layer + 300 MB = {2 * layer / 1e6 + 300:.0f} MB")
    aurac = [sys.executable, "-m", "aurac"]
    cut, half = str(scratch / "out"), str(max(options.rank // 4, 1))
    jobs = {
        "imports alone": [sys.executable, "-c", "import aurac.adapters.export, aurac.runs.plan"],
        f"truncate --rank {half} (trained)": [*aurac, "truncate", str(source), "--rank", half],
        "truncate --ranks pow2": [*aurac, "truncate", str(source), "--ranks", "pow2"],
    }
    if not options.no_svd:
        svd = ["truncate", str(source), "--rank", half, "--basis", "svd"]
        jobs[f"truncate --rank {half} --basis svd"] = [*aurac, *svd]
        jobs["inspect"] = [*aurac, "inspect", str(source)]
    print(f"{'':<36}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}")
    for label, job in (
        ("read the file", lambda: read(weights)),
        ("copy the file, fsync", lambda: copy(weights, scratch / "copy")),
    ):
        seconds, cpu = timed(job)
        print(f"{label:<36}{seconds:>9.2f}{cpu:>9.2f}", flush=True)
    (scratch / "copy").unlink()
    for label, command in jobs.items():
        wanted = [*command, "--out", cut] if "truncate" in command else command
        seconds, cpu, peak = measure(wanted)
        print(f"{label:<36}{seconds:>9.2f}{cpu:>9.2f}{peak:>9.0f}", flush=True)
        shutil.rmtree(cut, ignore_errors=True)


if __name__ == "__main__":
    main()
