"""Numbers from files: a path → curves, whichever of the known kinds it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aurac.curves.checks import whole_rank
from aurac.curves.curve import Curve
from aurac.curves.metrics import asked_metrics
from aurac.errors import CurveError, DataError


def curves_of(source: Any) -> list[Curve]:
    """The curves of what `aurac.score` and `aurac.analyse` take.

    Args:
        source: A curve; a mapping rank -> accuracy or rank -> scores; a DataFrame with the columns
            of a table, or a path, as `read_curves` takes them; a run; a list of these, or a mapping
            from adapters' names to any of these but a list.

    Raises:
        CurveError: It is none of these.
        DataError: A file or a table that cannot be read.
    """
    if isinstance(source, (str, Path)):
        return read_curves(source)
    if hasattr(source, "columns"):
        from aurac.readers.table import curves_from_frame

        return curves_from_frame(source)
    source = getattr(source, "curves", source)  # of a run
    if isinstance(source, Mapping) and source and all(map(_is_source, source.values())):
        named = [(name, curve) for name, each in source.items() for curve in curves_of(each)]
        return [replace(curve, adapter=str(name)) for name, curve in named]
    if isinstance(source, Curve):
        return [source]
    if isinstance(source, Mapping):
        return [_of_mapping(source)]
    if not isinstance(source, Iterable):
        raise CurveError(
            f"A value of type {type(source).__name__} is no curve: give a mapping rank -> accuracy "
            "or rank -> scores, a DataFrame with columns rank and accuracy, or rank, example and "
            "score, a path, or a run."
        )
    return [curve for each in source for curve in curves_of(each)]


def _is_source(value: Any) -> bool:
    """Whether it has curves of its own, and is neither an accuracy nor a row of scores."""
    known = isinstance(value, (Curve, Mapping, str, Path))
    return known or hasattr(value, "columns") or hasattr(value, "curves")


def _of_mapping(source: Mapping[Any, Any]) -> Curve:
    """The curve of rank -> accuracy or rank -> (n,) scores; rank 0 is the base model."""
    rows = {whole_rank(rank): row for rank, row in source.items()}
    if len(rows) < len(source):
        raise CurveError("A rank appears twice.")
    base = rows.pop(0, None)
    if rows and all(np.iterable(row) and not isinstance(row, str) for row in rows.values()):
        return Curve.from_outcomes(rows, [*rows.values()], base_scores=base)
    return Curve(tuple(rows), tuple(rows.values()), baseline=base)


def read_curves(
    path: str | Path,
    metric: str | Iterable[str] | Mapping[str, str] | None = None,
    cluster: Mapping[str, str] | None = None,
) -> list[Curve]:
    """Curves of a table, of lm-eval's sample logs, or of a run folder.

    Args:
        path: A .csv, .parquet or .jsonl table (columns ``adapter, task, rank, example, score[,
            seed, cluster, metric, sample]``, or ``rank, accuracy[, adapter, task]``, both with
            ``basis, rescale, bytes, trained_rank`` where known); a folder that has a folder
            ``rank_N`` with ``samples_*.jsonl`` for each rank; or a run folder or that of a report
            or study, an adapter's default cut first.
        metric: Where the source holds several: ``[TASK=]NAME[,FILTER]``, or task → such.
        cluster: Of sample logs and runs, task → field of its examples that clusters them; in
            sample logs "" stands for all tasks.

    Raises:
        DataError: Not there, of an unknown kind, empty, or with unusable content.
        RunFolderError: A run folder that cannot be read.
    """
    path, asked = Path(path).expanduser(), asked_metrics(metric)
    if not path.exists():
        raise DataError(f"There is no {path}.")
    from aurac.records.run import is_run, read_run

    if is_run(path):
        run = read_run(path)
        given = {"metrics": run.named(asked), "clusters": dict(cluster or {})}
        changes = {name: value for name, value in given.items() if value}
        return list(run.under(run.question.but(**changes)).curves)
    if path.is_dir():
        from aurac.readers.lm_eval_logs import read_samples

        return read_samples(path, asked, cluster or {})
    if cluster:
        raise DataError(f"{path} has a column for clusters; a field is for logs and runs.")
    from aurac.readers.table import read_table

    return read_table(path, asked)
