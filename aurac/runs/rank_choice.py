"""`--ranks auto`: the powers of two, then the middles of the gaps in which a curve may bend.

The choice is a function of the stored cells alone, round by round, so that an interrupted or
repeated run and all of its processes choose alike. Every adapter is evaluated at the added ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
from msgspec import UNSET

from aurac.adapters import default_nested_ranks
from aurac.analysis.rows import area_record
from aurac.analysis.whole import score_curve
from aurac.curves.curve import Curve
from aurac.curves.display import percent, points
from aurac.records.decisions import GapRecord, RankChoice
from aurac.records.results_file import Area, Results
from aurac.records.store import CellStore
from aurac.runs.results import CellReader
from aurac.runs.session import Session, variants_in
from aurac.runs.status import CellStates
from aurac.stats.gaps import MARGIN, following, gaps, noise_limit

_SHOWN = 6  # areas in a sentence


@dataclass(frozen=True)
class Choice:
    """What the curves so far ask for: ranks to evaluate next, none when the choice is complete.

    `areas`: (curve, task) → AURAC over the powers of two alone, where ranks were added.
    """

    record: RankChoice
    following: tuple[int, ...]
    areas: Mapping[tuple[str, str], Area]

    @property
    def words(self) -> str:
        """For a line on the terminal between two rounds."""
        follow = "follows" if len(self.following) == 1 else "follow"
        return f"{_listed(self.following)} {follow} (--ranks auto)"

    def of(self, results: Results) -> Results:
        """The results of a run whose ranks were chosen so."""
        curves = [
            msgspec.structs.replace(c, score_pow2=self.areas.get((c.id, c.task), UNSET))
            for c in results.curves
        ]
        return msgspec.structs.replace(results, curves=curves, rank_choice=self.record)


def choose(session: Session, reader: CellReader) -> Choice:
    """The ranks that follow, by the stored default curves of the tasks as they were asked for."""
    cut = session.settings.truncation
    margin = MARGIN if cut.margin is None else cut.margin
    curves = dict(_curves(session, reader))
    seen = [(curve, gap) for curve in curves.values() for gap in gaps(curve, len(curves))]
    ranks = following((gap for _, gap in seen), margin)
    widest = {(g.low, g.high): (c, g) for c, g in sorted(seen, key=lambda pair: pair[1].departure)}
    areas = {
        key: area_record(row.log2)
        for key, curve in (curves.items() if cut.added and not ranks else ())
        if (row := score_curve(curve.at(default_nested_ranks(curve.ranks[-1])))).log2 is not None
    }
    records = []
    for (low, high), (curve, gap) in sorted(widest.items()):
        labels = {"adapter": str(curve.adapter), "task": str(curve.task)}
        far, noise = gap.departure, gap.height > margin
        records.append(GapRecord(low=low, high=high, departure=far, noise=noise, **labels))
    limit = noise_limit(max(1, len(curves)))
    record = RankChoice(margin=margin, limit=limit, added=list(cut.added), gaps=records)
    sentences = [_sentence(record)]
    if areas:
        sentences.append(_areas_sentence([(curves[key], area) for key, area in areas.items()]))
    return Choice(msgspec.structs.replace(record, sentences=sentences), ranks, areas)


def further(session: Session, unseen: int = 0) -> int:
    """How many cells may follow in the rounds of `--ranks auto`, with tasks that are not built."""
    if not session.settings.truncation.auto:
        return 0
    leaves = unseen + sum(not task.members for task in session.built)
    return leaves * sum(v.adapter.rank - len(v.ranks) for v in session.variants)


def add_ranks(session: Session, ranks: Sequence[int]) -> None:
    """Evaluate every adapter at these ranks too, as far as it has them."""
    cuts = {name: cut.adding(ranks) for name, cut in session.settings.truncations.items()}
    cut = session.settings.truncation.adding(ranks)
    session.settings = replace(session.settings, truncation=cut, truncations=cuts)
    session.variants = variants_in(session.adapters, session.settings)


def follow(session: Session, store: CellStore) -> bool:
    """Add the ranks of all rounds whose cells are stored; whether the choice is complete."""
    while True:
        cells = session.cells()
        if CellStates.of((cell.row for cell in cells), store).left:
            return False
        ranks = choose(session, CellReader(cells, store)).following
        if not ranks:
            return True
        add_ranks(session, ranks)


def _curves(session: Session, reader: CellReader) -> Iterator[tuple[tuple[str, str], Curve]]:
    """(curve, task) → the curves that are compared; none where a cell failed."""
    for task in session.built:
        for variant in session.variants:
            if task.group is None and variant.role == "default":
                curve, missing = reader.curve(task, variant)
                if curve is not None and not missing:
                    yield (variant.label, task.name), replace(curve, draws=None)


def _sentence(record: RankChoice) -> str:
    added = f"added {_listed(record.added)}" if record.added else "added no rank"
    text = f"--ranks auto (margin {points(record.margin)}) {added} to the powers of two"
    within = [gap for gap in record.gaps if not gap.noise]
    noisy = [gap for gap in record.gaps if gap.noise]
    parts = [
        f"{_between(gaps)} ({how.format(points(max(gap.departure for gap in gaps)))})"
        for gaps, how in (
            (within, "at most {} from a straight line, by the bends of the curves"),
            (noisy, "up to {}, by bends no larger than noise"),
        )
        if gaps
    ]
    return f"{text}; not evaluated: {'; '.join(parts)}." if parts else f"{text}."


def _areas_sentence(areas: Sequence[tuple[Curve, Area]]) -> str:
    """To compare with runs at the powers of two: the same curve on other ranks is another area."""
    shown = [f"{percent(area.value)} % ({curve.adapter} on {curve.task})" for curve, area in areas]
    more = f" and {len(shown) - _SHOWN} more in results.json" if len(shown) > _SHOWN else ""
    return f"Over the powers of two alone AURAC is {', '.join(shown[:_SHOWN])}{more}."


def _listed(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _between(gaps: Sequence[GapRecord]) -> str:
    ends = [(gap.low + 1, gap.high - 1) for gap in gaps]
    return ", ".join(f"{low}" if low == high else f"{low}–{high}" for low, high in ends)
