"""Keys of servers and hubs, which no file, log or message may hold."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

_SHORTEST = 8  # what is shorter, such as "EMPTY", is no key and may stand in an answer
_KNOWN: set[str] = set()


def secrets(arguments: Mapping[str, Any]) -> list[str]:
    """The texts in a model's arguments that no file may hold, the longest first."""
    found = [text for name, value in arguments.items() if holds_key(name) for text in _texts(value)]
    if user := re.match(r"\w+://([^/@]+)@", str(arguments.get("base_url", ""))):
        password = user[1].partition(":")[2]
        found += [user[1], password, b64encode(user[1].encode()).decode()]
    return sorted(filter(None, found), key=len, reverse=True)


def hide(arguments: Mapping[str, Any]) -> None:
    """Have `redacted` know the keys in a model's arguments, as long as this process lives."""
    _KNOWN.update(secrets(arguments))


def redacted(text: object) -> str:
    """What a server or a library says, without `OPENAI_API_KEY` and the keys of `hide`."""
    clean = str(text)
    for key in sorted({*_KNOWN, os.environ.get("OPENAI_API_KEY", "")}, key=len, reverse=True):
        if len(key) >= _SHORTEST:
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
