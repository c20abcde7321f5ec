"""Truncations written module by module: memory holds one module, whatever the adapter's size."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from aurac.adapters.formats.peft_reader import WEIGHTS
from aurac.adapters.formats.peft_shapes import PREFIX, factor_keys, peft_shapes
from aurac.adapters.formats.peft_writer import (
    METADATA,
    check_free,
    dump_records,
    fresh_folder,
    peft_state,
    write_records,
)
from aurac.adapters.formats.safetensors_file import SafetensorsWriter
from aurac.adapters.truncate import plan, prepare_module

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aurac.adapters.adapter import Adapter, Factors
    from aurac.adapters.truncate import Basis, Prepared, Rescale


def save_truncations(
    adapter: Adapter,
    places: Mapping[int, Path],
    *,
    basis: Basis = "prefix",
    rescale: Rescale | None = None,
    fit_factors: Mapping[int, float] | None = None,
    force: bool = False,
) -> dict[int, Adapter]:
    """Write the truncation at each rank to its folder, all in one pass over the adapter.

    The files are those that ``save_adapter(truncate(adapter, rank))`` writes, byte for byte. Each
    folder appears complete or not at all, and none appears before all of them are written.

    Args:
        adapter: What to truncate; an outline (``load_adapter(…, lazy=True)``) keeps memory small.
        places: The folder of each rank.
        basis: ``prefix`` or ``svd``.
        rescale: What the scale becomes; ``default_rescale`` of the adapter by default.
        fit_factors: For ``fit``, one factor per rank.
        force: Replace folders that hold an adapter.

    Returns:
        What was written at each rank, as outlines.

    Raises:
        RankError: For a rank that the adapter does not have.
        UsageError: For a basis and rescale that do not go together.
        CheckpointError: When the adapter holds numbers that are not finite or leave its type.
        RunFolderError: When a place is taken or cannot be written to.
    """
    how = plan(adapter, basis, rescale, fit_factors)
    outlines = {adapter.check_rank(r): _outline(how, r) for r in places}
    for place in places.values():
        check_free(place, force=force)
    with ExitStack() as stack:
        folders = {r: stack.enter_context(fresh_folder(place)) for r, place in places.items()}
        files = {}
        for r, outline in outlines.items():
            path = folders[r] / WEIGHTS[0]
            files[r] = SafetensorsWriter(path, peft_state(outline), METADATA)
        for name, f in adapter.walk():
            A, B = prepare_module(how, name, f, rows=max(places))
            for r, file in files.items():
                _put(file, name, how.cut(name, A, B, r))
        for key in adapter.extras:
            extra = adapter.read_extra(key)
            for file in files.values():
                file.put(f"{PREFIX}{key}", extra)
        written = {r: replace(o, derived=how.record(r)) for r, o in outlines.items()}
        for r, file in files.items():
            file.finish()
            write_records(folders[r], dump_records(written[r]))
    return written


def _put(file: SafetensorsWriter, name: str, f: Factors) -> None:
    for key, tensor in zip(factor_keys(name, f), peft_shapes(f, f.A, f.B), strict=True):
        file.put(key, tensor)


def _outline(how: Prepared, r: int) -> Adapter:
    """The truncation at rank ``r`` without numbers."""
    modules = {}
    for name, f in how.adapter.modules.items():
        modules[name] = how.cut(name, f.A.to("meta"), f.B.to("meta"), r)
    extras = {key: tensor.to("meta") for key, tensor in how.adapter.extras.items()}
    return replace(how.assemble(modules, {"rank": r}), extras=extras, values=None)
