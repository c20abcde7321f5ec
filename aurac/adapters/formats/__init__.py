"""Reading an adapter from a folder, a file or a hub id, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.formats import mlx, peft, state_dict
from aurac.adapters.formats.peft import adapter_from_peft
from aurac.adapters.formats.peft_config import CONFIG
from aurac.adapters.formats.sidecar import SIDECAR
from aurac.adapters.formats.storage import WEIGHTS
from aurac.adapters.methods import Nesting, method_named
from aurac.adapters.nesting import Rule, Update
from aurac.errors import CheckpointError, UsageError, first_line
from aurac.models.base import MODEL_CONFIG
from aurac.models.tokenizer import TOKENIZER_FILES

if TYPE_CHECKING:
    from peft import PeftModel


class Format(Protocol):
    """One kind of checkpoint: a module of this form, listed in `FORMATS`."""

    FILES: tuple[str, ...]  #: fetched of a hub's repository; a name stands for its folder, too

    def recognises(self, path: Path, /) -> bool:
        """Whether a folder or file is of this kind."""

    def read(self, path: Path, base: str | None, scale: tuple[Rule, float] | None, /) -> Adapter:
        """The adapter as its files describe it, by the base and the scale that the user states."""


FORMATS: Final[tuple[Format, ...]] = (mlx, peft, state_dict)
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>[\w./-]+))?(:(?P<subfolder>[\w./=-]+))?"
)


def load_adapter(
    path: str | Path | PeftModel,
    *,
    name: str | None = None,
    method: str | None = None,
    scaling: Rule | None = None,
    alpha: float | None = None,
    nested_ranks: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    update: Update | None = None,
    base: str | None = None,
) -> Adapter:
    """Read an adapter from a folder, a file, a hub id or a live model.

    Args:
        path: Folder of PEFT or MLX, state dict, ``owner/name[@revision][:subfolder]``, or a
            ``PeftModel``, whose adapter (of `aurac.nested`, else ``default``) is copied.
        name: What to call it; the last part of the path by default.
        method: How it was trained; this and what follows where the file does not say it, or says
            it wrongly.
        scaling: Its scaling rule.
        alpha: The α of that rule.
        nested_ranks: S, the nested ranks.
        weights: One weight per nested rank. MatryoshkaLoRA's research code adds the nested ranks
            up (1 each, the default), or with ``matryoshka_mask_type`` binary takes their mean
            (1 / |S| each).
        update: DyLoRA's update.
        base: The name of its base model, which also settles what shapes alone leave open.

    Raises:
        CheckpointError: When it is missing, damaged, refused, or does not say enough.
        UsageError: When what is given does not fit together.
    """
    if isinstance(path, (str, Path)):
        scale = (scaling, float(alpha)) if method and scaling and alpha is not None else None
        adapter = _read(str(path), base, scale)
    else:
        adapter = adapter_from_peft(path)
    modules = _scaled(adapter, scaling, alpha)
    nesting, notes = adapter.nesting, adapter.notes
    if (method, nested_ranks, weights, update) != (None,) * 4:
        nesting = _nested(adapter, method or adapter.method, nested_ranks, weights, update)
        if nesting.ranks[-1] < adapter.rank:
            notes = *notes, "components above the last nested rank were not trained"
    replaced = {
        "scaling": modules is not adapter.modules,
        "training": adapter.nesting not in (None, nesting),
        "base": base is not None and adapter.base not in (None, base),
    }
    said = (f"the {what} given replaces the recorded one" for what in replaced if replaced[what])
    return replace(
        adapter,
        name=name or adapter.name,
        modules=modules,
        nesting=nesting,
        base=base or adapter.base,
        notes=(*notes, *said),
    )


def _scaled(adapter: Adapter, rule: Rule | None, alpha: float | None) -> Mapping[str, Factors]:
    """The modules with the scaling that is stated; the adapter's own where it is that already."""
    own = adapter.modules.items()
    if rule and alpha is None and any(f.rule != rule for _, f in own):
        raise UsageError(f"--scaling {rule} needs --alpha: the recorded one is of another rule")
    if alpha is None or all((f.rule, f.alpha) == (rule or f.rule, alpha) for _, f in own):
        return adapter.modules
    return {name: replace(f, rule=rule or f.rule, alpha=float(alpha)) for name, f in own}


def _nested(
    adapter: Adapter,
    method: str | None,
    ranks: Sequence[int] | None,
    weights: Sequence[float] | None,
    update: Update | None,
) -> Nesting:
    """The training that is stated; what is not stated is what is recorded of the same method."""
    if method is None:
        raise UsageError(f"{adapter.name} records no training method: give --method")
    old = adapter.nesting
    if ranks is None:
        if method_named(method).nested and old is None:
            raise UsageError(f"--method {method} needs --nested-ranks")
        ranks = old.ranks if old else (adapter.rank,)
    ranks = tuple(r for r in ranks if r <= adapter.rank)  # as the research code trains them
    if weights is None and old and old.ranks == ranks:
        weights = old.weights
    if update is None and old and old.method == method:
        update = old.update
    return Nesting(method, ranks, tuple(weights or ()), update)


def _read(given: str, base: str | None, scale: tuple[Rule, float] | None) -> Adapter:
    local, hub = _local(given), _HUB_ID.fullmatch(given)
    place = _adapter_path(local)
    kind = next((kind for kind in FORMATS if kind.recognises(place)), None)
    if kind is None:
        if any((place / weights).exists() for weights in WEIGHTS):
            raise CheckpointError(f"{given} has the weights of an adapter but no {CONFIG}")
        if (place / MODEL_CONFIG).exists():
            raise CheckpointError(f"{given} is the folder of a whole model, no adapter: see --base")
        suffixes = ", ".join(state_dict.SUFFIXES)
        raise CheckpointError(
            f"{place} is no folder with an adapter of PEFT or MLX and no file in {suffixes}"
        )
    adapter = kind.read(place, base, scale)
    own = adapter.name if adapter.name.strip(".") else place.resolve().name  # of the path `.`
    if hub and local != Path(given):
        own = Path(hub["subfolder"] or hub["repo"]).name
    return replace(adapter, name=own)


def adapters_in(folder: Path) -> list[Path]:
    """The folders of PEFT adapters directly below a folder that is none itself."""
    if not folder.is_dir() or (folder / CONFIG).exists():
        return []
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))


def _local(text: str) -> Path:
    """The local path of a folder, a file, or a hub id ``owner/name[@revision][:subfolder]``."""
    local, match = Path(text).expanduser(), _HUB_ID.fullmatch(text)
    if local.exists():
        return local
    if match is None or ".." in text:
        raise CheckpointError(f"there is no folder or file {text}")
    from huggingface_hub import snapshot_download

    inside = f"{match['subfolder'].strip('/')}/" if match["subfolder"] else ""
    files = {pattern for kind in FORMATS for pattern in kind.FILES}
    wanted = [inside + each for each in (*files, SIDECAR, *TOKENIZER_FILES, "README.md")]
    try:
        root = snapshot_download(match["repo"], revision=match["revision"], allow_patterns=wanted)
    except Exception as error:
        raise CheckpointError(
            f"there is no folder or file {text}, and nothing of that name on the hub: "
            f"{first_line(error)}"
        ) from error
    return Path(root) / inside


def _adapter_path(path: Path) -> Path:
    """The folder or file of the adapter at or directly below ``path``."""
    folder = path if path.is_dir() else path.parent
    known = next((kind for kind in FORMATS if kind.recognises(folder)), None)
    if not path.is_dir():
        return folder if known and path.name in known.FILES else path
    inside = [] if known else adapters_in(path) or sorted(path.glob("*.pt"))
    if len(inside) > 1:
        names = ", ".join(each.name for each in inside[:8])
        raise CheckpointError(f"{path} holds {len(inside)} adapters, of which to name one: {names}")
    return inside[0] if inside else path
