"""This machine: hardware, versions, device, dtype, and how the C library keeps memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from aurac.errors import BaseModelError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    import torch


DTYPES = ("auto", "float32", "bfloat16", "float16")
_PACKAGES = ("aurac", "torch", "transformers", "peft", "lm-eval", "datasets", "tokenizers", "numpy")
KINDS = ("cpu", "cuda", "mps")
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")
WAIT_POLICY = "OMP_WAIT_POLICY"
SPINNING = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of any OpenMP, of GNU's, of LLVM's


def share_cores(environment: MutableMapping[str, str] | None = None) -> None:
    """Let threads that wait for each other sleep, unless the user has said how they wait.

    By default OpenMP's threads spin at the end of each parallel loop. Beside another busy process
    one of them is often not running, and the others spin until it is: on two cores a comparison
    took 26 times as long (docs/benchmarks-engine.md). An OpenMP library reads the variable when it
    is loaded, so this has to come before torch is imported.

    Args:
        environment: Variables of a process that is to be started; None: of this one.
    """
    environment = os.environ if environment is None else environment
    if not any(name in environment for name in SPINNING):
        environment[WAIT_POLICY] = "PASSIVE"


def pick_device(device: str | None = None, *, elsewhere: bool = False) -> str:
    """`device` if given, else the first accelerator that torch sees, else the CPU.

    Args:
        device: As torch names it; None or `auto` to choose.
        elsewhere: The model will be on other machines: a device that is named need not be here, and
            only its kind counts.

    Raises:
        BaseModelError: The device named is not on this machine, or is no device.
    """
    import torch

    if device in (None, "auto"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if elsewhere and (kind := torch.device(str(device)).type) in KINDS:
            return kind
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BaseModelError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]})",
            expected="cpu, cuda, cuda:N or mps, as this machine has",
            fix="leave --device out to take the best one there is",
        ) from error
    return str(device)


def pick_dtype(dtype: str | None, device: str) -> torch.dtype:
    """The dtype to compute in: as asked, else bf16 only where this machine is fast at it.

    Otherwise it is fp32. On a CPU bf16 is fast with AMX or AVX-512-BF16 instructions; without
    them it is emulated and slower than fp32.

    Raises:
        BaseModelError: Not one of `DTYPES`.
    """
    import torch

    if dtype not in (None, *DTYPES):
        raise BaseModelError(
            f"dtype {dtype!r}", expected=" or ".join(DTYPES), fix="give --dtype one of these"
        )
    if dtype not in (None, "auto"):
        return getattr(torch, str(dtype))
    if device.startswith("cuda") and not torch.cuda.is_available():
        fast = True  # of other machines: capability 8 or later is taken for granted
    elif device.startswith("cuda"):
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    elif device == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(words in message for words in _OUT_OF_MEMORY)


def versions() -> dict[str, str]:
    """Installed versions of what takes part, and of Python."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def _cpu_model() -> str:
    with (
        contextlib.suppress(OSError),
        open("/proc/cpuinfo", encoding="utf-8") as lines,  # noqa: PTH123 - a kernel file
    ):
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """The hardware, without anything that names the host or its user."""
    return {"system": platform.system(), "cpu": _cpu_model(), "cores": os.cpu_count()}


def in_use(device: str) -> dict[str, Any]:
    """What this process computes on: device, threads, and the name of a GPU."""
    import torch

    described: dict[str, Any] = {"device": device, "threads": torch.get_num_threads()}
    if device.startswith("cuda") and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


_KERNELS = 128
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# malloc.h; 1 GiB is more than any tensor of a pass, and below the limit of the C int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGE, _OLD_MOST, _SMALL = -1, -3, 1 << 30, 1 << 25, 1 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next pass; whether it took the setting.

    A pass frees and allocates the same few megabytes in every layer. By default glibc returns them
    to the system and fetches them again page by page, about a third of a large pass on a CPU. The
    process holds on to its peak instead, which the token budget bounds.
    """
    # Older glibc takes no more than half a heap; to be refused after the other setting took would
    # freeze the threshold where it stands, below every activation.
    taken = _set(_MMAP_THRESHOLD, _LARGE) or _set(_MMAP_THRESHOLD, _OLD_MOST)
    return taken and _set(_TRIM_THRESHOLD, _LARGE)


def keep_few_kernels() -> None:
    """Bound what torch and oneDNN keep of their kernels, unless the user has: .5 MB for each shape.

    In 16 bit on a CPU each pass brings shapes of its own. By default both keep a thousand kernels,
    of which nearly none is asked for again. Counts from the first product on that oneDNN computes.
    """
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, str(_KERNELS))


@functools.cache
def return_freed_memory() -> bool:
    """Let the C library give large blocks back at once; whether it took the setting.

    By default glibc keeps freed blocks below 32 MB in a heap whose holes the next ones may not fit.
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
