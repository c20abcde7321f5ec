"""Primary comparisons: what was declared, when, and which pairs of an analysis it means.

Holm over a few declared pairs leaves each of them more power than Holm over all pairs. That holds
for what was declared before the outcomes were known; so a declaration says when it was made.
"""

from __future__ import annotations

import logging
import re
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.analysis.groups import check_groups, find_groups
from aurac.arguments import several
from aurac.curves.metrics import WantedMetrics
from aurac.errors import CurveError
from aurac.readers import Curves, read_curves
from aurac.records.decisions import AFTER, EACH, Declaration
from aurac.records.reader import regrouped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from aurac.analysis.groups import RecipeGroup
    from aurac.curves.curve import Curve

logger = logging.getLogger(__name__)
_COMMA = re.compile(r",(?![^()]*\))")


def parse_pairs(texts: Iterable[str], references: Iterable[str] = ()) -> list[tuple[str, str]]:
    """``A,B`` of `--primary` and ``A`` of `--reference` as pairs, each once.

    ``lora·svd`` is ``lora · svd``, as labels are written; a comma in parentheses is of the name.

    Raises:
        CurveError: A text that does not name two.
    """
    pairs = []
    for text in texts:
        names = tuple(map(_spaced, _COMMA.split(text)))
        if len(names) != 2 or not all(names):
            raise CurveError(f"--primary {text!r}", expected="--primary A,B: two names")
        pairs.append((names[0], names[1]))
    return list(dict.fromkeys([*pairs, *((_spaced(name), EACH) for name in references)]))


def _spaced(name: str) -> str:
    return " · ".join(part.strip() for part in name.split("·"))


def pairs_of(given: object) -> list[tuple[str, str]]:
    """Pairs of names from what Python callers write: ``"a,b"``, ``("a", "b")``, or several.

    Raises:
        CurveError: Something that does not name two.
    """
    rows = (given,) if isinstance(given, str) else several(given)
    if len(rows) == 2 and all(isinstance(row, str) and not _COMMA.search(row) for row in rows):
        rows = (rows,)
    pairs = []
    for row in rows:
        names = parse_pairs([row])[0] if isinstance(row, str) else tuple(map(str, several(row)))
        if len(names) != 2:
            raise CurveError(f"primary={row!r}", expected="two names, such as 'lora,matryoshka'")
        pairs.append((names[0], names[1]))
    return pairs


def declared_as(given: object) -> Declaration | None:
    """What the options of an analysis declare: a declaration itself, or what `pairs_of` takes."""
    if given is None or isinstance(given, Declaration):
        return given
    pairs = pairs_of(given)
    return Declaration(pairs=pairs, declared="when the analysis was asked for") if pairs else None


def check_pairs(pairs: Iterable[Sequence[str]], known: Iterable[str]) -> None:
    """Refuse names that no adapter or group has, and pairs of one name with itself."""
    names = list(dict.fromkeys(known))
    for a, b in pairs:
        for name in (a, b) if b != EACH else (a,):
            if not _known(name, names):
                raise CurveError(
                    f"a primary comparison of {name!r}",
                    expected=f"one of {', '.join(names)}, or a truncation: NAME (SVD)",
                )
        if a == b:
            raise CurveError(f"a primary comparison of {a!r} with itself", expected="two names")


def declaration(
    given: Sequence[tuple[str, str]],
    stored: Declaration | None,
    adapters: Iterable[str | None],
    groups: Mapping[str, Sequence[str]],
    *,
    finished: bool,
) -> Declaration | None:
    """What counts as declared where curves are read: what is given now, or what a run has stored.

    Of what is stored only what can be compared here is left.

    Args:
        given: Pairs of names; empty: what is stored counts.
        stored: The declaration of the run.
        adapters: Those that are read.
        groups: Name → adapters that are seeds of one recipe.
        finished: Whether the curves are those of a run, which can tell when it was declared.

    Raises:
        CurveError: A given name that no adapter or group has.
    """
    every = [str(adapter) for adapter in adapters]
    grouped = check_groups(groups, every)
    known = [grouped.get(adapter, adapter) for adapter in every]
    if given:
        check_pairs(given, known)
        if stored is not None and {*map(frozenset, stored.pairs)} == {*map(frozenset, given)}:
            return stored
        return Declaration(pairs=[*given], **({"declared": AFTER} if finished else {}))
    there = {*known, EACH}
    every_pair = stored.pairs if stored else ()
    pairs = [pair for pair in every_pair if all(_known(name, there) for name in pair)]
    return Declaration(pairs=pairs, declared=stored.declared) if stored and pairs else None


def _known(name: str, adapters: Collection[str]) -> bool:
    """Whether it is an adapter, or a truncation of one as labels or tables name it."""
    adapter = name.split(" · ", maxsplit=1)[0]
    return not {*adapters}.isdisjoint({name, adapter, name.rpartition(" (")[0]})


def declared_pairs(
    declared: Declaration, default: Sequence[RecipeGroup], others: Sequence[RecipeGroup]
) -> list[tuple[RecipeGroup, RecipeGroup]]:
    """The groups that a declaration compares, on every task that has both.

    Raises:
        CurveError: An unknown name, or one that several truncations have.
    """
    check_pairs(declared.pairs, (group.name for group in default))
    every = [*default, *others]
    found = []
    for a, b in declared.pairs:
        firsts = find_groups(a, default, every, f"a primary comparison of {a!r}")
        rest = [group for group in default if group.name != firsts[0].name]
        seconds = (
            rest if b == EACH else find_groups(b, default, every, f"a primary comparison of {b!r}")
        )
        found += [(x, y) for x, y in product(firsts, seconds) if x.task == y.task and x is not y]
    return found


def _warn_of_fewer(groups: Mapping[str, Sequence[str]], curves: Sequence[Curve]) -> None:
    """Warn of groups some of whose adapters lack a truncation, whose rows are of the others."""
    seeds: dict[tuple[str, str], set[str]] = {}
    grouped = check_groups(groups, (curve.adapter or "adapter" for curve in curves))
    for curve in curves:
        if group := grouped.get(curve.adapter or "adapter"):
            way = " · ".join(filter(None, (curve.basis, curve.rescale)))
            seeds.setdefault((group, way), set()).add(str(curve.adapter))
    for (group, way), members in seeds.items():
        if fewer := {*groups[group]} - members:
            logger.warning(
                "group %s, cut %s, lacks %s: these rows are of %s alone", group, way,
                ", ".join(sorted(fewer)), ", ".join(sorted(members)),
            )  # fmt: skip


def read_sources(
    paths: Iterable[str | Path],
    metric: Mapping[str, str] | None = None,
    *,
    groups: Mapping[str, Sequence[str]],
    clusters: Mapping[str, str] | None = None,
    primary: Sequence[tuple[str, str]] = (),
) -> Curves:
    """The curves of several sources, with the groups and primary comparisons of all.

    Args:
        paths: What `read_curves` reads.
        metric: Task → which, where a source holds several.
        groups: Name → adapters that are seeds of one recipe, in the place of recorded groups.
        clusters: Task ("" for all) → field of its documents in sample logs.
        primary: Pairs of names that are declared now; without any those that a source records.
    """
    wanted = WantedMetrics(metric)
    sources = [read_curves(Path(path).expanduser(), wanted, clusters) for path in paths]
    wanted.check()
    recorded: dict[str, list[str]] = {}
    for source in sources:
        for name, members in source.groups.items():
            before = recorded.get(name, [])
            recorded[name] = list(dict.fromkeys([*before, *members]))
            if before and len(recorded[name]) > len(before):
                joined = ", ".join(recorded[name])
                logger.warning(
                    "group %s joins adapters of several sources: %s; name groups apart with "
                    "--group where they are not seeds of one recipe", name, joined,
                )  # fmt: skip
    named = regrouped(recorded, groups)
    curves = [curve for source in sources for curve in source.curves]
    _warn_of_fewer(named, curves)
    stored = next((source.primary for source in sources if source.primary), None)
    names = (curve.adapter or "adapter" for curve in curves)
    finished = any(source.kind == "run" for source in sources)
    declared = declaration(primary, stored, names, named, finished=finished)
    return Curves(curves, sources[0].kind, named, declared)
