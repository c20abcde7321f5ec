"""What a run folder holds after its commands, from `docs/design/run-folder.md`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from program.commands import RefusedError, cell_of, cells_of, recipes
from support import table_world as world
from support.table_world import AGAIN, FIRST, PROSE, WRITTEN, kind_of, leaves_of


class Folder:
    """What a run folder holds, in the order in which it came.

    Attributes:
        root: Where the adapters lie.
        names: Adapter → its name, the one that the first command gave it.
        asked: The tasks that were asked for.
        fixed, base: What there is one of: for each task, and for all.
        lists: Task (no group) → its examples.
        reads: Task or group → how many examples of each of its tasks it reads.
        cuts: (adapter, basis, rescale) → task or group → ranks.
        stored: `key` of a cell → its examples; `wanted`: (cell, task) → how many were asked for.
        failed: (cell, task) of which some could not be computed.
        clustered, metrics: Of each task, as it was asked last.
        groups, question, labels, limit: What was asked last.
    """

    def __init__(self, table, root):
        self.table, self.root, self.names = table, root, {}
        self.asked, self.fixed, self.base, self.groups = [], {}, None, {}
        self.lists, self.reads, self.clustered, self.metrics, self.cuts = {}, {}, {}, {}, {}
        self.stored, self.wanted, self.failed = {}, {}, set()
        self.question, self.labels, self.limit = {"margin": None, "reference": None}, {}, None

    # Commands

    def called(self, command):
        """Adapter → its name on the screen of a command."""
        names = {}
        for folder in command.adapters:
            own, taken = command.own(folder), {*names.values(), *self.names.values()}
            name = command.renamed.get(folder) or self.names.get(own)
            if name is None:
                name = folder if folder not in taken else f"{self.root.name}/{folder}"
                name = numbered(folder, taken) if name in taken else name
            names[own] = name
        return names

    def may_ask(self, command):
        """The examples that a model is asked; what cannot be done is refused before."""
        called = self.called(command)
        groups = command.said_groups(called)
        found = recipes([*called.values()], groups)
        names = {None, "all", *found, *{*called.values()}.difference(*found.values())}
        new = {leaf: command.fixed(leaf) for leaf in command.leaves}
        other = any(self.fixed.get(leaf, new[leaf]) != new[leaf] for leaf in new)
        other |= self.base not in (None, command.base) or command.refused()
        others = {name for own, name in self.names.items() if called.get(own) != name}
        other |= bool(others & {*command.renamed.values()})  # the name of another adapter
        for leaf in new:  # no example of the list has changed
            both = zip(self.lists.get(leaf, ()), command.examples(leaf), strict=False)
            other |= any(known != example for known, example in both)
        if other or command.said(command.options["reference"], called) not in names:
            raise RefusedError("other prompts or examples, a seed twice, or no such reference")
        asked = set()
        for (cell, leaf), examples in cells_of(command).items():
            there = self.stored.get((cell, leaf, command.base, command.fixed(leaf)), set())
            for at, version in {*examples} - there:
                prompts = command.prompts(leaf) + AGAIN * (version == "question")
                asked.add((kind_of(cell), leaf, at, prompts))
        return asked

    def told(self, command):
        """Add what a command asks for."""
        for own, name in self.called(command).items():
            if own not in self.names:
                self.names[own] = numbered(name, {*self.names.values()})
        self.asked = list(dict.fromkeys([*self.asked, *command.tasks]))
        self.base, question = command.base, {x: command.options[x] for x in self.question}
        question["reference"] = command.said(question["reference"], self.names)
        self.ask(command.said_groups(self.names), None, **question)
        for key, examples in cells_of(command).items():
            self.wanted[key] = max(self.wanted.get(key, 0), len(examples))
        shared_ones = {leaf for task in command.clusters for leaf in leaves_of(task)}
        for leaf in command.leaves:
            self.fixed[leaf] = command.fixed(leaf)
            self.clustered[leaf] = leaf in shared_ones
            self.lists[leaf] = max(self.lists.get(leaf, ()), command.examples(leaf), key=len)
        for task in dict.fromkeys([*command.tasks, *command.leaves]):
            self.metrics[task] = command.metric(task)
            new = [len(command.examples(leaf)) for leaf in leaves_of(task)]
            self.reads[task] = [*map(max, new, self.reads.get(task, new))]
            for *cut, ranks in command.ways:
                of = self.cuts.setdefault(tuple(cut), {})
                of[task] = of.get(task, set()) | {*ranks}
        return self

    def ask(self, groups, limit, **question):
        """Another question; groups take the place of those with the same adapters."""
        taken = {member for members in groups.values() for member in members}
        self.groups = {k: v for k, v in self.groups.items() if not taken & {*v}} | groups
        self.question, self.limit = question, limit

    def part(self, command):
        """What the screen of a command covers: what it asked for, under its names."""
        part = Folder(self.table, self.root)
        part.names = self.called(command)
        part.told(command)
        part.stored, part.failed = self.stored, self.failed
        return part

    def examples(self, task):
        """The examples of each of its tasks that are read; a perplexity is that of all."""
        limit = None if task == PROSE else self.limit
        each = zip(leaves_of(task), self.reads[task], strict=True)
        return [self.lists[leaf][:count][:limit] for leaf, count in each]

    def run(self, command, fails):
        """Compute what a command asks for, but for `fails`: (kind, task)."""
        self.told(command)
        for key, examples in cells_of(command).items():
            there = self.stored.setdefault(self.key(*key), set())
            if {*examples} - there and (kind_of(key[0]), key[1]) in fails:
                self.failed.add(key)
            elif {*examples} - there:
                there.update(examples)
                self.failed.discard(key)

    # Readers

    def key(self, cell, leaf):
        """What decides the answers of a cell."""
        return cell, leaf, self.base, self.fixed[leaf]

    def whole(self, cell, leaf, examples):
        """Whether there is an outcome of all these examples."""
        return self.stored.get(self.key(cell, leaf), set()) >= {*examples}

    def lose(self, cell, leaf):
        """The outcomes of a cell are lost."""
        self.stored[self.key(cell, leaf)] = set()
        self.failed.discard((cell, leaf))

    def merge(self, other):
        """The cells of another folder are added."""
        for key, examples in other.stored.items():
            self.stored.setdefault(key, set()).update(examples)

    def scores(self, cell, leaf, examples, metric):
        """(n,) scores; of whole texts one perplexity."""
        prompts, kind = self.fixed[leaf][0], kind_of(cell)
        if leaf == PROSE:
            each = [world.likelihood(self.table, kind, prompts, x) for x in examples]
            total, words = map(sum, zip(*each, strict=True))
            return np.array([np.exp(-total / words)])
        told = (world.score(self.table, kind, leaf, prompts, x, metric) for x in examples)
        return np.array([*told], float)

    def failures(self):
        """(cell, task) of what could not be computed."""
        known = self.failed & {*self.wanted}
        asked = {key: self.lists[key[1]][: self.wanted[key]] for key in known}
        return [key for key, examples in asked.items() if not self.whole(*key, examples)]

    def logged(self, cut, leaf):
        """Rank → examples and scores that a cut, or the base, has whole: the most of a task."""
        found = {}
        for task in (task for task in self.reads if leaf in leaves_of(task)):
            examples = self.examples(task)[leaves_of(task).index(leaf)]
            for rank in [0] if cut is None else self.cuts[cut].get(task, ()):
                cell = cell_of(cut[0], rank, *cut[1:]) if rank else None
                more = len(examples) > len(found.get(rank, ((), ()))[0])
                if more and self.whole(cell, leaf, examples):
                    metric = "exact_match" if leaf == "sums" else "acc"  # that is exported
                    found[rank] = examples, self.scores(cell, leaf, examples, metric)
        return found

    def curves(self, limit=None):
        """A curve for each task and cut that has a score at some rank."""
        kept, self.limit = self.limit, limit or self.limit
        made = [self._curve(task, cut) for task in self.asked for cut in self.cuts]
        self.limit = kept
        return [curve for curve in made if curve]

    def _curve(self, task, cut):
        if task not in self.cuts[cut]:
            return None
        parts = [*zip(leaves_of(task), self.examples(task), strict=True)]
        examples = [(leaf, example) for leaf, some in parts for example in some]
        found, missing = {}, set()
        for rank in [0, *sorted(self.cuts[cut][task])]:
            cell = cell_of(cut[0], rank, *cut[1:]) if rank else None
            if all(self.whole(cell, *part) for part in parts):
                scores = [self.scores(cell, *part, self.metrics[task]) for part in parts]
                found[rank] = np.concatenate(scores)
            elif rank and all(self.wanted[cell, leaf] >= len(some) for leaf, some in parts):
                missing.add(rank)
        about = {"adapter": self.names[cut[0]], "cut": cut[1:], "spec": world.ADAPTERS[cut[0]]}
        about |= {"clusters": self.clusters(examples), "examples": examples, "cut_off": {}}
        for rank in found if task in WRITTEN else ():
            about["cut_off"][rank] = self.cut_off(task, cut, rank, examples)
        about |= {"base": found.pop(0, None), "n": len(examples), "missing": missing}
        return SimpleNamespace(task=task, scores=found, **about)

    def cut_off(self, task, cut, rank, examples):
        """How many texts have as many tokens as are allowed; a token is a byte."""
        cell = cell_of(cut[0], rank, *cut[1:]) if rank else None
        prompts, kind = self.fixed[task][0], kind_of(cell)
        count = 0
        for _, (at, version) in examples:
            said = prompts + AGAIN * (version == "question")
            right = world.outcomes(self.table, kind, task, said)[at]
            count += len(world.text_of(task, at, right)) >= int(prompts.split()[-1])
        return count

    def clusters(self, examples):
        """What examples share; one of a task without clusters is one by itself."""
        if not any(self.clustered[leaf] for leaf, _ in examples):
            return None
        passages = [world.passage(at, version) for _, (at, version) in examples]
        each = zip(examples, passages, strict=True)
        return [f"{x} {p if self.clustered[x] else at % FIRST}" for (x, (at, _)), p in each]


def numbered(name, taken):
    """A name, with a number behind it if another adapter has it."""
    more = (f"{name}-{number}" for number in range(2, 99))
    return next(each for each in (name, *more) if each not in taken)
