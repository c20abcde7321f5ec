"""Generation requests: what lm-eval asks for, as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aurac.engine.options import UnsupportedRequestError
from aurac.engine.tokens import encode_texts
from aurac.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_NEW_TOKENS = 256
_SIMILAR_LENGTH = 64  # prompts that differ by less may be taken in any order
_LIMIT_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SILENT = frozenset({"until", "do_sample", "temperature", "top_p", "top_k", *_LIMIT_NAMES})


def most_new_tokens(kwargs: Mapping[str, Any]) -> int:
    """The token limit in a task's ``generation_kwargs``, by whichever name it goes there."""
    limits = [kwargs[name] for name in _LIMIT_NAMES if kwargs.get(name) is not None]
    return int(limits[0]) if limits else DEFAULT_NEW_TOKENS


@dataclass(frozen=True)
class GenerationRequest:
    """Continue a context greedily.

    Attributes:
        context: The prompt.
        until: Stop strings; the text ends before the first of them. EOS is always added.
        max_new_tokens: Most tokens to generate.
    """

    context: str
    until: tuple[str, ...] = ()
    max_new_tokens: int = DEFAULT_NEW_TOKENS

    @classmethod
    def from_kwargs(cls, context: str, kwargs: Mapping[str, Any]) -> GenerationRequest:
        """From a task's ``generation_kwargs``, by the rules of lm-eval 0.4.13.

        Raises:
            UnsupportedRequestError: The request samples, or asks for a decoding that is not greedy.
        """
        sample = kwargs.get("do_sample")
        if sample or (sample is None and float(kwargs.get("temperature") or 0.0) > 0.0):
            raise UnsupportedRequestError("a request that samples", expected="greedy decoding")
        if most_new_tokens(kwargs) < 1:
            raise UnsupportedRequestError("a limit of no new token", expected="at least 1")
        unknown = sorted(set(kwargs) - _SILENT)
        if unknown:
            raise UnsupportedRequestError(
                f"generation settings {', '.join(unknown)}", expected="until and a token limit"
            )
        until = kwargs.get("until") or []
        stops = (until,) if isinstance(until, str) else tuple(until)
        return cls(context, stops, most_new_tokens(kwargs))


@dataclass(frozen=True)
class Prompt:
    """A distinct request, tokenised: what the decoders work on."""

    tokens: tuple[int, ...]
    until: tuple[str, ...]
    max_new_tokens: int

    @property
    def order(self) -> tuple[int, tuple[int, ...]]:
        """Longest first, so that slots are made wide once; similar ones as they begin.

        A beginning that neighbours share is computed once.
        """
        return -(len(self.tokens) // _SIMILAR_LENGTH), self.tokens


@dataclass(frozen=True, eq=False)
class GenerationLayout:
    """Generation requests tokenised once, duplicates merged.

    Attributes:
        prompts: Distinct requests, left-truncated to leave room for the new tokens.
        index: For each request, its prompt.
    """

    prompts: tuple[Prompt, ...]
    index: tuple[int, ...]

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> GenerationLayout:
        """One prompt for each request, repeats allowed."""
        found: dict[Prompt, int] = {}
        index = tuple(found.setdefault(prompt, len(found)) for prompt in prompts)
        return cls(tuple(found), index)

    def __len__(self) -> int:
        return len(self.index)


def tokenise(
    tokenizer: Any, requests: Sequence[GenerationRequest], max_length: int
) -> list[Prompt]:
    """A prompt for each request, cut on the left to leave room for its new tokens.

    Raises:
        TaskError: No room for a prompt beside its new tokens, or a prompt without tokens.
    """
    eos = tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
    tokens = encode_texts(tokenizer, (r.context for r in requests), tokenizer.bos_token)
    prompts = []
    for request in requests:
        room = max_length - request.max_new_tokens
        if room < 1:
            raise TaskError(
                f"{request.max_new_tokens} new tokens with a model length of {max_length}",
                expected="room for a prompt",
                fix="raise the length or lower the task's limit",
            )
        context = tuple(tokens[request.context][-room:])
        if not context:
            raise TaskError("a prompt without tokens", expected="a non-empty context")
        until = request.until if eos in request.until else (*request.until, eos)
        prompts.append(Prompt(context, until, request.max_new_tokens))
    return prompts
