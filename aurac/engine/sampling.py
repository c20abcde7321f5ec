"""The next token of each text in flight: the best one, or one that is drawn.

A text's draws depend on its seed alone, not on the batch, on other texts or on how many there are.
A token is the argmax of ``p / q`` with ``q ~ Exp(1)``, as ``torch.multinomial`` draws one: with the
same generator the tokens are those of `transformers` at batch size 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aurac.engine.counts import current, logit_noise
from aurac.models.device import unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.engine.tokens import Sampling

Settings = tuple[tuple[str, float], ...]
Token = tuple[int, bool]
"""A token, and whether another was within rounding of being chosen."""

_DEFAULTS = {"temperature": 1.0, "top_k": 50.0, "top_p": 1.0, "min_p": 0.0}  # transformers' own
_NEUTRAL = {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None}


def plainly_sampling(model: Any) -> bool:
    """Whether the model's generation settings add nothing to temperature, top_k, top_p, min_p."""
    config = getattr(unwrapped(model), "generation_config", None)
    return all(getattr(config, name, None) in (None, value) for name, value in _NEUTRAL.items())


@dataclass(eq=False)
class Draws:
    """What one text is sampled with."""

    sampling: Sampling
    device: torch.device

    @cached_property
    def generator(self) -> torch.Generator:
        """Its random numbers, from its seed on."""
        return torch.Generator(self.device).manual_seed(self.sampling.seed)


@dataclass(eq=False)
class Chooser:
    """Chooses the next tokens of texts, each as it asks for."""

    model: Any
    _warpers: dict[Settings, Warper] = field(default_factory=dict)

    def __call__(self, logits: Tensor, draws: Sequence[Draws | None]) -> list[Token]:
        """A token for each row of (n, V) logits, which are overwritten: drawn, or the best one."""
        rows_of: dict[Settings | None, list[int]] = {}
        for row, draw in enumerate(draws):
            rows_of.setdefault(draw.sampling.settings if draw else None, []).append(row)
        tokens: dict[int, Token] = {}
        for settings, rows in rows_of.items():
            part = logits if len(rows) == len(draws) else logits[rows]
            if settings is None:
                tokens.update(zip(rows, greedy(part), strict=True))
                continue
            if settings not in self._warpers:
                self._warpers[settings] = Warper(self.model, settings)
            generators = [draw.generator for row in rows if (draw := draws[row])]
            tokens.update(zip(rows, self._warpers[settings].draw(part, generators), strict=True))
        return [tokens[row] for row in range(len(draws))]


def greedy(logits: Tensor) -> list[Token]:
    """The best token of each row (n, V); ties are looked at only while counts are recorded."""
    best = logits.argmax(dim=-1, keepdim=True)
    if current() is None:
        return [(token, False) for token in best[:, 0].tolist()]
    top = logits.gather(1, best)
    second = logits.scatter_(1, best, -torch.inf).amax(dim=-1, keepdim=True)
    close = (top.float() - second.float()) <= logit_noise(logits.dtype)
    pairs = torch.cat([best, close.long()], dim=1).tolist()
    return [(token, bool(tie)) for token, tie in pairs]


class Warper:
    """Logits → probabilities by transformers' own classes; defaults are the model's own."""

    def __init__(self, model: Any, settings: Settings) -> None:
        import transformers as hf

        config = getattr(unwrapped(model), "generation_config", None)
        known = {name: getattr(config, name, None) for name in _DEFAULTS}
        values = _DEFAULTS | {n: v for n, v in known.items() if v is not None} | dict(settings)
        self._temperature = values["temperature"]
        self._steps: list[Any] = []
        if values["temperature"] != 1.0:
            self._steps.append(hf.TemperatureLogitsWarper(values["temperature"]))
        if values["top_k"]:
            self._steps.append(hf.TopKLogitsWarper(int(values["top_k"])))
        if values["top_p"] < 1.0:
            self._steps.append(hf.TopPLogitsWarper(values["top_p"]))
        if values["min_p"]:
            self._steps.append(hf.MinPLogitsWarper(values["min_p"]))

    def draw(self, logits: Tensor, generators: Sequence[torch.Generator]) -> list[Token]:
        """A token for each row (n, V); each of the n generators gives V numbers."""
        scores = logits.to(copy=True, dtype=torch.float32)
        for step in self._steps:
            scores = step(None, scores)
        drawn = torch.empty_like(scores)
        for row, generator in zip(drawn, generators, strict=True):
            row.exponential_(1.0, generator=generator)
        top = (torch.softmax(scores, dim=-1) / drawn).topk(2, dim=-1)
        gap = top.values[:, 0].log() - top.values[:, 1].log()
        close = gap <= logit_noise(logits.dtype) / self._temperature
        return list(zip(top.indices[:, 0].tolist(), close.tolist(), strict=True))
