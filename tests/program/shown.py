"""What is printed, written and exported, against the frames: each number stands in its cell.

Their sentences are held by the stored screens of `tests/show`.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from itertools import product

import lxml.html
import numpy as np
import pandas as pd
import pytest
from program.oracle import MEAN, TOLD
from support import table_world
from support.table_world import GROUP, MEMBERS, PROSE

SLACK = 2e-6  # of a fraction: the last bits may decide how a number is rounded

# Tables as rows of cells --------------------------------------------------------------------------


def on_screen(text):
    """(heading, rows) of each table of a screen; columns are apart by two spaces or more."""
    heading, found, lines = "", [], []
    for line in [*text.splitlines(), ""]:
        if re.search(r"\S {2,}\S", line) and not line.startswith("  aurac "):
            lines.append(line)
            continue
        if lines:
            width = max(map(len, lines))
            lines = [each.ljust(width) for each in lines]
            blank = "".join(
                "x" if {*column} - {" "} else " " for column in zip(*lines, strict=True)
            )
            spans = [span.span() for span in re.finditer(r"x+(?: x+)*", blank)]
            rows = [[each[a:b].strip() for a, b in spans] for each in lines]
            found.append((heading, rows))
        lines = []
        about = re.match(r"(?:Mean over|(?:.+ on )?(\w+):) .*(?:in percent|lower is better)", line)
        heading = (about[1] or MEAN) if about else heading
    return found


def in_markdown(text):
    """(heading, rows) of each table; code is left out."""
    heading, found = MEAN, []
    text = re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", text)
    for block in text.split("\n\n"):
        if block.startswith("## "):
            heading = unescaped(block[3:])
        elif block.startswith("|"):
            head, _, *body = block.strip().splitlines()
            parts = ([*line.strip("|").split("|")] for line in (head, *body))
            found.append((heading, [[unescaped(part.strip()) for part in row] for row in parts]))
    return found


def unescaped(text):
    return re.sub(r"\\(.)", r"\1", html.unescape(text))


def in_html(text):
    """The rows of each table."""
    tables = lxml.html.fromstring(text).iter("table")
    return [[[x.text_content().strip() for x in row] for row in t.iter("tr")] for t in tables]


LATEX = {r"\ensuremath{-}": "−", r"\textgreater{}": ">", r"\textless{}": "<", "--": "–", "{-}": "-"}
LATEX |= {r"\textperiodcentered{}": "·", "{}": ""}


def in_latex(text):
    """(heading, rows) of each table; the caption names the task."""
    for old, new in LATEX.items():
        text = text.replace(old, new)
    found = []
    for block in re.sub(r"\\([%_#&$])", r"\1", text.replace("&", "\0")).split(r"\begin{table*}")[
        1:
    ]:
        caption = re.search(r"\\caption{(.*)}\n", block)[1]
        of = re.search(r" on (\S+) at each rank", caption) or re.match(r"(\S+): ", caption)
        body = block.partition(r"\toprule")[2].partition(r"\bottomrule")[0].replace(r"\midrule", "")
        rows = [line.split("\0") for line in body.split("\\\\") if line.strip()]
        found.append((of[1], [[part.strip() for part in row] for row in rows]))
    return found


# Numbers as they are said -------------------------------------------------------------------------


def rounded(value, how=round):
    """The texts of a fraction in percent: to the nearest, or of a bound away from the claim."""
    found = set()
    for each in (value - SLACK, value, value + SLACK):
        x = each * 1000
        whole = math.floor(abs(x) + 0.5) * (1 if x > 0 else -1) if how is round else how(x)
        found.add(f"{'−' * (whole < 0)}{abs(whole) / 10:.1f}")
    return found


def cell(value, low=None, high=None, mark=""):
    """An accuracy or a difference, in percent, with its interval where it has one."""
    if value is None:
        return {"–"}
    if low is None or high is None:
        return {f"{mark}{x}" for x in rounded(value)}
    ends = product(rounded(value), rounded(low, math.floor), rounded(high, math.ceil))
    return {f"{mark}{x} [{y}, {z}]" for x, y, z in ends}


def p_texts(p):
    """A p value: three places below .1, two above."""
    found = set()
    for each in () if p is None else (p * (1 - 1e-4), p, p * (1 + 1e-4)):
        text = f"{each:.{3 if each < 0.1 else 2}f}".lstrip("0")
        found.add("< .001" if each < 0.001 else "> .99" if each >= 0.995 else text)
    return found or {"–"}


# Every number in its cell -------------------------------------------------------------------------


class Numbers(dict):
    """(task, name of the row, column) → the texts of a number; a difference from either side.

    Args:
        frames: The expected ones.
        labels: Name of an adapter → the name that is shown.
        bounds: Whether accuracies have intervals, and differences stand at each rank.
        by_rank: Whether the rows of a task with one adapter are its ranks.
    """

    def __init__(self, frames, labels=None, *, bounds, by_rank=True):
        super().__init__()
        mean = any(key[0] == MEAN for key in frames["pairs"])
        scores = {key: row for key, row in frames["scores"].items() if mean or key[0] != MEAN}
        rows, self.names = Counter(key[0] for key in scores), {}
        for key, row in scores.items():
            name = key[1]
            self.names[key] = (labels or {}).get(name, name) + row[TOLD]["name"][len(name) :]
            if row["aurac"] is not None and (rows[key[0]] > 1 or not by_rank):
                area = cell(row["aurac"], row["low"], row["high"])
                self[key[0], self.names[key], "mean AURAC" if key[0] == MEAN else "AURAC"] = area
            for task in row[TOLD]["tasks"] if key[0] == MEAN else ():
                self[MEAN, self.names[key], task] = cell(scores[(task, *key[1:])]["aurac"])
        for (*key, rank), point in frames["points"].items():
            if by_rank and rows[key[0]] == 1:
                self.at_rank(key[0], rank, point, frames["recommended"].get((*key,)))
            else:
                column = f"r={rank}" if rank else "base"
                self[key[0], self.names[(*key,)], column] = point_texts(point, bounds=bounds)
        for key, row in frames["pairs"].items():
            self.difference(key, row, "points")
        both = {*frames["pairs"], *((key[0], *key[4:], *key[1:4]) for key in frames["pairs"])}
        for key, row in frames["rank_pairs"].items() if bounds else ():
            if key[:7] in both:
                self.difference(key[:7], row, f"r={key[7]}")

    def at_rank(self, task, rank, point, advice):
        """A rank of the only adapter of a task."""
        self[task, str(rank), "accuracy"] = point_texts(point, bounds=True)
        if point["loss"] is not None:
            ends = product(rounded(point["loss"]), rounded(point["loss_bound"], math.ceil))
            self[task, str(rank), "loss"] = {f"{x} ({y})" for x, y in ends}
        if advice and advice["rank"]:
            marks = {advice["smallest_rank"]: "smallest", advice["rank"]: "yes"}
            self[task, str(rank), "ship"] = {marks.get(rank, "")}
        for column, value in (("unfinished", point["unfinished"]), ("vLLM rank", point["slot"])):
            if value:
                self[task, str(rank), column] = {str(value)}

    def difference(self, key, row, column):
        """A pair from both sides."""
        task, (a, b) = key[0], (self.names[(key[0], *key[at : at + 3])] for at in (1, 4))
        low, high = row["low"], row["high"]
        turned = (end and -end for end in (high, low))
        self[task, f"{a} − {b}", column] = cell(row["difference"], low, high)
        self[task, f"{b} − {a}", column] = cell(-row["difference"], *turned)
        if row.get("p") is not None:
            self[task, f"{a} − {b}", "p"] = self[task, f"{b} − {a}", "p"] = p_texts(row["p"])


def point_texts(point, *, bounds):
    """An accuracy in percent; a perplexity has four digits, and no interval."""
    if point[TOLD]:
        return {f"{point['accuracy'] * (1 + x):.4g}" for x in (-SLACK, 0, SLACK)}
    ends = [point["low"], point["high"]] if bounds else []
    return cell(point["accuracy"], *ends, mark="*" * (point["above_base"] is False))


def check_tables(wanted, tables, where):
    """Every number stands in its cell, of a difference one of both sides.

    A page may leave out differences at each rank.
    """
    [*tasks] = {key[0] for key in wanted}
    met = set()
    for heading, (head, *rows) in tables:
        task = tasks[0] if len(tasks) == 1 else heading
        columns = [re.sub(r" [\[(].*", "", column) for column in head]
        for name, *cells in rows if "on a linear axis" not in head else ():
            for column, text in zip(columns[1:], cells, strict=True):
                key = task, name, column if column not in VALUES else "accuracy"
                said = wanted.get(key, {text})
                assert text in said, f"{where}: {key} is {text!r}, not {said}"
                met |= {key, (task, " − ".join(name.split(" − ")[::-1]), column)}
    lacking = [key for key in wanted if key not in met and not (" − " in key[1] and "=" in key[2])]
    assert not lacking, f"{where}: lacks {lacking[:5]}"


VALUES = ("value", "word_perplexity,none")


def check_pages(path, frames, labels=None):
    """report.md, report.html and table.tex."""
    tables = in_markdown((path / "report.md").read_text())
    check_tables(Numbers(frames, labels, bounds=True), tables, "report.md")
    seen, said = in_html((path / "report.html").read_text()), [rows for _, rows in tables]
    assert seen == said, "report.html has other tables than report.md"
    wanted = Numbers(frames | {"rank_pairs": {}}, labels, bounds=False, by_rank=False)
    wanted = {key: texts for key, texts in wanted.items() if key[0] != MEAN}
    check_tables(wanted, in_latex((path / "table.tex").read_text()), "table.tex")


def check_card(path, frames):
    """An adapter's card: the accuracy and the slot of each rank."""
    wanted = {
        key: {text.lstrip("*") for text in texts}
        for key, texts in Numbers(frames, bounds=True).items()
        if key[1] != "0" and key[2] in ("accuracy", "vLLM rank")
    }
    tables = [
        (of, [[text.lstrip("*") for text in row] for row in rows])
        for of, rows in in_markdown(path.read_text())
    ]
    check_tables(wanted, tables, f"the card {path}")


# Frames, files and exports ------------------------------------------------------------------------

KEYS = {
    "scores": "task adapter basis rescale",
    "points": "task adapter basis rescale rank",
    "pairs": "task a a_basis a_rescale b b_basis b_rescale",
    "rank_pairs": "task a a_basis a_rescale b b_basis b_rescale rank",
    "recommended": "task adapter basis rescale",
}


def check_frames(expected, said, where):
    """Every row and every number of the frames, and none besides."""
    for name, rows in expected.items():
        keys = [
            [row[x] if pd.notna(row[x]) else None for x in KEYS[name].split()] for row in said[name]
        ]
        there = dict(zip(map(tuple, keys), said[name], strict=True))
        for key, row in rows.items():
            found, wanted = there.pop(key, None), dict(row)
            if found is None and row.get("tie"):  # either may stand first
                found = there.pop((key[0], *key[4:7], *key[1:4], *key[7:]), None)
                wanted |= {"low": row["high"] and -row["high"], "high": row["low"] and -row["low"]}
                wanted |= {"wins": row.get("losses"), "losses": row.get("wins")}
                wanted |= {"difference": -row["difference"]}
            assert found, f"{where}: {name} lacks {key}, has {[*there]}"
            for column in wanted.keys() - {"tie", TOLD}:
                text = f"{where}: {column} of {key} in {name} is {found.get(column)}"
                assert _same(found.get(column), wanted[column]), f"{text}, not {wanted[column]}"
        assert not there, f"{where}: {name} has {[*there]}, which should not be there"


def _same(a, b):
    unknown = [bool(pd.isna(x)) for x in (a, b)]
    if any(unknown) or isinstance(b, str):
        return all(unknown) or a == b
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-8)


def check_files(path, expected, labels=None):
    """All files of a report."""
    check_frames(expected, json.loads((path / "analysis.json").read_text()), "analysis.json")
    tables = {name: pd.read_csv(path / f"{name}.csv").to_dict("records") for name in KEYS}
    check_frames(expected, tables, "CSV")
    check_pages(path, expected, labels)


def check_printed(expected, said, where, *, as_json):
    """What a command prints: frames as JSON, or a screen."""
    if as_json:
        check_frames(expected, json.loads(said), where)
    else:
        check_tables(Numbers(expected, bounds=False), on_screen(said), where)


def check_export(path, found, pooled):
    """lm-eval's results and samples of one cut at one rank: task → scores."""
    rows = json.loads(path.read_text())["results"]
    pooled &= len({*MEMBERS} & {*found}) == len(MEMBERS)
    assert {*rows} == {*found} | ({GROUP} if pooled else set()), f"{path}: {sorted(rows)}"
    for leaf, (examples, scores) in found.items():
        if leaf == PROSE:
            said = rows[leaf]["word_perplexity,none"]
            assert said == pytest.approx(scores[0]), f"{path}: {leaf} {said}, not {scores}"
            continue
        words = ("exact_match", "strict-match") if leaf == "sums" else ("acc", "none")
        n = len(scores)
        error = pytest.approx(scores.std(ddof=1) / n**0.5) if n > 1 else "N/A"
        said = [rows[leaf][key] for key in (",".join(words), "_stderr,".join(words))]
        assert said == [pytest.approx(scores.mean()), error], f"{path}: {leaf} {said}"
        [log] = path.parent.glob(f"samples_{leaf}_*.jsonl")
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(row["doc_id"], row[words[0]]) for row in told] == list(enumerate(scores)), f"{log}"
        contents = [table_world.row(leaf, *example) for example in examples]
        assert [row["doc"] for row in told] == contents, f"{log}: other contents"
    if pooled and all(len(found[member][1]) > 1 for member in MEMBERS):
        parts = [found[member][1] for member in MEMBERS]
        n = sum(map(len, parts))
        error = (sum(((x - x.mean()) ** 2).sum() for x in parts) / (n - len(parts)) / n) ** 0.5
        said = [rows[GROUP][key] for key in ("acc,none", "acc_stderr,none")]
        assert said == pytest.approx([np.concatenate(parts).mean(), error]), f"{path}: {said}"
