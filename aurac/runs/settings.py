"""What a comparison may be told."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from aurac.adapters.truncate import Basis, Rescale


@dataclass(frozen=True)
class Settings:
    """What a comparison may be told; the names are those of the command line.

    Attributes:
        ranks: `pow2`, `all` or explicit ranks.
        basis: One or more of `prefix`, `svd`; the first is the one compared.
        rescale: One or more of `rule`, `keep`, `trained`, `fit`; None: each adapter's default.
        num_fewshot: Examples in each prompt; None: the task's own number.
        fewshot: `stock` (lm-eval's sampling) or `fixed` (one header for all documents).
        limit: Only the first so many documents of each task (0: all). None: the first
            `aurac.tasks.QUICK_DOCUMENTS` of a bundled task, all of any other.
        split: `test` or `validation`; None: the split that lm-eval evaluates.
        metric: task → `name,filter`; the key "" holds for every task.
        data: task → folder with local splits.
        chat_template: Put prompts through the tokenizer's chat template.
        base: Base model; None: the one the adapters record.
        dtype, device: As `aurac.models.base` picks them; None: automatic.
        batch_size, batch_tokens: Budgets of the engine.
        seed: Of the few-shot sampling.
        checkpoint: What the files do not say: method, scaling, alpha, nested_ranks.
        trust_remote_code: Let the base run its own code.
        groups: arm → names of the adapters that are seeds of one recipe.
        cluster: task → field of its documents that says which of them share a passage.
        device_map: How to spread a base that is larger than one device, see `load_base`.
    """

    ranks: str | Sequence[int] = "pow2"
    basis: Sequence[Basis] = ("prefix",)
    rescale: Sequence[Rescale] | None = None
    num_fewshot: int | None = None
    fewshot: Literal["stock", "fixed"] = "stock"
    limit: int | None = None
    split: Literal["test", "validation"] | None = None
    metric: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Path] = field(default_factory=dict)
    chat_template: bool = False
    base: str | None = None
    dtype: str | None = None
    device: str | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    seed: int = 1234
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cluster: Mapping[str, str] = field(default_factory=dict)
    device_map: str | Mapping[str, Any] | None = None


DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Execution:
    """How and where cells are computed; nothing here changes a number.

    Attributes:
        executor: `local` (processes of this machine) or `ray` (a Ray cluster).
        workers: Processes; None: one for each CUDA device, else one (`ray`: as many as fit).
        address: Of the Ray cluster; None starts one on this machine.
        shard: (number, of): compute only this share of the cells, numbers from 1.
        retry_failed: Try cells again that failed before.
        profile: Write where the time went.
        lease_seconds: How long a silent process keeps its cell.
    """

    executor: str = "local"
    workers: int | None = None
    address: str | None = None
    shard: tuple[int, int] | None = None
    retry_failed: bool = False
    profile: bool = False
    lease_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UsageError(f"executor {self.executor!r}", expected=" or ".join(EXECUTORS))
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers {self.workers}", expected="a whole number of at least 1")
        if self.address is not None and self.executor != "ray":
            raise UsageError("an address without --executor ray", fix="give both or neither")
        if self.lease_seconds <= 0:
            raise UsageError(f"lease_seconds {self.lease_seconds}", expected="a time above 0")


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`3/8` → (3, 8).

    Raises:
        UsageError: Not a number from 1 up to how many there are.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= of:
        raise UsageError(
            f"shard {text!r}",
            expected="NUMBER/OF with numbers from 1, such as 1/8 … 8/8",
            fix="a Slurm array that begins at 1 gives --shard $SLURM_ARRAY_TASK_ID/8",
        )
    return number, of


def separated(given: Mapping[str, Any]) -> tuple[Settings, Execution]:
    """Keywords of both kinds, each to where it belongs.

    Raises:
        TypeError: A keyword of neither.
        UsageError: A value of `Execution` out of range.
    """
    names = {f.name for f in dataclasses.fields(Execution)}
    execution = {name: value for name, value in given.items() if name in names}
    return Settings(**{k: v for k, v in given.items() if k not in names}), Execution(**execution)


def to_plain(chosen: Settings) -> dict[str, Any]:
    """Settings as JSON values, for another process; folders become absolute."""
    from pathlib import Path

    plain = dataclasses.asdict(chosen)
    plain["data"] = {task: str(Path(folder).resolve()) for task, folder in chosen.data.items()}
    return plain


def from_plain(plain: Mapping[str, Any]) -> Settings:
    """The inverse of `to_plain`."""
    from pathlib import Path

    data = {task: Path(folder) for task, folder in plain["data"].items()}
    return Settings(**{**plain, "data": data})


def parse_device_map(text: str | None) -> str | dict[str, Any] | None:
    """`--device-map`: one of accelerate's words, or module → device as JSON.

    Raises:
        UsageError: It is neither.
    """
    import json

    if text is None or text in DEVICE_MAPS:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found:
        raise UsageError(
            f"--device-map {text!r}",
            expected=f'{", ".join(DEVICE_MAPS)}, or JSON such as {{"": "cpu"}}',
        )
    return found
