"""What aurac uses of lm-eval beyond its documented surface: a failure here names what moved."""

from __future__ import annotations

import importlib
import inspect

import pytest
from harness_doubles import write_choice_task

from aurac.tasks import build
from aurac.tasks.seeds import OTHER_SEED, PYTHON_SEED


def parameters(function):
    return set(inspect.signature(function).parameters)


def test_seeds_are_those_of_simple_evaluate():
    import lm_eval

    signature = inspect.signature(lm_eval.simple_evaluate).parameters
    defaults = {name: parameter.default for name, parameter in signature.items()}
    assert defaults["random_seed"] == PYTHON_SEED == 0
    for name in ("numpy_random_seed", "torch_random_seed", "fewshot_random_seed"):
        assert defaults[name] == OTHER_SEED == 1234
    assert defaults["fewshot_as_multiturn"] is True


def test_the_factory_passes_every_task_through_the_step_that_is_used(tmp_path):
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry, Kind, TaskIndex

    path = write_choice_task(tmp_path, "one")
    write_choice_task(tmp_path, "two")
    (tmp_path / "both.yaml").write_text("group: both\ntask: [one, two]\n")
    manager = TaskManager(include_defaults=False, include_path=[str(tmp_path)])
    assert manager.task_index["one"].yaml_path.name == "one.yaml"
    factory, seen = manager._factory, []
    stock = factory._load_full_config

    def note(entry, overrides=None):
        config = stock(entry, overrides)
        seen.append(config.get("task"))
        return config

    factory._load_full_config = note  # an instance attribute may shadow it
    loaded = manager.load(["both"])
    assert seen == [["one", "two"], "one", "two"]
    assert list(loaded["tasks"]) == ["one", "two"]
    assert loaded["groups"]["both"].version == "N/A"
    assert TaskIndex.entry_from_path(path).name == "one"
    assert Entry("x", Kind["TAG"], None, tags={"one"}).cfg is None
    assert {kind.name for kind in Kind} >= {"TASK", "PY_TASK", "GROUP", "TAG"}


def test_tasks_take_documents_from_a_callable():
    from datasets import Dataset
    from lm_eval.api.metrics import mean
    from lm_eval.api.task import ConfigurableTask

    split = Dataset.from_list([{"question": "a", "answer": "b"}])
    task = ConfigurableTask(
        config={
            "task": "given",
            "custom_dataset": lambda **_: {"test": split},
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "exact_match"}],
            "metadata": {"version": 1},
        }
    )
    assert task.test_docs() is split
    assert task.features == ["question", "answer"]
    assert [ensemble.name for ensemble in task._filters] == ["none"]
    assert task.aggregation()["exact_match"] is mean
    assert task.higher_is_better() == {"exact_match": True}
    assert (task.OUTPUT_TYPE, task.VERSION) == ("generate_until", 1)
    task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=3)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    (instance,) = task.instances
    assert (instance.request_type, instance.idx, instance.doc_id) == ("generate_until", 0, 0)
    assert (instance.repeats, instance.args[0]) == (1, "a")
    instance.resps, instance.filtered_resps = ["b"], {}
    task._filters[0].apply([instance])
    assert instance.filtered_resps == {"none": "b"}
    assert task.process_results(instance.doc, ["b"]) == {"exact_match": 1.0}


def test_samplers_hashes_and_bars():
    from lm_eval.api.samplers import get_sampler
    from lm_eval.utils import handle_non_serializable, hash_string

    rows = [{"q": str(i)} for i in range(4)]
    assert get_sampler("first_n")(rows).sample(2) == rows[:2]
    assert len(hash_string("x")) == 64
    assert handle_non_serializable({1}) == [1]
    for name in build._BARS:
        assert callable(importlib.import_module(name).tqdm)


def test_templates_are_compiled_once_and_render_as_before():
    from jinja2 import StrictUndefined
    from lm_eval.utils import apply_template, env

    build._compile_templates_once()
    assert env.from_string("{{a}}!") is env.from_string("{{a}}!")
    assert [apply_template("{{a}}!", {"a": a}) for a in "xy"] == ["x!", "y!"]
    assert apply_template("{{a|regex_replace('b', 'c')}}", {"a": "abb"}) == "acc"
    assert env.undefined is StrictUndefined


def test_lm_eval_still_hands_the_first_answer_back_when_responses_are_kept():
    """The trap that fresh response lists avoid."""
    from lm_eval.api.instance import Instance
    from lm_eval.filters import build_filter_ensemble

    instance = Instance("generate_until", {}, ("q", {}), 0)
    take_first = build_filter_ensemble("none", [("take_first", None)])
    answers = []
    for answer in ("first model", "second model"):
        instance.resps.append(answer)
        take_first.apply([instance])
        answers.append(instance.filtered_resps["none"])
    assert answers == ["first model", "first model"]


@pytest.mark.usefixtures("offline")
def test_lm_eval_still_draws_other_examples_when_it_builds_again(tmp_path):
    """The trap that seeding before each build avoids."""
    from lm_eval.tasks import TaskManager

    path = write_choice_task(tmp_path)
    manager = TaskManager(include_defaults=False, include_path=str(path.parent))
    task = manager.load(["tiny_choice"])["tasks"]["tiny_choice"]
    built = []
    for seed in (1234, None, 1234):
        if seed:
            task.set_fewshot_seed(seed=seed)
        task.build_all_requests(limit=None, rank=0, world_size=1)
        built.append([instance.args for instance in task.instances])
    assert built[0] != built[1]
    assert built[0] == built[2]
