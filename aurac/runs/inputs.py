"""What is evaluated, without the base's weights: adapters, the base's outline, tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.adapters import Adapter, Family, check_base, check_fits
from aurac.adapters.checkpoints import common_base, load_adapters, named_members
from aurac.errors import UsageError
from aurac.models.base import LoadedBase, load_base, outline_base
from aurac.models.tokenizer import Tokenizer, choose_tokenizer
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from aurac.tasks.evaltask import EvalTask
    from aurac.tasks.options import TaskOptions


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
    from aurac.tasks.build import build_tasks

    names, options = asked_tasks(settings)
    adapters = load_adapters(settings.checkpoints, settings.base, known)
    for recipe, wanted in settings.group.items():
        for name in set(wanted) - adapters.keys():
            raise UsageError(
                f"group {recipe} names {name!r}, and the adapters are {', '.join(adapters)}"
            )
    members, trust = named_members(adapters), settings.trust_remote_code
    base_name = common_base(adapters, settings.base)
    base = outline_base(
        base_name,
        dtype=settings.dtype,
        device=settings.device,
        trust_remote_code=trust,
        elsewhere=settings.ray is not None,
    )
    for member in members.values():
        check_base(member, base.name, base.sha256)
    tokenizer = choose_tokenizer(
        settings.tokenizer,
        base,
        {name: member.source for name, member in members.items()},
        {name: rows for name, m in members.items() if (rows := m.vocabulary) is not None},
        chat_template=settings.apply_chat_template,
        trust_remote_code=trust,
    )
    base = tokenizer.adopted_by(base)
    for member in members.values():
        check_fits(member, base.model)
    tasks = build_tasks(names, tokenizer=base.tokenizer, options=options)
    return Inputs(settings, adapters, base, tokenizer, tasks)


def asked_tasks(settings: Settings) -> tuple[list[str], TaskOptions]:
    """The names of the tasks, and how they are built."""
    from aurac.tasks import BUNDLED, QUICK_DOCUMENTS
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
    return names, options
