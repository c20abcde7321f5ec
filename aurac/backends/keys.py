"""Keys among a model's arguments, which no file, log or message may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def secrets(arguments: Mapping[str, Any]) -> list[str]:
    """The texts in a model's arguments that no file may hold."""
    found = [str(value) for name, value in arguments.items() if holds_key(name)]
    user = re.match(r"\w+://([^/@]+)@", str(arguments.get("base_url", "")))
    return sorted(filter(None, [*found, user and user[1]]), key=len, reverse=True)


def holds_key(name: str) -> bool:
    """Whether an argument of a model may hold a key."""
    harmless = name.endswith(("token_id", "bos_token", "think_end_token")) or "tokenize" in name
    return not harmless and bool(re.search("token|key|header|password|secret", name))


def redacted(text: str, arguments: Mapping[str, Any]) -> str:
    """A text without the keys in a model's arguments."""
    for secret in secrets(arguments):
        text = text.replace(secret, "…")
    return text
