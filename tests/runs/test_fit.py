"""The factor of rescale `fit`: the maximum of an objective over powers of two."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import pytest
from support.harness_doubles import write_choice_task
from support.runs_doubles import Backend
from support.small_runs import SMALL, TASK, random_adapter, run_small

from aurac.errors import CellError
from aurac.records.run import read_run
from aurac.runs import fit
from aurac.runs.fit import EXPONENTS, Fit, best_factor, fitted
from aurac.runs.inputs import load
from aurac.runs.settings import Settings

FIT = {"ranks": "4", "rescale": "fit", "basis": "prefix", "limit": 2}


def peak_at(exponent, tried):
    """A parabola in log2 of the factor, which keeps what it was asked."""

    def objective(factor):
        tried.append(math.log2(factor))
        return -((math.log2(factor) - exponent) ** 2)

    return objective


@pytest.mark.parametrize("exponent", [-1.3, 0.0, 2.4, 4.6, 5.2, 7.7, -4.1])
def test_the_vertex_is_found_also_beyond_the_first_grid(exponent):
    tried = []
    factor = best_factor(peak_at(exponent, tried))
    assert math.log2(factor) == pytest.approx(exponent, abs=1e-9)
    assert len(tried) == len(set(tried))  # each costs a pass over the examples
    if EXPONENTS[0] < exponent < EXPONENTS[-1] - 0.5:
        assert sorted(tried) == list(EXPONENTS)


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_objective_without_a_maximum_ends_the_search(sign):
    assert best_factor(lambda factor: sign * factor) == 2.0 ** (12 * sign)


@dataclass(frozen=True)
class Overflows:
    """A cut that answers itself, the better the larger its factor, until its logits overflow."""

    limit: float
    factor: float = 1.0

    def loglikelihood(self, requests):
        if self.factor >= self.limit:
            raise CellError("no numbers")
        return [(self.factor, True) for _ in requests]


def test_a_factor_without_numbers_is_skipped_and_without_any_there_is_no_best_one():
    def best(limit):
        return Fit(None, Overflows(limit), "t", [("a", "b")]).best(Backend())

    assert best(8.0) == 4.0
    with pytest.raises(CellError, match="no numbers with any factor"):
        best(0.0)


def test_a_flat_objective_keeps_the_first_factor():
    assert best_factor(lambda _: 0.0, range(3)) == 1.0


def factors_of(run, name):
    """Rank → factor of the only adapter on a task or group of a run."""
    [curve] = [curve for curve in run.curves if curve.task == name]
    return curve.factors


@pytest.fixture
def three_tasks(tmp_path):
    """A folder with two tasks in a group, and one more."""
    for number, name in enumerate(("leaf_a", "leaf_b", "other")):
        write_choice_task(tmp_path, name, 20 * number)
    (tmp_path / "both.yaml").write_text("group: both\ntask: [leaf_a, leaf_b]\n")
    return str(tmp_path)


def test_a_factor_is_one_of_a_task_or_group_that_was_asked_for(adapters, three_tasks, tmp_path):
    def run(*tasks):
        out = tmp_path / "-".join(tasks)
        return run_small(adapters["dylora"], out, tasks, include_path=three_tasks, **FIT)

    together = run("both", "other")
    for name in ("both", "other"):
        assert factors_of(run(name), name) == factors_of(together, name)
    assert factors_of(together, "both") != factors_of(together, "other")
    [cut] = together.manifest.cuts
    cells = {name: together.store.read(keys[4]) for name, keys in cut.cells.items()}
    factors = {name: cell.identity.factor for name, cell in cells.items()}
    found = factors_of(together, "both")[4]
    assert factors["both:leaf_a"] == factors["both:leaf_b"] == found
    run_small(adapters["dylora"], together.folder, ("leaf_a",), include_path=three_tasks, **FIT)
    group, _, member = read_run(together.folder).curves  # a later look at a member
    assert (group.task, member.task) == ("both", "leaf_a")
    assert group.factors[4] == found != member.factors[4]
    assert group.outcomes.tolist() == together.curves[0].outcomes.tolist()


@pytest.mark.parametrize(("tasks", "shares"), [(1, [48]), (5, [10, 10, 10, 9, 9]), (50, [1] * 48)])
def test_a_group_has_48_examples_in_all(tasks, shares):
    class Task:
        group, asked = "g", None

        def held_out(self, count):
            self.asked = count
            return ["pair"] * count

    members = [Task() for _ in range(tasks)]
    assert fit.held_out(members) == ["pair"] * 48
    assert [task.asked for task in members if task.asked is not None] == shares


def test_processes_share_the_factors_and_the_first_one_counts(
    tiny_base_folder, tmp_path, monkeypatch
):
    folder, found = random_adapter(tiny_base_folder, tmp_path / "mine"), []

    def slow(_objective):
        found.append(number := len(found) + 1.0)
        threading.Event().wait(0.2)
        return number

    monkeypatch.setattr(fit, "best_factor", slow)
    words = {**SMALL, **FIT, "ranks": "1,2,4"}
    given = [load(Settings.of(folder, TASK, out=tmp_path / "run", **words)) for _ in range(2)]
    (tmp_path / "run" / "locks").mkdir(parents=True)
    results = []

    def work(inputs):
        with inputs.backend:
            factors = fitted(inputs)
        results.append(sorted(factors.values()))

    threads = [threading.Thread(target=work, args=(inputs,)) for inputs in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [sorted(found)] * 2
    assert len(found) == 3
