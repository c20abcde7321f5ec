"""Local splits of a task: files in a folder, read and checked, in the place of a hub's data set.

Prompts, ``process_docs``, filters and metrics stay lm-eval's, so that numbers can be compared with
published ones. Nothing here asks a hub, and nothing is written to a cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import DataError
from aurac.readers.data_files import SUFFIXES, Row, read_rows, suffix_of

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
        raise DataError(f"The data folder {folder} does not exist.")
    files: Files = {}
    for path in sorted(folder.iterdir()):
        if (suffix := suffix_of(path)) and path.is_file():
            name = path.name[: -len(suffix)]
            files.setdefault(_SHARD.sub("", name), []).append(path)
    if not files:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"{folder} holds no split, such as train.jsonl or test.jsonl ({kinds}).")
    for split, paths in files.items():
        if len({suffix_of(path) for path in paths}) > 1:
            names = ", ".join(path.name for path in paths)
            raise DataError(f"{folder} has the split {split} more than once ({names}).")
    return files


def match_split(wanted: str, files: Mapping[str, list[Path]]) -> list[Path] | None:
    """The files of the split that a task calls ``wanted``, under that name or a usual alias."""
    if wanted in files:
        return files[wanted]
    for names in ALIASES:
        if wanted in names:
            matches = [name for name in names if name in files]
            if len(matches) > 1:
                both = " and ".join(str(files[name][0]) for name in matches)
                raise DataError(f"{both} could both be the split {wanted}: rename one of them.")
            return files[matches[0]] if matches else None
    return None


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


def read_split(paths: Sequence[Path]) -> Dataset:
    """One split as lm-eval wants it, in memory.

    All files need the same columns, and no row may lack one: prompts would show it as "None".
    """
    from datasets import Dataset

    rows: list[Row] = []
    for path in paths:
        rows += read_rows(path, typed=True)
        if rows[-1].keys() != rows[0].keys():
            names = ", ".join(rows[-1])
            raise DataError(f"{path} has other columns ({names}) than the files before it.")
    try:
        return Dataset.from_list(rows)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{paths[0]} has a column of mixed types ({error}).") from error


def prompt_columns(config: Any) -> set[str]:
    """The columns that a task's prompt templates (of lm-eval's ``TaskConfig``) name.

    lm-eval renders the bare name of a column that is not there as that very word, and an empty cell
    as "None". Templates with a condition may mean to show nothing, and are left alone.
    """
    from jinja2 import meta
    from lm_eval.utils import env

    columns: set[str] = set()
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        template = getattr(config, key, None)
        if not isinstance(template, str) or _CONDITION.search(template):
            continue
        if _JINJA.search(template):
            columns |= meta.find_undeclared_variables(env.parse(template))
        elif template.isidentifier():
            columns.add(template)
    return columns


def check_examples(
    what: str, contents: Sequence[Mapping[str, Any]], columns: Iterable[str]
) -> None:
    """Refuse examples without a value in a column that is needed: prompts show the word "None"."""
    for column in columns:
        lacking = [at for at, row in enumerate(contents) if row.get(column) in (None, [])]
        if lacking:
            count = f"{len(lacking)} of {len(contents)} examples of {what} lack {column!r}"
            raise DataError(f"{count}, the first of them in row {lacking[0] + 1}.")
