"""A file of examples as a task: data that an adapter was trained on, in the formats of TRL.

A row has ``prompt`` and ``completion`` (*prompt-completion*: two texts, or two lists of messages),
or ``messages`` (*conversational*). Each text that counts is one request for a log-likelihood, so
that every backend answers; the engine also says which tokens are the argmax.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from aurac.curves.metrics import LOSS, TOKENS, WHOLE
from aurac.errors import DataError, UsageError
from aurac.readers.data_files import Row, read_rows, suffix_of
from aurac.tasks.local_data import check_examples

_log = logging.getLogger(__name__)

MOST_TOKENS = 256  # of a text that is generated to be shown

_FORMATS = ("prompt", "completion"), ("messages",)
_SETTINGS = ("tools", "chat_template_kwargs")  # columns of TRL that a chat template takes
_MARKS_TURNS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for it


class Whole(str):
    """A context that lm-eval takes as it is.

    It moves white space from the end of a context to the continuation, also the line break of a
    template after "assistant", which belongs to the prompt: training does not count it.
    """

    __slots__ = ()

    def rstrip(self, chars: str | None = None, /) -> str:
        """Nothing is taken away."""
        del chars
        return self


class OwnData(ConfigurableTask):
    """The examples of a file as a task of lm-eval; with `by_token` whoever answers knows tokens."""

    def __init__(self, path: Path, tokenizer: Any, *, by_token: bool) -> None:
        self._tokenizer = tokenizer
        better = {TOKENS: True, WHOLE: True, LOSS: False}
        super().__init__(
            config={
                "task": task_name(path),
                "custom_dataset": lambda **_: {"test": _examples(path, tokenizer)},
                "test_split": "test",
                "output_type": "loglikelihood",
                "doc_to_text": _question,
                "doc_to_target": _completion,
                "target_delimiter": "",
                "num_fewshot": 0,
                "process_results": _scores,
                "metric_list": [
                    {"metric": name, "aggregation": "mean", "higher_is_better": better[name]}
                    for name in (better if by_token else [WHOLE])
                ],
            }
        )

    def construct_requests(self, doc: Row, ctx: Any, **about: Any) -> list[Instance]:
        """A request for each text that counts."""
        del ctx
        return [
            Instance("loglikelihood", doc, (Whole(before), text), at, about["metadata"])
            for at, (before, text) in enumerate(doc["turns"])
        ]

    def continuations(
        self, wanted: Sequence[tuple[Row, int]], longest: int
    ) -> tuple[list[Instance], list[str], int]:
        """Requests for what greedy decoding writes in the place of some texts.

        A text ends with the token that ends its reference, or at a limit: twice the tokens of the
        longest reference, but not more than `MOST_TOKENS`.

        Args:
            wanted: n examples, each with the number of the text that is asked for.
            longest: Most tokens of a prompt and a text together.

        Returns:
            n requests, the n tokens that end a reference, as text, and the limit.
        """
        turns = [doc["turns"][number] for doc, number in wanted]
        sizes = [
            len(self._tokenizer(text, add_special_tokens=False).input_ids) for _, text in turns
        ]
        limit = min(MOST_TOKENS, 2 * max(sizes), longest // 2)
        added = self._tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special]
        ends = [next(filter(text.endswith, special), "") for _, text in turns]
        requests = []
        for (doc, at), (before, _), end in zip(wanted, turns, ends, strict=True):
            until = [*dict.fromkeys(filter(None, (end, self._tokenizer.eos_token)))]
            how = {"until": until, "max_gen_toks": limit, "do_sample": False}
            about = self.config.task, None, 1
            requests.append(Instance("generate_until", doc, (before, how), at, about))
        return requests, ends, limit


def task_name(path: Path) -> str:
    """What the task of a file is called: its name without the ending."""
    return path.name[: -len(suffix_of(path))]


def is_conversation(path: Path) -> bool:
    """Whether a file's examples go through a chat template."""
    return _converses(_rows(path))


def _converses(rows: Sequence[Row]) -> bool:
    return "messages" in rows[0] or isinstance(rows[0].get("prompt"), list)


def _question(doc: Row) -> str:
    return str(doc["turns"][-1][0])


def _completion(doc: Row) -> str:
    return "".join(text for _, text in doc["turns"])


def _scores(_doc: Row, results: Sequence[Any]) -> dict[str, float]:
    """The metrics of an example, those of its tokens where they are known."""
    scores = {WHOLE: float(all(greedy for _, greedy in results))}
    if all(hasattr(each, "hits") for each in results):
        hits = [hit for each in results for hit in each.hits]
        scores[TOKENS] = sum(hits) / len(hits)
        scores[LOSS] = -sum(value for value, _ in results) / len(hits)
    return scores


def _rows(path: Path) -> list[Row]:
    """The rows of a file; the cells of CSV that hold messages are JSON."""
    rows = read_rows(path)
    for row in rows if suffix_of(path) == ".csv" else ():
        for name, cell in row.items():
            with suppress(ValueError):  # a text may begin so, too
                row[name] = json.loads(cell) if cell.lstrip().startswith("[{") else cell
    return rows


def prompts_and_completions(path: Path, tokenizer: Any) -> list[tuple[str, str]]:
    """The n prompts and completions of a file, those of messages as the chat template has them.

    Raises:
        DataError: It holds no such examples.
        UsageError: It has messages, and the tokenizer has no chat template.
    """
    docs = [{"turns": turns} for turns in _texts(path, tokenizer)[1]]
    return [(_question(doc), _completion(doc)) for doc in docs]


def _texts(path: Path, tokenizer: Any) -> tuple[list[Row], list[list[list[str]]]]:
    """The rows of a file, and what counts of each (see `_turns`)."""
    rows = _rows(path)
    there = list(dict.fromkeys(name for row in rows for name in row))
    names = next((each for each in _FORMATS if {*each} <= {*there}), ())
    if not names:
        raise DataError(
            f"{path} has the columns {', '.join(there)}: its examples need prompt and completion, "
            "or messages, in the formats of TRL."
        )
    check_examples(str(path), [{k: v for k, v in row.items() if v != ""} for row in rows], names)
    if _converses(rows) and not getattr(tokenizer, "chat_template", None):
        raise UsageError(f"{path} has messages, and the tokenizer has no chat template.")
    return rows, [list(_turns(row, number, tokenizer)) for number, row in enumerate(rows, 1)]


def _examples(path: Path, tokenizer: Any) -> Dataset:
    """The examples of a file with their `turns`, and the fields by which they can be clustered."""
    rows, turns = _texts(path, tokenizer)
    if twice := len(turns) - len({*map(str, turns)}):
        _log.warning(
            "%s: %d of %d examples repeat another one; the intervals take all as independent",
            task_name(path),
            twice,
            len(turns),
        )
    several = any(sum(map(_answers, row.get("messages") or ())) > 1 for row in rows)
    if several and all(len(each) == 1 for each in turns):
        _log.warning(
            "%s: the chat template does not mark the assistant's turns ({%% generation %%}), so "
            "that the last one of each example counts",
            task_name(path),
        )
    fields = [name for name in rows[0] if name not in {*chain(*_FORMATS), *_SETTINGS}]
    kept = [n for n in fields if all(isinstance(row.get(n), str | int) for row in rows)]
    examples = zip(rows, turns, strict=True)
    return Dataset.from_list(
        [{"turns": each} | {name: str(row[name]) for name in kept} for row, each in examples]
    )


def _turns(row: Row, number: int, tokenizer: Any) -> Iterator[list[str]]:
    """What counts of an example: each text with all that stands before it.

    Of texts the completion with the end token, as TRL trains it. Of messages those of the
    assistant, where the template marks them; else the last one, without white space at its end.
    """
    prompt, completion, messages = map(row.get, ("prompt", "completion", "messages"))
    if isinstance(prompt, str) and isinstance(completion, str):
        end = tokenizer.eos_token or ""
        yield [prompt, completion if completion.endswith(end) else completion + end]
        return
    if messages is None and isinstance(prompt, list) and isinstance(completion, list):
        messages = [*prompt, *completion]
    elif isinstance(messages, list):
        if marked := list(_marked(row, messages, tokenizer)):
            yield from marked
            return
        answers = [at for at, message in enumerate(messages) if _answers(message)]
        if not answers:
            raise DataError(f"Row {number} has no message of the assistant.")
        prompt, messages = messages[: answers[-1]], messages[: answers[-1] + 1]
    else:
        raise DataError(f"Row {number} has no texts and no lists of messages.")
    before = _rendered(row, prompt, tokenizer, add_generation_prompt=True)
    whole = _rendered(row, messages, tokenizer)
    if not whole.startswith(before):
        raise DataError(f"The chat template writes the prompt of row {number} in two ways.")
    yield [before, whole[len(before) :].rstrip()]


def _answers(message: Any) -> bool:
    return bool(message["role"] == "assistant")


def _rendered(row: Row, messages: list[Any], tokenizer: Any, **how: Any) -> Any:
    """Messages through the chat template, as a text unless told otherwise."""
    told = {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
    return tokenizer.apply_chat_template(messages, **{"tokenize": False, **told, **how})


def _marked(row: Row, messages: list[Any], tokenizer: Any) -> Iterator[list[str]]:
    """The turns that a template marks for training, as transformers finds their tokens."""
    template = tokenizer.get_chat_template(None, row.get("tools"))
    if not (tokenizer.is_fast and _MARKS_TURNS.search(template)):
        return
    made = _rendered(
        row,
        messages,
        tokenizer,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    text, start = _rendered(row, messages, tokenizer), 0
    tokens = zip(made["assistant_masks"], made["offset_mapping"], strict=True)
    for counts, run in groupby(tokens, key=lambda token: token[0]):
        end = max(place for _, (_, place) in run)
        if counts:
            yield [text[:start], text[start:end]]
        start = end
