"""Commands: what is asked of the program, what it means, and how hypothesis draws it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import hypothesis.strategies as st
from support.table_world import ADAPTERS, TASKS, WRITTEN, leaves_of, passage


class RefusedError(Exception):
    """What the program should refuse."""


def question(groups, **options):
    """Words of a command line."""
    words = [f"--group={name}={','.join(members)}" for name, members in groups.items()]
    named = {name.replace("_", "-"): value for name, value in options.items() if value}
    return words + [f"--{k}" if v is True else f"--{k}={v}" for k, v in named.items()]


@dataclass(frozen=True)
class Command:
    """What `aurac compare` is asked; `clusters` are tasks whose passages are clusters."""

    adapters: tuple[str, ...]
    tasks: tuple[str, ...]
    options: dict
    groups: dict
    clusters: tuple[str, ...] = ()

    def words(self, root, out, table):
        """The command line."""
        paths = {name: f"{root}/{name}" for name in self.adapters}
        paths |= {"family": f"family={root}/family{{1,2,4}}"} if "family" in paths else {}
        given = {"tasks": ",".join(self.tasks), "out": out, "model": "table", "json": True}
        given |= {"include_path": f"{root}/tasks", "model_args": f"table={table}"} | self.options
        clusters = [f"--cluster={task}=passage" for task in self.clusters]
        return ["compare", *paths.values(), *clusters, *question(self.groups, **given)]

    @property
    def leaves(self):
        return [leaf for task in self.tasks for leaf in leaves_of(task)]

    def examples(self, leaf):
        n, limit = TASKS[leaf], self.options.get("limit") or TASKS[leaf]
        return math.ceil(n * limit) if limit < 1 else min(limit, n)

    def prompts(self, leaf):
        """What decides the requests of a task: examples shown, template, tokens of an answer."""
        shots, chat = (self.options.get(x) for x in ("num_fewshot", "apply_chat_template"))
        tokens = int((self.options.get("gen_kwargs") or "=9").partition("=")[2])
        return f"{shots or 0} {bool(chat)} {tokens if leaf == WRITTEN else None}"

    @property
    def ways(self):
        """Adapter, basis, rescale and ranks of each curve; a RefusedError for what does not go."""
        ways, asked = {}, self.options.get("ranks") or "pow2"
        bases, rescales = ((self.options.get(x) or "").split(",") for x in ("basis", "rescale"))
        for name in self.adapters:
            spec = ADAPTERS[name]
            every = spec.members or range(1, spec.rank + 1)
            named = {"all": every, "pow2": [rank for rank in every if rank != 3]}.get(asked)
            ranks = named or sorted({*map(int, asked.split(",")), spec.rank})
            own = "prefix" if spec.nested or rescales[0] in ("rule", "trained") else "svd"
            best = {"svd": "keep", "prefix": "trained" if spec.method == "matryoshka" else "rule"}
            pairs = [(basis or own, x or best[basis or own]) for basis in bases for x in rescales]
            usable = [(b, r) for b, r in pairs if b == "prefix" or r == "keep"]
            usable = [("prefix", "rule")] if spec.members else usable
            unknown = spec.method is None and ("prefix", "trained") in usable
            if unknown or not usable or {*ranks} - {*every}:
                raise RefusedError("a rank or a cut that the adapter does not have")
            ways |= {(name, *way): ranks for way in usable}
        return [(*way, ranks) for way, ranks in ways.items()]


def cell_of(name, rank, basis, rescale):
    """What is evaluated: at full rank the adapter itself, whatever the cut."""
    spec = ADAPTERS[name]
    if spec.members or rank < spec.rank:
        return name, rank, basis, rescale
    with_p = spec.method == "matryoshka" and (basis == "svd" or rescale == "trained")
    return name, rank, "prefix", "trained" if with_p else "rule"


def cells_of(command):
    """(cell, task) → how many examples are asked for; the base is the cell None."""
    cells = [cell_of(name, rank, *way) for name, *way, ranks in command.ways for rank in ranks]
    counts = {leaf: command.examples(leaf) for leaf in command.leaves}
    return Counter({(cell, leaf): n for cell in [None, *cells] for leaf, n in counts.items()})


def recipes(adapters, named):
    """Recipe → seeds: those that were named, and adapters that differ in the seed alone."""
    groups = {name: [m for m in members if m in adapters] for name, members in named.items()}
    taken, same = {member for members in groups.values() for member in members}, {}
    for name in adapters:
        if name in ADAPTERS and ADAPTERS[name].recipe and name not in taken:
            same.setdefault(ADAPTERS[name].recipe, []).append(name)
    return {k: v for k, v in groups.items() if v} | {k: v for k, v in same.items() if len(v) > 1}


def clusters_of(counts):
    """What the first examples of tasks share; one of a task without clusters is one by itself."""
    every = [(leaf, i, shared) for leaf, (n, shared) in counts.items() for i in range(n)]
    some = any(shared for _, _, shared in every)
    return [f"{leaf} {passage(i) if shared else i}" for leaf, i, shared in every] if some else None


# Drawn ------------------------------------------------------------------------------------------

TYPO = "loar"
PACKS = "lora bare nested dylora family ada0 ada0,ada1 ada0,ada1,ada2 bob0,bob1,bob2 cid3,cid4"
ASKED = "colours sums both left colours,sums both,sums right,left colours,both colours,both,sums"
PROMPTS = {
    "limit": st.sampled_from((6, 12, 0.3, 1)),
    "num_fewshot": st.sampled_from((None, None, 1)),
    "apply_chat_template": st.sampled_from((None, None, True)),
    "gen_kwargs": st.sampled_from((None, None, "max_gen_toks=5")),
}
CUTS = {
    "ranks": st.sampled_from((None, None, "all", "1,2", "1", "3")),
    "basis": st.sampled_from((None, None, "prefix", "svd", "svd,prefix")),
    "rescale": st.sampled_from((None, None, None, "keep", "rule", "trained", "keep,rule")),
}
QUESTION = {
    "margin": st.sampled_from((None, 0.05, 0.2, 0.4)),
    "reference": st.sampled_from((None, None, 0, 1, TYPO)),
    "group": st.sampled_from((0, 0, 0, 2, 3)),
}


def asked(adapters, margin, reference, group):
    """A question to these adapters: groups, and options."""
    groups = {"mix": adapters[:group]} if 0 < group <= len(adapters) else {}
    found = recipes(adapters, groups)
    if isinstance(reference, int):
        names = sorted({*found, *adapters}.difference(*found.values()))
        reference = names[reference % len(names)]
    return groups, {"margin": margin, "reference": reference}


@st.composite
def commands(draw):
    """Any command."""
    packs = draw(st.lists(st.sampled_from(PACKS.split()), min_size=1, max_size=3))
    adapters = tuple(dict.fromkeys(",".join(packs).split(",")))
    tasks = tuple(draw(st.sampled_from(ASKED.split())).split(","))
    options = {name: draw(values) for name, values in (PROMPTS | CUTS).items()}
    groups, more = asked(adapters, **{name: draw(values) for name, values in QUESTION.items()})
    clusters = draw(st.sampled_from(((), (), tasks[:1], tasks)))
    return Command(adapters, tasks, options | more, groups, clusters)
