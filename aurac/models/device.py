"""This machine (hardware, versions, device, dtype, memory), and our own attention in a model."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from aurac.errors import BaseModelError, first_line

if TYPE_CHECKING:
    import torch


DTYPES = ("auto", "float32", "bfloat16", "float16")
_PACKAGES = ("aurac", "torch", "transformers", "peft", "lm-eval", "datasets", "tokenizers", "numpy")
KINDS = ("cpu", "cuda", "mps")
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")
WAIT_POLICY = "OMP_WAIT_POLICY"
# Of `difference`. Seen on the packaged base (30 layers, bf16): rounding alone puts two passes up to
# 0.16 apart; a missing mask gives 1.0 to 1.7, a sequence that sees another one or positions off by
# one 0.3 and more.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2.2e-1}
_UNSUPPORTED = ("s_aux", "position_bias", "head_mask", "alibi", "block_indices")
SPINNING = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of any OpenMP, of GNU's, of LLVM's


def share_cores(environment: MutableMapping[str, str] | None = None) -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user chose otherwise.

    By default they spin: beside another busy process, on two cores, a comparison took 26 times as
    long (docs/benchmarks-engine.md). The variable is read when torch is imported, so this comes
    before. `environment` is that of a process that is to be started; None: of this one.
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
            f"device {device!r} cannot be used here: {first_line(error)}"
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
        raise BaseModelError(f"there is no dtype {dtype!r}, only {', '.join(DTYPES)}")
    if dtype not in (None, "auto"):
        return getattr(torch, str(dtype))
    fast = False
    if device.startswith("cuda"):  # of other machines capability 8 or later is taken for granted
        here = torch.cuda.is_available()
        fast = not here or torch.cuda.get_device_capability(device)[0] >= 8
    elif device == "cpu":
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


def _cpu_model() -> str:
    with (
        contextlib.suppress(OSError),
        open("/proc/cpuinfo", encoding="utf-8") as lines,  # noqa: PTH123 - a kernel file
    ):
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, str | int | None]:
    """The hardware, without anything that names the host or its user."""
    return {"system": platform.system(), "cpu": _cpu_model(), "cores": os.cpu_count()}


def in_use(device: str) -> dict[str, str | int]:
    """What this process computes on: device, threads, and the name of a GPU."""
    import torch

    described: dict[str, str | int] = {"device": device, "threads": torch.get_num_threads()}
    if device.startswith("cuda") and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


# malloc.h; 1 GiB is more than any tensor of a pass, and below the limit of the C int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGE, _OLD_MOST = -1, -3, 1 << 30, 1 << 25


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next pass; whether it took the setting.

    By default glibc returns a layer's few megabytes to the system and fetches them again page by
    page, about a third of a large pass on a CPU. The process keeps its peak instead.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # Older glibc takes no more than half a heap; to be refused after the other setting took would
    # freeze the threshold where it stands, below every activation.
    taken = mallopt(_MMAP_THRESHOLD, _LARGE) or mallopt(_MMAP_THRESHOLD, _OLD_MOST)
    return bool(taken and mallopt(_TRIM_THRESHOLD, _LARGE))


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


class UnsupportedAttentionError(Exception):
    """The model asks its attention for something that the function does not do."""


def tolerance(model: Any) -> float:
    """The greatest `difference` between a model's own logits and packed ones."""
    dtype = str(next(iter(model.parameters())).dtype)
    return _TOLERANCE.get(dtype.removeprefix("torch."), 0.1)


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Distance between logits (n, V), relative to the spread of the expected ones."""
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm()
    return float((logits.float() - expected).norm() / spread)


def refuse_unsupported(mask: Any, dropout: float, arguments: Mapping[str, object]) -> None:
    """Refuse a mask, dropout, and the sinks and biases among a layer's further arguments."""
    names = [name for name in _UNSUPPORTED if arguments.get(name) is not None]
    if mask is not None or dropout or names:
        raise UnsupportedAttentionError(f"attention with {names or 'a mask or dropout'}")


@contextlib.contextmanager
def attention_of(model: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Give every part of the model this attention function; their own come back on leaving."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    configs: dict[int, Any] = {}
    for part in unwrapped(model).modules():
        config = getattr(part, "config", None)
        if getattr(config, "_attn_implementation", None) is not None:
            configs.setdefault(id(config), config)
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        for config, own in before:
            config._attn_implementation = own
