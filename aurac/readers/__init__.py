"""Numbers from files: a path → curves, whichever of the known kinds it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.arguments import keywords, path_of
from aurac.curves.metrics import WantedMetrics
from aurac.errors import DataError
from aurac.files import did_you_mean
from aurac.readers.data_files import TABLES
from aurac.records.results_file import LOG_SAMPLES, REQUEST_FILE, RESULTS_FILE, is_run, run_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.curves.curve import Curve
    from aurac.records.decisions import Declaration


@dataclass(frozen=True)
class Curves:
    """What was read."""

    curves: Sequence[Curve]  # in the order of the source; default truncations before others
    kind: str  # "documents", "points", "samples" or "run"
    # name → adapters that the source records as seeds of one recipe
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    primary: Declaration | None = None


@keywords()
def read_curves(
    path: str | Path,
    metric: str | Mapping[str, str] | WantedMetrics | None = None,
    cluster: Mapping[str, str] | None = None,
) -> Curves:
    """Read curves from a table, a folder of lm-eval sample logs, or a run folder.

    Args:
        path: A .csv, .parquet or .jsonl table (columns ``adapter, task, rank, doc_id, score[, seed,
            cluster, stratum, metric, sample]``, or ``rank, accuracy[, adapter, task]``, either with
            ``parameters, bytes`` for a budget as the axis); a folder with one folder of
            ``samples_*.jsonl`` per rank; or a folder with ``results.json``.
        metric: Where the source holds several: ``name,filter`` or a name, or task → such (see
            `WantedMetrics`, whose `check` is left to who gives one).
        cluster: Task ("" for all) → field of its documents in sample logs by which they are
            clustered. A table says it in a column, a run folder by itself.

    Raises:
        DataError: Not there, of an unknown kind, empty, too large, or with unusable content.
        RunFolderError: A run folder that cannot be read.
        UsageError: Something else than a path.
    """
    expected = "a run folder, a table or lm-eval's sample logs"
    path = path_of(path, expected)
    if not path.exists():
        fix = did_you_mean(path, _is_readable)
        raise DataError(f"{path} does not exist", expected=expected, fix=fix)
    wanted = metric if isinstance(metric, WantedMetrics) else WantedMetrics(metric)
    read = _read(path, wanted, cluster or {})
    if wanted is not metric:
        wanted.check()
    return read


def _is_readable(path: Path) -> bool:
    table = path.suffix.lower() in TABLES and path.is_file()
    return table or is_run(run_folder(path)) or any(path.rglob("samples_*.jsonl"))


def _read(path: Path, wanted: WantedMetrics, cluster: Mapping[str, str]) -> Curves:
    if path.is_dir() or path.name == "results.json":
        return _read_folder(path if path.is_dir() else path.parent, wanted, cluster)
    if cluster:
        raise _no_cluster(path, "a table has a column named cluster")
    if path.suffix.lower() not in TABLES:
        raise DataError(
            f"{path} is no table",
            expected=f"a file ending in {', '.join(TABLES)}, sample logs, or a run folder",
            fix=LOG_SAMPLES if path.suffix == ".json" else None,
        )
    from aurac.readers.table import read_table

    return Curves(*read_table(path, wanted))


def _no_cluster(path: Path, instead: str) -> DataError:
    return DataError(
        f"a cluster field for {path}", expected="one for sample logs only", fix=instead
    )


def _read_folder(path: Path, wanted: WantedMetrics, cluster: Mapping[str, str]) -> Curves:
    if any((path / name).is_file() for name in (RESULTS_FILE, REQUEST_FILE, "cells.tar.xz")):
        if cluster:
            raise _no_cluster(path, "run the same `aurac compare` again with --cluster")
        from aurac.records.reader import read_run
        from aurac.records.results_file import Results

        curves, groups = read_run(path, wanted)
        results = Results.read(path)
        return Curves(curves, "run", groups, results.primary or None)
    from aurac.readers.lm_eval_logs import read_samples

    return Curves(read_samples(path, wanted, cluster), "samples")
