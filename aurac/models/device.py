"""This machine: hardware, versions, device, dtype, memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import BaseModelError, first_line

if TYPE_CHECKING:
    import torch


DTYPES = ("auto", "float32", "bfloat16", "float16")
_PACKAGES = ("aurac", "torch", "transformers", "peft", "lm-eval", "datasets", "tokenizers", "numpy")
_OUT_OF_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate"),
    # what a library of CUDA's that gets no workspace says instead
    *("_status_alloc_failed", "_status_not_initialized"),
)
WAIT_POLICY = "OMP_WAIT_POLICY"
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # malloc.h
SPINNING = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of any OpenMP, of GNU's, of LLVM's


def share_cores() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user chose otherwise.

    By default they spin: beside another busy process, on two cores, a comparison took 26 times as
    long (docs/benchmarks-engine.md). The variable is read when torch is imported, so this comes
    before.
    """
    if not any(name in os.environ for name in SPINNING):
        os.environ[WAIT_POLICY] = "PASSIVE"


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep the memory that a pass frees for the next one.

    By default it returns a layer's megabytes to the system and fetches them again page by page: 12
    to 20 % of the time of long prompts on a CPU. The process keeps its peak instead.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
                libc.mallopt(option, 1 << 30)


def pick_device(device: str | None = None) -> str:
    """`device` if given, else the first accelerator that torch sees, else the CPU.

    BaseModelError: one that is not here, or is none.
    """
    import torch

    if device in (None, "auto"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BaseModelError(
            f"device {device!r} cannot be used here: {first_line(error)}"
        ) from error
    return str(device)


def pick_dtype(dtype: str | None, device: str, *, training: bool = False) -> torch.dtype:
    """The dtype to compute in: one of `DTYPES`; `auto` or None leaves the choice to the device.

    A CPU evaluates in fp32, whatever instructions it has: bf16 changes some answers, so that one
    CPU would name another rank to ship than the next. It trains in bf16 if it has AMX or
    AVX-512-BF16 instructions, since fp32 takes several times as long. A CUDA device takes bf16 from
    capability 8 on, and at capability 7 (V100, T4) fp16, but for training, where gradients would
    vanish. Everything else takes fp32.
    """
    import torch

    if dtype not in (None, *DTYPES):
        raise BaseModelError(f"there is no dtype {dtype!r}, only {', '.join(DTYPES)}")
    if dtype not in (None, "auto"):
        return getattr(torch, str(dtype))
    fast = False
    if device.startswith("cuda"):  # of other machines capability 8 or later is taken for granted
        here = torch.cuda.is_available()
        capability = torch.cuda.get_device_capability(device)[0] if here else 8
        if capability == 7 and not training:
            return torch.float16
        fast = capability >= 8
    elif device == "cpu" and training:
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return torch.bfloat16 if fast else torch.float32


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in message for phrase in _OUT_OF_MEMORY)


def versions() -> dict[str, str]:
    """Installed versions of what takes part, and of Python."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def machine() -> dict[str, str | int | None]:
    """The hardware, without anything that names the host or its user."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else []
    cpu = models[0] if models else platform.processor() or platform.machine()
    return {"system": platform.system(), "cpu": cpu, "cores": os.cpu_count()}


def in_use(device: str) -> dict[str, str | int]:
    """What this process computes on: device, threads, and the name of a GPU."""
    import torch

    described: dict[str, str | int] = {"device": device, "threads": torch.get_num_threads()}
    if device.startswith("cuda") and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def device_of(model: Any) -> torch.device:
    """Where the model's inputs go; of a model that accelerate has spread, its main device."""
    import torch

    spread = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if spread is not None:
        return torch.device("cuda", spread) if isinstance(spread, int) else torch.device(spread)
    return torch.device(next(iter(model.parameters())).device)


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def reset_peak_memory(device: str) -> None:
    """Begin a new peak of `peak_memory`."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # not Linux
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: str) -> int | None:
    """Most bytes since `reset_peak_memory`, of a CUDA device or this process; None: not known."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return 1024 * int(found[1])
    return None
