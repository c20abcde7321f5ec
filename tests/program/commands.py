"""Commands: what is asked of the program, what it means, and how hypothesis draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from support.table_world import (
    ADAPTERS,
    BRIEF,
    CHANGED,
    FIRST,
    GRADED,
    OTHER,
    PROSE,
    TASKS,
    VALIDATION,
    WRITTEN,
    leaves_of,
)


class RefusedError(Exception):
    """What the program should refuse."""


def question(groups, **options):
    """Words of a command line."""
    words = [f"--group={name}={','.join(members)}" for name, members in groups.items()]
    named = {name.replace("_", "-"): value for name, value in options.items() if value}
    return words + [f"--{k}" if v is True else f"--{k}={v}" for k, v in named.items()]


@dataclass(frozen=True)
class World:
    """What lies on disk beside run folders.

    Attributes:
        versions: Task → number of an example → what of it changed.
        filtered: Whether sums has its other filter.
        swapped: Adapters at whose path other weights lie.
    """

    versions: dict = field(default_factory=dict)
    filtered: bool = False
    swapped: frozenset = frozenset()


@dataclass(frozen=True)
class Command:
    """What `aurac compare` is asked of a world.

    Attributes:
        adapters: Names of their folders.
        tasks: As they are given.
        options: Others, by name.
        groups: Recipe → names of folders.
        clusters: Tasks whose passages are clusters.
        renamed: Name of a folder → the name that it is given.
        world: When the command is run.
    """

    adapters: tuple[str, ...]
    tasks: tuple[str, ...]
    options: dict
    groups: dict
    clusters: tuple[str, ...] = ()
    renamed: dict = field(default_factory=dict)
    world: World = World()

    def words(self, root, out, table, called=()):
        """The command line; `called` are names on the screen, by the adapter's own."""
        paths = {name: f"{root}/{name}" for name in self.adapters}
        paths |= {"family": f"family={root}/family{{1,2,4}}"} if "family" in paths else {}
        paths |= {name: f"{new}={root}/{name}" for name, new in self.renamed.items()}
        given = {"tasks": ",".join(self.tasks), "out": out, "model": "table"}
        given |= {"include_path": f"{root}/tasks", "model_args": f"table={table}"}
        given |= self.options | {"reference": self.said(self.options.get("reference"), called)}
        for name in {"base", "tokenizer", "data"} & {*given}:
            given[name] = given[name] and given[name].format(root=root)
        clusters = [f"--cluster={task}=passage" for task in self.clusters]
        return ["compare", *paths.values(), *clusters, *question(self.said_groups(called), **given)]

    def said_groups(self, called):
        """The groups by the names on the screen."""
        return {k: tuple(self.said(name, called) for name in v) for k, v in self.groups.items()}

    def said(self, name, called):
        """An adapter, or one of its cuts, by its name on the screen."""
        first, space, rest = str(name).partition(" (")
        found = dict(called).get(self.own(first))
        return name if found is None else found + space + rest

    def own(self, name):
        """Which adapter lies in a folder."""
        return name + OTHER * (name in self.world.swapped)

    @property
    def leaves(self):
        return [leaf for task in self.tasks for leaf in leaves_of(task)]

    def examples(self, leaf):
        """The numbers of its examples, and what of them changed."""
        valid, limit = self.options.get("split") == "validation", self.options.get("limit")
        n = VALIDATION if valid else TASKS[leaf]
        count = math.ceil(n * limit) if limit and limit < 1 else min(limit or n, n)
        given = (self.options.get("data") or "").startswith(f"{leaf}=")
        known = CHANGED if given else self.world.versions.get(leaf, {})
        return tuple((at, known.get(at, "")) for at in range(FIRST * valid, FIRST * valid + count))

    def seen_by(self, other):
        """Its adapters and tasks under the options, cuts and names of another command."""
        options, tasks = other.options | {"reference": self.options["reference"]}, self.tasks
        if (options["data"] or "").partition("=")[0] not in tasks:
            options["data"] = None
        clusters = tuple(task for task in other.clusters if task in tasks)
        renamed = other.renamed if {*other.renamed} <= {*self.adapters} else {}
        clash = {*renamed.values()} & {*self.adapters}.difference(renamed)
        new = {"options": options, "clusters": clusters, "renamed": {} if clash else renamed}
        return replace(self, **new)

    def prompts(self, leaf):
        """What decides the answers: examples shown, template, instruction, tokens of an answer."""
        if leaf == PROSE:
            return "whole"
        shots, chat = (self.options.get(x) for x in ("num_fewshot", "apply_chat_template"))
        tokens = int((self.options.get("gen_kwargs") or "=9").partition("=")[2])
        brief = bool(self.options.get("system_instruction"))
        return f"{shots or 0} {bool(chat)} {brief} {tokens if leaf in WRITTEN else None}"

    def fixed(self, leaf):
        """What a folder holds one of for a task: also split, drawn examples, tokenizer, filters."""
        get = self.options.get
        drawn = (get("seed"), get("fewshot")) if get("num_fewshot") else None
        tokens = (get("tokenizer") or "").endswith("/tokenizer")
        filtered = self.world.filtered and leaf == "sums"
        made = [bool(get(x)) for x in ("apply_chat_template", "system_instruction")]
        about = get("num_fewshot") or 0, *made, get("split"), drawn, tokens, filtered
        return self.prompts(leaf), *about

    @property
    def base(self):
        """Whether it is the other base."""
        return (self.options.get("base") or "").endswith("other")

    def metric(self, task):
        """The metric of a task."""
        if self.options.get("metric") and task == GRADED:
            return "credit"
        if task == PROSE:
            return "word_perplexity"
        return "acc" if task not in WRITTEN or task == GRADED else "exact_match"

    def refused(self):
        """Why no folder takes it, if that is so."""
        options, leaves = self.options, self.leaves
        seeds = [member for members in self.groups.values() for member in members]
        unknown = {(options.get(x) or "").partition("=")[0] for x in ("metric", "data")}
        return (
            len({*leaves}) < len(leaves)
            or len({*seeds}) < len(seeds)
            or "fit" in (options.get("rescale") or "")  # which the table cannot answer
            or bool(unknown - {"", *leaves, *self.tasks})
        )

    @property
    def ways(self):
        """Adapter, basis, rescale and ranks of each curve; a RefusedError for what does not go."""
        ways, asked = {}, self.options.get("ranks") or "pow2"
        bases, rescales = ((self.options.get(x) or "").split(",") for x in ("basis", "rescale"))
        for name in map(self.own, self.adapters):
            spec = ADAPTERS[name]
            every = spec.members or range(1, spec.rank + 1)
            named = {"all": every, "pow2": [rank for rank in every if rank != 3]}.get(asked)
            ranks = named or sorted({*map(int, asked.split(",")), spec.rank})
            own = {
                x: "prefix" if spec.nested or x in ("rule", "trained") else "svd" for x in rescales
            }
            best = {"svd": "keep", "prefix": "trained" if spec.method == "matryoshka" else "rule"}
            pairs = [(b or own[x], x or best[b or own[x]]) for b in bases for x in rescales]
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
    """(cell, task) → the examples that are asked for; the base is the cell None."""
    cells = [cell_of(name, rank, *way) for name, *way, ranks in command.ways for rank in ranks]
    examples = {leaf: command.examples(leaf) for leaf in command.leaves}
    return {(cell, leaf): some for cell in [None, *cells] for leaf, some in examples.items()}


def recipes(adapters, named):
    """Recipe → seeds: those that were named, and adapters that differ in the seed alone."""
    groups = {name: [m for m in members if m in adapters] for name, members in named.items()}
    taken, same = {member for members in groups.values() for member in members}, {}
    for name in adapters:
        if name in ADAPTERS and ADAPTERS[name].recipe and name not in taken:
            same.setdefault(ADAPTERS[name].recipe, []).append(name)
    return {k: v for k, v in groups.items() if v} | {k: v for k, v in same.items() if len(v) > 1}


# Drawn ------------------------------------------------------------------------------------------

TYPO = "loar"
PACKS = (
    "lora lora,dylora nested,bare dylora family ada0 ada0,ada1 bob0,bob1,bob2 cid3,cid4 "
    "ada0,ada1,cid3,cid4 ada0,ada1,bob0,bob1"
)
ASKED = (
    "colours sums both essays left colours,sums both,sums right,left colours,both "
    "colours,both,sums essays,colours prose prose,colours"
)


def mostly(usual, *others):
    """One value most of the time."""
    return st.sampled_from((usual,) * 5 * len(others) + others)


PROMPTS = {
    "limit": st.sampled_from((None, 6, 12, 24, 0.3, 1)),
    "num_fewshot": mostly(None, 1),
    "apply_chat_template": mostly(None, True),
    "gen_kwargs": mostly(None, "max_gen_toks=5"),
    "split": mostly(None, "validation"),
    "seed": mostly(None, 7),
    "fewshot": mostly(None, "fixed"),
    "system_instruction": mostly(None, BRIEF),
    "tokenizer": mostly(None, "base", "{root}/base", "{root}/tokenizer"),
    "base": mostly(None, "{root}/copy", "{root}/other"),
}
CUTS = {
    "ranks": mostly("all", None, "1,2", "1", "3"),
    "basis": st.sampled_from((None, None, None, "prefix", "svd", "svd,prefix")),
    "rescale": mostly(None, "keep", "rule", "trained", "keep,rule", "fit"),
    "data": mostly(None, *(f"{x}={{root}}/data/{x}" for x in ("colours", "sums"))),
    "metric": st.sampled_from((None, f"{GRADED}=credit")),
}
QUESTION = {
    "margin": st.sampled_from((None, 0.05, 0.3, 0.4)),
    "reference": mostly(None, 0, 1, TYPO, "all"),
    "group": st.sampled_from((0, 0, 0, 2, 3)),
}
SHOWN = {
    "json": st.sampled_from((None, True)),
    "label": st.sampled_from((None, True)),
    "out": st.sampled_from((None, True)),
    "rank": st.sampled_from((None, 1, 2, 4)),
    "limit": st.sampled_from((None, None, 4)),
    "away": st.sampled_from((0, 0, -1e6, 1e6)),  # of the clock
}
NAMES = ({}, {}, {"lora": "x"}, {"lora": "nested", "nested": "lora"}, {"dylora": "lora"})


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
    packs = draw(st.lists(st.sampled_from(PACKS.split()), min_size=1, max_size=2))
    adapters = tuple(dict.fromkeys(",".join(packs).split(",")))
    tasks = tuple(draw(st.sampled_from(ASKED.split())).split(","))
    options = {name: draw(values) for name, values in (PROMPTS | CUTS).items()}
    for name in ("data", "metric"):  # mostly of a task that is asked for
        task = (options[name] or "").partition("=")[0]
        options[name] = options[name] if task in tasks or draw(st.integers(0, 9)) == 9 else None
    options["json"] = draw(SHOWN["json"])
    groups, more = asked(adapters, **{name: draw(values) for name, values in QUESTION.items()})
    clusters = draw(st.sampled_from(((), (), tasks[:1], tasks)))
    renamed = draw(st.sampled_from(NAMES))
    clash = {*renamed.values()} & {*adapters}.difference(renamed)
    renamed = {} if {*renamed} - {*adapters} or clash else renamed
    return Command(adapters, tasks, options | more, groups, clusters, renamed)
