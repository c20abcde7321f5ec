"""A task of one's own whose scoring is edited: stored cells count only as they are scored now."""

from __future__ import annotations

import json

import pytest
from small_runs import dry_run, random_adapter

from aurac.errors import RunFolderError, UsageError
from aurac.exports import export_lm_eval
from aurac.records.reader import read_run
from aurac.runs.compare import compare
from aurac.runs.settings import Request

YAML = """
task: own
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/test.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "say {{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 6}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: {name}
    filter:
      - {{function: regex, regex_pattern: "{pattern}"}}
      - {{function: take_first}}
"""
ANY, NEVER = "^()", "(never)"  # what is taken out of every answer: nothing, and "[invalid]"


class Own:
    """The task's files, an adapter, and the run folder of what is asked of them."""

    def __init__(self, folder, base):
        self.folder, self.out = folder, folder / "run"
        self.documents(6)
        self.adapters = [
            random_adapter(base, folder / n, name=n, seed=k) for k, n in enumerate("ab")
        ]
        self.base = str(base)
        self.write(ANY)

    def documents(self, n):
        rows = [json.dumps({"question": f"word {i}", "answer": ""}) for i in range(n)]
        (self.folder / "test.jsonl").write_text("\n".join(rows))

    def write(self, pattern, name="first", more=""):
        text = YAML.format(folder=self.folder, name=name, pattern=pattern) + more
        (self.folder / "own.yaml").write_text(text)

    def ask(self, what=compare, adapters=None, out=None, **options):
        settings = {"ranks": (1, 4), "dtype": "float32", "device": "cpu", "base": self.base}
        task = str(self.folder / "own.yaml")
        adapters = adapters or self.adapters
        return what(adapters, [task], out=out or self.out, **settings | options)


@pytest.fixture
def own(tmp_path, tiny_base_folder):
    return Own(tmp_path, tiny_base_folder)


def accuracies(run):
    return [curve.accuracy for curve in run.results.curves]


def test_an_edited_filter_computes_its_cells_anew(own, caplog):
    """Every answer equals the empty reference after one filter, and none after the other."""
    assert accuracies(own.ask()) == [[1.0, 1.0]] * 2
    assert own.ask(dry_run).done == 5
    own.write(NEVER)
    plan = own.ask(dry_run)
    assert (plan.cells, plan.done) == (5, 0)
    said = "filter_list of task own changed: 5 cells are computed again"
    assert said in plan.notes
    again = own.ask()
    assert said in caplog.text
    assert accuracies(again) == [[0.0, 0.0]] * 2
    assert read_run(own.out)[0][0].outcomes.sum() == 0
    assert own.ask(dry_run).done == 5
    caplog.clear()
    assert accuracies(own.ask()) == [[0.0, 0.0]] * 2
    assert "computed again" not in caplog.text
    own.write(ANY)
    assert own.ask(dry_run).done == 0
    assert accuracies(own.ask()) == [[1.0, 1.0]] * 2


def test_a_renamed_filter_has_cells_of_that_name(own):
    own.ask()
    own.write(ANY, name="other")
    run = own.ask()
    assert run.results.curves[0].metric == "exact_match,other"
    assert accuracies(run) == [[1.0, 1.0]] * 2


def test_functions_count_with_the_file_that_they_stand_in(own):
    (own.folder / "mine.py").write_text("GOLD = 'x'\ndef gold(doc):\n    return GOLD\n")
    own.write(ANY)
    yaml = own.folder / "own.yaml"
    yaml.write_text(yaml.read_text().replace('"{{answer}}"', "!function mine.gold"))
    assert accuracies(own.ask()) == [[0.0, 0.0]] * 2
    (own.folder / "mine.py").write_text("GOLD = ''\ndef gold(doc):\n    return GOLD\n")
    assert "doc_to_target of task own changed: 5 cells are computed again" in own.ask(dry_run).notes
    run = own.ask()
    assert accuracies(run) == [[1.0, 1.0]] * 2
    (sample, *_) = export_lm_eval(run.folder, own.folder / "exported")[0].parent.glob("samples_*")
    assert json.loads(sample.read_text().splitlines()[0])["target"] == ""


def test_curves_of_two_scorings_are_not_set_side_by_side(own):
    own.ask()
    own.write(NEVER)
    own.ask(adapters=own.adapters[:1])
    with pytest.raises(RunFolderError, match="filter_list of the task changed"):
        read_run(own.out)


def test_a_cell_that_was_half_done_is_begun_anew(own):
    own.ask(limit=3)
    own.write(NEVER)
    run = own.ask()
    assert accuracies(run) == [[0.0, 0.0]] * 2
    assert run.results.curves[0].n_docs == 6


def test_the_folder_of_the_only_task_needs_no_name(own):
    (own.folder / "data").mkdir()
    (own.folder / "data" / "test.jsonl").write_text('{"question": "word 1", "answer": "x"}\n')
    run = own.ask(data={"": own.folder / "data"}, adapters=own.adapters[:1])
    assert run.results.curves[0].n_docs == 1
    assert accuracies(run) == [[0.0, 0.0]]
    (sample, *_) = export_lm_eval(run.folder, own.folder / "exported")
    content = json.loads(sample.read_text())
    made = content["configs"]["own"]["custom_dataset"]
    assert made == "aurac.tasks.local_data:with_local_documents"
    assert content["config"]["limit"] is None
    with pytest.raises(UsageError, match="with 2 tasks"):
        Request.of(["a"], ["x", "y"], data={"": own.folder})


def test_data_files_stay_as_they_were_written(own, monkeypatch):
    monkeypatch.chdir(own.folder)
    yaml = own.folder / "own.yaml"
    yaml.write_text(yaml.read_text().replace(f"{own.folder}/test", "./test"))
    run = own.ask(adapters=own.adapters[:1], limit=2)
    (results, *_) = export_lm_eval(run.folder, own.folder / "exported")
    content = json.loads(results.read_text())
    files = content["configs"]["own"]["dataset_kwargs"]["data_files"]
    assert (files, content["config"]["limit"]) == ({"test": "./test.jsonl"}, 2)
    assert results.parent.name == "base"
