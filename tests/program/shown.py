"""What people see: the tables and sentences of a screen, a report and a card, against the frames.

A cell is a set of texts: a number may be rounded either way where the last bits decide.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise, product

from program.oracle import MEAN, TOLD
from program.pages import Html, latex_tables, markdown_blocks
from support.table_world import MEMBERS

SLACK = 2e-6  # of a fraction
NUMBER = r"−?[\d,]*\d(?:\.\d+)?"

# Numbers as pages say -----------------------------------------------------------------------------


def rounded(value, how=round, digits=1, times=100):
    """The texts of a number: to the nearest, or of a bound away from the claim."""
    found = set()
    for each in (value - SLACK, value, value + SLACK):
        x = each * times * 10**digits
        whole = math.floor(abs(x) + 0.5) * (1 if x > 0 else -1) if how is round else how(x)
        sign = "−" if whole < 0 else ""
        found.add(f"{sign}{abs(whole) / 10**digits:.{digits}f}")
    return found


def cell(value, low=None, high=None, mark=""):
    """An accuracy or a difference, in percent, with its interval where it has one."""
    if value is None:
        return {"–"}
    if low is None or high is None:
        return {f"{mark}{x}" for x in rounded(value)}
    ends = product(rounded(value), rounded(low, math.floor), rounded(high, math.ceil))
    return {f"{mark}{x} [{y}, {z}]" for x, y, z in ends}


def lost(value, bound):
    """A loss and the most that it may be."""
    if value is None:
        return {""}
    if bound is None:
        return rounded(value)
    return {f"{x} ({y})" for x, y in product(rounded(value), rounded(bound, math.ceil))}


def p_texts(p):
    """A p value: three places below .1, two above."""
    if p is None:
        return {"–"}
    found = set()
    for each in (p * (1 - 1e-4), p, p * (1 + 1e-4)):
        text = f"{each:.{3 if each < 0.1 else 2}f}".lstrip("0")
        found.add("< .001" if each < 0.001 else "> .99" if each >= 0.995 else text)
    return found


# What they should say -----------------------------------------------------------------------------


class Task:
    """The tables of one task, or of the mean over tasks, from the frames."""

    def __init__(self, frames, task, labels):
        self.task, self.frames = task, frames
        told = {key[1:]: row[TOLD]["name"] for key, row in frames["scores"].items()}
        of = {key: labels.get(key[0], key[0]) + name[len(key[0]) :] for key, name in told.items()}
        self.names = of
        take = lambda name: {k[1:]: v for k, v in frames[name].items() if k[0] == task}  # noqa: E731
        self.scores, self.points, self.pairs = take("scores"), take("points"), take("pairs")
        self.rank_pairs, self.recommended = take("rank_pairs"), take("recommended")
        self.ranks = sorted({key[3] for key in self.points} - {0})
        self.rolling = any(row[TOLD]["rolling"] for row in self.scores.values())
        self.over = next((r[TOLD]["over"] for r in self.scores.values() if r[TOLD]["over"]), [])

    def accuracies(self, bounds):
        """Row → column → texts, of several adapters."""
        rows = {}
        some = any(row["low"] is not None for row in self.scores.values())
        for key, row in self.scores.items():
            cells = {}
            if any(each["aurac"] is not None for each in self.scores.values()):
                head = f"AURAC{' [95 %]' * some}"
                cells[head] = cell(row["aurac"], row["low"], row["high"])
            for rank in [0, *self.ranks]:
                point = self.points.get((*key, rank))
                cells["base" if rank == 0 else f"r={rank}"] = self.point(point, bounds)
            rows[self.names[key]] = cells
        if all(cells["base"] == {"–"} for cells in rows.values()):
            for cells in rows.values():
                del cells["base"]
        return rows

    def point(self, point, bounds):
        if point is None:
            return {"–"}
        if self.rolling:
            return {f"{point['accuracy'] * (1 + x):.4g}" for x in (-SLACK, 0, SLACK)}
        ends = [point["low"], point["high"]] if bounds else []
        return cell(point["accuracy"], *ends, mark="*" * (point["above_base"] is False))

    def at_ranks(self):
        """Rank → column → texts, of the only adapter."""
        [key] = self.scores
        shipped = self.recommended.get(key)
        known = {rank: point for (*_, rank), point in sorted(self.points.items(), key=by_rank)}
        some = any(point["low"] is not None for point in known.values())
        head, rows = f"accuracy{' [95 %]' * some}", {}
        head = "word_perplexity,none" if self.rolling else head
        for rank, point in known.items():
            rows[str(rank)] = cells = {}
            if shipped and shipped["rank"]:
                cells["ship"] = {"yes" if rank == shipped["rank"] else ""}
            cells[head] = self.point(point, True)
            if any(each["loss"] is not None for each in known.values()):
                trained = rank == self.scores[key][TOLD]["trained"]
                cells["loss (at most)"] = (
                    {"trained"} if trained else lost(point["loss"], point["loss_bound"])
                )
            for column, name in (("unfinished", "unfinished"), ("slot", "vLLM rank")):
                if any(each[column] for each in known.values()):
                    cells[name] = {"–" if point[column] is None else str(point[column])}
            if any(each["bytes"] for each in known.values()):
                cells["size"] = {"–" if point["bytes"] is None else f"{point['bytes']} B"}
        return rows

    def check_order(self, names, where):
        """The best AURAC stands first, rows that lack something last."""
        keys = {name: key for key, name in self.names.items()}
        rows = [self.scores[keys[name]] for name in names]
        order = [(r[TOLD]["below"], r["aurac"] is None, -(r["aurac"] or 0)) for r in rows]
        fine = all(a[:2] < b[:2] or a[2] <= b[2] + 1e-9 for a, b in pairwise(order))
        assert fine, f"{where}: {names} are in the order {order}"

    def check_verdict(self, text, where):
        """Which differences are significant, from the one that is in all or one that leads."""
        level = {k: row for k, row in self.scores.items() if not row[TOLD]["below"]}
        best = max(row["aurac"] or 0 for row in level.values())
        about = [k for k, row in level.items() if (row["aurac"] or 0) >= best - 1e-9]
        common = [k for k in self.names if all(k in (p[:3], p[3:6]) for p in self.pairs)]
        about = common if len(self.pairs) > 1 and common else about
        wanted = [self.verdicts(key) for key in about]
        found = text.partition("No ")[0].partition("Another ")[0]
        said = {*re.findall(r"(?:^|(?<=\). ))(.+? is better than .+?) \(−?[\d.]+ points", found)}
        other = re.findall(r"No (other )?difference from (.+?) is significant\.", text)
        assert any(
            said == shown and len(other) == rest and (not other or bool(other[0][0]) == bool(said))
            for shown, rest in wanted
        ), f"{where}: not {wanted}"
        several = min(row["seeds"] for row in self.scores.values()) > 1
        assert ("Another training run may" in text) == (not several), where

    def verdicts(self, key):
        """What is said to be better than what of a row, and whether some is not significant."""
        known = {k: row["p"] for k, row in self.pairs.items() if key in (k[:3], k[3:6])}
        known = {k: p for k, p in known.items() if p is not None}
        shown = [k for k, p in known.items() if p < 0.05]
        better = {f"{self.names[k[:3]]} is better than {self.names[k[3:6]]}" for k in shown}
        return better, int(len(shown) < len(known))

    def check_apart(self, texts, where):
        """It is said which rows and seeds are not compared, and why."""
        for key, row in self.scores.items():
            name, wanted = self.names[key], []
            if row["aurac"] is None and len(self.scores) > 1 and not self.rolling:
                wanted.append(f"{name} has no AURAC and is in no difference: ")
            for start in wanted:
                assert any(x.startswith(start) for x in texts), f"{where}: nowhere {start!r}"

    def called(self, keys):
        return {self.names[key] for key in keys}

    def check_shipped(self, found, where):
        """The rank to ship or the one with the smallest file, and the most that it loses."""
        [key] = [
            k
            for k, name in self.names.items()
            if k in self.scores and found["name"] in (None, name)
        ]
        row = self.recommended[key]
        wanted = row["smallest_rank"] if found["smallest"] else row["rank"]
        rank = found["rank"] and int(found["rank"])
        assert rank == wanted, f"{where}: the rank is {wanted}"
        trained = int(found["trained"] or found["first"] or rank)
        assert trained == row["reference"], f"{where}: trained is {row['reference']}"
        assert found["slot"] in (None, str(row["slot"])), f"{where}: the slot is {row['slot']}"
        if rank and rank != trained:
            most = self.points[(*key, rank)]["loss_bound"]
            bound = rounded(most, math.ceil) if most > -SLACK else {None}
            bound |= {None} if most < SLACK else set()
            assert found["bound"] in bound, f"{where}: the bound is {bound}"

    def pair_names(self, key):
        return f"{self.names[key[:3]]} − {self.names[key[3:6]]}"

    def differences(self, counts=False):
        """Of AURAC; of equal ones either may stand first."""
        rows = {}
        for key, row in self.pairs.items():
            cells = {"points": cell(row["difference"], row["low"], row["high"])}
            if any(each["p"] is not None for each in self.pairs.values()):
                cells["p"] = p_texts(row["p"])
            if counts:
                cells |= {name: {f"{row[name]:,}"} for name in ("wins", "losses")}
            rows[self.pair_names(key)] = cells
            if row["tie"]:
                ends = [end and -end for end in (row["high"], row["low"])]
                other = cells | {"points": cell(row["difference"], *ends)}
                if counts:
                    other |= {"wins": cells["losses"], "losses": cells["wins"]}
                rows[self.pair_names((*key[3:], *key[:3]))] = other
        return rows

    def rank_differences(self):
        """Of the pairs that have a difference of AURAC."""
        both = {*self.pairs, *((*key[3:], *key[:3]) for key in self.pairs)}
        known = {key: row for key, row in self.rank_pairs.items() if key[:6] in both}
        rows, ranks = {}, sorted({key[6] for key in known})
        for key, row in known.items():
            for a, b, sign in ((key[:3], key[3:6], 1), (key[3:6], key[:3], -1)):
                ends = [row["low"], row["high"]][::sign]
                ends = [x if x is None else sign * x for x in ends]
                cells = rows.setdefault(self.pair_names((*a, *b)), {f"r={r}": {"–"} for r in ranks})
                cells[f"r={key[6]}"] = cell(sign * row["difference"], *ends)
        return rows

    def overview(self, tasks):
        """The mean over tasks, and each task."""
        rows = {}
        some = any(row["low"] is not None for row in self.scores.values())
        for key, row in self.scores.items():
            head = f"mean AURAC{' [95 %]' * some}"
            rows[self.names[key]] = {head: cell(row["aurac"], row["low"], row["high"])}
            each = {task: self.frames["scores"].get((task, *key)) for task in tasks}
            rows[self.names[key]] |= {t: cell(row and row["aurac"]) for t, row in each.items()}
        return rows

    def members(self):
        """AURAC of each row of a group on each of its tasks."""
        rows = {member: {} for member in MEMBERS}
        for key, row in self.scores.items():
            for member, area in row[TOLD]["members"].items():
                rows[member][self.names[key]] = cell(area)
        return rows

    def check_figure(self, alt, where):
        """The ends of each line, as the text beside a figure says them."""
        keys = {name: key for key, name in self.names.items() if key in self.scores}
        for part in alt.partition(" against rank. ")[2].rstrip(".").split("; "):
            name, colon, ends = part.partition(": ")
            for value, rank in re.findall(r"(\S+?)(?: %)? at rank (\d+)", ends if colon else ""):
                point = self.points[(*keys[name], int(rank))] | {"above_base": None}
                wanted = self.point(point, bounds=False)
                assert value in wanted, f"{where}: {part!r}, not {wanted}"


def by_rank(item):
    return item[0][-1]


def check_table(expected, rows, where, some=False):
    """A table row by row, whatever their order; `some` may lack rows, and columns of dashes."""
    head, *body = rows
    found = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}
    assert len(found) == len(body), f"{where}: a name twice in {[row[0] for row in body]}"
    assert {*found} <= {*expected}, f"{where}: rows {[*found]}, not {[*expected]}"
    for name, cells in found.items():
        wanted = expected[name]
        empty = {c for c in wanted if some and all(expected[n].get(c) == {"–"} for n in found)}
        assert {*wanted} - empty <= {*cells} <= {*wanted}, f"{where}: columns {[*cells]}"
        for column, text in cells.items():
            said = f"{where}: {column} of {name} is {text!r}"
            assert text in wanted[column], f"{said}, not {sorted(wanted[column])}"
    return found if some else _all_rows(expected, found, where)


def _all_rows(expected, found, where):
    """Every row, of two names of a tie one."""
    lacking = {*expected} - {*found}
    turned = {" − ".join(name.split(" − ")[::-1]) for name in found}
    assert not lacking - turned, f"{where}: lacks {lacking - turned}"
    return found


def kind_of(head):
    """What a table is, by its head."""
    if head[0] == "difference":
        return "differences" if "points" in head else "rank differences"
    marks = {"SHA-256": "checkpoints", "reason": "failures"}
    found = next((kind for mark, kind in marks.items() if mark in head), None)
    if found or head[0] in ("rank", "task", "what"):
        names = {"rank": "ranks", "task": "members", "what": "facts"}
        return found or names[head[0]]
    return "overview" if head[1].startswith("mean AURAC") else "accuracies"


class Shown:
    """A screen or a page, block by block, against frames."""

    def __init__(self, frames, where, labels=None):
        self.frames, self.where, self.met, self.shipped = frames, where, Counter(), {}
        tasks = dict.fromkeys(key[0] for key in frames["scores"])
        self.tasks = {task: Task(frames, task, labels or {}) for task in tasks}
        self.mean = self.tasks.pop(MEAN, None)
        self.mean = self.mean if self.mean and self.mean.pairs else None
        self.known = numbers_of(frames)

    def tables(self, blocks, *, bounds, details):
        """Each table below the heading of its task, each sentence, and none that is missing."""
        [only] = self.tasks if len(self.tasks) == 1 else [None]
        at = self.tasks[only] if only else self.mean
        for kind, content in blocks:
            if kind == "head":
                at = self.tasks.get(content, at if only else None)
            elif kind == "figure":
                at.check_figure(content, f"{self.where}: a figure")
            elif kind == "text":
                at = self.heading(content) or at
                self.sentence(self.tasks.get(content.partition(": ")[0], at), content)
            else:
                self.table(at, content, bounds, counts=details and not bounds)
        self.check_met(bounds)
        for of in self.tasks.values():
            of.check_apart([text for kind, text in blocks if kind == "text"], self.where)
        return self

    def heading(self, text):
        """The task of a heading of the screen, whose examples are counted."""
        found = re.match(r"(?:.+ on )?(\w+): \S+ .*?(?:, ([\d,]+) examples?)?(?:;.*)?$", text)
        of = (
            found
            and ("in percent" in text or "lower is better" in text)
            and self.tasks.get(found[1])
        )
        if of and found[2]:
            most = max(row["examples"] for row in of.scores.values())
            assert int(found[2]) == most, f"{self.where}: {text!r}, not {most}"
        return of

    def table(self, of, rows, bounds, counts):
        """One table of a task."""
        kind = kind_of(rows[0])
        where = f"{self.where}: {kind} of {of and of.task}"
        if kind in ("facts", "checkpoints", "failures"):
            return
        assert of, f"{where}: a table of no task, {rows[0]}"
        self.met[of.task, kind] += 1
        expected = {
            "differences": lambda: of.differences(counts),
            "rank differences": of.rank_differences,
            "overview": lambda: of.overview(rows[0][2:]),
            "accuracies": lambda: of.accuracies(bounds),
            "ranks": of.at_ranks,
            "members": of.members,
        }
        if kind in expected:
            check_table(expected[kind](), rows, where, some=kind == "rank differences")
        if kind in ("accuracies", "overview"):
            of.check_order([row[0] for row in rows[1:]], where)

    def check_met(self, bounds):
        """All tables that belong there."""
        wanted = Counter()
        for of in filter(None, [self.mean, *self.tasks.values()]):
            main = "ranks" if len(of.scores) == 1 else "accuracies"
            main = "overview" if of is self.mean else main
            wanted[of.task, main] = 1
            wanted[of.task, "differences"] = int(bool(of.pairs))
            both = {(*k[:6],) for k in of.rank_pairs} | {(*k[3:6], *k[:3]) for k in of.rank_pairs}
            ranks = any(key in both for key in of.pairs) and bounds and of is not self.mean
            wanted[of.task, "rank differences"] = int(ranks)
        met = {key: n for key, n in self.met.items() if key[1] != "members"}
        assert met == +wanted, f"{self.where}: has tables {met}, not {+wanted}"

    # Sentences

    def sentence(self, of, text):
        """The numbers and names of a sentence."""
        where = f"{self.where}: {text!r}"
        if text.startswith(
            ("report: ", "the report shows", "aurac ", "The option", "Base ", "two seeds: ")
        ):
            return
        for value in re.findall(r"(?<![\w.])−?\d+\.\d(?!\d| B| kB)", text):
            assert value in self.known, f"{where}: {value} is no number of the frames"
        own = text.removeprefix(f"{of and of.task}: ")
        if re.search(r" is better than |difference from .+ is significant", text):
            of = self.mean if text.startswith("Mean over") else of
            own = re.sub("^Mean over .+? tasks: ", "", own)
            of.check_verdict(own, where)
        if found := re.search(r"hold for all ([\d,]+) together", text):
            counts = {row["comparisons"] for row in of.pairs.values()}
            assert counts == {int(found[1].replace(",", ""))}, f"{where}, not {counts}"
        if found := re.search(r"[Oo]ver ranks ([\d, ]+), which all have", text):
            assert [*map(int, found[1].split(", "))] == list(of.over), f"{where}, not {of.over}"
        if found := re.match(SHIP, own):
            of.check_shipped(found, where)
            self.shipped.setdefault(of.task, set()).add(found["name"])


SHIP = (
    r"(?:(?P<name>.+?): )??"
    r"(?:In vLLM --max-lora-rank (?P<slot>\d+) is (?:enough instead of \d+|needed as before)\. )?"
    r"(?:Ship no rank: rank (?P<first>\d+)|"
    r"(?:Ship|(?P<smallest>The smallest file is that of)) rank (?P<rank>\d+)(?:, as trained|: it "
    r"loses (?:at most (?P<bound>[\d.]+) points|nothing) against rank (?P<trained>\d+)))"
)


def numbers_of(frames):
    """The texts of all that may be told in points or percent."""
    found = set()
    for rows in frames.values():
        for row in rows.values():
            for name in ("aurac", "accuracy", "base", "difference", "loss", "low", "high"):
                if isinstance(value := row.get(name), float):
                    for x in (value, -value):
                        found |= rounded(x) | rounded(x, math.floor) | rounded(x, math.ceil)
            if row.get("loss_bound") is not None:
                found |= rounded(row["loss_bound"], math.ceil)
            if row.get("margin") is not None:
                found |= {f"{100 * row['margin']:.10g}"}
    return found


# Pages --------------------------------------------------------------------------------------------


def check_pages(path, frames, labels=None):
    """report.md against the frames; report.html and table.tex against it."""
    blocks = markdown_blocks((path / "report.md").read_text())
    page = Shown(frames, "report.md", labels).tables(blocks, bounds=True, details=True)
    tables = [rows for kind, rows in blocks if kind == "table"]
    seen = Html((path / "report.html").read_text())
    assert seen.tables == tables, f"report.html has {first_other(seen.tables, tables)}"
    texts = {" ".join(text.split()) for text in seen.texts}
    for kind, text in blocks:
        if kind == "text" and not text.startswith(("Example ", "[", "Answers")):
            judged = re.search(r"(at rank \d+|^base): (right|wrong|score \d[.\d]*)$", text)
            assert judged or " ".join(text.split()) in texts, f"report.html lacks {text!r}"
    tex, wanted = latex_tables((path / "table.tex").read_text()), Counter()
    for caption, rows in tex:
        found = re.search(r" on (\S+) at each rank", caption) or re.match(r"(\S+): ", caption)
        of, where = page.tasks[found[1]], f"table.tex, {caption[:40]}"
        wanted[of.task, rows[0][0]] += 1
        if rows[0][0] == "difference":
            check_table(of.differences(), rows, where)
        else:
            check_table(of.accuracies(bounds=False), rows, where)
    each = {(of.task, "adapter"): 1 for of in page.tasks.values()}
    each |= {(of.task, "difference"): 1 for of in page.tasks.values() if of.pairs}
    assert wanted == each, f"table.tex has {wanted}, not {each}"


def first_other(ours, theirs):
    """Where two lists of tables differ."""
    return next(((a, b) for a, b in zip(ours, theirs, strict=False) if a != b), "other tables")


def check_card(path, frames):
    """An adapter's card: AURAC over its own ranks, each rank, and what to ship."""
    page, at, met = Shown(frames, "the card"), None, set()
    for kind, content in markdown_blocks(path.read_text()):
        if kind == "head":
            at = page.tasks.get(content)
        elif kind == "table":
            [key] = at.scores
            for rank, accuracy, _, slot in content[1:]:
                point = at.points[(*key, int(rank))]
                wanted = at.point(point, bounds=True) | at.point(point | {"above_base": None}, True)
                assert accuracy in wanted, f"the card: rank {rank} has {accuracy}, not {wanted}"
                assert slot == str(point["slot"] or ""), f"the card: rank {rank} has slot {slot}"
            ranks = [int(row[0]) for row in content[1:]]
            assert ranks == at.ranks, f"the card has ranks {ranks}, not {at.ranks}"
            met.add(at.task)
        elif at and (
            found := re.search(r"AURAC over ranks ([\d, ]*): (\S+(?: \[.*?\])?) % on", content)
        ):
            [row] = at.scores.values()
            told = [int(rank) for rank in found[1].split(",") if rank.strip()]
            assert told == list(at.over), f"the card: {content!r}, not over {at.over}"
            wanted = cell(row["aurac"], row["low"], row["high"])
            assert found[2] in wanted, f"the card: {content!r}, not {wanted}"
            assert f"on {row['examples']} example" in content, f"the card: {content!r}"
            met.add((at.task, "area"))
        if at and kind == "text" and (found := re.search(SHIP, content)):
            at.check_shipped(found, f"the card: {content!r}")
    met |= {(of.task, "area") for of in page.tasks.values() if not of.over}
    wanted = {*page.tasks} | {(task, "area") for task in page.tasks}
    assert met == wanted, f"the card has {met}"
