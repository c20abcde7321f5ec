"""Which tokenizer prompts go through: the base's, an adapter's own, or one that is named.

Training tools save the tokenizer, with added tokens and its chat template, beside the adapter
(PEFT's `AutoPeftModel` reads it there). All cells of a comparison have the same prompts, so there
is one tokenizer for all of its adapters.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from aurac.errors import CheckpointError, UsageError, first_line
from aurac.files import sha256_json
from aurac.models.base import LoadedBase, read_tokenizer
from aurac.models.weights import quiet_transformers

logger = logging.getLogger(__name__)

_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
# What transformers reads of a tokenizer without running code, and what an export carries over.
TOKENIZER_FILES: Final = (
    *(_CONFIG, _TEMPLATE, "additional_chat_templates/*.jinja", "tokenizer.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
)
_OF_BATCHES = ("padding", "truncation")  # settings of tokenizer.json that change no token


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that takes the place of the base's."""

    tokenizer: Any = None  # of transformers; None for the base's own
    name: str = "base"  # whose it is, for people
    sha256: str | None = None  # of what decides a prompt's tokens; None for the base's own
    rows: int | None = None  # rows that the base's embeddings must have; None to leave them

    def adopted_by(self, base: LoadedBase) -> LoadedBase:
        """The base with this tokenizer, its embeddings resized as PEFT's `AutoPeftModel` does.

        New rows are drawn as transformers draws them, with seed 0; trained ones are the adapter's.
        """
        if self.rows is None:
            return replace(base, tokenizer=self.tokenizer) if self.tokenizer else base
        import torch

        model = base.model
        if self.rows != _rows(model):
            meta = model.get_input_embeddings().weight.is_meta
            with torch.random.fork_rng(), quiet_transformers():
                torch.manual_seed(0)
                model.resize_token_embeddings(self.rows, mean_resizing=not meta)
            model.requires_grad_(requires_grad=False)
        return replace(base, tokenizer=self.tokenizer or base.tokenizer, make=lambda: model)


def choose_tokenizer(
    wanted: str | None,
    base: LoadedBase,
    adapters: Mapping[str, Path | None],
    embeddings: Mapping[str, int],
    *,
    chat_template: bool,
) -> Tokenizer:
    """The tokenizer of a comparison; a UsageError where the adapters' own differ.

    None that comes with an adapter runs code of its folder.

    Args:
        wanted: `base`, `adapter`, a folder, or None: the adapters' own where they agree.
        base: With its model, or an outline of it.
        adapters: Name → folder or file.
        embeddings: Name → rows of the embeddings that the adapter brings, of those that do.
        chat_template: Whether prompts go through the template, so that another one matters.
    """
    if base.tokenizer is None:
        return Tokenizer()
    places: dict[str, Path | None] = {f"adapter {name}": path for name, path in adapters.items()}
    if wanted not in (None, "adapter"):
        places = {wanted: None if wanted == "base" else Path(wanted).expanduser()}
    found = {whose: tokenizer_folder(path) for whose, path in places.items()}
    if wanted not in (None, "base") and not any(found.values()):
        raise UsageError(f"--tokenizer {wanted} finds no folder with {_CONFIG}")
    plain = _identity(base.tokenizer, chat_template)
    there = {n: _load(folder, n, base.tokenizer) for n, folder in found.items() if folder}
    made = {n: Tokenizer(own, n, _identity(own, chat_template)) for n, own in there.items()}
    different = {name: own for name, own in made.items() if own.sha256 != plain}
    alike = len({own.sha256 for own in different.values()}) < 2
    # One that is asked for serves adapters without one of their own, too.
    if not alike or (wanted is None and 0 < len(different) < len(adapters)):
        listed = ", ".join(f"{n}: {'its' if n in different else 'the base’s'}" for n in found)
        raise UsageError(
            f"the adapters have different tokenizers or chat templates ({listed}): compare them in "
            "separate runs, or give --tokenizer base or a folder"
        )
    choice = next(iter(different.values()), Tokenizer())
    if choice.tokenizer is not None:
        logger.warning("prompts go through the tokenizer of %s, not the base's", choice.name)
    if not embeddings and choice.tokenizer is None:
        return choice
    present = _rows(base.model)
    # One that brings fewer or more rows than others does not fit the base then, and is refused.
    needed = max(embeddings.values(), default=max(present, len(choice.tokenizer or ())))
    if needed == present:
        return choice
    logger.warning("the base's embeddings are resized to %d rows", needed)
    return replace(choice, rows=needed)


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def tokenizer_folder(path: Path | None) -> Path | None:
    """The folder of an adapter that has a tokenizer or a chat template in it."""
    if path is None or not path.exists():
        return None
    folder = path if path.is_dir() else path.parent
    return folder if any((folder / name).is_file() for name in (_CONFIG, _TEMPLATE)) else None


def has_template(path: Path | None) -> bool | None:
    """Whether the tokenizer of an adapter's folder has a chat template; None: it cannot be said.

    Trainers write it as a file; in a configuration it may be that of the base.
    """
    folder = tokenizer_folder(path)
    if folder is None:
        return None
    if (folder / _TEMPLATE).is_file():
        return True
    return None if '"chat_template"' in (folder / _CONFIG).read_text(encoding="utf-8") else False


def _load(folder: Path, whose: str, base: Any) -> Any:
    try:
        if not (folder / _CONFIG).is_file():  # a template alone, for the base's tokens
            tokenizer = copy.deepcopy(base)
            tokenizer.chat_template = (folder / _TEMPLATE).read_text(encoding="utf-8")
            return tokenizer
        with quiet_transformers():
            return read_tokenizer(folder)
    except Exception as error:
        raise CheckpointError(
            f"the tokenizer of {whose} cannot be read ({first_line(error)}); --tokenizer base "
            "takes the base's"
        ) from error


def _identity(tokenizer: Any, chat_template: bool) -> str:  # noqa: FBT001
    """A hash of what decides the tokens of a prompt."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend else tokenizer.get_vocab()
    state = {key: part for key, part in state.items() if not backend or key not in _OF_BATCHES}
    template = tokenizer.chat_template if chat_template else None
    return sha256_json([state, tokenizer.bos_token, tokenizer.eos_token, template])
