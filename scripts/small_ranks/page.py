"""The page of the study and its appendix: every number and every verdict comes from a claim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from aurac.curves import numbers
from scripts.small_ranks import base, claims, figures, tables
from scripts.small_ranks.base import ASKED, FRESH, OLD
from scripts.small_ranks.claims import EACH, TRAINED, Asked, Claim, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

ALONE, ABSENT = "word problems", "not there yet"
PAYS = 0.02  # the gain that would pay for another way of training, as study.yaml says
SAID, KINDS = ASKED["said"], ASKED["kinds"]
Known = dict[Asked, "Claim | None"]
Accuracies = dict[tuple[str, base.Way, str], Claim]


def main(out: Path = base.FOLDER) -> None:
    """Write every file of the page below a folder."""
    stored = base.read()
    answers, accuracies = claims.answers(stored), claims.accuracies(stored)
    frames = {
        "differences": tables.differences(stored, answers),
        "accuracies": tables.accuracies(stored, accuracies),
        "factors": tables.factors(stored),
        "trials": tables.trials(),
        "trainings": tables.trainings(),
        "there": tables.there(stored),
    }
    for name in ("tables", "figures"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.to_csv(out / f"tables/{name}.csv", index=False, float_format="%.6g")
    texts = {
        "README": page(stored, {each: answers.get(each) for each in claims.asked()}, accuracies),
        "appendix": appendix(frames),
    }
    for name, said in texts.items():
        text = Path(__file__).with_name(f"{name.lower()}.md").read_text(encoding="utf-8")
        (out / f"{name}.md").write_text(text.format(**said), encoding="utf-8")
    figures.draw(accuracies, out / "figures/accuracy.png")


def page(stored: base.Stored, known: Known, accuracies: Accuracies) -> dict[str, Any]:
    """What stands in the places of readme.md; `n` and `v` have every difference by its names."""
    test = known[Asked("test", *claims.DECLARED)]
    tasks = "both" if known[Asked("explored", "with P", "eight")] else ALONE
    own, fitted = (known[Asked("first", *pair)] for pair in KINDS["first"]["pairs"][:2])
    sides = [(base.WAYS[name], "1 to 8") for name in claims.DECLARED]
    theirs = known[Asked("explored", "without P", "eight", tasks)]
    way = "nested" if verdict(test) == "better" else "lora"
    each = {rank: known[Asked("rank", "each", way, ALONE, rank)] for rank in EACH}
    beaten = [rank for rank, found in each.items() if verdict(found) == "better"]
    cut = [rank for rank in EACH if rank not in beaten]
    closest = max(cut or EACH, key=lambda rank: c.value if (c := each[rank]) else -1)
    lost = [f"{inline(known[Asked('loss', way, way, 'both', r)])} at {r}" for r in EACH[::-1]]
    searched = [r for r in EACH if (ALONE, base.WAYS["searched"], r) in accuracies]
    fresh = f"{len(claims.fresh_seeds(stored))} of {len(FRESH)} seeds"
    sets = claims.fresh_sets(stored)
    explored = [asked for asked, found in known.items() if found and asked.kind == "explored"]
    return {
        "n": {"/".join(asked): inline(found) for asked, found in known.items()},
        "v": {"/".join(asked): SAID[verdict(found)] for asked, found in known.items()},
        "cut": numbers.listed(cut).replace("and", "or"),
        "beaten": shown_better(known, way, cut),
        "closest": closest,
        "gained": f"{inline(each[closest])}: {ASKED['decided'][verdict(each[closest])]}",
        "first": {"lora": "plain LoRA", "nested": "MatryoshkaLoRA"}[way],
        "because": {"lora": ": it needs no special training, nor labelled examples"}.get(way, ""),
        "lost": numbers.listed(lost),
        "nested": SAID[verdict(test or own)],
        "pays": "does not exclude"
        if any(c and c.high >= PAYS for c in (own, fitted))
        else "excludes",
        "alone": f"rank {numbers.listed(beaten)}".replace("and", "or") if beaten else "no rank",
        "at_ranks": at_ranks({rank: each[rank] for rank in beaten or EACH}),
        "each_seeds": len(found.seeds) if (found := each["1"]) else 0,
        "at_a_rank": sum(
            found is not None for asked, found in known.items() if asked.kind == "rank"
        ),
        "declared": tables.shown(declared(known, fresh)),
        "test": f"On the fresh seeds MatryoshkaLoRA {SAID[verdict(test)]}: {inline(test)}."
        if test
        else f"Of the test {sum(map(len, sets))} of {len(sets) * len(FRESH)} trainings are done; "
        "none is compared before all are.",
        "power": numbers.percent(claims.power(stored)),
        "by_text": inline(
            claims.claim(stored, sides, "both", "text", family=KINDS["first"]["family"])
        ),
        "by_rank": tables.shown(by_rank(known, accuracies)),
        "paper_tasks": "both tasks" if tasks == "both" else f"the {ALONE}",
        "paper": tables.shown(paper(known, tasks)),
        "family": KINDS["explored"]["family"],
        "pairs": len({asked[1:3] for asked in explored}),
        "paper_seeds": len(theirs.seeds) if theirs else 0,
        "paper_said": SAID[verdict(theirs)],
        "rate": base.rate("dylora_eight").strip(" ()"),
        "base": numbers.percent(stored.base["aurac_word_problems"][0].mean()),
        "searched": f" (rank {numbers.listed(searched)}: its own, too)" if searched else "",
    }


def shown_better(known: Known, way: str, ranks: list[str]) -> str:
    """The ways that are shown to be better than one at some of the ranks."""
    said = []
    for a, b in KINDS["rank"]["pairs"]:
        for rank in ranks if b == way else ():
            both, alone = (known[Asked("rank", a, b, tasks, rank)] for tasks in ("both", ALONE))
            if verdict(found := both or alone) == "better":
                name = f"{tables.method(base.WAYS[a].recipe)} ({tables.cut(base.WAYS[a])})"
                said.append(f"{name} at rank {rank} ({inline(found)})")
    return f"{f'only {numbers.listed(said)}' if said else 'nothing'} is shown to be better"


def at_ranks(each: Mapping[str, Claim | None]) -> str:
    """What is shown of a way at each rank, ranks of one verdict together."""
    said = []
    for word, text in SAID.items():
        ranks = [f"{rank} ({inline(c)})" for rank, c in each.items() if verdict(c) == word]
        said += [f"{text} at rank {numbers.listed(ranks)}"] if ranks else []
    return numbers.listed(said)


def declared(known: Known, fresh: str) -> pd.DataFrame:
    """The declared comparisons: the test, what was known of it, of both the estimate; the first."""
    rows: list[dict[str, Any]] = []
    for seeds, other, kind, *pair in ASKED["declared"]:
        claim = known[Asked(kind, *pair)]
        row = {"seeds": seeds, "against": other, "family": KINDS[kind]["family"]}
        row["points [95 %]"] = ends(claim) or fresh
        row["bootstrap"] = numbers.interval(0, *claim.drawn)[4:] if claim else numbers.NONE
        rows.append(row | {"p": claim and claim.p, "MatryoshkaLoRA is": verdict(claim)})
    return pd.DataFrame(rows if rows[0]["p"] else [*rows[:2], *rows[3:]])


def by_rank(known: Known, accuracies: Accuracies) -> pd.DataFrame:
    """Accuracies, with the intervals of the main differences."""
    rows = []
    for tasks, scale, name, way in ASKED["main"]:
        found: dict[str, Claim | None] = {}
        for rank in (*EACH, TRAINED):
            if isinstance(way, str):
                found[rank] = accuracies.get((tasks, base.WAYS[way], rank))
            elif rank in EACH:
                found[rank] = known[Asked("rank", way[0], way[1], tasks, rank)]
        if there := [claim for claim in found.values() if claim]:
            row = {"tasks": tasks, "scale": scale, " ": name, "seeds": str(len(there[0].seeds))}
            parts = 1 if isinstance(way, str) else 3  # without its interval, or with it
            rows.append(row | {r: " ".join(ends(c).split()[:parts]) for r, c in found.items()})
    return pd.DataFrame(rows)


def paper(known: Known, tasks: str) -> pd.DataFrame:
    """The comparisons of the paper on its axes."""
    rows = []
    for name, (a, b) in ASKED["paper"]:
        row = {"MatryoshkaLoRA": f"{name}{base.rate(base.WAYS[a].recipe)}"}
        for over in KINDS["explored"]["ranks"]:
            claim = known[Asked("explored", a, b, tasks, over)]
            row[over] = f"{ends(claim)} {verdict(claim)}"
        rows.append(row)
    return pd.DataFrame(rows)


def ends(found: Claim | None) -> str:
    """A value with its interval in points."""
    return "" if found is None else numbers.interval(found.value, found.low, found.high)


def inline(found: Claim | None) -> str:
    """The same in the text of a page."""
    return ends(found).replace("[", "\\[").replace("]", "\\]") or ABSENT


def appendix(frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """What stands in the places of appendix.md."""
    every, known, trainings = (frames[x] for x in ("differences", "accuracies", "trainings"))
    about = ("tasks", "a", "b", "ranks", "seeds", "points", "bootstrap", "p", "a is", "by text")
    pairs, both = every["kind"] + every["a"] + every["b"], every["tasks"] == "both"
    widest = every[both | ~pairs.isin(pairs[both])]  # each task's rows are in the CSV file
    kinds = dict(iter(widest.groupby("kind")))
    area = known[known["ranks"] == "1 to 8"].drop(columns="ranks")
    wide = tables.pivot(known[known["ranks"] != "1 to 8"], "ranks", "value").merge(area, "left")
    ways = ("tasks", "method", "cut", "seeds", "0", *EACH, TRAINED, "value", "text", "result")
    tokens = trainings["tokens"][trainings["seed"] == OLD[0]].unique()
    first = every[every["kind"] == "first"]
    return {
        "draws": claims.DRAWS,
        "first": tables.shown(first, *about, "of each seed"),
        "explored": tables.shown(kinds["explored"], *about),
        "family": KINDS["explored"]["family"],
        "pairs": len(kinds["explored"][["a", "b"]].drop_duplicates()),
        "ranks": tables.shown(kinds["rank"], *about),
        "losses": tables.shown(kinds["loss"], "tasks", "a", "ranks", "seeds", "points"),
        "accuracies": tables.shown(wide, *ways),
        "factors": tables.shown(frames["factors"]),
        "trials": tables.shown(tables.pivot(frames["trials"], "rate", "AURAC")),
        "tokens": " and ".join(sorted(f"{count:,}" for count in tokens)),
        "there": tables.shown(frames["there"]),
    }
