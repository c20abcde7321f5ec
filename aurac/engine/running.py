"""What both fast paths need from a model: device, modes, and logits at chosen positions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from aurac.engine.options import UnsupportedRequestError
from aurac.models.memory import keep_few_kernels, keep_freed_memory

Progress = Callable[[int], None]


def device_of(model: Any) -> torch.device:
    """Where the model's inputs go; of a model that accelerate has spread, its main device."""
    spread = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if spread is not None:
        return torch.device("cuda", spread) if isinstance(spread, int) else torch.device(spread)
    return torch.device(next(iter(model.parameters())).device)


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def require_causal(model: Any) -> None:
    """Refuse an encoder-decoder, whose requests mean something else.

    Raises:
        UnsupportedRequestError: It is one.
    """
    if getattr(unwrapped(model).config, "is_encoder_decoder", False):
        raise UnsupportedRequestError("an encoder-decoder", expected="a causal language model")


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward names this argument."""
    return name in inspect.signature(unwrapped(model).forward).parameters


_LEAST_CACHED, _CACHE_BYTES = 32_768, 2 << 30


def cached_tokens(model: Any) -> int:
    """How many tokens' keys and values may be held while decoding, unless it is said otherwise.

    A small model's sequences are cheap to hold, and the more of them are in flight the fewer passes
    read its weights.
    """
    config: Any = getattr(unwrapped(model), "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None)
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(layers, int) or not isinstance(heads, int):
        return _LEAST_CACHED
    shared = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    token = 2 * layers * shared * width * model.dtype.itemsize
    return max(_LEAST_CACHED, _CACHE_BYTES // token)


def pass_tokens(model: Any) -> int:
    """A good size of one pass in tokens: what fills a CPU's cores, or an accelerator."""
    return 1024 if device_of(model).type == "cpu" else 8192


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; the model's own mode is restored."""
    if device_of(model).type == "cpu":
        keep_freed_memory()
        keep_few_kernels()
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def score_logits(
    logits: torch.Tensor, row: torch.Tensor, token: torch.Tensor, chunk: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of tokens, and whether each is the argmax of its row.

    Args:
        logits: (n, V) in the model's dtype.
        row: (m,) index into n.
        token: (m,) the scored tokens.
        chunk: Rows that are turned to float32 at once, so that the copy stays small.

    Returns:
        (m,) float32 log-probabilities (log-softmax in float32) and (m,) bool.
    """
    top, picked = logits.amax(dim=-1), logits[row, token]
    sums = [
        (part.float() - most.float()[:, None]).exp_().sum(dim=-1)
        for part, most in zip(logits.split(chunk), top.split(chunk), strict=True)
    ]
    norm = torch.cat(sums).log_() + top
    logprob = picked.float() - norm[row]
    if logits.device.type != "cpu":  # which rows to look at could be asked of the device only
        return logprob, logits.argmax(dim=-1)[row] == token
    return logprob, _is_first_of_best(logits, row, token, picked == top[row])


def _is_first_of_best(
    logits: torch.Tensor, row: torch.Tensor, token: torch.Tensor, among_best: torch.Tensor
) -> torch.Tensor:
    """Whether tokens are their rows' argmax; of equal logits the first is.

    On a CPU argmax costs several times as much as the maximum, so that only rows where a scored
    token has it are looked at.
    """
    rows, place = row[among_best].unique(return_inverse=True)
    result = among_best.clone()
    result[among_best] = logits[rows].argmax(dim=-1)[place] == token[among_best]
    return result
