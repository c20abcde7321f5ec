"""lm-eval's lines with `lm_eval` replaced by `aurac compare`: run, or answered with a line."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex

import pytest
from click.testing import CliRunner

from aurac.cli import cli
from aurac.cli.lm_eval import fewshot_seed
from aurac.cli.options import task_names
from aurac.engine import parse_batch_size
from aurac.errors import UsageError
from aurac.tasks.options import number_of_documents

CHOICES = 4
ZOO = "adapters_zoo/word_problems/lora"


def readme_lines() -> list[str]:
    """The commands of lm-eval's README, from the installed package."""
    about = importlib.metadata.metadata("lm_eval")
    text = str(about.get_payload() or about["Description"]).replace("```", "")
    text = re.sub(r"\\\n[ \t]*", " ", text)
    return [line for line in text.splitlines() if re.search(r"(^|\s)lm[_-]eval +-", line)]


def run(line: str, **environment: str):
    """`… aurac compare …` in this process; what stands before belongs to a launcher."""
    words = shlex.split(line)
    return CliRunner().invoke(cli, words[words.index("compare") :], env=environment)


def suggestion(error: BaseException | None) -> list[str]:
    assert isinstance(error, UsageError), error
    found = str(error).partition("use: aurac compare ")[2]
    assert found, error
    return shlex.split(found)


def test_the_readme_of_lm_eval_is_read():
    assert len(readme_lines()) > 20


@pytest.mark.parametrize("line", readme_lines())
def test_lines_of_lm_evals_readme_are_answered_with_a_command(line):
    replaced = re.sub(r"\blm[_-]eval\b(?= )", "aurac compare", line, count=1)
    words = suggestion(run(replaced).exception)
    context = cli.get_command(None, "compare").make_context("compare", words)
    given = dict(re.findall(r"--(\w+) +(\S+)", line))
    assert context.params["tasks"] == given["tasks"].split(",")
    adapter = re.search(r"\bpeft=(\S+?)(,|\s)", line)
    assert context.params["checkpoints"] == (adapter[1] if adapter else "ADAPTER",)
    if base := re.search(r"pretrained=([^,\s]+)", line):
        assert context.params["base"].split("@")[0] == base[1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "--model hf --model_args pretrained=B,peft=A,dtype=float --tasks x,y -L 0.5 -o R",
            "A --tasks x,y --limit 0.5 --base B --dtype float32 --out R",
        ),
        (
            "run -a pretrained=B revision=v1 peft=A tokenizer=T --tasks x y -f 5 --log_samples",
            "A --tasks x,y --base B@v1 --num-fewshot 5 --tokenizer T",
        ),
        (
            'A1 A2 --model_args \'{"pretrained": "B", "parallelize": true}\' -t x -b auto:4',
            "A1 A2 --tasks x --base B --batch-size auto:4 --device-map auto",
        ),
        (
            "-M hf -a peft=A,trust_remote_code=True,revision=main -t x --apply_chat_template",
            "A --tasks x --chat-template --trust-remote-code",
        ),
        (
            "-a peft=A -t x --fewshot_as_multiturn --gen_kwargs temperature=0 top_p=1",
            "A --tasks x --fewshot-as-multiturn --gen-kwargs temperature=0,top_p=1",
        ),
    ],
)
def test_the_line_that_a_line_of_lm_eval_means(line, expected):
    done = run(f"aurac compare {line} --model other")
    assert suggestion(done.exception) == expected.split()


def test_a_configuration_file_of_lm_eval_is_read(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: other\nmodel_args: {pretrained: B, peft: A}\ntasks: [x, y]\nnum_fewshot: 5\n"
        "gen_kwargs: {temperature: 0}\nlog_samples: true\napply_chat_template: false\nlimit: null\n"
    )
    done = run(f"aurac compare --config {config} --num_fewshot 2")
    expected = "A --tasks x,y --base B --num-fewshot 2 --gen-kwargs"
    assert suggestion(done.exception) == [*expected.split(), '{"temperature": 0}']
    for text, said in (
        ("- 1", "NAME: VALUE"),
        ("a: [", "cannot be read"),
        ("no_such: 1", "has no_such, which is no option; leave it out"),
        ("limt: 1", "has limt, which is no option; did you mean limit?"),
        ("apply_chat_template: rag", "templates with a name are not read"),
    ):
        config.write_text(text)
        done = run(f"aurac compare --config {config}")
        assert said in str(done.exception) + done.output


def test_processes_of_a_launcher_become_workers():
    line = "torchrun --nproc-per-node=4 -m aurac compare --model hf --model_args peft=A --tasks x"
    assert suggestion(run(line, WORLD_SIZE="4").exception) == [
        "A",
        "--tasks",
        "x",
        "--workers",
        "4",
    ]


def test_a_line_with_an_adapter_runs_and_spelling_does_not_matter():
    ours = f"{ZOO} --tasks aurac_word_problems --limit 2 --num-fewshot 1 --dtype float32"
    theirs = (
        f"--model hf --model_args peft={ZOO} dtype=float --log_samples --limit 2.0 --use_cache X "
        "--tasks aurac_word_problems --num_fewshot 1 --batch_size auto --seed 7,7,7,1234"
    )
    shown = [json.loads(run(f"aurac compare {x} --dry_run --json").stdout) for x in (ours, theirs)]
    for plan in shown:
        assert plan["cells"] == 1 + 2 * 5  # by SVD and, as published, by prefix
        for name in ("seconds", "seconds_low", "seconds_high", "seconds_from"):
            plan.pop(name)
    assert shown[0] == shown[1]


def test_a_pattern_names_all_tasks_that_match_it():
    assert task_names(["aurac_word_*", "gsm8k", "arc_eas[y]"]) == [
        "aurac_word_problems",
        "aurac_word_problems_mc",
        "gsm8k",
        "arc_easy",
    ]
    with pytest.raises(UsageError, match=r"tasks='no_such_\*' matches no task"):
        task_names(["no_such_*"])


def test_a_limit_may_be_a_share_of_the_documents():
    line = f"aurac compare {ZOO} --tasks aurac_word_problems_mc --limit 0.004 --dry_run --json"
    plan = json.loads(run(line).stdout)
    assert {row["requests"] for row in plan["lines"]} == {4 * CHOICES}  # of 1,000 documents


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("A --tasks x --samples {}", "--samples of lm-eval has no counterpart"),
        ("A --tasks x --wandb_args project=p", "--wandb-args of lm-eval has no counterpart"),
        ("--model hf --model_args peft=A -t x --samples {}", "--samples of lm-eval has no"),
        ("--model_args peft=A --tasks x --write_out", "--write-out of lm-eval has no counterpart"),
        ("--model_args peft=A -t x --wandb_args project=p", "--wandb-args of lm-eval has no"),
        ("--model_args peft --tasks x", "--model_args 'peft'"),
        ("--model_args {peft --tasks x", "expected a JSON object"),
        ("ls tasks", "use: aurac tasks"),
        ("validate --tasks x", "--dry-run"),
        ("A --model_args peft=A,dtype=half -t x", "use: aurac compare A --tasks x --dtype float16"),
        ("--model hf --tasks x --apply_chat_template chatml", "leave the name out"),
        ("A", "no --tasks"),
        ("--tasks x", "no adapters"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_what_to_do(line, said):
    done = run(f"aurac compare {line}")
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)


def test_numbers_as_lm_eval_writes_them():
    assert [number_of_documents(text) for text in ("0", "10", "10.0", "0.25")] == [0, 10, 10, 0.25]
    assert [parse_batch_size(text) for text in ("8", "auto", "auto:4")] == [8, None, None]
    assert [fewshot_seed(text) for text in (7, "7", "0,1,2,3", "0,1,2")] == [7, 7, 3, 1234]
    for read, text in (
        (number_of_documents, "1.5"),
        (number_of_documents, "-1"),
        (number_of_documents, "nan"),
        (parse_batch_size, "0"),
        (fewshot_seed, "1,2"),
        (fewshot_seed, "None"),
    ):
        with pytest.raises(UsageError, match=re.escape(text)):
            read(text)
