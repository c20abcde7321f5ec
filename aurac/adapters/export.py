"""Truncations as adapters, as PEFT folders of one or several ranks, or merged into a base.

A folder appears complete or not at all.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from aurac.adapters.adapter import Adapter
from aurac.adapters.compatibility import check_base, check_fits, is_conv1d
from aurac.adapters.family import Family
from aurac.adapters.formats import load_adapter
from aurac.adapters.formats.peft import peft_state
from aurac.adapters.formats.peft_config import (
    CONFIG,
    Number,
    base_fields,
    is_set,
    pattern_name,
)
from aurac.adapters.formats.peft_shapes import peft_shapes
from aurac.adapters.formats.sidecar import SIDECAR, to_json
from aurac.adapters.formats.storage import WEIGHTS, regular_file, write_tensors
from aurac.adapters.truncate import BasisOption, Prepared, Rescale, prepare
from aurac.arguments import converted, path_of
from aurac.errors import CheckpointError, RunFolderError, UsageError
from aurac.files import fresh_folder
from aurac.models.base import MODEL_CONFIG, load_base
from aurac.models.tokenizer import TOKENIZER_FILES, choose_tokenizer, tokenizer_folder
from aurac.records import hub
from aurac.records.cut import Derived


def as_adapter(source: Adapter | Family | str | Path) -> Adapter | Family:
    """An adapter as it is; that of a folder, a file or a hub id as `load_adapter` reads it.

    Raises:
        UsageError: Something else.
        CheckpointError: A path that cannot be read.
    """
    if isinstance(source, (str, Path)):
        return load_adapter(source)
    if not isinstance(source, (Adapter, Family)):
        raise UsageError(
            f"{source!r:.80} is no adapter",
            expected="an Adapter, or a folder, a file or a hub id of one",
            fix="aurac.adapters.adapter_from_peft(model) takes that of a PEFT model",
        )
    return source


def truncate(
    adapter: Adapter | Family | str | Path,
    rank: int,
    *,
    basis: BasisOption = "auto",
    rescale: Rescale | None = None,
    factors: Mapping[int, float] | None = None,
) -> Adapter:
    """A new adapter of rank ``rank``, ``1 ≤ rank ≤ R``; of a family its member of that rank.

    `save_adapter` writes it.

    Args:
        adapter: What to truncate, or where `load_adapter` finds it.
        rank: The new rank. A module whose own rank is lower keeps its own.
        basis: ``prefix``, ``svd``, ``energy``, or ``auto``: prefix after nested training
            and for the rescales ``rule`` and ``trained``, else svd.
        rescale: ``rule``, ``keep``, ``trained`` or ``fit``; by default as `aurac truncate` does.
        factors: For ``fit``, one factor per rank, relative to ``keep``.

    Raises:
        RankError: For a rank that the adapter does not have.
        UsageError: For a basis and rescale that do not go together, a missing factor, or something
            that is no adapter.
        CheckpointError: For a path that cannot be read.
    """
    whole = as_adapter(adapter)
    member = whole.member(rank)
    if isinstance(whole, Family):
        return member
    factors = converted(factors, Mapping[int, float] | None, "factors")
    return prepare(member, basis, rescale, factors).at(rank)


def save_adapter(adapter: Adapter | str | Path, folder: str | Path, *, force: bool = False) -> Path:
    """Write ``adapter`` as a plain PEFT folder with its side-car ``aurac.json``.

    ``aurac.save_adapter(aurac.truncate("my_adapter", 4, basis="svd"), "my_adapter_r4")`` writes a
    truncation.

    A tokenizer beside the adapter's own file, with added tokens and chat templates, comes with it.

    The folder appears complete or not at all: it is written beside its place, synced and renamed.

    Args:
        adapter: What to write, or where `load_adapter` finds it; the tensors keep their dtype.
        folder: The folder to write.
        force: Replace a folder that holds an adapter. Any other folder that is not empty stays.

    Raises:
        RunFolderError: When something is already there, or the place cannot be written to.
        CheckpointError: When the adapter holds something that JSON cannot say.
        UsageError: For a family, or something that is no adapter.
    """
    target, given = path_of(folder, "a folder, after the adapter"), as_adapter(adapter)
    if isinstance(given, Family):
        raise UsageError(
            f"the family {given.name!r} is several adapters", fix="save its members, one by one"
        )
    check_free(target, force=force)
    adapter = given.loaded()
    with fresh_folder(target) as into:
        _write(adapter, into)
    return target


def _write(adapter: Adapter, into: Path) -> None:
    """Weights, and beside them config, side-car, tokenizer and the card of a cut.

    CheckpointError for what JSON cannot say, and for a tokenizer file that leads elsewhere.
    """
    texts = {CONFIG: _dump(peft_config(adapter)), SIDECAR: _dump(to_json(adapter))}
    if adapter.derived is not None:
        texts["README.md"] = _card(adapter, adapter.derived)
    files = {**{name: text.encode() for name, text in texts.items()}, **_tokenizer_files(adapter)}
    write_tensors(into / WEIGHTS[0], peft_state(adapter))
    for name, content in files.items():
        (into / name).parent.mkdir(exist_ok=True)
        (into / name).write_bytes(content)


def _card(adapter: Adapter, derived: Derived) -> str:
    """The `README.md` of a truncation, with the front matter that the hub reads."""
    trained = derived.trained.method if derived.trained else None
    licence = hub.licence(adapter.source)
    base, title = f"`{hub.base_name(adapter.base)}`", hub.method_title(trained)
    return f"""{hub.front_matter(adapter.name, adapter.base, trained, licence=licence)}

# {adapter.name}, rank {adapter.rank}

{hub.linked(derived.sentence(adapter.rank, title, base))}

It is a plain PEFT adapter:

{hub.loading_snippet(adapter.base)}

It holds no results. The run that measured this rank has a card with them in `cards/`; without one,
`aurac compare . --tasks TASK --ranks {adapter.rank} --limit 0 --out ../measured` measures it.

{hub.base_note(adapter.base)}

{hub.ABOUT}
"""


def _tokenizer_files(adapter: Adapter) -> dict[str, bytes]:
    """The tokenizer, added tokens and chat templates beside the adapter, by name.

    Prompts and the size of the embeddings depend on them. A link is followed within the folder and
    in the hub's cache alone, so that an export holds no other file of this machine.
    """
    folder = tokenizer_folder(adapter.source)
    if folder is None:
        return {}
    home, files = folder.resolve(), {}
    homes = [home, *(place.parent / "blobs" for place in home.parents if place.name == "snapshots")]
    for path in (path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern))):
        regular_file(path)
        if not any(path.resolve().is_relative_to(place) for place in homes):
            raise CheckpointError(
                f"{path} is a link that leads out of its folder, so it is not copied",
                fix="put the file itself there, or remove the link",
            )
        files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def peft_config(adapter: Adapter) -> dict[str, object]:
    """The ``adapter_config.json`` with which plain PEFT computes the adapter's own scale.

    Ranks and alphas go into the uniform fields; modules that differ from the most common value go
    into the patterns. Rule none is written as ``lora_alpha = α·R``.
    """
    scales = {name: f.peft_scale for name, f in adapter.modules.items()}
    rank, rank_pattern = _common(adapter, {name: r for name, (r, _) in scales.items()})
    alpha, alpha_pattern = _common(adapter, {name: alpha for name, (_, alpha) in scales.items()})
    kept = {k: v for k, v in adapter.peft_config.items() if is_set(v)}
    rslora = {f.rule == "sqrt" for f in adapter.modules.values()}
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
        "target_modules": sorted(n for n, f in adapter.modules.items() if f.kind != "experts"),
        **kept,
        **base_fields(adapter.base),
        "r": rank,
        "lora_alpha": _as_whole(alpha),
        "use_rslora": rslora.pop(),
        "use_dora": adapter.dora,
        "init_lora_weights": True,
        "rank_pattern": rank_pattern,
        "alpha_pattern": {name: _as_whole(a) for name, a in alpha_pattern.items()},
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
                "which parameter they belong to is not known",
                fix="give --base, a model that can be read here",
            )
        patterns[f"^{re.escape(pattern_name(name, f.parameter))}"] = value
    return common, patterns


def _as_whole(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)


def _dump(value: Mapping[str, object]) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the adapter's record cannot be written as JSON: {error}") from error


def check_free(target: Path, *, force: bool, holds: str = CONFIG) -> None:
    """Refuse a folder that is not empty, unless it ``holds`` that file and ``force`` is given."""
    empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if empty or not os.path.lexists(target):
        return
    other = target.is_symlink() or not (target / holds).is_file()
    if not force:
        fix = f"choose another folder{'' if other else ' or give --force'}"
        raise RunFolderError(f"{target} is already there", fix=fix)
    if other:
        raise RunFolderError(
            f"{target} holds no {holds}, so it is not replaced even with --force",
            fix="choose another folder",
        )


def save_truncations(
    adapter: Adapter,
    folders: Mapping[int, Path],
    *,
    basis: BasisOption = "auto",
    rescale: Rescale | None = None,
    force: bool = False,
) -> dict[int, Adapter]:
    """Write the truncation at each rank to its folder; none appears before all are written.

    The files are those that ``save_adapter(truncate(adapter, rank))`` writes, byte for byte.

    Returns:
        What was written at each rank.

    Raises:
        RankError: For a rank that the adapter does not have.
        UsageError: For a basis and rescale that do not go together.
        CheckpointError: When the adapter holds numbers that are not finite or leave its type.
        RunFolderError: When a folder is taken (see :func:`check_free`) or cannot be written to.
    """
    for r, folder in folders.items():
        check_free(folder, force=force)
        adapter.check_rank(r)
    prepared = prepare(adapter, basis, rescale)
    with ExitStack() as stack:
        written = {}
        for r, folder in folders.items():
            written[r] = prepared.at(r)
            _write(written[r], stack.enter_context(fresh_folder(folder)))
    return written


def merge_into_base(
    cut: Prepared, rank: int, base: str, folder: Path, *, dtype: str | None, force: bool
) -> tuple[Path, str]:
    """Merge the outline of an adapter into the base of that name, and write a plain model folder.

    It appears complete or not at all; ``force`` replaces one that holds a model. Errors as in
    :func:`merge` and :func:`check_free`.

    Returns:
        The folder and the numeric type that was written, the base's own by default.
    """
    adapter = cut.adapter
    check_free(folder, force=force, holds=MODEL_CONFIG)
    # A type that is asked for is rounded to once, from float32.
    loaded = load_base(base, device="cpu", dtype="float32" if dtype else "stored")
    if folder.exists() and folder.resolve() == loaded.path.resolve():
        raise RunFolderError(f"{folder} is the base itself", fix="choose another folder")
    check_base(adapter, base, loaded.sha256)
    own = choose_tokenizer(None, loaded, {adapter.name: adapter.source}, {}, chat_template=True)
    adopted = own.adopted_by(loaded)
    merge(adopted.model, prepare(adapter, cut.basis, cut.rescale), rank)
    if dtype is not None:
        adopted.model.to(getattr(torch, dtype))
    with fresh_folder(folder) as into:
        adopted.model.save_pretrained(into)
        adopted.tokenizer.save_pretrained(into)
    return folder, dtype or loaded.dtype


def merge(model: nn.Module, prepared: Prepared, rank: int) -> None:
    """Add ``s · B[:, :r] · A[:r]`` to the weights of ``model`` in place, in fp64, rounded once.

    The rows of a DoRA adapter's modules then get its magnitudes as their norms. Modules whose
    weight cannot take the update and tensors beside the factors are refused.
    """
    adapter = prepared.adapter
    adapter.check_rank(rank)
    check_fits(adapter, model)
    if adapter.extras:
        raise CheckpointError(
            f"adapter {adapter.name!r} has tensors beside its factors",
            expected="low-rank factors alone, to be merged",
            fix="merge it with PEFT",
        )
    ranks = prepared.module_ranks(rank)
    targets = {name: _weight(model, name, prepared) for name in adapter.modules}
    for name, (weight, transposed) in targets.items():
        f, r, (A, B) = adapter.modules[name], ranks[name], prepared.modules[name]
        A, B = peft_shapes(f, A[:r].double(), B[:, :r].double())
        update = prepared.scaling(name, rank, r) * (B @ A)
        update = (update.T if transposed else update).to(weight.device)
        merged = weight.data.double() + update
        if f.magnitude is not None:
            norms = merged.norm(dim=0 if transposed else 1, keepdim=True)
            merged *= f.magnitude.to(weight.device).double().view_as(norms) / norms
        weight.data = merged.to(weight.dtype)


def _weight(model: nn.Module, name: str, prepared: Prepared) -> tuple[Tensor, bool]:
    """The weight of a linear layer, and whether it is kept as (in, out)."""
    kind = prepared.adapter.modules[name].kind
    module = model.get_submodule(name) if kind in ("linear", "merged") else None
    weight = getattr(module, "weight", None)
    conv1d = module is not None and is_conv1d(module)
    plain = conv1d or type(module) is nn.Linear
    if weight is None or not weight.dtype.is_floating_point or not plain:
        raise CheckpointError(f"{name} is not a plain linear layer, so nothing is merged into it")
    shared = [n for n, p in model.named_parameters(remove_duplicate=False) if p is weight]
    if len(shared) > 1:
        raise CheckpointError(f"{name} shares its weight with {shared[0]}, which would change too")
    return weight, conv1d
