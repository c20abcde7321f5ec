"""What aurac uses of lm-eval beyond its documented surface: a failure here names what moved."""

from __future__ import annotations

import importlib
import inspect

import pytest

from aurac.tasks import upstream as stock


def parameters(function):
    return set(inspect.signature(function).parameters)


def test_seeds_are_those_of_simple_evaluate():
    import lm_eval

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(lm_eval.simple_evaluate).parameters.items()
    }
    assert defaults["random_seed"] == stock.PYTHON_SEED == 0
    assert defaults["numpy_random_seed"] == stock.OTHER_SEED == 1234
    assert defaults["torch_random_seed"] == stock.OTHER_SEED
    assert defaults["fewshot_random_seed"] == stock.OTHER_SEED
    assert defaults["fewshot_as_multiturn"] is True


def test_task_manager_and_its_factory():
    from lm_eval.tasks import TaskManager

    assert {"include_path", "include_defaults"} <= parameters(TaskManager)
    manager = TaskManager(include_defaults=False)
    assert list(manager.task_index) == []
    assert list(manager.all_tasks) == list(manager.all_groups) == []
    assert list(inspect.signature(manager._factory._load_full_config).parameters) == [
        "entry",
        "overrides",
    ]
    assert "_load_full_config" not in vars(manager._factory)  # an instance attribute may shadow it
    loaded = manager.load([])
    assert loaded["tasks"] == loaded["groups"] == {}


def test_the_factory_passes_every_leaf_through_the_step_that_is_used(tmp_path):
    from harness_doubles import write_choice_task
    from lm_eval.tasks import TaskManager

    write_choice_task(tmp_path, "one")
    write_choice_task(tmp_path, "two")
    (tmp_path / "both.yaml").write_text("group: both\ntask: [one, two]\n")
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path))
    factory = manager._factory
    stock = factory._load_full_config
    seen = []

    def note(entry, overrides=None):
        config = stock(entry, overrides)
        seen.append(config.get("task"))
        return config

    factory._load_full_config = note
    loaded = manager.load(["both"])
    assert seen == [["one", "two"], "one", "two"]
    assert list(loaded["tasks"]) == ["one", "two"]
    assert loaded["groups"]["both"].version == "N/A"
    assert manager.task_index["one"].yaml_path.name == "one.yaml"


def test_tasks_take_documents_from_a_callable():
    from datasets import Dataset
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
    assert task.aggregation()["exact_match"] is importlib.import_module("lm_eval.api.metrics").mean
    assert task.higher_is_better() == {"exact_match": True}
    assert (task.OUTPUT_TYPE, task.VERSION, task.task_name) == ("generate_until", 1, "given")
    assert task.sampler.fewshot_docs() == [{"question": "a", "answer": "b"}]
    task.set_config(key="num_fewshot", value=0)
    assert task.get_config("num_fewshot") == 0
    task.set_fewshot_seed(seed=3)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    (instance,) = task.instances
    assert (instance.request_type, instance.idx, instance.doc_id) == ("generate_until", 0, 0)
    assert (instance.repeats, instance.task_name) == (1, "given")
    assert instance.args[0] == "a"
    instance.resps, instance.filtered_resps = ["b"], {}
    task.apply_filters()
    assert instance.filtered_resps == {"none": "b"}
    assert task.process_results(instance.doc, ["b"]) == {"exact_match": 1.0}


def test_building_requests_takes_what_is_given():
    from lm_eval.api.task import Task

    assert {
        "limit",
        "rank",
        "world_size",
        "cache_requests",
        "apply_chat_template",
        "fewshot_as_multiturn",
        "chat_template",
    } <= parameters(Task.build_all_requests)
    default = inspect.signature(Task.build_all_requests).parameters["cache_requests"].default
    assert default is False  # its cache key knows no few-shot seed


def test_samplers_hashes_and_bars():
    from lm_eval.api.samplers import get_sampler
    from lm_eval.utils import handle_non_serializable, hash_string

    rows = [{"q": str(i)} for i in range(4)]
    assert get_sampler("first_n")(rows).sample(2) == rows[:2]
    assert len(hash_string("x")) == 64
    assert handle_non_serializable({1}) == [1]
    for name in stock.BAR_MODULES:
        assert callable(importlib.import_module(name).tqdm)


def test_templates_are_compiled_once_and_render_as_before():
    from jinja2 import Environment, StrictUndefined
    from lm_eval.utils import apply_template, env

    stock.compile_templates_once()
    assert env.from_string("{{a}}!") is env.from_string("{{a}}!")
    assert [apply_template("{{a}}!", {"a": a}) for a in "xy"] == ["x!", "y!"]
    assert apply_template("{{a|regex_replace('b', 'c')}}", {"a": "abb"}) == "acc"
    assert isinstance(env, Environment)
    assert env.undefined is StrictUndefined


def test_the_reference_model_takes_a_live_model():
    from lm_eval.models.huggingface import HFLM

    assert {"pretrained", "tokenizer", "batch_size", "max_length"} <= parameters(HFLM)
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        assert callable(getattr(HFLM, kind))


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


def test_lm_eval_still_draws_other_examples_when_it_builds_again(tmp_path):
    """The trap that seeding before each build avoids."""
    from harness_doubles import write_choice_task
    from lm_eval.tasks import TaskManager

    path = write_choice_task(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
        manager = TaskManager(include_defaults=False, include_path=str(path.parent))
        task = manager.load(["tiny_choice"])["tasks"]["tiny_choice"]
    built = []
    task.set_fewshot_seed(seed=1234)
    for _ in range(2):
        task.build_all_requests(limit=None, rank=0, world_size=1)
        built.append([instance.args for instance in task.instances])
    assert built[0] != built[1]
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    assert [instance.args for instance in task.instances] == built[0]
