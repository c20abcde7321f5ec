"""Local splits of a task: files in a folder, read and checked, in the place of a hub's data set.

Prompts, ``process_docs``, filters and metrics stay lm-eval's, so that numbers can be compared with
published ones. Nothing here asks a hub, and nothing is written to a cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.errors import DataError
from aurac.readers.data_files import SUFFIXES, read_parquet, read_rows, suffix_of
from aurac.tasks.index import TaskYaml

if TYPE_CHECKING:
    from datasets import Dataset

Files = dict[str, list[Path]]
"""Split name, as the files spell it, to its files in order (several when sharded)."""


Config = dict[str, Any]

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
ALIASES = (("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing"))
_SHARD = re.compile(r"-\d+-of-\d+$")
_JINJA = re.compile(r"\{[{%#]")
_CONDITION = re.compile(r"\{[{%].*\b(if|default)\b", re.DOTALL)


def find_splits(folder: Path) -> Files:
    """The splits that a folder holds, by name, with their files.

    The folder holds ``train.jsonl``, ``test.parquet`` and the like; hub-style shards
    (``test-00000-of-00002.parquet``) are one split. A missing folder, one without such files, and a
    split in two formats are refused.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist", fix="give --data TASK=FOLDER")
    files: Files = {}
    for path in sorted(folder.iterdir()):
        if (suffix := suffix_of(path)) and path.is_file():
            name = path.name[: -len(suffix)]
            files.setdefault(_SHARD.sub("", name), []).append(path)
    if not files:
        raise DataError(
            f"data folder {folder} holds no split",
            expected=f"files such as train.jsonl and test.jsonl ({', '.join(SUFFIXES)})",
        )
    for split, paths in files.items():
        if len({suffix_of(path) for path in paths}) > 1:
            names = ", ".join(path.name for path in paths)
            raise DataError(
                f"data folder {folder} has the split {split!r} more than once ({names})",
                fix="leave one of them",
            )
    return files


def match_split(wanted: str, files: Mapping[str, list[Path]]) -> list[Path] | None:
    """The files of the split that a task calls ``wanted``, under that name or a usual alias."""
    if wanted in files:
        return files[wanted]
    for names in ALIASES:
        if wanted in names:
            matches = [name for name in names if name in files]
            if len(matches) > 1:
                raise DataError(
                    f"{' and '.join(matches)} could both be the split {wanted!r} in "
                    f"{files[matches[0]][0].parent}",
                    fix=f"name one of them {wanted}",
                )
            return files[matches[0]] if matches else None
    return None


def with_local_documents(
    config: Mapping[str, object], files: Files, *, num_fewshot: int, held_out: bool = False
) -> dict[str, object]:
    """A task's configuration, as its YAML gives it, with its documents taken from local files.

    Splits that the run does not need are taken out and not read; ``held_out`` keeps a validation or
    training split beside the evaluated one, if it is there.
    """
    settings = msgspec.convert(config, TaskYaml)
    task = settings.task
    if settings.kind == "PY_TASK":
        raise DataError(f"task {task!r} is a Python class of lm-eval and takes no local data")
    shots = settings.fewshot_config if isinstance(settings.fewshot_config, dict) else {}
    fewshot = shots.get("split", settings.fewshot_split)
    evaluated = settings.test_split or settings.validation_split
    needed = {str(evaluated): "evaluated"}
    if num_fewshot > 0 and (fewshot or not shots.get("samples")):
        shown = fewshot or settings.training_split or settings.validation_split
        needed.setdefault(str(shown or evaluated), "few-shot")
    if held_out:
        beside = [settings.validation_split, settings.training_split]
        usable = [s for s in beside if s and s != evaluated and match_split(s, files)]
        needed.update(dict.fromkeys(usable[:1], "held-out"))
    splits = {
        split: read_split(_files_of(split, files, f"task {task!r} needs the {purpose} split"))
        for split, purpose in needed.items()
    }
    local: dict[str, object] = {**config, "dataset_kwargs": None}
    local["custom_dataset"] = lambda **_: splits  # lm-eval calls it for the documents
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if local.get(key) and local[key] not in splits:
            local[key] = None
    if shots.get("split") and shots["split"] not in splits:
        local["fewshot_config"] = {**shots, "split": None}
    return local


def with_local_examples(config: Mapping[str, Any], files: Files, *, fewshot: bool) -> Config:
    """A task's configuration, as its YAML gives it, with its splits taken from local files.

    The split that is evaluated must be there, and with ``fewshot`` the one that examples are shown
    from: lm-eval would quietly take another. Of further splits those that are there are kept.
    """
    name = config["task"]
    if "class" in config:
        raise DataError(f"Task {name} is a Python class of lm-eval and takes no local data.")
    shots = config.get("fewshot_config")
    shots = shots if isinstance(shots, dict) else {}
    named = {key: config.get(key) for key in _SPLITS} | {"": shots.get("split")}
    needed = {str(named["test_split"] or named["validation_split"])}
    shown = [named[key] for key in ("", "fewshot_split", "training_split", "validation_split")]
    if fewshot and not shots.get("samples") and any(shown):
        needed.add(next(str(split) for split in shown if split))
    wanted = needed.union(*({str(split)} for split in named.values() if split))
    paths = {split: match_split(split, files) for split in wanted}
    if missing := sorted(split for split in needed if not paths[split]):
        here = next(iter(files.values()))[0].parent
        there = ", ".join(sorted(files))
        raise DataError(f"Task {name} needs the split {missing[0]}, and {here} holds {there}.")
    splits = {split: read_split(found) for split, found in paths.items() if found}
    local = {**config, "dataset_kwargs": None, "custom_dataset": lambda **_: splits}
    local |= {key: None for key in _SPLITS if named[key] not in splits}
    if shots.get("split") and shots["split"] not in splits:
        local["fewshot_config"] = {**shots, "split": None}
    return local


def _files_of(split: str, files: Files, need: str) -> list[Path]:
    paths = match_split(split, files)
    if paths:
        return paths
    here = next(iter(files.values()))[0].parent
    raise DataError(
        f"{need} {split!r}, and {here} holds {', '.join(sorted(files))}",
        expected=f"{split}.jsonl, .jsonl.gz, .json, .parquet or .csv",
    )


def read_split(paths: Sequence[Path]) -> Dataset:
    """One split as lm-eval wants it, in memory; all files need documents with the same columns."""
    from datasets import concatenate_datasets

    parts = [_data_set(path) for path in paths]
    for part, path in zip(parts, paths, strict=True):
        if not len(part):
            raise DataError(f"{path} holds no document")
        if part.column_names != parts[0].column_names:
            raise DataError(
                f"{path} has other columns ({', '.join(part.column_names)}) than the shard "
                f"before it ({', '.join(parts[0].column_names)})"
            )
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _data_set(path: Path) -> Dataset:
    """A file's documents; none lacks a column, which the prompt would show as "None"."""
    from datasets import Dataset

    if suffix_of(path) == ".parquet":
        return Dataset(read_parquet(path))
    rows = read_rows(path, typed=True)
    try:
        return Dataset.from_list(rows)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path} has a column of mixed types ({error})") from error


def prompt_columns(config: Any) -> set[str]:
    """The columns that a task's prompt templates (of lm-eval's ``TaskConfig``) name.

    lm-eval renders the bare name of a column that is not there as that very word, and an empty cell
    as "None". Templates with a condition may mean to show nothing, and are left alone.
    """
    from jinja2 import Environment, meta

    environment = Environment(autoescape=False)  # noqa: S701 - parsed only, never rendered
    environment.filters["regex_replace"] = str.replace  # lm-eval's own filter, known by name only
    columns: set[str] = set()
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        template = getattr(config, key, None)
        if not isinstance(template, str) or _CONDITION.search(template):
            continue
        if _JINJA.search(template):
            columns |= meta.find_undeclared_variables(environment.parse(template))
        elif template.isidentifier():
            columns.add(template)
    return columns


def check_documents(
    task: str, documents: Iterable[Mapping[str, object]], columns: set[str]
) -> None:
    """Refuse a document without a value in a column that the prompt shows."""
    for index, document in enumerate(documents):
        for column in sorted(columns):
            if document.get(column) is None:
                raise DataError(
                    f"evaluated document {index} of task {task!r} has no {column!r}, which its "
                    f"prompt needs",
                    expected=f"the columns {', '.join(sorted(columns))} in every row",
                )


def check_examples(task: str, contents: Iterable[Mapping[str, object]], columns: set[str]) -> None:
    """Refuse an example without a value in a column that the prompt shows, as the word "None"."""
    for index, content in enumerate(contents):
        for column in sorted(columns):
            if content.get(column) is None:
                raise DataError(f"Example {index} of task {task} has no {column!r} for its prompt.")
