"""Rows of tables: numbers become text here, and fractions become percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aurac.report.content import Cell, Column, Table
from aurac.report.model import area, ordered

if TYPE_CHECKING:
    from aurac.report.comparisons import Difference, Group, RankGap, Rival
    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow, Interval
    from aurac.stats import NonInferiorRank, RankTest


NONE = "–"
_MAX_RANK_COLUMNS = 12
_MAX_ITEM_COLUMNS = 4


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent without its sign; a dash when it is not known."""
    if value is None:
        return NONE
    text = f"{100 * value:.{digits}f}"
    return text.lstrip("-") if not float(text) else text


def interval(area: Interval | None) -> str:
    """A value in percent with its interval in brackets."""
    if area is None:
        return NONE
    if area.low is None or area.high is None:
        return percent(area.value)
    return f"{percent(area.value)} [{percent(area.low)}, {percent(area.high)}]"


def count(number: float | None) -> str:
    """A whole number with thin groups of three."""
    return NONE if number is None else f"{number:,.0f}".replace(",", " ")


def size(number: float | None) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    if number is None:
        return NONE
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step:
            return (
                f"{number / step:.3g} {unit}"
                if number < 1000 * step
                else f"{number / step:.0f} {unit}"
            )
    return f"{number:.0f} B"


def aurac_table(task: str, curves: Sequence[CurveRow], name: str) -> Table:
    """The headline table of one task: log2 with its interval, linear and mean."""
    rows = ordered(curves)
    scored = [area(c) for c in rows if c.log2 and c.is_default]
    best = max(scored) if len(scored) > 1 else None
    columns = (
        Column("adapter"),
        Column("method"),
        Column("inference"),
        Column("ranks"),
        Column("log2 [95 %]", numeric=True),
        Column("linear [95 %]", numeric=True),
        Column("mean", numeric=True),
        Column("base", numeric=True),
    )
    metric = ", ".join(dict.fromkeys(c.metric for c in rows))
    counts = ", ".join(dict.fromkeys(count(c.n_docs) for c in rows if c.n_docs))
    caption = (
        f"{task}: AURAC in percent, largest first; integrated metric {metric}"
        f"{f', {counts} documents' if counts else ''}. Inference names the basis (how the adapter "
        f"is cut to a rank) and the rescale (how it is scaled there).{_over_seeds(rows)}"
    )
    return Table(name, caption, columns, tuple(_aurac_row(c, best) for c in rows))


def _over_seeds(curves: Sequence[CurveRow]) -> str:
    if not any(curve.members for curve in curves):
        return ""
    counts = "; ".join(f"{c.label}: {c.seeds} seeds" for c in curves if c.members)
    return f" Means over training seeds ({counts}), with intervals over documents and seeds."


def _aurac_row(curve: CurveRow, best: float | None) -> tuple[Cell, ...]:
    log2 = curve.log2.value if curve.log2 else None
    leads = curve.is_default and log2 is not None and log2 == best
    score = interval(curve.log2)
    return (
        Cell(curve.adapter),
        Cell(curve.method or "not recorded"),
        Cell(inference(curve)),
        Cell(rank_range(curve)),
        Cell(score, log2, best=leads),
        Cell(interval(curve.linear), curve.linear.value if curve.linear else None),
        Cell(percent(curve.mean), curve.mean),
        Cell(percent(curve.baseline), curve.baseline),
    )


def inference(curve: CurveRow) -> str:
    """Basis and rescale, and whether that is the published inference of a nested adapter."""
    published = " (published)" if curve.role == "published" else ""
    return f"{curve.basis}, {curve.rescale}{published}"


def rank_range(curve: CurveRow) -> str:
    """The ranks of a curve in few characters."""
    if not curve.ranks:
        return "none"
    if len(curve.ranks) <= 2:
        return ", ".join(map(str, curve.ranks))
    return f"{curve.ranks[0]}–{curve.ranks[-1]} ({len(curve.ranks)})"


def rank_table(task: str, curves: Sequence[CurveRow], name: str) -> Table:
    """Accuracy at every rank, one row for each curve; a missing rank is a dash."""
    ranks = sorted({rank for curve in curves for rank in (*curve.ranks, *curve.missing)})
    shown = ranks if len(ranks) <= _MAX_RANK_COLUMNS else _some(ranks)
    titles = ("base", *(f"r = {rank}" for rank in shown))
    columns = (Column("curve"), *(Column(title, numeric=True) for title in titles))
    rows = []
    for curve in ordered(curves):
        known = dict(zip(curve.ranks, curve.accuracy, strict=True))
        cells = [Cell(percent(known.get(rank)), known.get(rank)) for rank in shown]
        base = Cell(percent(curve.baseline), curve.baseline)
        rows.append((Cell(curve.label), base, *cells))
    left = "" if shown == ranks else f" {len(ranks) - len(shown)} ranks more are in points.csv."
    caption = f"{task}: accuracy in percent at each rank; rank 0 is the base model.{left}"
    return Table(name, caption, columns, tuple(rows))


def _some(ranks: Sequence[int]) -> list[int]:
    last = len(ranks) - 1
    picked = {round(i * last / (_MAX_RANK_COLUMNS - 1)) for i in range(_MAX_RANK_COLUMNS)}
    powers = [rank for rank in ranks if rank & (rank - 1) == 0 or rank == ranks[-1]]
    if 4 <= len(powers) <= _MAX_RANK_COLUMNS:
        return powers
    return [ranks[i] for i in sorted(picked)]


def weight_table(curves: Sequence[CurveRow], name: str) -> Table | None:
    """What each rank weighs in the areas; one row for each grid and axis."""
    rows: dict[tuple[Any, ...], tuple[Cell, ...]] = {}
    ranks = sorted({rank for curve in curves for rank in curve.ranks})
    if not 3 <= len(ranks) <= _MAX_RANK_COLUMNS:  # two ranks weigh the same, whatever the axis
        return None
    several = len({curve.ranks for curve in curves if curve.weights}) > 1
    for curve in curves:
        for axis, weights in curve.weights.items():
            if len(weights) != len(curve.ranks):
                continue
            known = dict(zip(curve.ranks, weights, strict=True))
            cells = [Cell(percent(known.get(rank)), known.get(rank)) for rank in ranks]
            where = f"{axis}, ranks {rank_range(curve)}" if several else axis
            rows[axis, curve.ranks] = (Cell(where), *cells)
    if not rows:
        return None
    columns = (Column("axis"), *(Column(f"r = {rank}", numeric=True) for rank in ranks))
    caption = "Weight of each rank in the area, in percent; a row adds up to 100."
    return Table(name, caption, columns, tuple(rows.values()))


def cost_table(task: str, curves: Sequence[CurveRow], name: str) -> Table | None:
    """Parameters and bytes with the accuracy there: a row for each rank where all cost the same."""
    first = curves[0]
    if all((c.ranks, c.parameters, c.bytes) == _costs(first) for c in curves):
        return _shared_costs(task, ordered(curves), name)
    rows = []
    for curve in ordered(curves):
        last = len(curve.ranks) - 1
        for at in sorted({0, (last + 1) // 2, last}) if curve.ranks else []:
            if curve.parameters[at] is None and curve.bytes[at] is None:
                continue
            rows.append(
                (
                    Cell(curve.label),
                    Cell(str(curve.ranks[at]), curve.ranks[at]),
                    Cell(count(curve.parameters[at]), curve.parameters[at]),
                    Cell(size(curve.bytes[at]), curve.bytes[at]),
                    Cell(percent(curve.accuracy[at]), curve.accuracy[at]),
                )
            )
    if not rows:
        return None
    titles = ("rank", "parameters", "size", "accuracy (%)")
    columns = (Column("curve"), *(Column(title, numeric=True) for title in titles))
    caption = f"{task}: what the adapter costs at its lowest, middle and highest rank."
    return Table(name, caption, columns, tuple(rows))


def _costs(curve: CurveRow) -> tuple[object, ...]:
    return curve.ranks, curve.parameters, curve.bytes


def _shared_costs(task: str, curves: Sequence[CurveRow], name: str) -> Table:
    first = curves[0]
    rows = tuple(
        (
            Cell(str(rank), rank),
            Cell(count(first.parameters[at]), first.parameters[at]),
            Cell(size(first.bytes[at]), first.bytes[at]),
            *(Cell(percent(curve.accuracy[at]), curve.accuracy[at]) for curve in curves),
        )
        for at, rank in enumerate(first.ranks)
    )
    columns = [Column("rank"), Column("parameters", numeric=True), Column("size", numeric=True)]
    columns += [Column(curve.label, numeric=True) for curve in curves]
    caption = f"{task}: what an adapter costs at each rank, and the accuracy there in percent."
    return Table(name, caption, tuple(columns), rows)


def change_table(task: str, changes: Sequence[Changes], name: str) -> Table:
    """Documents gained and lost, one row for each step of each curve."""
    rows = tuple(
        (
            Cell(item.label),
            Cell(f"{a} → {b}", step.upper),
            Cell(str(step.gained), step.gained),
            Cell(str(step.lost), step.lost),
            Cell(f"{step.gained - step.lost:+d}", step.gained - step.lost),
            Cell(percent((step.gained + step.lost) / item.n_docs), step.gained + step.lost),
        )
        for item in changes
        for step, (a, b) in zip(item.steps, item.pairs, strict=True)
    )
    titles = ("step", "gained", "lost", "net", "changed (%)")
    columns = (Column("curve"), *(Column(title, numeric=True) for title in titles))
    caption = f"{task}: documents whose score rose or fell against the next lower rank."
    return Table(name, caption, columns, rows)


def end_table(found: Sequence[Changes], name: str) -> Table:
    """Documents gained and lost from the lowest to the highest rank, one row for each curve."""
    rows = tuple(
        (
            Cell(item.task),
            Cell(item.label),
            Cell(" → ".join(item.pairs[0])),
            Cell(str(item.steps[0].gained), item.steps[0].gained),
            Cell(str(item.steps[0].lost), item.steps[0].lost),
            Cell(str(item.n_docs), item.n_docs),
        )
        for item in found
    )
    columns = (
        Column("task"),
        Column("curve"),
        Column("ranks"),
        *(Column(title, numeric=True) for title in ("gained", "lost", "documents")),
    )
    caption = "Documents that the leading curve of each task gains and loses with the rank."
    return Table(name, caption, columns, rows)


def settings_table(pairs: Mapping[str, Any], name: str, caption: str) -> Table:
    """Two columns: what, and its value."""
    rows = tuple((Cell(what), Cell(entry(value))) for what, value in pairs.items())
    return Table(name, caption, (Column("what"), Column("value")), rows)


def listing(
    name: str, caption: str, keys: Mapping[str, str], items: Sequence[Mapping[str, Any]]
) -> Table:
    """What is known about each item: a column for each of a few items, else a row for each.

    Args:
        name: Of the table.
        caption: Of the table.
        keys: Title to key of an item; the first one names the item. Keys that no item has are
            left out.
        items: Mappings from `results.json`.
    """
    used = {title: key for title, key in keys.items() if any(known(i.get(key)) for i in items)}
    titles = list(used)
    columns = [[entry(item.get(key)) for item in items] for key in used.values()]
    if len(items) <= _MAX_ITEM_COLUMNS:
        head, body = (titles[0], *columns[0]), zip(titles[1:], columns[1:], strict=True)
        rows = tuple((Cell(title), *map(Cell, values)) for title, values in body)
        return Table(name, caption, tuple(map(Column, head)), rows)
    rows = tuple(tuple(map(Cell, row)) for row in zip(*columns, strict=True))
    return Table(name, caption, tuple(map(Column, titles)), rows)


def known(value: Any) -> bool:
    """Whether a value of `results.json` says anything."""
    return value is not None and value not in ("", [], {})


def entry(value: Any) -> str:
    """A value of `results.json` as text; a dash where there is none."""
    return plain(value) if known(value) else NONE


def plain(value: Any) -> str:
    """A value of `results.json` as a reader would write it."""
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def points(delta: float) -> str:
    """A tolerance in words."""
    return f"{100 * delta:g} point{'' if delta == 0.01 else 's'}"


def difference_table(task: str, found: Sequence[Difference], name: str) -> Table:
    """One row for each pair, with what the documents could have shown."""
    titles = ("difference [95 %]", "p (Holm)", "detectable", "documents")
    columns = (
        Column("curve"),
        Column("minus"),
        *(Column(title, numeric=True) for title in titles),
        Column("reading"),
    )
    caption = (
        f"{task}: paired differences of AURAC (log2) in points, over the same documents. p is "
        "adjusted (Holm) for every pair of adapters on every task of this run, shown here or not; "
        "between truncations of one adapter, for all those. Detectable: the smallest true "
        "difference that these documents would show four times in five."
    )
    return Table(name, caption, columns, tuple(_difference_row(item) for item in found))


def _difference_row(item: Difference) -> tuple[Cell, ...]:
    return (
        Cell(item.first.label),
        Cell(item.second.label),
        Cell(with_interval(item), item.value),
        Cell(p_value(item.adjusted), item.adjusted),
        Cell(percent(item.detectable), item.detectable),
        Cell(str(item.n_docs), item.n_docs),
        Cell("significant" if item.certain else "not significant"),
    )


def with_interval(item: Difference) -> str:
    """The difference in points with its interval in brackets."""
    if item.low is None or item.high is None:
        return percent(item.value)
    return f"{percent(item.value)} [{percent(item.low)}, {percent(item.high)}]"


def p_value(p: float | None) -> str:
    """A p value in as many digits as it deserves."""
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def loss_table(
    task: str,
    found: Sequence[tuple[CurveRow, NonInferiorRank]],
    joint: Mapping[str, Mapping[int, float]],
    note: str,
    name: str,
) -> Table:
    """What each smaller rank loses against the highest one, and which ranks are non-inferior.

    Args:
        task: Opens the caption.
        found: Curves with their certificates.
        joint: As `aurac.report.certified.joint_bounds`.
        note: Whose margin it is.
        name: Of the table.
    """
    ranks = sorted({test.rank for _, certificate in found for test in certificate.tests})
    rows = []
    for curve, certificate in found:
        at = {test.rank: test for test in certificate.tests}
        cells = [
            _loss_cell(at.get(rank), joint.get(curve.id, {}).get(rank), certificate.margin)
            for rank in ranks
        ]
        rows.append((Cell(curve.label), Cell(str(certificate.reference)), *cells))
    columns = (
        Column("curve"),
        Column("against rank"),
        *(Column(f"r = {rank}", numeric=True) for rank in ranks),
    )
    caption = (
        f"{task}: accuracy lost against the highest rank, in points over the same documents, and "
        "in brackets an upper bound on that loss; all bounds of the table hold together with 95 % "
        f"confidence. In bold: non-inferior at a margin of {points(found[0][1].margin)} (one-sided "
        "paired tests downward from the highest rank, with an error of 5 % for each curve alone, "
        f"at most {min(100, 5 * len(found))} % for some curve of the table). {note}"
    )
    return Table(name, caption, columns, tuple(rows))


def _loss_cell(step: RankTest | None, bound: float | None, delta: float) -> Cell:
    if step is None:
        return Cell(NONE)
    if step.margin_needed >= 1.0:  # from too few seeds nothing follows for another one
        return Cell(percent(step.loss), step.loss)
    upper = NONE if bound is None or bound >= 1.0 else percent(bound)
    text = f"{percent(step.loss)} ({upper})"
    return Cell(text, step.loss, best=step.margin_needed < delta)


def rival_table(task: str, found: Sequence[Rival], name: str) -> Table:
    """The areas of both ways and their paired difference, one row for each pair."""
    rows = tuple(_rival_row(item) for item in found)
    columns = (
        Column("adapter"),
        Column("prefix [95 %]", numeric=True),
        Column("svd [95 %]", numeric=True),
        Column("difference [95 %]", numeric=True),
        Column("p (Holm)", numeric=True),
        Column("detectable", numeric=True),
        Column("reading"),
    )
    caption = (
        f"{task}: the same adapter cut to its first components (prefix) and by SVD, each with its "
        "rescale: AURAC (log2) in percent, prefix minus svd in points over the same documents. "
        "p is adjusted for all the pairs of truncations of this report (Holm)."
    )
    return Table(name, caption, columns, rows)


def _rival_row(item: Rival) -> tuple[Cell, ...]:
    gap = item.difference
    areas = [
        Cell(interval(c.log2), c.log2.value if c.log2 else None) for c in (item.prefix, item.svd)
    ]
    lead = (Cell(_pair(item)), *areas)
    if gap is None:
        return (*lead, Cell(NONE), Cell(NONE), Cell(NONE), Cell("not paired"))
    if not gap.certain:
        reading = "not significant"
    else:
        reading = "prefix is better" if gap.value > 0 else "svd is better"
    return (
        *lead,
        Cell(with_interval(gap), gap.value),
        Cell(p_value(gap.adjusted), gap.adjusted),
        Cell(percent(gap.detectable), gap.detectable),
        Cell(reading),
    )


def _pair(item: Rival) -> str:
    return f"{item.prefix.adapter}, {item.prefix.rescale} against {item.svd.rescale}"


def gap_table(task: str, found: Sequence[Rival], name: str) -> Table | None:
    """Prefix minus SVD at every rank."""
    ranks = sorted({gap.rank for item in found for gap in item.gaps})
    if not ranks:
        return None
    rows = []
    for item in found:
        at = {gap.rank: gap for gap in item.gaps}
        cells = [_gap_cell(at.get(rank)) for rank in ranks]
        rows.append((Cell(_pair(item)), *cells))
    columns = (Column("adapter"), *(Column(f"r = {rank}", numeric=True) for rank in ranks))
    caption = (
        f"{task}: accuracy of the prefix minus that of the SVD at each rank, in points with "
        "pointwise 95 % intervals over the same documents; not adjusted for the number of ranks."
    )
    return Table(name, caption, columns, tuple(rows))


def _gap_cell(gap: RankGap | None) -> Cell:
    if gap is None:
        return Cell(NONE)
    if gap.low is None or gap.high is None:
        return Cell(percent(gap.value), gap.value)
    return Cell(f"{percent(gap.value)} [{percent(gap.low)}, {percent(gap.high)}]", gap.value)


SHOWN = 60


def group_table(task: str, found: Sequence[Group], name: str) -> Table:
    """One row for each group, one column for each curve."""
    curves = list({group.curve.id: group.curve for group in found}.values())
    names = list(dict.fromkeys(group.name for group in found))
    at = {(group.name, group.curve.id): group for group in found}
    rows = []
    for row in names[:SHOWN]:
        first = at[row, curves[0].id]
        cells = [at[row, curve.id] for curve in curves]
        rows.append(
            (
                Cell(row),
                Cell(str(first.n_docs), first.n_docs),
                Cell(percent(first.baseline), first.baseline),
                *(Cell(interval(group.log2), group.log2.value) for group in cells),
            )
        )
    columns = (
        Column("group"),
        Column("documents", numeric=True),
        Column("base", numeric=True),
        *(Column(curve.label, numeric=True) for curve in curves),
    )
    left = f" {len(names) - SHOWN} more groups are in groups.csv." if len(names) > SHOWN else ""
    caption = (
        f"{task}: AURAC (log2) in percent with 95 % intervals on each group of its documents. The "
        "intervals are not adjusted for the number of groups: with many, some stand out by "
        f"chance.{left}"
    )
    return Table(name, caption, columns, tuple(rows))
