"""Truncations as adapters, and adapters as PEFT folders, which appear complete or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from aurac.adapters.adapter import Adapter
from aurac.adapters.family import Family
from aurac.adapters.formats import load_adapter
from aurac.adapters.formats.peft import peft_state
from aurac.adapters.formats.peft_config import CONFIG, Number, base_fields, is_set, pattern_name
from aurac.adapters.formats.sidecar import Sidecar
from aurac.adapters.formats.storage import WEIGHTS
from aurac.adapters.nesting import peft_alpha
from aurac.adapters.truncate import BasisOption, Dtype, Rescale, in_dtype, prepare
from aurac.errors import CheckpointError, RunFolderError
from aurac.files import fresh_folder
from aurac.models.tokenizer import TOKENIZER_FILES, tokenizer_folder

if TYPE_CHECKING:
    from peft import PeftModel


def truncate(
    adapter: Adapter | Family | str | Path | PeftModel,
    rank: int,
    *,
    basis: BasisOption = "auto",
    rescale: Rescale | None = None,
    factors: Mapping[int, float] | None = None,
    dtype: Dtype | None = None,
) -> Adapter:
    """An adapter of rank ``rank``, ``1 ≤ rank ≤ R``; of a family its member of that rank.

    At R it is the adapter itself, unless a trained P is folded in. `save_adapter` writes it.

    Args:
        adapter: What to truncate, or where `load_adapter` finds it.
        rank: The new rank. A module whose own rank is lower keeps its own.
        basis: ``prefix``, ``svd``, or ``auto``: prefix after nested training and for the rescales
            ``rule`` and ``trained``, else svd.
        rescale: ``rule``, ``keep``, ``trained`` or ``fit``; by default as `aurac truncate` does.
        factors: For ``fit``, one factor per rank, relative to ``keep``.
        dtype: Of the result; by default the adapter's own.

    Raises:
        RankError: For a rank that the adapter does not have.
        UsageError: For a basis and rescale that do not go together, or a missing factor.
        CheckpointError: For a path that cannot be read, or numbers beyond the dtype's range.
    """
    given = adapter if isinstance(adapter, (Adapter, Family)) else load_adapter(adapter)
    if isinstance(given, Family):
        return in_dtype(given.member(rank), dtype)
    cut = prepare(given, basis, rescale).at(rank, (factors or {}).get(rank))
    return in_dtype(cut, dtype)


def save_adapter(
    adapter: Adapter | str | Path | PeftModel,
    folder: str | Path,
    *,
    dtype: Dtype | None = None,
    force: bool = False,
) -> Path:
    """Write ``adapter`` as a plain PEFT folder with its side-car ``aurac.json``.

    ``aurac.save_adapter(aurac.truncate("my_adapter", 4, basis="svd"), "my_adapter_r4")`` writes a
    truncation. A tokenizer beside the adapter's own file, with added tokens and chat templates,
    comes with it.

    Args:
        adapter: What to write, or where `load_adapter` finds it.
        folder: The folder to write. It appears complete or not at all.
        dtype: Of its tensors; by default the adapter's own.
        force: Replace a folder that holds an adapter. Any other folder that is not empty stays.

    Raises:
        RunFolderError: When something is already there.
    """
    target = Path(folder)
    given = adapter if isinstance(adapter, Adapter) else load_adapter(adapter)
    check_free(target, force=force)
    with fresh_folder(target, replace=force) as into:
        _write(in_dtype(given, dtype), into)
    return target


def _write(adapter: Adapter, folder: Path) -> None:
    # The library refuses memory that tensors share.
    state = {k: t.detach().cpu().clone().contiguous() for k, t in peft_state(adapter).items()}
    save_file(state, folder / WEIGHTS[0], {"format": "pt"})
    text = json.dumps(peft_config(adapter), indent=2, sort_keys=True, allow_nan=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    Sidecar.of(adapter).write(folder)
    _copy_tokenizer(adapter.source, folder)


def _copy_tokenizer(source: Path | None, into: Path) -> None:
    """Copy the tokenizer, added tokens and chat templates beside an adapter.

    Prompts and the size of the embeddings depend on them.
    """
    if (folder := tokenizer_folder(source)) is None:
        return
    root = folder.resolve()
    # A snapshot of the hub is links to the blobs beside it.
    own = (root, *(p.parent / "blobs" for p in root.parents if p.name == "snapshots"))
    for path in (path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        if not any(path.resolve().is_relative_to(each) for each in own):
            raise CheckpointError(f"{path} is a link out of its folder: put the file itself there")
        place = into / path.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def peft_config(adapter: Adapter) -> dict[str, object]:
    """The ``adapter_config.json`` with which plain PEFT computes the adapter's own scale.

    Ranks and alphas go into the uniform fields; modules that differ from the most common value go
    into the patterns. Rule none is written as ``lora_alpha = α·R``.
    """
    modules = adapter.modules
    exact = {name: peft_alpha(f.rule, f.alpha, f.rank) for name, f in modules.items()}
    alphas = {name: int(a) if a.is_integer() else a for name, a in exact.items()}
    rank, rank_pattern = _common(adapter, {name: f.rank for name, f in modules.items()})
    alpha, alpha_pattern = _common(adapter, alphas)
    kept = {k: v for k, v in adapter.peft_config.items() if is_set(v)}
    rslora = {f.rule == "sqrt" for f in modules.values()}
    if len(rslora) > 1:
        raise CheckpointError("an adapter that mixes α/√r with another rule cannot be plain PEFT")
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "bias": "none",
        "modules_to_save": None,
        # The full module names, which no base can match wrongly.
        "target_modules": sorted(n for n, f in modules.items() if f.kind != "experts"),
        **kept,
        "auto_mapping": {**(kept.get("auto_mapping") or {}), **Sidecar.of(adapter).note},
        **base_fields(adapter.base, kept),
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora.pop(),
        "use_dora": adapter.dora,
        "init_lora_weights": True,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
    }


def _common(adapter: Adapter, values: Mapping[str, Number]) -> tuple[Number, dict[str, Number]]:
    """The most common value, and a PEFT pattern for each module that has another one."""
    common = Counter(values.values()).most_common(1)[0][0]
    patterns = {}
    for name, value in values.items():
        f = adapter.modules[name]
        if value == common:
            continue
        if f.kind == "experts" and not f.parameter:
            raise CheckpointError(
                f"the factors of {name} in adapter {adapter.name!r} differ in rank or alpha, and "
                "only the base says which parameter they belong to: give --base"
            )
        patterns[f"^{re.escape(pattern_name(name, f.parameter))}"] = value
    return common, patterns


def check_free(target: Path, *, force: bool, instead: str = "choose another folder") -> None:
    """Refuse a folder that is not empty, unless it holds an adapter and ``force`` is given."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not force:
        raise RunFolderError(f"{target} is already there: {instead}")
    if target.is_symlink() or not (target / CONFIG).is_file():
        raise RunFolderError(f"{target} holds no {CONFIG}, so it is not replaced")
