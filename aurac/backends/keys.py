"""Keys of servers and hubs, which no file, log or message may hold."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

_KNOWN: set[str] = set()


def hide(arguments: Mapping[str, Any]) -> None:
    """Have `redacted` know the keys in a model's arguments, as long as this process lives."""
    _KNOWN.update(text for k, v in arguments.items() if holds_key(k) for text in _texts(v))
    if user := re.match(r"\w+://([^/@]+)@", str(arguments.get("base_url", ""))):
        _KNOWN.update({user[1], user[1].partition(":")[2], b64encode(user[1].encode()).decode()})


def redacted(text: object, shortest: int = 8) -> str:
    """What a server or a library says, without `OPENAI_API_KEY` and the keys of `hide`.

    What is shorter than `shortest`, such as "EMPTY", is no key and may stand in an answer.
    """
    clean = str(text)
    for key in sorted({*_KNOWN, os.environ.get("OPENAI_API_KEY", "")}, key=len, reverse=True):
        if len(key) >= shortest:
            clean = clean.replace(key, "…")
    return clean


def holds_key(name: str) -> bool:
    """Whether an argument of a model may hold a key."""
    harmless = name.endswith(("token_id", "bos_token", "think_end_token")) or "tokenize" in name
    return not harmless and bool(re.search("token|key|header|password|secret", name))


def _texts(value: Any) -> Iterator[str]:
    """A value, those in a mapping, and of ``Bearer KEY`` the key."""
    for each in value.values() if isinstance(value, Mapping) else [value]:
        yield from {str(each), str(each).rpartition(" ")[2]}
