"""Text to tokens, by the rules of lm-eval's ``HFLM``: prompts agree token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DEFAULT_MAX_LENGTH = 2048
_LENGTH_ATTRIBUTES = ("n_positions", "max_position_embeddings", "n_ctx")
_NO_LIMIT = 10**18  # tokenizers write about 1e30 for "unset"


def resolve_max_length(model: Any, tokenizer: Any, given: int | None = None) -> int:
    """The longest input in tokens: the caller's, the model's, the tokenizer's, or 2048."""
    if given is not None:
        return given
    config = model.config
    config = getattr(config, "text_config", None) or config
    for name in _LENGTH_ATTRIBUTES:
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < _NO_LIMIT else DEFAULT_MAX_LENGTH


def prefix_token_id(tokenizer: Any) -> int:
    """The token that stands for an empty context: BOS, else EOS.

    Raises:
        TaskError: The tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise TaskError("the tokenizer has neither a BOS nor an EOS token", fix="set one of them")


def _encode_all(tokenizer: Any, texts: Sequence[str], **kwargs: Any) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: the warning about a model's length would come before the truncation.
    return list(tokenizer(list(texts), verbose=False, **kwargs)["input_ids"])


def encode_texts(tokenizer: Any, texts: Iterable[str], prefix: str | None) -> dict[str, list[int]]:
    """Tokens of each distinct text; no special tokens are added to a text that has its prefix.

    Args:
        tokenizer: A transformers tokenizer.
        texts: Texts, repeats allowed.
        prefix: The text of the beginning-of-sequence token, or ``None`` if there is none.
    """
    distinct = list(dict.fromkeys(texts))
    begun = [t for t in distinct if prefix is not None and t.startswith(prefix)]
    plain = [t for t in distinct if prefix is None or not t.startswith(prefix)]
    encoded = dict(zip(plain, _encode_all(tokenizer, plain), strict=True))
    encoded.update(zip(begun, _encode_all(tokenizer, begun, add_special_tokens=False), strict=True))
    return encoded


def encode_pairs(
    tokenizer: Any, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """(context tokens, continuation tokens) of each pair.

    Trailing white space of a context moves to its continuation; both are then tokenised as one text
    and split at the context's token count, whatever the seam between them does. An empty context
    is the prefix token.

    Raises:
        TaskError: A context of nothing but white space, or a continuation without tokens.
    """
    prefix = prefix_token_id(tokenizer)
    moved = []
    for context, continuation in pairs:
        cut = len(context.rstrip())
        moved.append(
            (context[:cut], context[cut:] + continuation) if context else ("", continuation)
        )
    bare = list(dict.fromkeys(c for (raw, _), (_, c) in zip(pairs, moved, strict=True) if not raw))
    bare_tokens = dict(
        zip(bare, _encode_all(tokenizer, bare, add_special_tokens=False), strict=True)
    )
    texts = [t for context, rest in moved if context for t in (context, context + rest)]
    whole = encode_texts(tokenizer, texts, tokenizer.decode(prefix))
    encoded = []
    for (raw, _), (context, rest) in zip(pairs, moved, strict=True):
        if raw and not context:
            raise TaskError(f"the context {raw!r} is nothing but white space")
        if raw:
            ctx = whole[context]
            cont = whole[context + rest][len(ctx) :]
        else:
            cont = bare_tokens[rest]
            ctx, cont = (cont[:1], cont[1:]) if cont[:1] == [prefix] else ([prefix], cont)
        if not cont or not ctx:
            raise TaskError(
                f"the continuation {rest[:60]!r} has no token of its own after its context",
                fix="check the task's choices for an empty one",
            )
        encoded.append((list(ctx), list(cont)))
    return encoded
