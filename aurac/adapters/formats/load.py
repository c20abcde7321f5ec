"""Loading an adapter from a folder, a file or a hub id, whatever its format."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters.compatibility import ModelInMemory
from aurac.adapters.formats.converted import MLX_WEIGHTS, is_mlx, read_gguf, read_mlx
from aurac.adapters.formats.outline import RemovedValues
from aurac.adapters.formats.peft import read_peft
from aurac.adapters.formats.peft_config import CONFIG, WEIGHTS
from aurac.adapters.formats.sidecar import LoadOverrides, apply_overrides
from aurac.adapters.formats.state_dict import read_state_dict
from aurac.errors import CheckpointError, UsageError
from aurac.models.tokenizer import TOKENIZER_FILES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from aurac.adapters.adapter import Adapter
    from aurac.adapters.compatibility import BaseSource

GGUF = ".gguf"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>[\w./-]{{1,200}}))?(:(?P<subfolder>[\w][\w./=-]{{0,200}}))?"
)
_PATTERNS = (
    *("adapter_config.json", "adapter_model.*", "adapters.safetensors"),
    *("aurac.json", "*.pt", "*.aurac.json"),
    *TOKENIZER_FILES,
)
STATE_DICTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def load_adapter(
    path: str | Path,
    *,
    base_model: nn.Module | None = None,
    bases: Callable[[str], BaseSource] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    name: str | None = None,
    lazy: bool = False,
    **overrides: Any,
) -> Adapter:
    """Read an adapter from a folder, a file or a hub id.

    Args:
        path: Folder of PEFT or MLX, state dict, GGUF file or ``owner/name[@revision][:subfolder]``.
        base_model: The base itself (on the meta device will do), to settle an orientation that
            shapes alone leave open.
        bases: The same as a function of the base's name, called only for a single file and for
            ``target_parameters`` that the base has to tell apart.
        revision: Which one of a hub id.
        subfolder: Which one, when a folder or a hub id holds several adapters.
        name: What to call it; the last part of the path by default.
        lazy: Read the numbers of a PEFT safetensors file only when they are asked for, module by
            module (``Adapter.walk``, ``Adapter.loaded``).
        **overrides: What the file does not say, or says wrongly: ``method``, ``scaling``,
            ``alpha``, ``nested_ranks``, ``weights``, ``update``, ``base``, ``enable_lora`` and
            ``keys``, the fields of :class:`~aurac.adapters.formats.sidecar.LoadOverrides`.

    Raises:
        CheckpointError: When it is missing, damaged, refused, or does not say enough.
        UsageError: When what is given does not fit together.
    """
    stated = LoadOverrides(**overrides)
    local, inside = _locate(str(path), revision, subfolder)
    if base_model is not None:
        model = ModelInMemory(base_model)
        bases = lambda _: model  # noqa: E731
    try:
        source = _adapter_path(local, inside)
        if source.is_dir():
            _check_no_keys(stated, source)
            if is_mlx(source):
                adapter = read_mlx(source, stated.base)
            else:
                adapter = read_peft(source, lazy=lazy, given=stated.base, bases=bases)
            changes = stated != LoadOverrides(base=stated.base)
            if changes and isinstance(adapter.values, RemovedValues):
                adapter.values.refuse("give it other settings")
        elif source.suffix.lower() == GGUF:
            _check_no_keys(stated, source)
            adapter = read_gguf(source, stated.base, bases)
        else:
            adapter = read_state_dict(source, stated, bases)
            stated = replace(stated, scaling=None, alpha=None)
        adapter = apply_overrides(adapter, stated)
    except OSError as error:
        raise CheckpointError(f"cannot read {local}: {error.strerror or error}") from error
    return adapter if name is None else replace(adapter, name=name)


def adapters_in(folder: Path) -> list[Path]:
    """The folders of PEFT adapters directly below a folder that is none itself."""
    if not folder.is_dir() or (folder / CONFIG).exists():
        return []
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))


def _check_no_keys(overrides: LoadOverrides, source: Path) -> None:
    if overrides.enable_lora is not None or overrides.keys is not None:
        raise UsageError(
            f"--enable-lora or a key map for {source}, which names its own tensors",
            expected="them for a single file of tensors",
        )


def _locate(text: str, revision: str | None, subfolder: str | None) -> tuple[Path, str | None]:
    """The local path of a checkpoint, and the folder below it that is still to be entered.

    ``text`` is a folder, a file, or a hub id ``owner/name[@revision][:subfolder]``.
    """
    if not text or "\0" in text:
        raise CheckpointError(f"checkpoint {text!r}", expected="a folder, a file or a hub id")
    try:
        local = Path(text).expanduser()
        if local.exists():
            if revision is None:
                return local, subfolder
            raise UsageError(
                f"--revision {revision} for {text}, which is on this machine", expected="a hub id"
            )
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot read {text}: {error}") from error
    if local.is_symlink():
        raise CheckpointError(f"{text} is a link that leads nowhere")
    match = _HUB_ID.fullmatch(text)
    if match is None or ".." in text:
        raise CheckpointError(
            f"there is no folder or file {text}",
            expected="a folder, a file or a hub id owner/name[@revision][:subfolder]",
        )
    at = _one(text, "revision", match["revision"], revision)
    inside = _one(text, "subfolder", match["subfolder"], subfolder)
    if ".." in f"{at}{inside}":
        raise CheckpointError(f"{text} with revision {at} and subfolder {inside}")
    return _from_hub(text, match["repo"], at, inside), None


def _one(text: str, what: str, inside: str | None, flag: str | None) -> str | None:
    if inside is not None and flag is not None and inside != flag:
        raise UsageError(f"{text} with --{what} {flag}", expected=f"one {what}")
    return inside or flag


def _from_hub(text: str, repo: str, revision: str | None, subfolder: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    patterns = [inside + pattern for pattern in _PATTERNS]
    try:
        root = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} on the hub is gated", fix="log in with an account"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} on the hub has no revision {revision}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no folder or file {text}, and no {repo} on the hub that can be seen"
        ) from error
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"there is no folder or file {text}, and the hub cannot be reached to look for it",
            fix="check the path or the network",
        ) from error
    folder = root / inside if inside else root
    if not folder.exists():
        raise CheckpointError(f"{repo} on the hub has no folder {subfolder}")
    return folder


def _adapter_path(path: Path, subfolder: str | None) -> Path:
    """The PEFT folder or the state-dict file at or directly below ``path``."""
    if subfolder is not None:
        folder = path / subfolder
        if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts or not folder.is_dir():
            raise CheckpointError(f"{path} has no folder {subfolder}")
        path = folder
    if path.is_dir():
        return _in_folder(path)
    if path.name in (CONFIG, MLX_WEIGHTS, *WEIGHTS) and (path.parent / CONFIG).is_file():
        return path.parent
    if path.suffix.lower() in (*STATE_DICTS, GGUF):
        return path
    raise CheckpointError(
        f"{path} is no checkpoint",
        expected=f"a PEFT folder or a file in {', '.join((*STATE_DICTS, GGUF))}",
    )


def _in_folder(folder: Path) -> Path:
    if (folder / CONFIG).exists():
        return folder
    suffixes = (".pt", ".pth", ".ckpt", GGUF)
    folders = adapters_in(folder)
    files = [] if folders else sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)
    paths = folders or files
    if len(paths) == 1:
        return paths[0]
    if paths:
        what, kind = ("adapters", "folders") if folders else ("checkpoints", "files")
        listed = ", ".join(p.name for p in folders or files[:8])
        raise CheckpointError(
            f"{folder} holds {len(paths)} {what}: {listed}", fix=f"name one of these {kind}"
        )
    raise CheckpointError(f"{folder} holds no adapter", expected=f"{CONFIG} or one .pt file in it")
