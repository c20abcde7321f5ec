"""Has a stop string just been generated? lm-eval's question, asked only where it can be yes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXTRA = 2  # HFLM looks back two tokens further than the stop string's own tokens
_BROKEN = "�"  # an incomplete UTF-8 sequence decodes to this


class StopTable:
    """The stop strings of a request.

    ``stopped`` is ``HFLM``'s own test: a stop string lies in the decoded last tokens, as many as
    the stop string itself has and two more. One that was not there a token ago must end in, or lie
    inside, the newest token's text: ``may_stop`` tells from that text alone, so that nearly every
    decoding step costs one dictionary look-up and no detokenisation.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [
            (stop, len(tokenizer.encode(stop, add_special_tokens=False)) + _EXTRA) for stop in until
        ]
        self._may: dict[int, bool] = {}

    def may_stop(self, token: int) -> bool:
        """False only if no stop string can end in this token."""
        known = self._may.get(token)
        if known is None:
            known = self._may[token] = self._could_end(self._tokenizer.decode([token]))
        return known

    def _could_end(self, text: str) -> bool:
        if not text or _BROKEN in text:
            return True
        # Decoded alone, a word-initial token loses its space in some tokenizers.
        forms = (text, " " + text, text.lstrip())
        return any(
            stop in form or any(form.startswith(stop[k:]) for k in range(len(stop)))
            for stop, _ in self._stops
            for form in forms
        )

    def stopped(self, generated: Sequence[int]) -> bool:
        """Whether a stop string lies in the tail of the generated tokens."""
        return any(
            stop in self._tokenizer.decode(list(generated[-window:]))
            for stop, window in self._stops
        )
