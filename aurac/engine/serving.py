"""What adapters cost to serve: the time of a prompt and of a generated token at each rank.

An adapter runs unmerged, in PEFT's own layers and in the base's numeric type, as a server with
several adapters on one base runs it. Merged it takes the time of the base at every rank.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from inspect import signature
from time import perf_counter
from typing import Any

import torch

from aurac.adapters import Adapter, Family, attach, prepare
from aurac.adapters.truncate import Prepared
from aurac.errors import CheckpointError, UsageError
from aurac.models.base import LoadedBase
from aurac.models.device import in_use, machine, versions
from aurac.records.serving import AdapterCost, RankCost, ServingRecord, Times

Point = tuple[str | None, int]
"""An adapter's name and a rank; (None, 0) is the base."""
BASE: Point = (None, 0)


@dataclass
class Rounds:
    """Seconds in each round: of one pass over the prompts, and of one further token for all."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Workload:
    """What is timed.

    Raises:
        UsageError: A number below 1.
    """

    batch: int = 1  # prompts at once
    prompt_tokens: int = 256  # length of each, of random tokens
    new_tokens: int = 32  # generated tokens for each
    repeats: int = 10  # rounds after a first one that is not counted

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in vars(self).items():
            if value < 1:
                option = "batch-size" if name == "batch" else name.replace("_", "-")
                raise UsageError(f"--{option} {value}", expected="at least 1")

    def steps(self, adapters: Mapping[str, tuple[Any, Sequence[int]]]) -> int:
        """How often `time_ranks` calls ``progress``."""
        return (self.repeats + 1) * (1 + sum(len(ranks) for _, ranks in adapters.values()))


def measure(
    loaded: LoadedBase,
    adapters: Mapping[str, tuple[Adapter | Family, Sequence[int]]],
    work: Workload,
    *,
    progress: Callable[[], None] = lambda: None,
) -> ServingRecord:
    """What adapters cost at their ranks, and under which conditions; see `time_ranks`.

    Raises:
        CheckpointError: The members of a family adapt different modules.
        UsageError: A prompt with its answer is longer than the base's context.
    """
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    if context and work.prompt_tokens + work.new_tokens > context:
        asked = f"--prompt-tokens {work.prompt_tokens} and --new-tokens {work.new_tokens}"
        raise UsageError(asked, expected=f"at most {context} together, the context of the base")
    largest = {name: _largest(adapter) for name, (adapter, _) in adapters.items()}
    prepared = {name: (prepare(largest[name]), ranks) for name, (_, ranks) in adapters.items()}
    times = time_ranks(loaded.model, prepared, work, progress=progress)

    def cost(point: Point, parameters: int = 0, size: int = 0) -> RankCost:
        prefill, decode = Times.of(times[point].prefill), Times.of(times[point].decode)
        return RankCost(
            rank=point[1], parameters=parameters, bytes=size, prefill=prefill, decode=decode
        )

    costs = [
        AdapterCost(
            name=name,
            sha256=adapter.sha256,
            ranks=[cost((name, r), adapter.parameters(r), adapter.bytes(r)) for r in ranks],
        )
        for name, (adapter, ranks) in adapters.items()
    ]
    return ServingRecord(
        aurac=version("aurac"),
        measured=datetime.now(tz=timezone.utc).isoformat(timespec="seconds"),
        base=loaded.name,
        base_sha256=loaded.sha256,
        dtype=loaded.dtype,
        device=loaded.device,
        batch=work.batch,
        prompt_tokens=work.prompt_tokens,
        new_tokens=work.new_tokens,
        repeats=work.repeats,
        machine={**machine(), **in_use(loaded.device)},
        versions=versions(),
        merged=cost(BASE),
        adapters=costs,
    )


def _largest(adapter: Adapter | Family) -> Adapter:
    """What is timed: of a family its largest member, which cut to r computes what member r does."""
    if not isinstance(adapter, Family):
        return adapter
    largest = adapter.members[adapter.rank]
    for rank, member in adapter.members.items():
        if member.modules.keys() != largest.modules.keys():
            raise CheckpointError(
                f"the members of rank {rank} and {adapter.rank} of {adapter.name} adapt different "
                "modules",
                fix="measure them one by one",
            )
    return largest


def time_ranks(
    model: Any,
    adapters: Mapping[str, tuple[Prepared, Sequence[int]]],
    work: Workload,
    *,
    progress: Callable[[], None] = lambda: None,
) -> dict[Point, Rounds]:
    """Time the base and every rank of every adapter once in each round.

    A slow moment of the machine meets all of them alike, and every other round goes through them in
    the opposite order. ``adapters`` are what is attached and its ranks by name; ``progress`` is
    called after each of them in each round.
    """
    shape = (work.batch, work.prompt_tokens)
    vocabulary = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, shape, generator=generator).to(model.device)
    times = {BASE: Rounds()} | {
        (n, r): Rounds() for n, (_, ranks) in adapters.items() for r in ranks
    }
    for number in range(work.repeats + 1):
        for point in _in_turn(model, adapters, ids[:, :1], backward=number % 2 == 1):
            prefill, decode = _once(model, ids, work.new_tokens)
            if number:
                times[point].prefill.append(prefill)
                times[point].decode.append(decode)
            progress()
    return times


def _in_turn(
    model: Any,
    adapters: Mapping[str, tuple[Prepared, Sequence[int]]],
    token: torch.Tensor,
    *,
    backward: bool,
) -> Iterator[Point]:
    """Each point with the model in its state."""

    def ordered(items: Iterable[Any]) -> list[Any]:
        return list(items)[:: -1 if backward else 1]

    for name in ordered([None, *adapters]):
        if name is None:
            _once(model, token, 1)  # what was just put in place is touched once, unmeasured
            yield BASE
            continue
        prepared, ranks = adapters[name]
        with attach(model, prepared, half=True) as live:
            gc.collect()
            _once(model, token, 1)
            for rank in ordered(ranks):
                live.set_rank(rank)
                yield name, rank


@torch.inference_mode()
def _once(model: Any, ids: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    """(seconds of the prompts, seconds of one further token)."""
    from transformers import DynamicCache

    # transformers 5.2x renamed the argument; older releases of the range have the old name alone.
    named = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    cache = {named: DynamicCache(config=model.config), "use_cache": True}
    started = _now(model.device)
    out = model(input_ids=ids, logits_to_keep=1, **cache)
    prefilled = _now(model.device)
    for _ in range(new_tokens):
        out = model(input_ids=out.logits[:, -1:].argmax(-1), **cache)
    return prefilled - started, (_now(model.device) - prefilled) / new_tokens


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return perf_counter()
