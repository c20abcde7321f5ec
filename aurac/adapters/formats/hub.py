"""Resolving a path or a hub id to local files; an existing path comes first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from aurac.errors import CheckpointError, UsageError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>[\w./-]{{1,200}}))?(:(?P<subfolder>[\w][\w./=-]{{0,200}}))?"
)
_PATTERNS = (
    *("adapter_config.json", "adapter_model.*", "adapters.safetensors"),
    *("aurac.json", "*.pt", "*.aurac.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "spiece.model"),
)


class Located(NamedTuple):
    """A path that exists, and the folder below it that is still to be entered."""

    path: Path
    subfolder: str | None


def locate(
    path: str | Path, *, revision: str | None = None, subfolder: str | None = None
) -> Located:
    """The local path of a checkpoint.

    Args:
        path: A folder, a file, or a hub id ``owner/name[@revision][:subfolder]``.
        revision: The revision of a hub id, where the id does not say.
        subfolder: The subfolder, where the id does not say.

    Raises:
        UsageError: For a revision of something that is on this machine, or named twice.
        CheckpointError: When there is no such path and no such thing on the hub, or no network.
    """
    text = str(path)
    if not text or "\0" in text:
        raise CheckpointError(f"checkpoint {text!r}", expected="a folder, a file or a hub id")
    try:
        local = Path(text).expanduser()
        if local.exists():
            _check_local(text, revision)
            return Located(local, subfolder)
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
    return Located(_from_hub(text, match["repo"], at, inside), None)


def _check_local(text: str, revision: str | None) -> None:
    if revision is not None:
        raise UsageError(
            f"--revision {revision} for {text}, which is on this machine", expected="a hub id"
        )


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
