"""Numbers from files: a path → curves, whichever of the known kinds it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.curves.metrics import asked_metrics
from aurac.errors import DataError

if TYPE_CHECKING:
    from aurac.curves.curve import Curve


def read_curves(
    path: str | Path,
    metric: str | Mapping[str, str] | None = None,
    cluster: Mapping[str, str] | None = None,
) -> list[Curve]:
    """Curves of a table, of a folder of lm-eval's sample logs, or of a run folder.

    Args:
        path: A .csv, .parquet or .jsonl table (columns ``adapter, task, rank, example, score[,
            seed, cluster, metric, sample]``, or ``rank, accuracy[, adapter, task]``, both with
            ``basis, rescale, bytes, trained_rank`` where known); a folder that has a folder
            ``rank_N`` with ``samples_*.jsonl`` for each rank; or a run folder, an adapter's default
            cut first.
        metric: Where the source holds several: ``[TASK=]NAME[,FILTER]``, or task → such.
        cluster: Of sample logs, task ("" for all) → field of its examples that clusters them.

    Raises:
        DataError: Not there, of an unknown kind, empty, or with unusable content.
        RunFolderError: A run folder that cannot be read.
    """
    path, asked = Path(path).expanduser(), asked_metrics(metric)
    if not path.exists():
        raise DataError(f"There is no {path}.")
    if path.is_dir() and not (path / "run.json").is_file():
        from aurac.readers.lm_eval_logs import read_samples

        return read_samples(path, asked, cluster or {})
    if cluster:
        raise DataError(f"{path} names its clusters itself; a field is only for sample logs.")
    if path.is_dir():
        from aurac.records.run import read_run

        if asked:
            raise DataError(f"{path} is a run: compare with another --metric into another folder.")
        return list(read_run(path).curves)
    from aurac.readers.table import read_table

    return read_table(path, asked)
