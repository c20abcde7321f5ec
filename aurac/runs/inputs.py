"""What is evaluated, without the base's weights: adapters, the base's outline, tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters import (
    Adapter,
    Family,
    check_base,
    check_fits,
    load_adapter,
    make_family,
    members_of,
)
from aurac.adapters.formats import adapters_in
from aurac.errors import CheckpointError, UsageError
from aurac.models.base import LoadedBase, load_base, resolve_base
from aurac.models.device import pick_device, pick_dtype
from aurac.models.tokenizer import Tokenizer, choose_tokenizer
from aurac.models.weights import quiet_transformers
from aurac.runs.settings import NamedCheckpoint, Settings

if TYPE_CHECKING:
    from aurac.tasks.evaltask import EvalTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a run; the same in every process that is given the same settings.

    Attributes:
        adapters: Unique name → adapter or family.
        base: The base; its model is on the meta device where it could be outlined.
        tokenizer: What prompts go through.
        tasks: Tasks with their requests; a group after its members.
    """

    settings: Settings
    adapters: Mapping[str, Adapter | Family]
    base: LoadedBase
    tokenizer: Tokenizer
    tasks: Sequence[EvalTask]

    def load(self) -> LoadedBase:
        """The base in memory."""
        if not any(p.is_meta for p in self.base.model.parameters()):
            return self.base
        loaded = load_base(
            self.base.name,
            dtype=self.base.dtype,
            device=self.base.device,
            trust_remote_code=self.settings.trust_remote_code,
            device_map=self.settings.device_map,
        )
        return self.tokenizer.adopted_by(loaded)


def load_inputs(settings: Settings, known: Mapping[str, str] | None = None) -> Inputs:
    """Read the adapters, outline the base and build the tasks.

    Args:
        settings: What was asked for.
        known: Hash of an adapter → the name that the run folder has given it.

    Raises:
        AuracError: Any input that cannot be used.
    """
    adapters = load_adapters(settings.checkpoints, settings.base, known)
    for recipe, members in settings.group.items():
        for name in set(members) - adapters.keys():
            raise UsageError(
                f"group {recipe} names {name!r}, and the adapters are {', '.join(adapters)}"
            )
    base = outlined(common_base(adapters, settings.base), settings)
    every = [member for adapter in adapters.values() for member in members_of(adapter)]
    for member in every:
        check_base(member, base.name, base.sha256)
    tokenizer = _tokenizer(adapters, base, settings)
    base = tokenizer.adopted_by(base)
    for member in every:
        check_fits(member, base.model)
    return Inputs(settings, adapters, base, tokenizer, build(settings, base))


def build(settings: Settings, base: LoadedBase) -> list[EvalTask]:
    """The tasks with their requests."""
    from aurac.tasks import BUNDLED, QUICK_DOCUMENTS
    from aurac.tasks.build import build_tasks
    from aurac.tasks.listing import expand
    from aurac.tasks.options import TaskOptions

    names = expand(settings.tasks, settings.include_path)
    limit: float | dict[str, float] | None = settings.limit or None
    if settings.limit is None:
        quick = [name for name in names if name in BUNDLED and name not in settings.data]
        limit = dict.fromkeys(quick, float(QUICK_DOCUMENTS))
    options = TaskOptions(
        num_fewshot=settings.num_fewshot,
        fewshot=settings.fewshot,  # type: ignore[arg-type]
        seed=settings.seed,
        limit=limit,
        metric=settings.metric,
        data={task: Path(folder) for task, folder in settings.data.items()},
        chat_template=settings.apply_chat_template,
        system_instruction=settings.system_instruction,
        fewshot_as_multiturn=settings.fewshot_as_multiturn,
        gen_kwargs=settings.gen_kwargs,
        include_path=settings.include_path,
        cluster=settings.cluster,
    )
    return build_tasks(names, tokenizer=base.tokenizer, options=options)


def outlined(name: str, settings: Settings) -> LoadedBase:
    """A base without its weights, its model on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base = resolve_base(name)
    device = pick_device(settings.device, elsewhere=settings.ray is not None)
    dtype = str(pick_dtype(settings.dtype, device)).removeprefix("torch.")
    trust = settings.trust_remote_code
    local: dict[str, Any] = {"trust_remote_code": trust, "local_files_only": True}
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(base.path, **local)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(base.path, **local)
    except Exception as error:  # noqa: BLE001 - its code may need weights, which `load_base` has
        logger.debug("base %s cannot be outlined (%s)", name, error)
        return load_base(
            name, dtype=settings.dtype, device=settings.device, trust_remote_code=trust
        )
    return LoadedBase(name, base.path, base.sha256, model, tokenizer, dtype, device)


def load_adapters(
    checkpoints: Sequence[str | Path],
    base: str | None = None,
    known: Mapping[str, str] | None = None,
) -> dict[str, Adapter | Family]:
    """Unique name → adapter; names that clash are told apart by their folder or a number.

    Raises:
        CheckpointError: One that cannot be read, or the same adapter twice.
    """
    loaded: dict[str, tuple[Path, Adapter | Family]] = {}
    for checkpoint in checkpoints:
        adapter = _load(NamedCheckpoint.of(str(checkpoint)), base)
        if adapter.sha256 in loaded:
            other = loaded[adapter.sha256][0]
            raise CheckpointError(f"{checkpoint} and {other} are the same adapter")
        loaded[adapter.sha256] = Path(checkpoint), adapter
    given = {digest: name for digest, name in (known or {}).items() if digest in loaded}
    named: dict[str, Adapter | Family] = {}
    for path, adapter in loaded.values():
        taken = {*named, *given.values()}
        name, number = given.get(adapter.sha256), 2
        if name is None:
            name = adapter.name
            if name in taken and path.parent.name:
                name = f"{path.parent.name}/{path.name}"
            while name in taken:
                name, number = f"{adapter.name}-{number}", number + 1
        named[name] = adapter
    return named


def _load(checkpoint: NamedCheckpoint, base: str | None) -> Adapter | Family:
    """An adapter, or a family: a folder of several, or a path with braces."""
    paths, folder = checkpoint.paths, Path(checkpoint.paths[0]).expanduser()
    inside = adapters_in(folder) if len(paths) == 1 and not checkpoint.family else ()
    if len(inside) > 1:
        paths = tuple(map(str, inside))
    elif not checkpoint.family:
        return load_adapter(paths[0], name=checkpoint.name, base=base)
    members = [load_adapter(path, base=base) for path in paths]
    source = folder if inside else None
    return make_family(checkpoint.name or (folder.name if inside else ""), members, source)


def common_base(adapters: Mapping[str, Adapter | Family], named: str | None) -> str:
    """The base that was named, or the one that all adapters record; a CheckpointError otherwise."""
    if named:
        return named
    recorded = {name: adapter.base for name, adapter in adapters.items() if adapter.base}
    names = sorted(set(recorded.values()))
    if len(names) > 1:
        listed = "; ".join(f"{name} on {base}" for name, base in recorded.items())
        raise CheckpointError(
            f"the adapters were trained on different bases ({listed}): compare them in separate "
            "runs, or give --base if these names mean the same model"
        )
    if not names:
        raise CheckpointError(f"no base is recorded with {', '.join(adapters)}: give --base")
    return names[0]


def _tokenizer(
    adapters: Mapping[str, Adapter | Family], base: LoadedBase, settings: Settings
) -> Tokenizer:
    """See `choose_tokenizer`; the members of a family are asked one by one."""
    members = {
        f"{name}, rank {member.rank}" if isinstance(adapter, Family) else name: member
        for name, adapter in adapters.items()
        for member in members_of(adapter)
    }
    return choose_tokenizer(
        settings.tokenizer,
        base,
        {name: member.source for name, member in members.items()},
        {name: rows for name, m in members.items() if (rows := m.vocabulary) is not None},
        chat_template=settings.apply_chat_template,
        trust_remote_code=settings.trust_remote_code,
    )
