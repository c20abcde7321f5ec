"""`compare`: checkpoints × ranks × tasks → curves, scores and a report in a run folder."""

from __future__ import annotations

import datetime as dt
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters import check_base, check_fits, load_adapter
from aurac.bases import DEFAULT_BASE, LoadedBase, load_base
from aurac.errors import CheckpointError, RunFolderError, UsageError
from aurac.files import write_json
from aurac.hashing import sha256_json
from aurac.progress import NoProgress, SweepProgress
from aurac.provenance import machine, versions
from aurac.results import RESULTS_FILE, SCHEMA, TaskCells, adapter_row, curve_row, task_row
from aurac.settings import Settings
from aurac.store import CellStore
from aurac.sweep import Failure, PlannedCell, Runner, Variant, parse_ranks, plan, variants_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.adapters import Adapter
    from aurac.evaluation.built import BuiltTask

logger = logging.getLogger(__name__)

REQUEST_FILE = "run.json"


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, the content of `results.json`, the files written."""

    folder: Path
    results: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Cells that could not be evaluated; the command line exits with 3 if there are any."""
        return list(self.results["failures"])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from aurac.notebook import results_html

        return results_html(self.results, self.folder)


def compare(
    checkpoints: Sequence[str | Path],
    tasks: Sequence[str],
    *,
    out: str | Path | None = None,
    progress: bool = False,
    command: str | None = None,
    **settings: Any,
) -> Comparison:
    """Evaluate adapters at every rank on tasks and write curves, AURAC and a report.

    Args:
        checkpoints: Folders, files or hub ids of adapters.
        tasks: Names that lm-eval knows, or bundled ones.
        out: Run folder; None: `runs/<tasks>-<hash of the request>`. The same request goes on where
            it stopped.
        progress: Show a progress bar with the time left on standard error.
        command: The command line, for the provenance.
        settings: Fields of `Settings`.

    Raises:
        AuracError: Any input that cannot be used, before anything is computed.
    """
    if not checkpoints or not tasks:
        raise UsageError("nothing to compare", expected="at least one checkpoint and one task")
    chosen = Settings(**settings)
    started = time.time()
    adapters = load_adapters(checkpoints, chosen)
    variants = [v for name, a in adapters.items() for v in _variants(name, a, chosen)]
    base_name = common_base(adapters, chosen.base)
    loaded = load_base(
        base_name,
        dtype=chosen.dtype,
        device=chosen.device,
        trust_remote_code=chosen.trust_remote_code,
    )
    for adapter in adapters.values():
        check_base(adapter, loaded.name, loaded.sha256)
        check_fits(adapter, loaded.model)
    built = _build(tasks, chosen, loaded)
    variants = _with_fit_factors(variants, built, loaded, chosen)
    request = _request(adapters, variants, built, loaded, chosen)
    folder = _open_run_folder(out, tasks, request)
    store, options = CellStore(folder), _engine_options(chosen)
    leaves = [task for task in built if not task.members]
    lm_eval = built[0].lm_eval
    cells = plan(variants, leaves, loaded, _batching(chosen), lm_eval)
    todo = [cell for cell in cells if store.get(cell.identity) is None]
    bar = SweepProgress(todo, total_cells=len(cells)) if progress else NoProgress()
    with bar:
        runner = Runner(loaded, store, options, bar.documents, bar.cell)
        failures = runner.run(cells)
    results = _results(variants, built, cells, failures, store, loaded, chosen)
    for row, task in zip(results["tasks"], built, strict=True):
        row["documents"] = _write_documents(folder, task)
    results["provenance"] = _provenance(loaded, chosen, command, started, request)
    write_json(folder / RESULTS_FILE, results)
    from aurac.report import write_report

    return Comparison(folder, results, tuple(write_report(folder)))


def load_adapters(checkpoints: Sequence[str | Path], chosen: Settings) -> dict[str, Adapter]:
    """Unique name → adapter; names that clash are told apart by their folder or a number."""
    said = {k: v for k, v in chosen.checkpoint.items() if v is not None}
    found: dict[str, Adapter] = {}
    hashes: dict[str, str] = {}
    for checkpoint in checkpoints:
        adapter = load_adapter(checkpoint, base=chosen.base, **said)
        if adapter.sha256 in hashes:
            raise CheckpointError(
                f"{checkpoint} and {hashes[adapter.sha256]} are the same adapter",
                expected="different adapters",
                fix="name each one once",
            )
        hashes[adapter.sha256] = str(checkpoint)
        name, number = adapter.name, 2
        if name in found and Path(checkpoint).parent.name:
            name = f"{Path(checkpoint).parent.name}/{Path(checkpoint).name}"
        while name in found:
            name, number = f"{adapter.name}-{number}", number + 1
        found[name] = adapter
    return found


def common_base(adapters: Mapping[str, Adapter], given: str | None) -> str:
    """The base that all adapters share, or the one that was given.

    Raises:
        CheckpointError: They record different bases and none was given.
    """
    if given:
        return given
    recorded = {name: adapter.base for name, adapter in adapters.items() if adapter.base}
    names = sorted(set(recorded.values()))
    if len(names) > 1:
        listed = "; ".join(f"{name} on {base}" for name, base in recorded.items())
        raise CheckpointError(
            f"the adapters were trained on different bases ({listed})",
            expected="adapters of one base",
            fix="compare them in separate runs, or give --base if these names mean the same model",
        )
    if not names:
        raise CheckpointError(
            f"no base is recorded with {', '.join(adapters)}",
            expected="the base model that the adapter was trained on",
            fix=f"give --base (a hub id, a folder, or {DEFAULT_BASE})",
        )
    return names[0]


def _variants(name: str, adapter: Adapter, chosen: Settings) -> list[Variant]:
    ranks = parse_ranks(chosen.ranks, adapter)
    return variants_of(name, adapter, ranks, tuple(chosen.basis), chosen.rescale)


def _limit(task: str, chosen: Settings) -> int | None:
    """How many documents of a task: as asked, else a sample of a bundled task, all of another."""
    from aurac.tasks import BUNDLED, QUICK_DOCUMENTS

    if chosen.limit is None:
        return QUICK_DOCUMENTS if task in BUNDLED and task not in chosen.data else None
    return chosen.limit or None


def _build(tasks: Sequence[str], chosen: Settings, loaded: LoadedBase) -> list[BuiltTask]:
    from aurac.evaluation import build_tasks

    limits = {name: _limit(name, chosen) for name in tasks}
    return build_tasks(
        list(tasks),
        tokenizer=loaded.tokenizer,
        num_fewshot=chosen.num_fewshot,
        limit={name: limit for name, limit in limits.items() if limit is not None},
        seed=chosen.seed,
        data=dict(chosen.data),
        metric=dict(chosen.metric),
        chat_template=chosen.chat_template,
        fewshot=chosen.fewshot,
        held_out="fit" in (chosen.rescale or ()),
        split=chosen.split,
    )


def _with_fit_factors(
    variants: list[Variant], built: Sequence[BuiltTask], loaded: LoadedBase, chosen: Settings
) -> list[Variant]:
    if all(variant.rescale != "fit" for variant in variants):
        return variants
    from aurac.evaluation.fit import fit_factors

    options = _engine_options(chosen)
    return [
        v
        if v.rescale != "fit"
        else replace(
            v, fit_factors=fit_factors(v.adapter, v.basis, v.ranks, built, loaded, options)
        )
        for v in variants
    ]


def _engine_options(chosen: Settings) -> Any:
    from aurac.evaluation import EngineOptions

    return EngineOptions(batch_tokens=chosen.batch_tokens, batch_size=chosen.batch_size)


def _batching(chosen: Settings) -> str:
    options = _engine_options(chosen)
    return f"tokens={options.batch_tokens},sequences={options.batch_size},packed={options.packed}"


def _request(
    adapters: Mapping[str, Adapter],
    variants: Sequence[Variant],
    built: Sequence[BuiltTask],
    loaded: LoadedBase,
    chosen: Settings,
) -> dict[str, Any]:
    """What makes two requests the same run: same settings; adapters and tasks may be added."""
    return {
        "schema": SCHEMA,
        "settings": {
            "base_sha256": loaded.sha256,
            "dtype": loaded.dtype,
            "device_kind": loaded.device.split(":")[0],
            "batching": _batching(chosen),
            "seed": chosen.seed,
            "fewshot": chosen.fewshot,
            "num_fewshot": chosen.num_fewshot,
            "chat_template": chosen.chat_template,
            "limit": chosen.limit,
            "split": chosen.split,
        },
        "adapters": {name: adapter.sha256 for name, adapter in adapters.items()},
        "curves": [[v.label, list(v.ranks)] for v in variants],
        "tasks": {task.name: task.prompts_sha256 for task in built},
    }


def _open_run_folder(out: str | Path | None, tasks: Sequence[str], request: dict[str, Any]) -> Path:
    """Make the run folder, or accept the one that this request (or a smaller one) began.

    Raises:
        RunFolderError: It holds something else; nothing in it is touched.
    """
    import json

    name = "-".join(tasks)[:60].replace("/", "_")
    folder = Path(out) if out else Path("runs") / f"{name}-{sha256_json(request)[:8]}"
    record = folder / REQUEST_FILE
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"--out {folder} is a file", expected="a folder")
    if record.is_file():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
            reasons = _conflicts(before, request)
        except (ValueError, KeyError, TypeError, AttributeError):
            reasons = [f"its {REQUEST_FILE} cannot be read"]
        if reasons:
            raise RunFolderError(
                f"--out {folder} holds another run ({'; '.join(reasons)})",
                expected="a new folder, or the folder of this same run",
                fix="choose another --out",
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(
            f"--out {folder} holds other files",
            expected="a new or empty folder, or the folder of this same run",
            fix="choose another --out",
        )
    try:
        write_json(record, request)
    except OSError as error:
        raise RunFolderError(
            f"--out {folder} cannot be written ({error.strerror})", fix="choose another --out"
        ) from error
    return folder


def _conflicts(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why `now` is not the run `before`, or that run with more in it."""
    reasons = [
        f"{key} was {before['settings'].get(key)!r}, is {value!r}"
        for key, value in now["settings"].items()
        if before["settings"].get(key) != value
    ]
    for kind in ("adapters", "tasks"):
        for name, digest in before[kind].items():
            if now[kind].get(name, digest) != digest:
                reasons.append(f"{kind[:-1]} {name} has other content")
        if not set(before[kind]) <= set(now[kind]):
            gone = sorted(set(before[kind]) - set(now[kind]))
            reasons.append(f"{kind} {', '.join(gone)} are not asked for now")
    return reasons


def _write_documents(folder: Path, task: BuiltTask) -> str:
    """Questions and targets beside the cells, so that a report can show examples."""
    from aurac.evaluation.questions import readable

    path = Path("documents") / f"{task.documents_sha256[:16]}.json"
    write_json(folder / path, readable(task))
    return path.as_posix()


def _results(
    variants: Sequence[Variant],
    built: Sequence[BuiltTask],
    cells: Sequence[PlannedCell],
    failures: Sequence[Failure],
    store: CellStore,
    loaded: LoadedBase,
    chosen: Settings,
) -> dict[str, Any]:
    from aurac import __version__

    where = {(id(c.variant) if c.variant else None, c.rank, c.task.name): c for c in cells}
    why = {failure.cell.identity.key: failure.reason for failure in failures}

    def fetch(
        variant: Variant | None, rank: int, leaf: BuiltTask
    ) -> tuple[dict[str, Any], str] | str:
        cell = where[(id(variant) if variant else None, rank, leaf.name)]
        content = store.get(cell.identity)
        if content is None:
            return why.get(cell.identity.key, "not evaluated")
        return content, f"{store.folder.name}/{store.path(cell.identity).name}"

    tables = [TaskCells(task, fetch) for task in built]
    first = {variant.name: variant for variant in reversed(variants)}
    return {
        "schema": SCHEMA,
        "aurac": __version__,
        "curves": [curve_row(v, cells_of, loaded.name) for cells_of in tables for v in variants],
        "tasks": [task_row(task, _limit(task.group or task.name, chosen)) for task in built],
        "adapters": [
            adapter_row(name, first[name]) for name in dict.fromkeys(v.name for v in variants)
        ],
        "failures": [
            {
                "adapter": f.cell.variant.name if f.cell.variant else None,
                "curve": f.cell.variant.label if f.cell.variant else None,
                "task": f.cell.task.name,
                "rank": f.cell.rank,
                "reason": f.reason,
            }
            for f in failures
        ],
    }


def _provenance(
    loaded: LoadedBase,
    chosen: Settings,
    command: str | None,
    started: float,
    request: dict[str, Any],
) -> dict[str, Any]:
    finished = time.time()

    def stamp(seconds: float) -> str:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.timezone.utc)
        return moment.isoformat(timespec="seconds")

    return {
        "command": command,
        "started": stamp(started),
        "finished": stamp(finished),
        "seconds": round(finished - started, 1),
        "seed": chosen.seed,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "base": {"name": loaded.name, "sha256": loaded.sha256},
        "versions": versions(),
        "machine": {**machine(), **_device(loaded.device)},
        "settings": {
            "ranks": chosen.ranks if isinstance(chosen.ranks, str) else list(chosen.ranks),
            "basis": list(chosen.basis),
            "rescale": list(chosen.rescale) if chosen.rescale else None,
            "num_fewshot": chosen.num_fewshot,
            "fewshot": chosen.fewshot,
            "limit": chosen.limit,
            "split": chosen.split,
            "chat_template": chosen.chat_template,
            "data": {task: Path(folder).name for task, folder in chosen.data.items()},
            "batching": request["settings"]["batching"],
        },
    }


def _device(device: str) -> dict[str, Any]:
    import torch

    described: dict[str, Any] = {"device": device, "threads": torch.get_num_threads()}
    if device.startswith("cuda"):
        described["gpu"] = torch.cuda.get_device_name(device)
    return described
