"""Writes the tables and two figures of `reports/study/README.md` from its two studies.

`comparisons.csv` beside the page has every difference of both, those that were compared afterwards
among them; the page, its first figure and the README quote it.
"""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.analysis.combine import pooled
from aurac.analysis.comparisons import compare_pair, finished
from aurac.analysis.groups import together
from aurac.analysis.pairing import difference_at, paired_areas
from aurac.analysis.rows import Options
from aurac.analysis.sentences import show_p
from aurac.curves.display import interval, percent
from aurac.curves.names import curve_names
from aurac.records.results_file import Results
from aurac.records.run import stored_run
from aurac.show import figures, plots
from aurac.show.appearance import ACCURACY, key, rank_title, styles
from aurac.show.forest import Difference, differences
from aurac.show.table import as_csv
from aurac.show.write import FAMILIES
from aurac.stats.mean import Estimate
from aurac.stats.multiplicity import holm
from aurac.study import load_study
from scripts.study_rates import REPORTS, groups_of, rate_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from aurac.records.run import CurveRow
    from aurac.show.appearance import Styles

PAGE = REPORTS / "study/README.md"
COMPARISONS = PAGE.with_name("comparisons.csv")
TASKS = ("aurac_word_problems", "mawps", "arc_easy")  # columns, by their names in the analysis
FOLDERS = {
    "study": ("word_problems", "mawps", "arc_easy"),
    "longer_training": ("word_problems",),
}
"""Study → its tasks."""
TITLES = {TASKS[0]: "Word problems", TASKS[1]: "MAWPS", TASKS[2]: "ARC-Easy"}
STEPS = ("120 steps", "360 steps")

_P, _TRAINED, _FIT = "prefix · rule", "prefix · trained", "prefix · fit"

SCORES = {
    "LoRA | SVD": "lora · svd · keep",
    "LoRA | prefix": "lora",
    "DyLoRA | prefix": "dylora",
    "MatryoshkaLoRA | with P": "matryoshka",
    "MatryoshkaLoRA | without P": f"matryoshka · {_P}",
    "MatryoshkaLoRA | SVD": "matryoshka · svd · keep",
    "LoRA at each rank | –": "lora_per_rank",
    "DyLoRA 360 steps | prefix": "dylora_long",
    "nested losses | prefix": "nested_loss",
    "nested losses 60 steps | prefix": "nested_loss_half",
}
"""Row → curve, of the table over all tasks."""

DIFFERENCES = {
    "MatryoshkaLoRA (with P) − LoRA (prefix)": ("matryoshka", "lora"),
    "MatryoshkaLoRA (with P) − DyLoRA": ("matryoshka", "dylora"),
    "DyLoRA − LoRA (prefix)": ("dylora", "lora"),
    "LoRA at each rank − LoRA (prefix)": ("lora_per_rank", "lora"),
    "LoRA at each rank − MatryoshkaLoRA (with P)": ("lora_per_rank", "matryoshka"),
    "LoRA at each rank − DyLoRA": ("lora_per_rank", "dylora"),
    "DyLoRA 360 steps − DyLoRA": ("dylora_long", "dylora"),
    "nested losses − LoRA (prefix)": ("nested_loss", "lora"),
    "nested losses 60 steps − LoRA (prefix)": ("nested_loss_half", "lora"),
    "LoRA: SVD − prefix": ("lora · svd · keep", f"lora · {_P}"),
    "MatryoshkaLoRA: SVD − with P": ("matryoshka · svd · keep", f"matryoshka · {_TRAINED}"),
    "MatryoshkaLoRA: without P − with P": (f"matryoshka · {_P}", f"matryoshka · {_TRAINED}"),
}
"""Row → b and a of the difference b − a."""

LONGER = {
    "LoRA | SVD": ("lora · svd · keep", "lora_long · svd · keep"),
    "LoRA | prefix": ("lora", "lora_long"),
    "LoRA | prefix, fitted": (None, f"lora_long · {_FIT}"),
    "DyLoRA | prefix": ("dylora", "dylora_long"),
    "MatryoshkaLoRA | with P": ("matryoshka", "matryoshka_long"),
    "MatryoshkaLoRA | SVD": ("matryoshka · svd · keep", None),
    "MatryoshkaLoRA | prefix, fitted": (None, f"matryoshka_long · {_FIT}"),
}
"""Row → the curves after 120 and 360 steps."""

LONGER_DIFFERENCES = {
    "MatryoshkaLoRA (with P) − LoRA (prefix)": ("matryoshka_long", "lora_long"),
    "MatryoshkaLoRA (with P) − DyLoRA": ("matryoshka_long", "dylora_long"),
    "DyLoRA − LoRA (prefix)": ("dylora_long", "lora_long"),
    "LoRA (prefix): 360 steps − 120": ("lora_long", "lora"),
    "DyLoRA: 360 steps − 120": ("dylora_long", "dylora"),
    "MatryoshkaLoRA (with P): 360 steps − 120": ("matryoshka_long", "matryoshka"),
    "LoRA: SVD − prefix": ("lora_long · svd · keep", f"lora_long · {_P}"),
    "LoRA: SVD − prefix, fitted": ("lora_long · svd · keep", f"lora_long · {_FIT}"),
    "LoRA (prefix): fitted − rule": (f"lora_long · {_FIT}", f"lora_long · {_P}"),
    "MatryoshkaLoRA: fitted − with P": (
        f"matryoshka_long · {_FIT}",
        f"matryoshka_long · {_TRAINED}",
    ),
}
"""Row → b and a of the difference b − a, after 360 steps where nothing is said."""

AFTERWARDS = {
    "LoRA (SVD) − MatryoshkaLoRA (with P)": f"matryoshka · {_TRAINED}",
    "LoRA (SVD) − MatryoshkaLoRA (without P)": f"matryoshka · {_P}",
    "LoRA (SVD) − MatryoshkaLoRA (SVD)": "matryoshka · svd · keep",
    "LoRA (SVD) − DyLoRA": f"dylora · {_P}",
    "LoRA (SVD) − DyLoRA 360 steps": f"dylora_long · {_P}",
    "LoRA (SVD) − LoRA at each rank": f"lora_per_rank · {_P}",
    "LoRA (SVD) − nested losses": f"nested_loss · {_P}",
    "LoRA (SVD) − nested losses 60 steps": f"nested_loss_half · {_P}",
}
"""Row → a of the difference LoRA by SVD − a, of the study: no family of its analysis has them."""

BY_SVD = "lora · svd · keep", "lora_long · svd · keep", "lora_long · svd · fit"
_FITTED = f"matryoshka_long · {_FIT}", f"lora_long · {_FIT}"
LONGER_AFTERWARDS = {
    "LoRA (SVD) − MatryoshkaLoRA (with P)": (BY_SVD[1], f"matryoshka_long · {_TRAINED}"),
    "LoRA (SVD) − DyLoRA": (BY_SVD[1], f"dylora_long · {_P}"),
    "LoRA (SVD) − MatryoshkaLoRA (prefix, fitted)": (BY_SVD[1], _FITTED[0]),
    "MatryoshkaLoRA (prefix, fitted) − LoRA (prefix, fitted)": _FITTED,
}
"""Row → b and a of such a difference after 360 steps."""

AT_RANKS = {
    "MatryoshkaLoRA (with P) − LoRA (prefix)": (f"matryoshka · {_TRAINED}", f"lora · {_P}"),
    "MatryoshkaLoRA (with P) − LoRA (SVD)": (f"matryoshka · {_TRAINED}", "lora · svd · keep"),
}
"""Row → b and a of the differences of accuracy at each rank of the word problems."""


def with_tables(page: str) -> str:
    """The page with the numbers of the stored analyses and comparisons in its tables."""
    stored = stored_comparisons()
    whole, longer = (_differences(stored, study) for study in FOLDERS)
    areas = _areas(_analysis("study"))
    rows = [_row(label, [areas.get((curve, t)) for t in TASKS]) for label, curve in SCORES.items()]
    page = _replaced(page, "| method | truncation | word problems", rows)
    rows = [
        _row(label, [whole.get((*pair, t), " | ") for t in TASKS])
        for label, pair in DIFFERENCES.items()
    ]
    page = _replaced(page, "| difference | word problems", rows)
    areas = _areas(_analysis("longer_training"))
    rows = [
        _row(label, [areas.get((curve or "", TASKS[0])) for curve in both])
        for label, both in LONGER.items()
    ]
    page = _replaced(page, "| method | truncation | 120 steps", rows)
    rows = [
        _row(label, [longer.get((*pair, TASKS[0]))]) for label, pair in LONGER_DIFFERENCES.items()
    ]
    page = _replaced(page, "| difference after 360 steps", rows)
    rows = [
        _row(label, [whole.get((BY_SVD[0], a, t), " | ") for t in TASKS])
        for label, a in AFTERWARDS.items()
    ]
    page = _replaced(page, "| compared afterwards | word problems", rows)
    rows = [_row(label, [longer[(*pair, TASKS[0])]]) for label, pair in LONGER_AFTERWARDS.items()]
    page = _replaced(page, "| compared afterwards | points", rows)
    rows = [_row(label, _at_ranks(*pair)) for label, pair in AT_RANKS.items()]
    page = _replaced(page, "| accuracy, compared afterwards", rows)
    rows = [_row(label, cells) for label, cells in rate_rows().items()]
    page = _replaced(page, "| MatryoshkaLoRA | rate 4e-3", rows)
    looks = {"MAWPS": ("study", "mawps"), "= .115": ("longer_training", "word_problems")}
    for after, where in looks.items():
        page = re.sub(rf"({after} \(t alone: )[.\d]+", rf"\g<1>{_by_t(*where)}", page)
    return re.sub(r"within ±\S+ points", f"within ±{_reach(stored)} points", page)


def stored_comparisons() -> list[dict[str, str]]:
    """The rows of `comparisons.csv`."""
    with COMPARISONS.open(encoding="utf-8", newline="") as stream:
        return [*csv.DictReader(stream)]


def comparisons() -> list[dict[str, Any]]:
    """Every difference of both studies, a fraction, with the family that its p is adjusted in.

    What was compared afterwards is one family with all that its study explored.
    """
    found = []
    for study, tasks in FOLDERS.items():
        analysis = _analysis(study)
        tested = [row for row in (*analysis["pairs"], *analysis["variants"]) if row["estimate"]]
        kinds = [FAMILIES[row.get("exploratory")] for row in tested]
        for row, kind in zip(tested, kinds, strict=True):
            found.append(_comparison(study, kind, kinds.count(kind), row, row["p_holm"]))
        explored = [row["p"] for row, kind in zip(tested, kinds, strict=True) if kind != "primary"]
        after = [row for task in tasks for row in _afterwards(study, task)]
        every = iter(adjusted := holm([*explored, *(row["p"] for row in after)]))
        for one in found:
            if one["study"] == study and one["family"] != "primary":
                one["p_with_afterwards"] = next(every)
        for row, p in zip(after, every, strict=True):
            found.append(_comparison(study, "afterwards", len(adjusted), row, p))
            found[-1]["p_with_afterwards"] = p
    return found


def _afterwards(study: str, task: str) -> list[dict[str, Any]]:
    """LoRA by SVD against every curve of another method; of the longer training the fitted too."""
    every = groups_of(study, task)
    others = [b for b, group in every.items() if group.name not in ("lora", "lora_long")]
    pairs = [(b, a) for b in BY_SVD if b in every for a in others]
    pairs += [_FITTED] if _FITTED[0] in every else []
    rows = ((b, a, finished(compare_pair(every[a], every[b], Options()))) for b, a in pairs)
    return [msgspec.to_builtins(replace(row, a=a, b=b)) for b, a, row in rows]


def _comparison(
    study: str, family: str, tests: int, row: dict[str, Any], adjusted: float | None
) -> dict[str, Any]:
    ends = {name: row["estimate"][name] for name in ("low", "high")}
    names = {name: _called(study)[row[name]] for name in ("b", "a")}
    where = {"study": study, "task": row["task"], **names}
    ids = {"b_id": row["b"], "a_id": row["a"]}
    value = {"difference": row["estimate"]["value"], **ends, "p": row["p"], "p_holm": adjusted}
    kind = {"family": family, "tests": tests, "p_with_afterwards": None}
    return {**where, **value, **kind, **ids, "interval": row["estimate"]["method"]}


@cache
def _called(study: str) -> dict[str, str]:
    """Name in the analysis → in pages and figures."""
    labels = load_study(REPORTS / study / "study.yaml").labels
    rows = _analysis(study)["scores"]
    ways = {row["label"]: (row["adapter"], row["truncation"]) for row in rows}
    names = curve_names(ways.values(), labels)
    full = {f"{r['adapter']} · {r['truncation']}": ways[r["label"]] for r in rows}
    return {label: names[way] for label, way in {**full, **ways}.items()}


def _analysis(study: str) -> dict[str, Any]:
    text = (REPORTS / study / "analysis.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _areas(analysis: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Curve and task → AURAC with its interval."""
    areas = {}
    for row in analysis["scores"]:
        area = row["log2"]
        mark = " †" * ("near 0 and 1" in area["method"])
        areas[row["label"], row["task"]] = _shown(area["low"], area["value"], area["high"]) + mark
    return areas


def _differences(stored: list[dict[str, str]], study: str) -> dict[tuple[str, str, str], str]:
    """b, a and task → the difference b − a with its interval, and its adjusted p value."""
    found = {}
    for row in (row for row in stored if row["study"] == study):
        low, value, high = (float(row[name]) for name in ("low", "difference", "high"))
        p = show_p(float(row["p_holm"])).removeprefix("= ")
        end = f"{' †' if 'MOVER' in row['interval'] else ''} | {p}"
        found[row["b_id"], row["a_id"], row["task"]] = f"{_shown(low, value, high)}{end}"
        found[row["a_id"], row["b_id"], row["task"]] = f"{_shown(-high, -value, -low)}{end}"
    return found


def _reach(stored: list[dict[str, str]]) -> str:
    """Points that the intervals between the three methods on ARC-Easy reach, rounded outward."""
    methods = {"lora", "dylora", "matryoshka"}
    ends = [
        abs(float(row[end]))
        for row in stored
        if row["task"] == "arc_easy" and {row["b_id"], row["a_id"]} <= methods
        for end in ("low", "high")
    ]
    return f"{math.ceil(1000 * max(ends)) / 10:.1f}"


def draw_comparisons() -> None:
    """The first figure of the page, which a column has room for, and as SVG all of the study."""
    rows = [row for row in comparisons() if row["study"] == "study"]
    order = ["primary", "afterwards", "exploratory"]
    rows.sort(key=lambda row: order.index(row["family"]))
    shown = []
    for row in rows:
        mark = " *" if row["family"] == "afterwards" else ""
        name = f"{row['b']} − {row['a']}{mark}"
        estimate = Estimate(row["difference"], None, row["low"], row["high"], "")
        title = TITLES[row["task"]]
        shown.append(Difference(title, name, estimate, row["p_holm"] < 0.05))
    with figures.styled(small=True):
        figures.save(differences(shown), PAGE.with_name("comparisons"), formats=("svg",))
        few = [one for one, row in zip(shown, rows, strict=True) if _argued(row, rows)]
        narrow = differences(few, width=figures.NARROW)
        figures.save(narrow, PAGE.with_name("comparisons"), formats=("png",))
        figures.save(narrow, PAGE.with_name("comparisons-column"), formats=("pdf",))


def _argued(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether a difference is of every task, and what the page argues from.

    That is the primary comparison, two truncations of one method, and LoRA by SVD against the
    first of the primary comparison.
    """
    everywhere = sum((row["b"], row["a"]) == (each["b"], each["a"]) for each in rows) == len(TASKS)
    primary = next(each for each in rows if each["family"] == "primary")
    one, other = (row[name].partition(" · ")[0] for name in ("b_id", "a_id"))
    led = row["family"] == "afterwards" and row["a"] == primary["b"]
    return everywhere and (row["family"] == "primary" or one == other or led)


def draw_longer() -> None:
    """Word problems after 120 and 360 steps, a panel each, with the curves of the page's table."""
    folder = REPORTS / "longer_training/results/word_problems"
    run = pooled(stored_run(Results.read(folder), folder))
    curves = {curve.name: curve for curve in run.curves}
    rows = [
        [_plain(curves[name]) for name in column if name]
        for column in zip(*LONGER.values(), strict=True)
    ]
    every = [_plain(curves[long or short or ""]) for short, long in LONGER.values()]
    style = styles(every)
    keys = [(_key(label), style[key(c)].options) for label, c in zip(LONGER, every, strict=True)]
    draws = [
        partial(_panel, curves=row, style=style, title=t)
        for row, t in zip(rows, STEPS, strict=True)
    ]
    titles, stem = (rank_title("log2"), ACCURACY), REPORTS / "longer_training/curves"
    grid = partial(figures.grid, draws, axes_titles=titles, keys=keys)
    with figures.styled(small=True):
        figures.save(grid(across=2, height=2.4, width=figures.WIDTH), stem)
        narrow = grid(across=1, height=2.1, width=figures.NARROW, key_across=2)
        figures.save(narrow, stem.with_name("curves-column"), formats=("pdf",))


def _key(label: str) -> str:
    method, _, cut = label.partition(" | ")
    return method if method == "DyLoRA" else f"{method} ({cut})"


def _plain(curve: CurveRow) -> CurveRow:
    """The curve as one of its method, however long it was trained."""
    return msgspec.structs.replace(curve, adapter=curve.adapter.removesuffix("_long"))


def _panel(ax: Axes, *, curves: list[CurveRow], style: Styles, title: str) -> Axes:
    plots.rank_accuracy(ax, curves, style=style, labels=False)
    ax.set(title=title, xlabel="", ylabel="", ylim=(-2, 101), yticks=range(0, 101, 20))
    return ax


def _at_ranks(b: str, a: str) -> list[str | None]:
    """The difference b − a of the study's accuracies at each rank."""
    every = groups_of("study", "word_problems")
    one, other = together([every[a], every[b]])
    return [interval(difference_at(one, other, rank, 0.95).estimate) for rank in one.ranks]


def _by_t(study: str, task: str) -> str:
    """The p of MatryoshkaLoRA (with P) − LoRA (prefix) by t alone."""
    every, (b, a) = groups_of(study, task), next(iter(AT_RANKS.values()))
    parts = paired_areas(every[a], every[b], "log2").difference(0.95).parts
    return f"{replace(parts, excess=None).p_value():.4f}".lstrip("0")


def _shown(low: float, value: float, high: float) -> str:
    return f"{percent(value)} [{percent(low)}, {percent(high)}]"


def _row(label: str, cells: list[str | None]) -> str:
    return f"| {label} | {' | '.join(cell or '' for cell in cells)} |"


def _replaced(page: str, head: str, rows: list[str]) -> str:
    """The page with these rows below the line that begins with `head` and the one after it."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head)) + 2
    rest = (i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    end = next(rest, len(lines))
    return "\n".join([*lines[:start], *rows, *lines[end:]]) + "\n"


if __name__ == "__main__":
    COMPARISONS.write_bytes(as_csv(comparisons()))
    draw_comparisons()
    draw_longer()
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
