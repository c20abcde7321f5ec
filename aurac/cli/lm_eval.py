"""lm-eval's command line read as `aurac compare`'s: `lm_eval --model hf --model_args … --tasks …`.

Options that both programs have are second names in `compare.py`. Here is the rest: `--model` and
`--model_args`, options that take several words, options that change nothing in aurac, and options
without a counterpart. Source: `_cli/run.py` and `models/huggingface.py` of lm-eval 0.4.13.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurac.arguments import nearest
from aurac.cli.options import ALL, Attributes, Command, hyphens, parsed
from aurac.errors import UsageError, first_line
from aurac.tasks.options import named_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Words = dict[str, str | bool | list[str]]  # options as click's parser gives them

_MODELS = ("hf", "huggingface", "hf-auto")
_DTYPES = {"float": "float32", "half": "float16", "torch.bfloat16": "bfloat16"}
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?|auto")
_UNDERSTOOD = (
    "pretrained, revision, peft, tokenizer, dtype, device, batch_size, parallelize, "
    "device_map_option, max_length and trust_remote_code"
)
_QUANTIZED = (
    "a base is not quantized while it is loaded; one that was saved in 4 or 8 bits is read as it is"
)
_PROMPTS = (
    "prompts are as the tokenizer makes them, which may give other outcomes; --tokenizer FOLDER "
    "takes an edited one"
)
_REASONS = {
    **dict.fromkeys(
        ("add_bos_token", "prefix_token_id", "enable_thinking", "chat_template_args"), _PROMPTS
    ),
    "attn_implementation": "the engine chooses it, and answers differ by rounding alone",
}
_RENAMED = {
    "pretrained": "base",
    "device_map_option": "device_map",
    **{name: name for name in ("dtype", "device", "batch_size", "tokenizer", "max_length")},
}
_DEFAULTS = (
    "revision=main",
    "backend=default",
    "backend=causal",
    "parallelize=False",
    "trust_remote_code=False",
    "use_fast_tokenizer=True",
)
"""Model arguments that change nothing."""

_MAY_HAVE_VALUE: Attributes = {"is_flag": False, "flag_value": "true"}
_NO_EFFECT: Mapping[str, Attributes] = {
    "--log-samples -s": {"is_flag": True},  # every answer is stored
    "--config -C": {},  # read by `LmEvalCommand`
    "--use-cache -c": {},  # finished documents are kept in the run folder
    "--cache-requests": _MAY_HAVE_VALUE,  # requests are built once for a run
    "--max-batch-size": {},  # auto stays within the memory that is there
    "--check-integrity": {"is_flag": True},  # of lm-eval's tasks
    "--verbosity": {},  # aurac -v
}
_NO_COUNTERPART = {
    "--samples -E": "use --limit for the first documents of a task",
    "--predict-only -x": "leave it out: answers and outcomes are both stored",
    "--write-out -w": "leave it out: the folder requests/ of a run holds every prompt",
    "--show-config": "leave it out: the folder requests/ of a run holds the task's settings",
    **dict.fromkeys(
        ("--wandb-args", "--wandb-config-args", "--trackio-args"),
        "leave it out: `aurac export` writes lm-eval's own results for other tools",
    ),
    "--hf-hub-log-args": "leave it out: the report of a run has a model card for the hub",
    **dict.fromkeys(("--load-in-4bit", "--load-in-8bit"), f"leave it out: {_QUANTIZED}"),
    "--metadata": "leave it out: tasks that need it cannot be evaluated",
    "--confirm-run-unsafe-code": "leave it out: tasks that run code cannot be evaluated",
}
INSTEAD = {
    **dict.fromkeys(("run", "lm_eval", "lm-eval"), ("aurac", "compare")),
    "ls": ("aurac", "tasks"),
    "validate": ("aurac", "compare", "ADAPTER", "--tasks", "TASK", "--dry-run"),
}
"""Commands of lm_eval, and what to type here."""

_OF_FEWSHOT = 1234  # lm-eval's default seed of the few-shot sampling
_PAIRS = ("--model-args", "-a", "--gen-kwargs")
_TASKS = ("--tasks", "-t")
_MODEL = ("--model", "-M", "--model-args", "-a")


def lm_eval_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The hidden options: accepted without effect, or refused with what to do instead."""
    for names, kind in _NO_EFFECT.items():
        command = click.option(*names.split(), hidden=True, expose_value=False, **kind)(command)
    for names, fix in _NO_COUNTERPART.items():
        refuse = functools.partial(_refuse, names.split()[0], fix)
        kind = parsed(refuse, **_MAY_HAVE_VALUE)
        command = click.option(*names.split(), hidden=True, expose_value=False, **kind)(command)
    return command


def _refuse(name: str, fix: str, _value: object) -> None:
    raise UsageError(f"{name} of lm-eval has no counterpart in aurac", fix=fix)


def _refuse_any(values: Words, use: str) -> None:
    for names, fix in _NO_COUNTERPART.items():
        if (name := names.split()[0])[2:].replace("-", "_") in values:
            _refuse(name, f"{fix}; {use}", None)


def _refuse_unknown(arguments: Sequence[str], use: str) -> None:
    """Refuse model arguments that have no meaning here."""
    if arguments:
        given = f"--model_args {','.join(arguments)}"
        for name in (each.partition("=")[0] for each in arguments):
            quantized = name.startswith(("load_in_", "bnb_"))
            why = _QUANTIZED if quantized else _REASONS.get(name)
            given += f" ({name}: {why})" if why else ""
        raise UsageError(given, expected=_UNDERSTOOD, fix=use)


class LmEvalCommand(Command):
    """Reads a line with `--model` or `--model_args` as the line of `aurac compare` it means."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, after the translation."""
        args = _joined(args)
        if {ALL, *ctx.help_option_names} & set(args):
            return super().parse_args(ctx, args)
        values, _, _ = self.make_parser(ctx).parse_args(list(args))
        if "config" in values:
            known = {name for option in self.params for name in option.opts}
            args += _joined(_config_words(values["config"], set(values), known))
            values, _, _ = self.make_parser(ctx).parse_args(list(args))
        words = values.pop("checkpoints", None)
        words = list(words) if isinstance(words, (list, tuple)) else []
        if {"model", "model_args"} & set(values):
            args = self._translated(dict(values), words)
        elif words and words[0] in INSTEAD and not Path(words[0]).exists():
            raise UsageError(f"lm_eval {words[0]}", fix=f"use: {' '.join(INSTEAD[words[0]])}")
        return super().parse_args(ctx, args)

    def _translated(self, values: Words, words: list[str]) -> list[str]:
        model = values.pop("model", "hf")
        texts = values.pop("model_args", [])
        texts = texts if isinstance(texts, list) else []
        if spaced := [text for text in texts if re.search(r"=\S+ +\w+=", text)]:
            fix = f"separate them by commas: {','.join(spaced[0].split())}"
            raise UsageError(f"--model_args {spaced[0]!r}", fix=fix)
        arguments = named_values(texts, "--model_args", lambda value: value.strip("\"'"))
        overrides, peft, unknown = read_model_args({k: str(v) for k, v in arguments.items()})
        if words[:1] == ["run"] and not Path("run").exists():  # lm_eval run …
            words = words[1:]
        values |= overrides
        if not _DEVICE.fullmatch(str(values.get("device", "cpu"))):
            values.pop("device")
        adapters = list(dict.fromkeys([*words, *peft]))
        line = [*(adapters or ["ADAPTER"]), *self._words(values)]
        use = f"use: {shlex.join(['aurac', 'compare', *line])}"
        if model not in _MODELS:
            raise UsageError(
                f"--model {model} computes with another library",
                expected="hf: aurac computes in transformers (behind a server: docs/servers.md)",
                fix=use,
            )
        _refuse_unknown(unknown, use)
        if not adapters:
            raise UsageError(
                "no adapter: this line evaluates the base model alone",
                expected="peft=ADAPTER in --model_args, or adapters as arguments",
                fix=use,
            )
        if set(words) & set(peft):
            given = f"{peft[0]} as an argument and as peft= in --model_args"
            raise UsageError(given, expected="each adapter once", fix=use)
        copies = os.environ.get("WORLD_SIZE", "1")
        if copies.isdecimal() and int(copies) > 1:
            given = f"{copies} processes of torchrun or accelerate launch"
            expected = "one process, which starts its own workers"
            raise UsageError(given, expected=expected, fix=f"{use} --workers {copies}")
        _refuse_any(values, use)
        return line

    def _words(self, values: Words) -> list[str]:
        """Options as they are written, in the order of the help, without hidden ones."""
        words = []
        for option in self.params:
            value = values.get(option.name or "")
            if not isinstance(option, click.Option) or option.hidden:
                continue
            for each in value if isinstance(value, list) else [value] if value else []:
                words += [option.opts[0], each] if isinstance(each, str) else [option.opts[0]]
        return words


def _may_be_adapter(word: str) -> bool:
    return not set("/=:@").isdisjoint(word) or Path(word).exists()


def _joined(args: Sequence[str]) -> list[str]:
    """lm-eval's options of several words as one: `--tasks a b`, `--model_args x=1 y=2`."""
    long = [hyphens(word.split("=")[0]) if word.startswith("-") else word for word in args]
    is_lm_eval = not set(_MODEL).isdisjoint(long)
    joined: list[str] = []
    last, words = "", 0
    for word, name in zip(args, long, strict=True):
        if word.startswith("-") and len(word) > 1:
            last, words = name, int("=" in word)
        elif words and ((last in _PAIRS and "=" in word) or (last in _TASKS and is_lm_eval)):
            joined[-1] += f",{word}"
            continue
        elif last == "--apply-chat-template" and (is_lm_eval or not _may_be_adapter(word)):
            raise UsageError(
                f"--apply_chat_template {word}: templates with a name are not read",
                expected="no name: the tokenizer's default template",
                fix=f"leave the name out, or save {word} as chat_template.jinja beside a tokenizer "
                "and give its folder with --tokenizer",
            )
        else:
            words += 1
            if last in _TASKS and words > 1 and not _may_be_adapter(word):
                fix = f"tasks are separated by commas: --tasks {joined[-1]},{word}"
                raise UsageError(f"no adapter {word}", fix=fix)
        joined.append(word)
    return joined


def _config_words(path: str, named: set[str], known: set[str]) -> list[str]:
    """The options of lm-eval's `--config` file that the command does not give itself."""
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {path} does not exist", expected="a YAML file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"--config {path} cannot be read ({first_line(error)})", expected="YAML"
        ) from error
    if not isinstance(settings, dict):
        raise UsageError(f"--config {path}", expected="lines of NAME: VALUE")
    words = []
    for name, value in settings.items():
        if str(name) in named or value is None or value is False:
            continue
        words.append(f"--{hyphens(str(name))}")
        if words[-1] not in known:
            fix = nearest(words[-1][2:], (option[2:] for option in known))
            fix = f"did you mean {fix}?" if fix else "leave it out"
            raise UsageError(f"--config {path} has {name}, which is no option", fix=fix)
        if isinstance(value, dict):
            words.append(json.dumps(value))
        elif value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    return words


def fewshot_seed(text: Any) -> int:
    """`--seed`: `7` → 7; of lm-eval's four (python, numpy, torch, few-shot) the last."""
    seeds = str(text).split(",")
    if len(seeds) == 3:
        return _OF_FEWSHOT
    if len(seeds) not in (1, 4) or not seeds[-1].strip().isdecimal():
        raise UsageError(
            f"--seed {text}", expected="a number, or lm-eval's four, the last one a number"
        )
    return int(seeds[-1])


def read_model_args(arguments: Mapping[str, str]) -> tuple[Words, list[str], list[str]]:
    """Options of `compare`, adapters, and arguments that have no meaning here."""
    defaults = (*_DEFAULTS, f"tokenizer={arguments.get('pretrained')}")
    rest = {name: value for name, value in arguments.items() if f"{name}={value}" not in defaults}
    options: Words = {
        option: _DTYPES.get(rest[name], rest[name])
        for name, option in _RENAMED.items()
        if name in rest
    }
    if "revision" in rest and "base" in options:
        options["base"] = f"{rest['pretrained']}@{rest['revision']}"
    if rest.pop("parallelize", None) == "True":
        options.setdefault("device_map", "auto")
    if rest.pop("trust_remote_code", None) == "True":
        options["trust_remote_code"] = True
    rest.pop("max_batch_size", None)  # as the option of that name
    named = ("peft", "lora_local_path")  # the latter of lm-eval's model vllm
    adapters = [rest.pop(name) for name in named if name in rest]
    unknown = [f"{n}={v}" for n, v in rest.items() if n not in {*_RENAMED, "revision"}]
    return options, adapters, unknown
