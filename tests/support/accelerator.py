"""A CUDA device for processes that have none: CUDA tensors in the CPU's memory, for tests.

After `install()` torch has a device `cuda:0` whose tensors are CUDA's in every respect that Python
and the dispatcher can see: mixing them with others raises, `.numpy()` fails, libraries take their
CUDA paths. Each operation is handed to one Python function, which looks at the same memory as CPU
tensors and calls the CPU's kernel. It tells what the device was asked to do (`counting`) and fails
allocations on demand (`failing`).

What it cannot show: CUDA's own kernels and their rounding, anything asynchronous, and speed.

It reaches into torch in three places that know its C++ layout, hence one version of torch only: the
device field of a DLPack capsule; the registry of device guards, where a guard written in Python
takes CUDA's place; and the table of functions of CUDA's hooks, which say "not built" without CUDA.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "2.13."
LIBRARIES = Path(torch.__file__).parent / "lib"
CPU, CUDA = 1, 2  # DLPack's device kinds
# torch's device types: CUDA, and the one that a Python guard can be written for
TYPE_CUDA, TYPE_PRIVATE = 1, 20
# Of CUDAHooksInterface: built, available, context, init, devices; then the pinned allocator
HOOKS, PINNED_HOOK, HOOKS_SIZE = (2, 3, 4, 5, 6), 12, 64
# CUDA's host code waits for these: the size of what they give depends on the data.
WAITING = {
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount"),
        *("repeat_interleave", "_unique2", "unique_dim", "unique_consecutive"),
        *("_linalg_svd", "_linalg_eigh", "linalg_qr"),
    )
}
INDEXING = ("aten::index", "aten::_index_put_impl_", "aten::_unsafe_index")  # take host indices
GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
ON_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


@dataclass
class Counts:
    """What the device was asked to do."""

    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)  # "what @ file:line of aurac"


class _State:
    counts = Counts()
    devices = 1
    capability = (9, 0)
    free = 64 << 30  # bytes, as the device tells
    error: BaseException | None = None  # what the next allocations end in
    fail_after, failures = 0, 0  # after so many, so many of them
    generator = torch.Generator()
    kept: tuple[Any, ...] = ()  # what C++ refers to


STATE = _State()
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def seen_as(tensor: torch.Tensor, kind: int, index: int = 0) -> torch.Tensor:
    """The same memory as a tensor of another device."""
    capsule = torch._C._to_dlpack(tensor)
    device = (ctypes.c_int32 * 2).from_address(_address(capsule, b"dltensor") + 8)
    device[0], device[1] = kind, index
    return torch._C._from_dlpack(capsule)


def _as_cpu(tensor: torch.Tensor) -> torch.Tensor:
    # An empty tensor may be resized, which memory of somebody else's may not.
    return seen_as(tensor, CPU) if tensor.numel() else torch.empty(tensor.shape, dtype=tensor.dtype)


def _refer(target: torch.Tensor, source: torch.Tensor) -> None:
    """Give a tensor the memory and the shape of another."""
    storage, place = source.untyped_storage(), source.storage_offset()
    torch.ops.aten.set_.source_Storage_storage_offset.redispatch(
        ON_CPU, target, storage, place, source.shape, source.stride()
    )


def _allocate() -> None:
    if STATE.failures:
        STATE.fail_after -= 1
        if STATE.fail_after < 0:
            STATE.failures -= 1
            raise STATE.error or torch.OutOfMemoryError("CUDA out of memory.")


def _wait(what: str) -> None:
    """The host waits for the device, put down to the innermost line of aurac, or of all."""
    frame, place = sys._getframe(1), ""
    while frame is not None:
        path, line = frame.f_code.co_filename, frame.f_lineno
        if "/aurac/" in path:
            place = f"{path.rsplit('/aurac/', 1)[1]}:{line}"
            break
        if not place and path != __file__ and "/torch/" not in path:
            place = f"{path.rsplit('site-packages/', 1)[-1]}:{line}"
        frame = frame.f_back
    STATE.counts.waits[f"{what} @ {place}"] += 1


class _Operation:
    """What the schema of an operation says."""

    def __init__(self, op: Any) -> None:
        schema = op._schema
        self.name: str = schema.name
        self.waits = self.name in WAITING
        self.takes_numbers = torch.Tag.pointwise in op.tags or self.name.endswith("fill_")
        self.takes_host_indices = self.name.startswith(INDEXING)
        self.tensors = [
            (k, a.name) for k, a in enumerate(schema.arguments) if str(a.type) == "Tensor"
        ]
        self.random = any(a.name == "generator" for a in schema.arguments)
        written = {
            frozenset(a.alias_info.before_set): (k, a.name)
            for k, a in enumerate(schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        }
        # Which argument each result is, if it is one
        self.returns = [
            None if r.alias_info is None else written[frozenset(r.alias_info.before_set)]
            for r in schema.returns
        ]


_operation = functools.cache(_Operation)


class _Call:
    """One operation on the device: its arguments as CPU tensors, its results as CUDA's."""

    def __init__(self, known: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.known, self.args, self.kwargs = known, args, kwargs
        # id of a device tensor → it, its CPU twin, the twin's geometry
        self.own: dict[int, tuple[torch.Tensor, torch.Tensor, Any]] = {}
        self.host: list[torch.Tensor] = []
        self.low = [self._lower(a) for a in args]
        self.named = {k: self._lower(v) for k, v in kwargs.items()}
        own, where = [tensor for tensor, *_ in self.own.values()], kwargs.get("device")
        _check_devices(known, self.host, own, args)
        self.index = min((t.get_device() for t in own), default=(where and where.index) or 0)
        for place, name in known.tensors:  # a number that stands for a tensor, as in `x + 1`
            if place < len(self.low):
                self.low[place] = _tensor(self.low[place])
            elif name in self.named:
                self.named[name] = _tensor(self.named[name])
        if known.random and self.named.get("generator") is None:
            self.named["generator"] = STATE.generator

    def _lower(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._lower, value))
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not isinstance(value, torch.Tensor):
            return value
        if not value.is_cuda:
            self.host.append(value)
            return value
        if id(value) not in self.own:
            twin = _as_cpu(value)
            self.own[id(value)] = value, twin, _geometry(twin)
        return self.own[id(value)][1]

    def results(self, out: Any) -> Any:
        """What the operation gives to its caller."""
        for tensor, twin, before in self.own.values():
            if _geometry(twin) != before:  # it was resized
                _refer(tensor, seen_as(twin, CUDA, self.index))
        returns = self.known.returns
        if len(returns) == 1:
            return self._raise(out, returns[0])
        return tuple(map(self._raise, out, returns)) if returns else None

    def _raise(self, value: Any, argument: tuple[int, str] | None = None) -> Any:
        if argument is not None:
            place, name = argument
            return self.args[place] if place < len(self.args) else self.kwargs[name]
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._raise, value))
        if not isinstance(value, torch.Tensor):
            return value
        for tensor, twin, _ in self.own.values():
            if value is twin:
                return tensor
        _allocate()
        return seen_as(value, CUDA, self.index)


def _tensor(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, (bool, int, float, complex)) else value


def _geometry(tensor: torch.Tensor) -> Any:
    return tensor.shape, tensor.stride(), tensor.data_ptr()


def _compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation, by the CPU's kernel on the same memory."""
    known = _operation(op)
    STATE.counts.kernels[known.name] += 1
    if known.waits:
        _wait(known.name.removeprefix("aten::"))
    call = _Call(known, args, kwargs)
    return call.results(op(*call.low, **call.named))


def _check_devices(known: _Operation, host: Any, own: Any, args: tuple[Any, ...]) -> None:
    """Refuse a mixture of devices, but for what CUDA's kernels take from the host."""
    if known.takes_host_indices:  # all but the tensor and the values
        others = [args[0], *args[2:3]]
        host = [h for h in host if any(h is other for other in others)]
    single = known.takes_numbers or known.takes_host_indices
    devices = {t.device for t in (*host, *own) if t.dim() or not single}
    if len(devices) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(map(str, devices)))}! (in {known.name})"
        )


def _empty(op: Any, size: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    index = (device.index or 0) if device is not None else 0
    if index >= STATE.devices:
        raise RuntimeError("CUDA error: invalid device ordinal")
    _allocate()
    settings = {k: v for k, v in kwargs.items() if k not in {"pin_memory", "layout"}}
    made = op(size, *args, **settings, device="cpu")
    return seen_as(made, CUDA, index)


def _softmax(op: Any, tensor: torch.Tensor, dim: int, widened: bool, **out: Any) -> torch.Tensor:
    """CUDA's kernel reads 16 bit and writes 32; the CPU's does not."""
    return _compute(op, tensor.float() if widened else tensor, dim, False, **out)


def _histc(op: Any, tensor: torch.Tensor, *args: Any, **out: Any) -> torch.Tensor:
    """CUDA's kernel takes integers, too."""
    return _compute(op, tensor.float(), *args, **out).to(tensor.dtype)


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Within the device, to it or from it; the host waits unless it is told not to."""
    with torch._C._AutoDispatchBelowAutograd():
        between = "cpu" in (target.device.type, source.device.type)
        way = f" {source.device.type} to {target.device.type}" if between else ""
        STATE.counts.kernels[f"copy{way}"] += 1
        if between and target.numel() and not (non_blocking and target.is_cuda):
            _wait(f"copy{way}")
        low = [_as_cpu(t) if t.is_cuda else t for t in (target, source)]
        low[0].copy_(low[1])
    return target


VIEWS = ("as_strided", "view", "_reshape_alias", "set_")
SPECIAL = {
    **{f"aten::{name}": lambda op, *a, **k: op.redispatch(ON_CPU, *a, **k) for name in VIEWS},
    **dict.fromkeys(("aten::empty", "aten::empty_strided"), _empty),
    **dict.fromkeys(("aten::_softmax", "aten::_log_softmax"), _softmax),
    "aten::histc": _histc,
}


def _fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        special = SPECIAL.get(op._schema.name, _compute)
        return special(op, *args, **kwargs)


class _Guard(torch._C._acc.DeviceGuard):  # type: ignore[misc]
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.CUDA


def install(devices: int = 1, capability: tuple[int, int] = (9, 0)) -> None:
    """Give this process the device for good; `cuda:1` and so on are for inference alone."""
    if torch.version.cuda or not torch.__version__.startswith(VERSION):
        raise RuntimeError(f"the pretended device knows torch {VERSION} without CUDA alone")
    STATE.devices, STATE.capability = devices, capability
    guard, table = _Guard(), _hooks_that_say_yes()
    torch._C._acc.register_python_privateuseone_device_guard(guard)
    registry = (ctypes.c_void_p * (TYPE_PRIVATE + 1)).in_dll(
        ctypes.CDLL(str(LIBRARIES / "libc10.so")), GUARDS
    )
    registry[TYPE_CUDA], registry[TYPE_PRIVATE] = registry[TYPE_PRIVATE], None
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(_fallback, "CUDA")
    aten.impl("copy_", _copy, "CUDA")
    STATE.kept = guard, table, everything, aten
    _replace_functions()


def _hooks_that_say_yes() -> Any:
    """A copied table of functions, in which a few are a C function that gives 1."""
    libraries = [ctypes.CDLL(str(LIBRARIES / f"{name}.so")) for name in ("libtorch_cpu", "libc10")]
    hooks_of = libraries[0]["_ZN2at6detail12getCUDAHooksEv"]
    hooks_of.restype = ctypes.c_void_p
    hooks = ctypes.c_void_p.from_address(hooks_of())
    table = (ctypes.c_void_p * HOOKS_SIZE).from_address(hooks.value - 16)  # offset and type first
    copied = (ctypes.c_void_p * HOOKS_SIZE)(*table)
    for slot in HOOKS:
        copied[2 + slot] = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value
    allocator = libraries[1]["_ZN3c1022GetDefaultCPUAllocatorEv"]  # pinned memory is plain memory
    copied[2 + PINNED_HOOK] = ctypes.cast(allocator, ctypes.c_void_p).value
    hooks.value = ctypes.addressof(copied) + 16
    return copied


def _nothing(*_: Any, **__: Any) -> None: ...


def _replace_functions() -> None:
    """The functions of `torch.cuda`, and storages, for which C++ has no allocator."""

    def answers(names: str, function: Any) -> dict[str, Any]:
        return dict.fromkeys(names.split(), function)

    functions: dict[str, Any] = {
        **answers("_lazy_init set_device empty_cache reset_peak_memory_stats", _nothing),
        **answers("_is_in_bad_fork is_current_stream_capturing", lambda: False),
        "is_available": lambda: True,
        "device_count": lambda: STATE.devices,
        "max_memory_allocated": lambda *_: 0,
        "manual_seed_all": lambda number: STATE.generator.manual_seed(int(number)),
        "get_device_name": lambda *_: "Pretended GPU",
        "get_device_capability": lambda *_: STATE.capability,
        "mem_get_info": lambda *_: (STATE.free, 80 << 30),
        "synchronize": lambda *_: _wait("synchronize"),
    }
    for name, function in functions.items():  # one each: dynamo tells functions apart by identity
        code = function.__code__, function.__globals__, name, None, function.__closure__
        own = FunctionType(*code)
        for module in (torch.cuda, torch.cuda.memory, torch.cuda.random):
            if module is torch.cuda or hasattr(module, name):
                setattr(module, name, own)
    torch._C._cuda_getCurrentRawStream = lambda _: 0  # bitsandbytes asks when it is imported
    clone = torch.UntypedStorage.clone

    def cloned(storage: Any) -> Any:
        if storage.device.type != "cuda":
            return clone(storage)
        held = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        return held.clone().untyped_storage()

    torch.UntypedStorage.clone = cloned  # type: ignore[method-assign]


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """What the device is asked to do in this block."""
    before, STATE.counts = STATE.counts, Counts()
    try:
        yield STATE.counts
    finally:
        STATE.counts = before


@contextlib.contextmanager
def failing(after: int, times: int = 1, error: BaseException | None = None) -> Iterator[None]:
    """So many allocations succeed, so many then fail: out of memory, or with this error."""
    STATE.fail_after, STATE.failures, STATE.error = after, times, error
    try:
        yield
    finally:
        STATE.failures = 0
