"""Reading an adapter from a folder, a file or a hub id, whatever its format.

Whatever is missing, damaged, contradictory or refused in a file is a ``CheckpointError``; what the
user states about it and does not fit is a ``UsageError``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from aurac.adapters.adapter import Adapter
from aurac.adapters.formats.converted import Gguf, Mlx
from aurac.adapters.formats.peft import Peft
from aurac.adapters.formats.peft_config import CONFIG
from aurac.adapters.formats.sidecar import (
    SIDECAR,
    Format,
    KeyNames,
    LoadOverrides,
    Source,
    apply_overrides,
    with_record,
)
from aurac.adapters.formats.state_dict import StateDict
from aurac.adapters.formats.storage import RemovedValues
from aurac.adapters.nesting import Rule, Update
from aurac.arguments import converted as as_kind
from aurac.errors import CheckpointError, UsageError
from aurac.files import did_you_mean
from aurac.models.base import KnownBase
from aurac.models.tokenizer import TOKENIZER_FILES

if TYPE_CHECKING:
    from torch import nn


FORMATS: Final[list[Format]] = [Mlx(), Peft(), Gguf(), StateDict()]
_AMBIGUOUS: Final = (".bin", ".safetensors")  # in a folder more likely a model's weights

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>[\w./-]{{1,200}}))?(:(?P<subfolder>[\w][\w./=-]{{0,200}}))?"
)


def load_adapter(
    path: str | Path,
    *,
    base_model: nn.Module | None = None,
    bases: Callable[[str], KnownBase] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    name: str | None = None,
    lazy: bool = False,
    method: str | None = None,
    scaling: Rule | None = None,
    alpha: float | None = None,
    nested_ranks: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    mask_type: Literal["diag", "binary"] | None = None,
    update: Update | None = None,
    base: str | None = None,
    enable_lora: Sequence[bool] | None = None,
    keys: KeyNames | None = None,
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
        method: How it was trained; this and what follows where the file does not say it, or says
            it wrongly.
        scaling: Its scaling rule.
        alpha: The α of that rule.
        nested_ranks: S, the nested ranks.
        weights: One weight per nested rank.
        mask_type: The same for MatryoshkaLoRA's research code: ``diag`` adds the nested ranks up
            (weights of 1), ``binary`` takes their mean (1 / |S|).
        update: DyLoRA's update.
        base: The name of its base model.
        enable_lora: For loralib's ``MergedLinear``, which of a layer's groups are on.
        keys: For a file with names of its own: ``{"A": pattern, "B": pattern[, "alpha": pattern]}``
            with ``{module}`` in each, or for each module its ``{"A": key, "B": key}``.

    Raises:
        CheckpointError: When it is missing, damaged, refused, or does not say enough.
        UsageError: When what is given does not fit together.
    """
    training = (nested_ranks, weights, mask_type, update)
    alpha = as_kind(alpha, float | None, "alpha")
    stated = LoadOverrides(method, scaling, alpha, *training, base, enable_lora, keys)
    local, inside = _locate(str(path), revision, subfolder)
    if base_model is not None:
        if not hasattr(base_model, "named_modules"):
            given = f"base_model={base_model!r:.80}"
            raise UsageError(given, expected="a loaded model", fix="a name is given as base=")
        bases = functools.partial(KnownBase, model=base_model)
    try:
        adapter = _read(Source(_adapter_path(local, inside), stated, bases))
        if not lazy and not isinstance(adapter.values, RemovedValues):
            adapter = adapter.loaded()
    except OSError as error:
        raise CheckpointError(f"cannot read {local}: {error.strerror or error}") from error
    if name is None and not adapter.name.strip("."):  # of the path `.` or `..`
        name = local.resolve().name
    return adapter if name is None else replace(adapter, name=name)


def _read(source: Source) -> Adapter:
    """The adapter of a checkpoint, with what is recorded and stated about it."""
    stated, kind = source.stated, _format_of(source)
    if kind is None:
        suffixes = sorted({suffix for kind in FORMATS for suffix in kind.suffixes})
        raise CheckpointError(
            f"{source.path} is no checkpoint",
            expected=f"a PEFT folder or a file in {', '.join(suffixes)}",
        )
    if kind.complete and (stated.enable_lora is not None or stated.keys is not None):
        raise UsageError(
            f"--enable-lora or a key map for {source.path}, which names its own tensors",
            expected="them for a single file of tensors",
        )
    adapter = with_record(kind.read(source), source, rescale=kind.complete)
    if isinstance(adapter.values, RemovedValues) and stated != LoadOverrides(base=stated.base):
        adapter.values.refuse("give it other settings")
    if not kind.complete:  # its scale has been taken from there
        stated = replace(stated, scaling=None, alpha=None)
    return apply_overrides(adapter, stated)


def _format_of(source: Source) -> Format | None:
    return next((kind for kind in FORMATS if kind.recognises(source)), None)


def _is_adapter(path: Path) -> bool:
    return path.exists() and _format_of(Source(path, LoadOverrides())) is not None


def adapters_in(folder: Path) -> list[Path]:
    """The folders of PEFT adapters directly below a folder that is none itself."""
    if not folder.is_dir() or (folder / CONFIG).exists():
        return []
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))


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
            fix=did_you_mean(local, _is_adapter),
        )
    at = _either(text, "revision", match["revision"], revision)
    inside = _either(text, "subfolder", match["subfolder"], subfolder)
    if ".." in f"{at}{inside}":
        raise CheckpointError(f"{text} with revision {at} and subfolder {inside}")
    return _from_hub(text, match["repo"], at, inside), None


def _either(text: str, what: str, inside: str | None, flag: str | None) -> str | None:
    if inside is not None and flag is not None and inside != flag:
        raise UsageError(f"{text} with --{what} {flag}", expected=f"one {what}")
    return inside or flag


def _from_hub(text: str, repo: str, revision: str | None, subfolder: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    files = dict.fromkeys(pattern for kind in FORMATS for pattern in kind.files)
    wanted = [inside + p for p in (*files, SIDECAR, f"*.{SIDECAR}", *TOKENIZER_FILES, "README.md")]
    try:
        root = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} on the hub is gated", fix="log in with an account"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        at = f" with revision {revision}" if revision else ""
        raise CheckpointError(
            f"there is no folder or file {text}, and no {repo}{at} on the hub that can be seen"
        ) from error
    except (OSError, RuntimeError) as error:  # what else the hub raises is an OSError
        raise CheckpointError(
            f"there is no folder or file {text}, and the hub cannot be reached to look for it",
            fix=did_you_mean(Path(text), _is_adapter) or "check the path or the network",
        ) from error
    folder = root / inside if inside else root
    if not folder.exists():
        raise CheckpointError(f"{repo} on the hub has no folder {subfolder}")
    return folder


def _adapter_path(path: Path, subfolder: str | None) -> Path:
    """The folder or file of the adapter at or directly below ``path``."""
    if subfolder is not None:
        folder = path / subfolder
        if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts or not folder.is_dir():
            raise CheckpointError(f"{path} has no folder {subfolder}")
        path = folder
    if path.is_dir():
        return path if _format_of(Source(path, LoadOverrides())) else _in_folder(path)
    kind = _format_of(Source(path.parent, LoadOverrides()))
    return path.parent if kind is not None and path.name in kind.files else path


def _in_folder(folder: Path) -> Path:
    suffixes = {s for kind in FORMATS for s in kind.suffixes if s not in _AMBIGUOUS}
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
    above = {str(path.parent.parent) for path in folder.glob(f"*/*/{CONFIG}")}
    raise CheckpointError(
        f"{folder} {'' if any(folder.iterdir()) else 'is empty and '}holds no adapter",
        expected=f"{CONFIG} or one .pt file in it",
        fix=f"give the adapters below it: {' or '.join(f'{each}/*' for each in sorted(above))}"
        if above
        else None,
    )
