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
        sets: Task or group → sets of examples, for each of its tasks; the last one at the end.
        cuts: (adapter, basis, rescale) → task or group → set → ranks.
        stored: `key` of a cell → its examples; `wanted`: (cell, task) → those that were asked for.
        failed: (cell, task) of which some could not be computed.
        clustered, metrics: Of each task, as it was asked last.
        groups, question, labels, limit: What was asked last.
    """

    def __init__(self, table, root):
        self.table, self.root, self.names = table, root, {}
        self.asked, self.fixed, self.base, self.groups = [], {}, None, {}
        self.sets, self.clustered, self.metrics, self.cuts = {}, {}, {}, {}
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
        if other or command.said(command.options["reference"], called) not in names:
            raise RefusedError("other prompts, a task or a seed twice, or no such reference")
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
            self.wanted.setdefault(key, set()).update(examples)
        shared_ones = {leaf for task in command.clusters for leaf in leaves_of(task)}
        for leaf in command.leaves:
            self.fixed[leaf] = command.fixed(leaf)
            self.clustered[leaf] = leaf in shared_ones
        for task in dict.fromkeys([*command.tasks, *command.leaves]):
            self.metrics[task] = command.metric(task)
            new = tuple(command.examples(leaf) for leaf in leaves_of(task))
            self.sets[task] = [x for x in self.sets.get(task, ()) if x != new] + [new]
            for *cut, ranks in command.ways:
                of = self.cuts.setdefault(tuple(cut), {}).setdefault(task, {})
                of[new] = of.get(new, set()) | {*ranks}
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

    def there(self, cell, leaf):
        """The examples of which there is an outcome."""
        return self.stored.get(self.key(cell, leaf), set())

    def whole(self, cell, leaf, examples):
        return self.there(cell, leaf) >= {*examples}

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
        return {key for key in known if self.wanted[key] - self.there(*key)}

    def read(self, task, cut, ranks):
        """The set of examples that a cut, or the base, is read on at these ranks, if there is one.

        With the ranks that have it whole, and those that were asked for on it.
        """
        leaves, asked = leaves_of(task), {}
        for examples in reversed(self.sets.get(task, ())):
            some = {0} if cut is None else self.cuts[cut].get(task, {}).get(examples, set())
            if task == PROSE and self.limit and size(examples) > self.limit:
                continue  # a perplexity is that of a whole set
            if some:
                asked.setdefault(tuple(x[: self.limit] for x in examples), set()).update(some)

        def having(examples):
            pairs = [*zip(leaves, examples, strict=True)]
            cells = {rank: cell_of(cut[0], rank, *cut[1:]) if rank else None for rank in ranks}
            return {r for r in ranks if all(self.whole(cells[r], *pair) for pair in pairs)}

        there = {examples: found for examples in asked if (found := having(examples))}
        if not there:
            return None
        last = next(iter(there))
        same = [examples for examples in there if one_generation(examples, last)]
        best = max(same, key=lambda x: (len(there[x]) * size(x), size(x)))
        return best, there[best], asked[best]

    def logged(self, cut, leaf):
        """Rank → examples and scores of the largest set that a cut, or the base, has at it."""
        found = {}
        for task in self.sets:
            if leaf not in leaves_of(task):
                continue
            for rank in self.ranks(cut, task):
                cell = cell_of(cut[0], rank, *cut[1:]) if rank else None
                if read := self.read(task, cut, [rank]):
                    examples = read[0][leaves_of(task).index(leaf)]
                    if len(examples) > len(found.get(rank, ((), ()))[0]):
                        metric = "exact_match" if leaf == "sums" else "acc"  # that is exported
                        found[rank] = examples, self.scores(cell, leaf, examples, metric)
        return found

    def ranks(self, cut, task):
        """All that were asked of a cut on a task, or on the tasks of a group."""
        if cut is None:
            return [0]
        own = [self.cuts[cut].get(leaf, {}).values() for leaf in leaves_of(task)]
        return sorted({rank for some in own for each in some for rank in each})

    def curves(self, limit=None):
        """A curve for each task and cut that has a score at some rank."""
        kept, self.limit = self.limit, limit or self.limit
        made = [self._curve(task, cut) for task in self.asked for cut in self.cuts]
        self.limit = kept
        return [curve for curve in made if curve]

    def _curve(self, task, cut):
        read = task in self.cuts[cut] and self.read(task, cut, self.ranks(cut, task))
        if not read:
            return None
        (best, ranks, asked), leaves = read, leaves_of(task)
        examples = [(x, example) for x, some in zip(leaves, best, strict=True) for example in some]
        found = {}
        for rank in [0, *sorted(ranks)]:
            cell = cell_of(cut[0], rank, *cut[1:]) if rank else None
            parts = [*zip(leaves, best, strict=True)]
            if all(self.whole(cell, *part) for part in parts):
                scores = [self.scores(cell, *part, self.metrics[task]) for part in parts]
                found[rank] = np.concatenate(scores)
        about = {"adapter": self.names[cut[0]], "cut": cut[1:], "spec": world.ADAPTERS[cut[0]]}
        about |= {"clusters": self.clusters(examples), "examples": examples, "cut_off": {}}
        for rank in found if task in WRITTEN else ():
            about["cut_off"][rank] = self.cut_off(task, cut, rank, examples)
        about |= {"base": found.pop(0, None), "n": size(best), "missing": asked - {*found}}
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


def size(examples):
    return sum(map(len, examples))


def one_generation(one, other):
    """Whether the shorter set of each task is the beginning of the longer one."""
    pairs = zip(one, other, strict=True)
    return all(x[: len(y)] == y[: len(x)] for x, y in pairs)
