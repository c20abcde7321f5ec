"""Weights of a base: their hash, and whether all are there and finite."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.errors import BaseModelError
from aurac.files import sha256_file, sha256_json, write_atomic
from aurac.models import cache_root

if TYPE_CHECKING:
    from torch import Tensor, nn

# Else Python prints what bitsandbytes says of optional kernels when PEFT imports it.
logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor that is not empty holds neither NaN nor infinities.

    The extremes carry a NaN, so that one pass without a mask of the tensor's size decides.
    """
    import torch

    return all(math.isfinite(extreme) for extreme in torch.aminmax(tensor.detach()))


def check_finite(name: str, model: nn.Module, dtype: str) -> None:
    """Check that no weight of base `name` is NaN or infinite.

    Integer and 8-bit weights, and those that are offloaded, are not looked at.
    """
    for key, weight in model.named_parameters():
        wide = weight.is_floating_point() and weight.element_size() > 1
        if wide and weight.numel() and not weight.is_meta and not all_finite(weight):
            raise BaseModelError(
                f"base {name!r} has weights in {key} that are NaN or infinite in {dtype}"
                + (" (beyond its range they need --dtype float32)" if dtype == "float16" else "")
            )


def weight_files(folder: Path) -> list[str]:
    """The names of the files in a model's folder that transformers loads as its weights.

    Safetensors go before pickles, and a whole file before shards. Of shards the names come from
    their index, whether the files are there or not.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if (folder / stem).is_file():
            return [stem]
        if (index := folder / f"{stem}.index.json").is_file():
            return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    return []


def remembered_sha256(folder: Path) -> str:
    """The weights' hash; remembered in the cache under the files' names, sizes and times."""
    files = [folder / name for name in weight_files(folder)]
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns, f.stat().st_ino) for f in files]
    memo = cache_root() / "hashes" / f"{sha256_json([str(folder.resolve()), stats])}.txt"
    if memo.is_file():
        return memo.read_text().strip()
    digest = sha256_weights(folder)
    with contextlib.suppress(OSError):  # a read-only cache costs time, not the answer
        write_atomic(memo, digest)
    return digest


def sha256_weights(folder: Path) -> str:
    """Hex SHA-256 of the weights that `weight_files` names; a FileNotFoundError for none.

    For safetensors the hash runs over (name, dtype, shape, bytes) in the order of names, so that
    neither sharding nor file metadata changes it. For pickles it runs over the bytes of the files
    in the order of their names.
    """
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    files = [folder / name for name in weight_files(folder)]
    if not files:
        raise FileNotFoundError(f"no weights (model.safetensors, pytorch_model.bin) in {folder}")
    if files[0].suffix != ".safetensors":
        for path in files:
            digest.update(path.name.encode() + sha256_file(path).encode())
        return digest.hexdigest()
    opened = [safe_open(path, framework="pt", backend="pread") for path in files]
    for name, k in sorted(
        (name, k) for k, file in enumerate(opened) for name in file.offset_keys()
    ):
        entry, tensor = opened[k].get_slice(name), opened[k].get_tensor(name)
        digest.update(f"{name}\0{entry.get_dtype()}\0{tuple(entry.get_shape())}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within this block transformers shows no bars and gives no advice, the hub no retries."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as hf_logging

    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        # PEFT asks transformers for it by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        for library in (hf_logging, hub_logging):
            stack.callback(library.set_verbosity, library.get_verbosity())
            library.set_verbosity_error()
        if hf_logging.is_progress_bar_enabled():
            hf_logging.disable_progress_bar()
            stack.callback(hf_logging.enable_progress_bar)
        yield
