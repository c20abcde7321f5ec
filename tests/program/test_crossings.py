"""Where two features meet: short sequences that once gave a wrong number, or lost work."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from program.commands import CUTS, PROMPTS, TYPO, Command
from program.machine import NO_OPTION, Sequences, program
from program.oracle import MEAN, frames_of
from program.shown import check_frames
from support.table_world import Table

PLAIN = {"margin": None, "reference": None}


@pytest.fixture
def state(root):
    """Two run folders, whose every command is held against the oracle."""
    made = Sequences()
    yield made
    made.teardown()


def asks(adapters, tasks, groups=None, renamed=None, **options):
    """A command."""
    every = dict.fromkeys((*PROMPTS, *CUTS, "json")) | PLAIN | options
    return Command(
        tuple(adapters.split()), tuple(tasks.split()), every, groups or {}, (), renamed or {}
    )


def run(state, *commands, table=1, ends=None, fails=None):
    """Commands on one folder; the first begins it."""
    if not hasattr(state, "table"):
        state.begin(table=table)
    for command in commands:
        state.compare(which=0, command=command, alike=False, ends=ends, fails=fails)


def scored(tmp_path, rows, *words):
    """What `score` says of a table of outcomes."""
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    status, out, said = program("score", tmp_path / "table.csv", "--json", *words)
    assert status == 0, said
    return json.loads(out)


def test_the_winner_changes_between_tasks(state):
    """The mean over tasks of two arms of seeds: every task's difference is in one order."""
    run(state, asks("ada0 ada1 cid3 cid4", "colours sums"), table=0)
    pairs = json.loads((state.runs[0].path / "analysis.json").read_text())["pairs"]
    assert len({row["a"] for row in pairs if row["task"] != MEAN}) == 2


def test_two_arms_of_seeds_are_one_source(state):
    run(state, asks("ada0 ada1 ada2 cid3 cid4", "colours"))


def test_seeds_of_other_checkpoints(root, tmp_path):
    """Each task has its own adapters, with the same numbers of seeds."""
    draw, rows, curves = np.random.default_rng(5), [], []
    for at, (task, recipe, seed) in enumerate(np.ndindex(2, 2, 3)):
        name, scores = (
            f"r{recipe}-{task}-{seed}",
            (draw.random((2, 30)) < 0.3 + at / 30).astype(float),
        )
        about = {"adapter": name, "task": f"t{task}", "seed": seed}
        rows += [
            about | {"rank": 2**k, "doc_id": i, "score": scores[k, i]} for k, i in np.ndindex(2, 30)
        ]
        known = {"scores": {1: scores[0], 2: scores[1]}, "missing": set(), "base": None, "n": 30}
        known |= {"examples": [*range(30)]}
        known |= {"cut": (None, None), "spec": None, "clusters": None, "cut_off": {}}
        curves.append(SimpleNamespace(**about, **known))
    groups = {f"r{r}": [f"r{r}-{task}-{seed}" for task, seed in np.ndindex(2, 3)] for r in range(2)}
    words = [f"--group={name}={','.join(members)}" for name, members in groups.items()]
    check_frames(frames_of(curves, groups), scored(tmp_path, rows, *words), "score")


def test_the_export_of_a_group(state):
    run(state, asks("lora dylora", "both"))
    state.export(at=0)


def test_two_metrics_of_one_task(root, tmp_path):
    """They are no two tasks with examples of their own."""
    rows = [
        {"adapter": a, "task": "t", "metric": m, "rank": r, "doc_id": i, "score": i % (2 + r) == 0}
        for a in ("x", "y") for m in ("acc", "acc_norm") for r in (1, 2) for i in range(9)
    ]  # fmt: skip
    told = scored(tmp_path, [row | {"score": int(row["score"])} for row in rows])
    assert not [row for row in told["scores"] + told["pairs"] if row["task"] == MEAN]


@pytest.mark.parametrize(
    ("first", "second", "prompts"),
    [
        ("colours", "sums", {"num_fewshot": 1}),
        ("colours", "sums", {"apply_chat_template": True}),
        ("sums", "colours", {"gen_kwargs": "max_gen_toks=5"}),
    ],
)
def test_a_folder_holds_one_set_of_prompts_for_each_task(state, first, second, prompts):
    """Another task may have others; the same one is refused."""
    run(state, asks("lora", first), asks("lora", second, **prompts), asks("lora", first, **prompts))
    run(state, asks("lora dylora", first), asks("lora dylora", second, **prompts))


@pytest.mark.parametrize("limit", [1, 12])
def test_a_packed_run_meets_another_limit(state, limit):
    run(state, asks("lora", "colours", limit=6))
    state.move(at=0, packed=True)
    run(state, asks("lora", "colours", limit=limit), asks("lora", "colours", limit=6))


def test_a_typo_is_corrected(state):
    run(state, asks("lora", "colours", reference=TYPO), asks("lora", "colours"))


def test_a_command_ends_at_any_write(state):
    """Then it is repeated, first with a typo."""
    command, typo = asks("lora", "colours", ranks="1"), asks("lora", "colours", reference=TYPO)
    state.begin(table=1)
    for ends in range(1, 100, 6):
        run(state, command, ends=ends)
        if not state.runs[0].ended:
            break
        run(state, typo, command)
        state.teardown()
        state.begin(table=1)
    assert ends > 10


def test_a_later_command_ends_at_any_write_of_its_report(state):
    """The same command writes that again."""
    run(state, asks("lora dylora", "colours", limit=12))
    for ends in range(1, 60, 3):
        view = asks("lora dylora", "colours", limit=12, margin=(0.2, 0.4)[ends % 2])
        run(state, view, ends=ends)
        if not state.runs[0].ended:
            break
        run(state, view)
    assert ends > 10


def test_groups_of_two_commands(state):
    """The later one takes the place of an earlier one with the same adapters."""
    groups = {"one": ("lora", "dylora")}, {"other": ("lora", "nested")}
    run(state, *(asks("lora dylora nested", "sums", some) for some in groups))


def test_groups_that_share_an_adapter(state):
    """They are refused before anything is computed."""
    run(state, asks("lora dylora nested", "sums", {"one": ("lora", "dylora"), "two": ("lora",)}))


@pytest.mark.parametrize(("name", "known"), [("lora (prefix)", True), ("lora, prefix", False)])
def test_a_further_cut_is_the_reference(root, tmp_path, name, known):
    """As tables call it; another name is refused before anything is computed."""
    Table.asked.clear()
    command = asks("lora dylora", "sums", basis="svd,prefix", reference=name, limit=6, json=True)
    status, out, said = program(*command.words(root, tmp_path / "run", 1))
    assert (status, bool(Table.asked)) == ((0, True) if known else (2, False)), said
    for row in json.loads(out)["pairs"] if known else ():
        assert {("lora", "prefix")} & {(row[x], row[f"{x}_basis"]) for x in "ab"}


def test_the_base_fails_and_the_run_is_exported(state):
    run(state, asks("lora", "colours"), fails=0)
    state.export(at=0)


@pytest.mark.parametrize("look", [{"basis": "prefix"}, {"ranks": "3"}, {}, {"ranks": "1"}])
def test_a_look_at_few_examples_hides_nothing(state, look):
    """Of another cut, another rank, the same ones, or fewer of them."""
    run(state, asks("lora nested", "colours", limit=24), asks("lora", "colours", limit=4, **look))
    state.ask(at=0, how="recommend", asks=PLAIN | {"margin": 0.2, "group": 0})
    state.export(at=0)


def test_a_look_at_a_member_leaves_its_group_as_it_is(state):
    run(state, asks("lora", "both", limit=12), asks("lora dylora", "left", limit=4))
    run(state, asks("lora", "right", limit=20))


def test_clusters_of_a_smaller_later_command_are_those_of_the_folder(state):
    run(state, asks("lora dylora", "colours", limit=24))
    later = replace(asks("lora", "colours", limit=12), clusters=("colours",))
    run(state, later)


def test_a_report_that_is_refused_changes_no_question(state):
    run(state, asks("ada0 ada1 lora", "colours", margin=0.4))
    state.ask(at=0, how="report", asks={"margin": 0.2, "reference": TYPO, "group": 0})
    state.check_whole(state.runs[0])


def test_the_export_of_a_perplexity(state):
    """It has no accuracy, and so nothing for a hub's list of results."""
    run(state, asks("lora", "prose", margin=0.2))
    state.export(at=0)


def test_adapters_change_names(state):
    """Each has on the screen the name that the command gives it, but not another one's."""
    one = asks("lora nested", "colours", renamed={"lora": "x", "nested": "y"}, reference="lora")
    run(state, one, replace(one, renamed={"lora": "z"}), asks("lora nested", "colours"))
    run(state, replace(one, renamed={"lora": "y", "nested": "x"}))


def test_an_example_changes(state):
    """A command on it is refused, one on the examples before it goes on."""
    run(state, asks("lora dylora", "colours", limit=12))
    state.change_examples(task="colours", changes={6: "target", 7: "question"})
    run(state, asks("lora", "colours", limit=12), asks("lora", "colours", limit=6))
    state.export(at=0)


def test_other_weights_lie_at_a_path(state):
    run(state, asks("lora", "colours", limit=6))
    state.change_others(name="lora")
    run(state, asks("lora nested", "colours", limit=6))


def test_a_later_metric_is_the_one_of_the_folder(state):
    run(state, asks("lora dylora", "essays", limit=12))
    run(state, asks("lora dylora", "essays", limit=6, metric="essays=credit"))


def test_cards_of_adapters_with_other_ranks(state):
    run(state, asks("lora", "colours", ranks="all", limit=12), asks("bare", "colours", limit=12))
    state.export(at=0)


def test_a_report_elsewhere_is_made_again_from_its_question(state):
    run(state, asks("lora dylora", "colours", limit=12))
    elsewhere = NO_OPTION | {"label": True, "out": True}
    state.ask(at=0, how="report", asks=PLAIN | {"group": 0, "margin": 0.4}, how_shown=elsewhere)
    state.report_again(margin=0.2)


def test_the_best_adapter_lacks_a_rank(state):
    """It is said, and who leads is said of the others."""
    run(state, asks("lora dylora nested", "colours", limit=12), fails=9)
    state.lose_a_cell(at=0, which=3, damaged=True)


def test_a_later_look_at_a_seed_leaves_its_recipe_as_it_is(state):
    run(state, asks("ada0 ada1", "colours", limit=24), asks("ada2", "colours", limit=6))


def test_two_processes_in_one_folder(state):
    state.begin(table=1)
    command = asks("lora", "colours")
    state.compare(which=0, command=command, alike=None, ends=None, fails=None, twice=True)


@pytest.mark.parametrize("how", ["compare", "report", "score", "export"])
def test_a_disk_that_takes_nothing(state, how):
    run(state, asks("lora", "colours", limit=6))
    state.write_protect(at=0, how=how)


def test_the_cells_of_two_folders_are_merged(state):
    state.begin(table=1)
    for which, limit in ((0, 6), (1, 24)):
        command = asks("lora", "colours", limit=limit)
        state.compare(which=which, command=command, alike=None, ends=None, fails=None)
    state.merge(into=0)
    run(state, asks("lora", "colours", limit=24))
