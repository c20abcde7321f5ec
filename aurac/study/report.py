"""The reports of a study: one for each part, with the seeds of each recipe as one row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from aurac.study.design import Cut, Part, Planned, Study
from aurac.study.work import RUN, Work

if TYPE_CHECKING:
    from aurac.analysis import Analysis
    from aurac.analysis.schema import Key
    from aurac.records.run import StoredRun


def report(
    work: Work, part: Part, adapters: list[Planned], own: dict[str, Cut], parts: int
) -> tuple[StoredRun, Analysis] | None:
    """Analyse what is stored of a part and write its report; None where nothing is.

    Args:
        work: The study.
        part: Of the study.
        adapters: Those of the part.
        own: Recipe → its own cut, where a search chose one.
        parts: How many parts share the family of primary comparisons.
    """
    from aurac.analysis import Question, analyse
    from aurac.show import write_report

    if (run := work.stored(part, RUN)) is None:
        return None
    study, view = work.study, named(run, work, adapters, own)
    there = {adapter.name for adapter in view.adapters}
    groups: dict[str, list[str]] = {}
    for adapter in adapters:
        if adapter.name in there and adapter.name not in groups.get(adapter.group, ()):
            groups.setdefault(adapter.group, []).append(adapter.name)
    asked = Question(margin=study.margin, reference=study.reference, groups=groups)
    analysis, primary = analyse(view.curves, asked), None
    if pairs := primaries(study, view, groups, own):
        family = parts * len(study.primary)
        primary = analyse(view.curves, replace(asked, pairs=pairs, family=family))
    write_report(view, analysis, work.out / part.name, study.labels, study.question, primary)
    return view, analysis


def named(run: StoredRun, work: Work, adapters: list[Planned], own: dict[str, Cut]) -> StoredRun:
    """A run with the study's names of adapters and no other cuts, each adapter's own cut first.

    Recipes that were found to be the same share their adapters, which then stand under both names.
    """
    from aurac.records.run import StoredRun

    infos, cuts = {info.name: info for info in run.manifest.adapters}, []
    mine = {}
    for adapter in adapters:
        stored = adapter.stored(run, work.limit(adapter, RUN))
        if stored is None:
            continue
        mine[adapter.name] = structs.replace(infos[stored], name=adapter.name)
        first = own.get(adapter.group, next(iter(adapter.cuts), None))
        wanted = [
            structs.replace(
                cut, adapter=adapter.name, cells={adapter.task: cut.cells[adapter.task]}
            )
            for cut in run.manifest.cuts
            if cut.adapter == stored
            and adapter.task in cut.cells
            and (not adapter.cuts or (cut.basis, cut.rescale) in adapter.cuts)
        ]
        cuts += sorted(wanted, key=lambda cut: (cut.basis, cut.rescale) != first)
    manifest = structs.replace(run.manifest, adapters=list(mine.values()), cuts=cuts)
    return StoredRun(run.folder, manifest, run.store)


def primaries(
    study: Study, run: StoredRun, groups: dict[str, list[str]], own: dict[str, Cut]
) -> tuple[tuple[Key, Key], ...]:
    """The declared comparisons of recipes that are there, as rows of the analysis."""
    from aurac.analysis.schema import Key

    def key(group: str, cut: Cut | None) -> Key | None:
        has = [
            (c.basis, c.rescale) for c in run.manifest.cuts if c.adapter in groups.get(group, ())
        ]
        wanted = cut if cut in has else own.get(group, next(iter(has), None))
        return Key(group, *wanted) if wanted in has and wanted else None

    pairs = ((key(pair.a, pair.cut), key(pair.b, pair.cut)) for pair in study.primary)
    return tuple((a, b) for a, b in pairs if a and b)
