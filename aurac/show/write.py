"""The files of a report, written beside the results they were made from.

Files of numbers hold fractions, and nothing (null) where a number is not known. Text in CSV is kept
from being run as a formula; Parquet has it as it was.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aurac.analysis.combine import merge, pooled
from aurac.analysis.groups import defaults, gather
from aurac.analysis.of_study import study_labels
from aurac.analysis.primary import declaration, declared_pairs
from aurac.analysis.record import ANALYSIS_FILE
from aurac.analysis.rows import fields_of
from aurac.analysis.whole import curves_of
from aurac.arguments import fraction
from aurac.curves.area import check_budgets
from aurac.errors import RunFolderError
from aurac.files import names_in, write_atomic
from aurac.records.decisions import EACH
from aurac.records.results_file import REPORT_FILE, RESULTS_FILE, Results
from aurac.records.run import renamed, stored_run
from aurac.show import model_card, render
from aurac.show.build import Builder
from aurac.show.caveats import lost_documents
from aurac.show.documents import speeds
from aurac.show.escape import unique_slugs
from aurac.show.findings import ordered, tested
from aurac.show.table import Row, as_csv, as_parquet
from aurac.show.tables import paper_table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aurac.analysis.combine import Groups
    from aurac.analysis.rows import PairRow, ScoreRow
    from aurac.curves.area import Span
    from aurac.records.results_file import Area
    from aurac.records.run import CurveRow
    from aurac.show.findings import Findings
    from aurac.stats.mean import Estimate

logger = logging.getLogger(__name__)
FIGURES, CARDS = "figures", "cards"
FAMILIES = {None: "all", False: "primary", True: "exploratory"}
_BY_RANK = ("accuracy", "accuracy_low", "accuracy_high", "parameters", "bytes")
_POINT = (
    *("rank", "accuracy", "accuracy_low", "accuracy_high", "weight_log2", "weight_linear"),
    *("parameters", "bytes", "n_docs", "tokens_per_second", "seconds_per_document", "missing"),
)


def write_report(
    run_folder: Path,
    *more: Path,
    out: Path | None = None,
    groups: Groups | None = None,
    margin: float | None = None,
    axes: Sequence[str] = (),
    primary: Sequence[tuple[str, str]] = (),
    labels: Mapping[str, str] | None = None,
    seeds: bool = False,
) -> list[Path]:
    """Write the report of a run folder, or of several runs that may be compared.

    Makes `report.md`, `report.html`, `figures/` (with PDFs for a paper in `figures/paper/`),
    `table.tex`, for each adapter and cut of it a model card and the hub's evaluation results in
    `cards/`, and the numbers as CSV and Parquet:
    `table` (one row for each curve), `points` (for each curve and rank), `configurations` (what
    margin each would need to be shipped), and where there are any
    `pairs`, `bases` (SVD minus prefix), `losses`, `changes`, `groups` and `serving`. The same
    inputs give the same bytes, and no model is loaded.

    Args:
        run_folder: A folder with `results.json`, and `cells/` where documents were kept.
        *more: Further runs, measured on the same documents with the same prompts and base.
        out: Where to write; the run folder itself when there is a single one.
        groups: ``group name -> adapter names`` that are training seeds of one recipe, beside those
            whose recorded recipes say so.
        margin: The loss against the best configuration, as a fraction, that a smaller
            one may have. Without it the report recommends nothing, and shows the trade-off.
        axes: "parameters", "bytes" or both: AURAC over these as well, in sections and files of
            their own.
        primary: Pairs of names that are the primary comparisons; `*` is each other adapter. By
            default those that the runs record.
        labels: An adapter, a group or a curve as the report names it → what to call it instead, in
            figures, tables and sentences; files of numbers and model cards keep its name. A task
            of a study has the labels of the study.
        seeds: Whether figures show each training seed, thin, beneath the mean.

    Returns:
        The files written, the pages first.

    Raises:
        RunFolderError: a result file is missing or unreadable, the runs cannot be compared,
            several runs were given without `out`, or `out` holds other files.
        UsageError: a margin outside of (0, 1), an axis that is no budget, or labels that name no
            curve or two alike.
        CurveError: a group or a primary comparison of adapters that are not there.
    """
    known = None if margin is None else fraction(margin, "margin")
    axes = check_budgets(axes)
    folders = [Path(run_folder), *map(Path, more)]
    if out is not None:
        _check_place(Path(out), folders)
    if len(folders) > 1 and out is None:
        raise RunFolderError(
            f"{len(folders)} runs without a folder for their report", fix="give --out FOLDER"
        )
    runs = [stored_run(Results.read(folder), folder) for folder in folders]
    target = Path(out) if out is not None else folders[0]
    run = pooled(merge(runs) if len(runs) > 1 else runs[0], groups)
    if primary:
        names = [curve.adapter for curve in run.curves]
        declared = declaration(primary, run.primary, names, {}, finished=True)
        run = replace(run, primary=declared)
        curves, seeds_of = curves_of(run.curves)
        if declared and curves:  # a name that several truncations have is refused
            declared_pairs(declared, *defaults(gather(curves, seeds_of)))
    called = study_labels(folders[0], run.curves) if len(folders) == 1 else {}
    run = replace(run, curves=renamed(run.curves, {**called, **(labels or {})}))
    figures = target / FIGURES
    return _write(Builder(run, figures, known, axes, seeds=seeds), target)


def _check_place(out: Path, runs: Sequence[Path]) -> None:
    """Refuse a folder of other files than those of these runs or of an earlier report."""
    names = {*names_in(out)}
    own = out.resolve() in {run.resolve() for run in runs}
    report = {"report.html", ANALYSIS_FILE} <= names and RESULTS_FILE not in names
    if names and not own and not report:
        raise RunFolderError(
            f"--out {out} holds {'another run' if RESULTS_FILE in names else 'other files'}",
            expected="a new or empty folder, the run itself, or an earlier report",
            fix="give another folder",
        )


def _write(builder: Builder, target: Path) -> list[Path]:
    try:
        (target / FIGURES).mkdir(parents=True, exist_ok=True)
        report = builder.report()
        for line in lost_documents(builder.findings):
            logger.warning("%s", line)
        texts = {
            REPORT_FILE: render.markdown(report),
            "report.html": render.html(report),
            ANALYSIS_FILE: builder.findings.analysis.to_json(),
            "table.tex": render.latex(
                paper_table(builder.findings, task, f"aurac-{slug}")
                for task, slug in builder.slugs.items()
            ),
            **_cards(builder),
        }
        files = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
        for name, rows in _numbers(builder).items():
            if rows:
                files[f"{name}.csv"], files[f"{name}.parquet"] = as_csv(rows), as_parquet(rows)
        for name, content in reversed(files.items()):  # REPORT_FILE last
            write_atomic(target / name, content)
        for old in (target / CARDS).glob(f"*{model_card.RESULTS}"):  # of a whole task no more
            if f"{CARDS}/{old.name}" not in files:
                old.unlink()
    except OSError as error:
        raise RunFolderError(
            f"the report cannot be written to {one_line(target)} ({one_line(error)})",
            fix="give another folder",
        ) from error
    written = [target / name for name in files]
    return [*written[:2], *builder.pictures.files, *written[2:]]


def _cards(builder: Builder) -> dict[str, str]:
    own, cards = builder.findings.own, dict[str, str | None]()
    shown = [(builder.run, adapter) for adapter in builder.run.adapters]
    if not builder.large:  # a checkpoint of one training seed is evidence, not what is published
        alone = {curve.adapter for curve in builder.run.curves if not curve.members}
        kept = [each for each in shown if each[1].name in alone]
        shown += [cut for run, adapter in kept for cut in model_card.cuts(run, adapter)]
    names = unique_slugs([adapter.name for _, adapter in shown])
    for run, adapter in shown:
        name = names[adapter.name]
        cards[f"{name}.md"] = model_card.card(run, adapter, own, brief=builder.large)
        cards[f"{name}{model_card.RESULTS}"] = model_card.eval_results(run, adapter)
    return {f"{CARDS}/{name}": text for name, text in cards.items() if text}


def _numbers(builder: Builder) -> Mapping[str, Sequence[Row]]:
    run, findings = builder.run, builder.findings
    closely = findings.analysis.closely
    means = (curve for task in run.task_names for curve in ordered(run.of_task(task)))
    curves = [row for curve in means for row in (curve, *curve.members)]
    sides = ([findings.row(x.task, x.svd), findings.row(x.task, x.prefix)] for x in closely.bases)
    bases = [pair for svd, prefix in sides if (pair := findings.pair(svd, prefix))]
    budgets = findings.analysis.budgets
    return {
        "table": [_score_row(curve) for curve in curves],
        "points": [row for curve in curves for row in _point_rows(curve)],
        "pairs": [_pair_row(findings, pair) for pair in findings.tested],
        "bases": [_pair_row(findings, pair) for pair in bases],
        "configurations": list(choice_rows(findings)),
        "losses": list(_loss_rows(findings)),
        "changes": list(_change_rows(findings)),
        "groups": list(_group_rows(findings)),
        "serving": [row for record in run.serving for row in record.rows()],
        **{f"table_{b.axis}": [_budget_row(findings, row) for row in b.scores] for b in budgets},
        **{f"pairs_{b.axis}": [_pair_row(findings, p) for p in tested(b.pairs)] for b in budgets},
    }


def _names(curve: CurveRow) -> Row:
    return fields_of(curve, "task adapter basis rescale role metric seeds seed")


def _area(area: Area | Estimate | None, name: str) -> Row:
    ends = {"": "value", "_se": "se", "_low": "low", "_high": "high"}
    return {f"{name}{end}": getattr(area, key, None) for end, key in ends.items()}


def _score_row(curve: CurveRow) -> Row:
    return {
        **_names(curve),
        "method": curve.method,
        "rank_lowest": curve.ranks[0] if curve.ranks else None,
        "rank_highest": curve.ranks[-1] if curve.ranks else None,
        "n_ranks": len(curve.ranks),
        "n_docs": curve.n_docs,
        **_area(curve.log2, "aurac_log2"),
        **_area(curve.linear, "aurac_linear"),
        "mean": curve.mean,
        "base_accuracy": curve.baseline,
        "note": curve.score_reason,
    }


def _budget_row(findings: Findings, row: ScoreRow) -> Row:
    """AURAC over a budget, under its own name, and the range that it is over."""
    names = _names(findings.row(row.task, row.label))
    return {**names, **_area(row.budget, f"aurac_{row.axis}"), **_span(row.span)}


def _span(span: Span | None) -> Row:
    return {} if span is None else {"budget_from": span[0], "budget_to": span[-1]}


def _point_rows(curve: CurveRow) -> list[Row]:
    """One row for each rank, a missing one with its reason; rank 0 is the base."""
    empty: Row = dict.fromkeys(_POINT)
    rows: list[Row] = [{"rank": rank, "missing": why} for rank, why in curve.missing.items()]
    if curve.baseline is not None:
        base = {"rank": 0, "accuracy": curve.baseline, "n_docs": curve.n_docs}
        rows.append({**base, "parameters": 0, "bytes": 0})
    measured = speeds(curve)
    for at, rank in enumerate(curve.ranks):
        speed = measured.get(rank)
        rows.append(
            {
                "rank": rank,
                **{name: getattr(curve, name)[at] for name in _BY_RANK},
                **{f"weight_{axis}": weights[at] for axis, weights in curve.axis_weights.items()},
                "n_docs": curve.n_docs,
                "tokens_per_second": speed.tokens if speed else None,
                "seconds_per_document": speed.seconds if speed else None,
            }
        )
    return [{**_names(curve), **empty, **row} for row in sorted(rows, key=lambda row: row["rank"])]


def _pair_row(findings: Findings, pair: PairRow) -> Row:
    """A paired difference of AURAC, first minus second (`b` and `a` of the analysis)."""
    estimate = cast("Estimate", pair.estimate)
    rows = {"first": findings.row(pair.task, pair.b), "second": findings.row(pair.task, pair.a)}
    return {
        "task": pair.task,
        **{
            f"{end}_{name}": value
            for end, row in rows.items()
            for name, value in fields_of(row, "adapter basis rescale").items()
        },
        "reference": _reference(findings, pair),
        "axis": pair.axis,
        **_span(pair.span),
        "difference": estimate.value,
        **fields_of(estimate, "low high"),
        **fields_of(pair, "p p_holm"),
        "family": FAMILIES[pair.exploratory],
        "family_tests": pair.tests,
        "verdict": findings.names.pair(pair).reading,
        **fields_of(pair, "pairing detectable"),
        "n_docs": pair.n_docs or 0,
        "interval": estimate.method,
    }


def _reference(findings: Findings, pair: PairRow) -> str | None:
    """The side of a primary comparison that was declared as the reference of all others."""
    declared = findings.analysis.primary
    if declared is None or pair.exploratory is not False:
        return None
    names = findings.names
    named = {names.anywhere(first) for first, second in declared.pairs if second == EACH}
    return next((side for side in (pair.a, pair.b) if names.anywhere(side) in named), None)


def choice_rows(findings: Findings) -> Iterator[Row]:
    """One row for each configuration of a task, the smallest first."""
    for choice in findings.choices.values():
        for configuration in choice.configurations:
            yield {
                **fields_of(configuration, "task adapter truncation rank accuracy low high bytes"),
                "above_base": _yes(configuration.above_base),
                "margin_needed": configuration.needed,
                "margin": choice.margin,
                "chosen": _yes(configuration is choice.chosen),
            }


def _yes(shown: bool | None) -> str | None:  # noqa: FBT001
    return None if shown is None else "yes" if shown else "no"


def _loss_rows(findings: Findings) -> Iterator[Row]:
    """One row for each rank of a curve, against the most accurate one of the curve.

    `loss_upper` and `margin_needed` hold at 95 % each by itself, the `loss_upper_joint` of a task
    all together.
    """
    for row in findings.tests.values():
        for step in row.tests:
            yield {
                **_names(findings.row(row.task, row.label)),
                "rank": step.rank,
                "best_rank": row.best,
                "loss": step.loss,
                "loss_upper": step.upper,
                "changed": step.flip_rate,
                "margin_needed": step.margin_needed,
                "loss_upper_joint": step.joint,
                "margin": row.choice.margin,
                "within_margin": _yes(step.passed) if row.choice.margin else None,
            }


def _change_rows(findings: Findings) -> Iterator[Row]:
    for item in (item for task in findings.run.task_names for item in findings.changes(task)):
        for step in item.steps:
            yield {
                "task": item.task,
                "curve": item.label,
                "rank_lower": step.lower,
                "rank_upper": step.upper,
                **fields_of(step, "gained lost"),
                "n_docs": item.n_docs,
            }


def _group_rows(findings: Findings) -> Iterator[Row]:
    """The area, and the accuracy at each rank, of each curve on each group of documents."""
    for group in findings.analysis.closely.strata:
        curve = findings.row(group.task, group.curve)
        ranks: list[int | None] = [None, *curve.ranks]
        for rank, value in zip(ranks, (group.log2, *group.accuracy), strict=True):
            yield {
                **_names(curve),
                "group": group.stratum,
                "n_docs": group.n_docs,
                "rank": rank,
                "measure": "aurac_log2" if rank is None else "accuracy",
                **fields_of(value, "value low high"),
                "base_accuracy": group.baseline,
            }
