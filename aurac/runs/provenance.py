"""What produced a number, and whether two numbers may be compared."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

from aurac.files import sha256_json

ENGINE_VERSION = 5  # raise when the evaluation engine changes in a way that can change a number
_PACKAGES = ("aurac", "torch", "transformers", "peft", "lm-eval", "datasets", "tokenizers", "numpy")


@dataclass(frozen=True)
class CellIdentity:
    """Everything that can change the outcomes of a cell; its hash is the cell's key.

    Attributes:
        adapter_sha256: Content of the adapter; None at rank 0 (the base alone).
        base_sha256: Content of the base's weights.
        rank: 0 for the base.
        basis, rescale: How the adapter was truncated; None at rank 0.
        fit_factor: The factor that `fit` found, if that is the rescale.
        task: Name of the task.
        task_version: As lm-eval states it.
        documents_sha256, prompts_sha256: Content of documents and of the requests made of them.
        dtype: What the forward pass computed in.
        device_kind: `cpu`, `cuda` or `mps`.
        batching: Settings that move sums within rounding: token budget, batch size, packing.
        scorer: Version of the evaluation engine.
        lm_eval: Version of lm-eval, whose filters and metrics were used.
    """

    adapter_sha256: str | None
    base_sha256: str
    rank: int
    basis: str | None
    rescale: str | None
    fit_factor: float | None
    task: str
    task_version: str
    documents_sha256: str
    prompts_sha256: str
    dtype: str
    device_kind: str
    batching: str
    scorer: int = ENGINE_VERSION
    lm_eval: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @cached_property
    def key(self) -> str:
        """Hex SHA-256 of the identity."""
        return sha256_json(self.to_dict())


_MUST_AGREE = (
    "base_sha256",
    "task",
    "task_version",
    "documents_sha256",
    "prompts_sha256",
    "dtype",
    "device_kind",
    "batching",
    "scorer",
    "lm_eval",
)


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The fields that forbid drawing cells of these identities in one curve or comparison."""
    return [name for name in _MUST_AGREE if a.get(name) != b.get(name)]


def versions() -> dict[str, str]:
    """Installed versions of what takes part, and of Python."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a kernel file
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """The hardware, without anything that names the host or its user."""
    return {"system": platform.system(), "cpu": _cpu_model(), "cores": os.cpu_count()}
